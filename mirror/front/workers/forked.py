"""Workers that are forked while the mirror's process is nothing but code.

What importing has made, a process would make anew, and it is most of what a worker has in memory.
So those that the mirror starts with are forked before it has threads, an event loop, or has read
anything but its configuration, and wait until they are given their channel: memory that nobody
writes to is there once for all of them. Those that take their place later are started as programs.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

from mirror.aio.waiting import to_the_end
from mirror.config import Log, is_journal
from mirror.front.workers.process import main
from mirror.telemetry.service import call_this_process

_EVERYBODY_ELSES = 3  # descriptors from here on
_MOST = 2**20
_GO = b"."


@dataclass(frozen=True, slots=True)
class Forked:
    """One that waits: `control` takes its channel, and ends when it does."""

    pid: int
    control: socket.socket

    def kill(self) -> None:
        """End it; it is not reaped yet, so that nobody else can be meant."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


@contextmanager
def forked_workers(count: int, settings: Log) -> Iterator[list[Forked]]:
    """Have so many wait inside the block; who takes one out of the list sees to its end.

    To be called once, before there is anything that a fork would break.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    gc.collect()
    gc.freeze()  # else the collector would write to all of it, in each of them
    waiting: list[Forked] = []
    try:
        for number in range(1, count + 1):
            waiting.append(_fork(settings, number))  # noqa: PERF401 - what is there is ended
        yield waiting
    finally:
        for one in waiting:
            one.kill()
            os.waitpid(one.pid, 0)
            one.control.close()


def _fork(settings: Log, number: int) -> Forked:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        _be_worker(theirs, settings, number)
    theirs.close()
    ours.setblocking(False)
    return Forked(pid, ours)


def _be_worker(control: socket.socket, settings: Log, number: int) -> NoReturn:
    """Wait for the channel, be a worker, and end: nothing of the process that was goes on here."""
    status = 1
    try:
        os.setsid()  # Ctrl-C is for the mirror's process, which tells us
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.closerange(_EVERYBODY_ELSES, control.fileno())
        os.closerange(control.fileno() + 1, _MOST)
        call_this_process(f"mirror: worker {number}")
        _, descriptors, *_ = socket.recv_fds(control, len(_GO), 1)
        if descriptors:  # else the mirror has ended
            journal = "journal" if is_journal(sys.stderr.fileno()) else ""
            main(str(descriptors[0]), settings.level, settings.format, str(number), journal)
        status = 0
    except BaseException:  # noqa: BLE001 - it ends here
        traceback.print_exc()
    finally:
        os._exit(status)


@asynccontextmanager
async def working(
    forked: Forked, connection: socket.socket, *, within: float
) -> AsyncIterator[Callable[[], None]]:
    """Have one work at the other end of its channel; waits for its end, `within` seconds at most.

    Raises:
        OSError: It has ended in another way than it should.
    """
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    with forked.control:
        with connection, suppress(OSError):  # it may have died: that is seen below
            socket.send_fds(forked.control, [_GO], [connection.fileno()])
        loop.add_reader(forked.control, ended.set)
        try:
            yield forked.kill
        finally:
            try:
                async with asyncio.timeout(within):
                    await ended.wait()
            except TimeoutError:
                forked.kill()
                await ended.wait()
            loop.remove_reader(forked.control)
            _, status = await to_the_end(asyncio.to_thread(os.waitpid, forked.pid, 0))
    if code := os.waitstatus_to_exitcode(status):
        raise OSError(f"process {forked.pid} has ended with status {code}")

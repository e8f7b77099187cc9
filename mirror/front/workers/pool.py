"""The pool: the mirror's process keeps workers, and deals connections to them.

One socket is listened on, here, and each connection goes to the next worker that is fit: no worker
has more than its share, and whoever has not been dealt yet is no dead worker's to lose. A worker
that dies is replaced; one that hangs gets no more clients, and then is killed.
"""

import asyncio
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from random import Random

from mirror.aio.backoff import Backoff
from mirror.aio.tasks import owned_tasks
from mirror.config import Config, ConfigError, Log
from mirror.front.wire.channel import make_pair
from mirror.front.wire.desk import Desk
from mirror.front.wire.peer import Peer
from mirror.front.workers.worker import Report, Worker
from mirror.oci.digest import Digest
from mirror.pull.mirror import Mirror
from mirror.telemetry.faults import Faults
from mirror.telemetry.log import fields
from mirror.telemetry.traffic import Traffic

_logger = logging.getLogger(__name__)

_GATHER = 5.0  # seconds between reports that nobody has asked for
_PATIENCE = 2.0  # seconds, for those that have too much to do to report
_SILENT = 5.0  # seconds without the report it was asked for: it gets no more clients
_HUNG = 20.0  # seconds: it is killed
_BEHIND = 64  # messages that it has not read: it gets no more clients
_START = 60.0  # seconds, until a worker must be ready
_END = 2.0  # seconds, until its process must have ended
_FULL = 0.1  # seconds to wait where nobody is fit, or no descriptor is free for one more client

# A worker is of the same program, wherever that was started: `-m` would look into the working
# directory first, and might find another version there, or somebody else's modules.
_BOOT = (
    "import os, sys; sys.path[:] = sys.argv.pop(1).split(os.pathsep); "
    "from mirror.front.workers.process import main; main(*sys.argv[1:])"
)

Kill = Callable[[], None]
Hire = Callable[[socket.socket], AbstractAsyncContextManager[Kill]]
"""Has a worker live inside the block, at the other end of this socket; waits for its end."""


@dataclass(slots=True)
class _Member:
    """A worker that is at work. `asked_at` when it was first asked for the report that it owes."""

    peer: Peer
    kill: Kill
    asked_at: float | None = None

    def silence(self, now: float) -> float:
        """For how long it has owed a report, in seconds."""
        return 0.0 if self.asked_at is None else now - self.asked_at

    def is_fit(self, now: float) -> bool:
        """Whether one more client is well served by it."""
        is_behind = self.silence(now) >= _SILENT or self.peer.waiting >= _BEHIND
        return not is_behind and not self.peer.lost.is_set()


class Pool:
    """The workers. `used` is called with what they have served from what they had at hand."""

    def __init__(
        self,
        config: Config,
        mirror: Mirror,
        *,
        hire: Hire,
        traffic: Traffic,
        faults: Faults,
        used: Callable[[Digest], None],
        random: Random,
    ) -> None:
        self._config = config
        self._mirror = mirror
        self._hire = hire
        self._traffic = traffic
        self._faults = faults
        self._used = used
        self._random = random
        self._backoff = Backoff()
        self._members: deque[_Member] = deque()
        self._clock = asyncio.get_running_loop().time
        self._is_dealing = False
        self._stopping = False

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Have workers inside the block, all of them ready; then let responses finish.

        Raises:
            ConfigError: A file that the configuration names makes no sense.
            OSError: A process cannot be started.
        """
        note = self._faults.note
        async with owned_tasks(note) as self._tasks, owned_tasks(note) as employment:
            started = [
                asyncio.get_running_loop().create_future()
                for _ in range(self._config.server.worker_count)
            ]
            for future in started:
                employment.keep(partial(self._employ, future), name="employ")
            await asyncio.gather(*started)
            async with owned_tasks(note) as watching:
                watching.keep(self._watch, name="watch")
                yield
            await self._drain()

    @asynccontextmanager
    async def dealing(self, listeners: Sequence[socket.socket]) -> AsyncIterator[None]:
        """Inside the block, who connects is served."""
        async with owned_tasks(self._faults.note) as tasks:
            for listener in listeners:
                tasks.keep(partial(self._deal, listener), name="deal")
            self._is_dealing = True
            try:
                yield
            finally:
                self._is_dealing = False

    async def gather(self) -> None:
        """Have everyone report; the report of whoever takes too long counts when it comes."""
        hearings = [
            self._tasks.create_task(self._hear(member), name="watch")
            for member in self._members
            if member.silence(self._clock()) < _PATIENCE
        ]
        if hearings:
            await asyncio.wait(hearings, timeout=_PATIENCE)

    def find_problem(self) -> str | None:
        """Why nobody is served now, if that is so."""
        if not self._is_dealing:
            return "it is being started, or stopped"
        return None if self._members else "no worker is running"

    # A worker's life

    async def _employ(self, started: asyncio.Future[None]) -> None:
        """Have a worker, and after it the next."""
        failures = 0
        while True:
            began = self._clock()
            try:
                ours, theirs = make_pair()
                with ours, theirs:
                    async with self._hire(theirs) as kill:
                        await self._work_with(ours, kill, started)
                problem = "it has died"
            except Exception as error:  # noqa: BLE001 - the mirror serves on with the others
                if not started.done():
                    started.set_exception(_first(error))
                    return
                problem = str(error)
            if self._stopping:
                return
            failures = 1 if self._clock() - began > self._backoff.most else failures + 1
            delay = self._backoff.delay(failures, roll=self._random.random())
            _logger.error(
                "a worker has ended, another takes its place: %s", problem,
                extra=fields(within_seconds=round(delay, 1)),
            )  # fmt: skip
            await asyncio.sleep(delay)

    async def _work_with(
        self, connection: socket.socket, kill: Kill, started: asyncio.Future[None]
    ) -> None:
        peer = Peer(connection, Desk(self._mirror).serves(), tasks=self._tasks)
        member = _Member(peer, kill)
        try:
            async with asyncio.timeout(_START):
                await peer.call("start", self._config)
            self._members.append(member)
            if not started.done():
                started.set_result(None)
            await peer.lost.wait()
        finally:
            peer.close()
            if member in self._members:
                self._members.remove(member)

    async def _drain(self) -> None:
        self._stopping = True
        peers = [member.peer for member in self._members]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.server.drain_timeout + _END):
                await asyncio.gather(
                    *(peer.call("drain") for peer in peers), return_exceptions=True
                )
        await self.gather()

    # What it does

    async def _deal(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            member = await self._next()
            try:
                connection, _ = await loop.sock_accept(listener)
                with connection:
                    if not member.is_fit(self._clock()):  # nobody had come for long
                        member = await self._next()
                    member.peer.tell("connect", connection)
            except OSError as error:
                _logger.error("no more clients for now: %s", error)  # noqa: TRY400 - no fault
                await asyncio.sleep(_FULL)
            await asyncio.sleep(0)  # others have their turn, also when a cluster arrives

    async def _next(self) -> _Member:
        """Whose turn it is, of those that are fit."""
        while True:
            for _ in range(len(self._members)):
                self._members.rotate(-1)
                if self._members[-1].is_fit(self._clock()):
                    return self._members[-1]
            await asyncio.sleep(_FULL)

    async def _watch(self) -> None:
        """Gather now and then, and see who hangs."""
        while True:
            await asyncio.sleep(_GATHER)
            await self.gather()
            for member in self._members:
                if member.silence(self._clock()) > _HUNG:
                    _logger.error("a worker hangs, and is killed")
                    member.kill()

    async def _hear(self, member: _Member) -> None:
        if member.asked_at is None:
            member.asked_at = self._clock()
        try:
            report: Report = await member.peer.call("report")
        except Exception as error:  # noqa: BLE001 - nobody knows what it has done
            _logger.warning("a worker does not report: %s", error)
            return
        member.asked_at = None
        self._traffic.add(report.traffic)
        self._faults.add(report.faults)
        for digest in report.used:
            self._used(digest)


def _first(error: Exception) -> Exception:
    """Why the mirror cannot start, as the command line tells it."""
    if isinstance(error, ConfigError | OSError):
        return error
    return OSError(f"a worker cannot be started: {error}")


def hire_here(clock: Callable[[], float]) -> Hire:
    """Workers that live in this process."""

    @asynccontextmanager
    async def hire(connection: socket.socket) -> AsyncIterator[Kill]:
        faults = Faults()
        async with owned_tasks(faults.note) as tasks:
            worker = Worker(connection, tasks=tasks, faults=faults, clock=clock)
            yield worker.close
            await worker.lost.wait()

    return hire


def hire_process(settings: Log) -> Hire:
    """Workers that are processes, and log as `settings` say."""

    @asynccontextmanager
    async def hire(connection: socket.socket) -> AsyncIterator[Kill]:
        with connection:
            descriptor = connection.fileno()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-c", _BOOT, os.pathsep.join(sys.path),
                str(descriptor), settings.level, settings.format,
                stdin=asyncio.subprocess.DEVNULL, pass_fds=[descriptor],
                start_new_session=True,  # Ctrl-C is for the mirror's process, which tells them
            )  # fmt: skip
        try:
            yield process.kill
        finally:
            await _end(process)
        if process.returncode:
            raise OSError(f"process {process.pid} has ended with status {process.returncode}")

    return hire


async def _end(process: asyncio.subprocess.Process) -> None:
    try:
        async with asyncio.timeout(_END):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()

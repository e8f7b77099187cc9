"""Where workers live: in processes of their own (`forked.py`) or, for tests, in this one."""

import asyncio
import itertools
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from mirror.aio.tasks import owned_tasks
from mirror.config import Log, is_journal
from mirror.front.workers.forked import Forked, working
from mirror.front.workers.worker import Worker
from mirror.telemetry.faults import Faults

EXIT_WITHIN = 2.0  # seconds, until a process must have ended

# A worker is of the same program, wherever that was started: `-m` would look into the working
# directory first, and might find another version there, or somebody else's modules.
_BOOT = (
    "import os, sys; sys.path[:] = sys.argv.pop(1).split(os.pathsep); "
    "from mirror.front.workers.process import main; main(*sys.argv[1:])"
)

Kill = Callable[[], None]
Spawn = Callable[[socket.socket], AbstractAsyncContextManager[Kill]]
"""Has a worker live inside the block, at the other end of this socket; waits for its end."""


def spawn_here(clock: Callable[[], float], monotonic: Callable[[], float]) -> Spawn:
    """Workers that live in this process, by its clocks."""

    @asynccontextmanager
    async def spawn(connection: socket.socket) -> AsyncIterator[Kill]:
        faults = Faults()
        async with owned_tasks(faults.note) as tasks:
            worker = Worker(
                connection, tasks=tasks, faults=faults, clock=clock, monotonic=monotonic
            )
            try:
                yield worker.close
                await worker.lost.wait()
            finally:
                worker.close()

    return spawn


def spawn_process(settings: Log, forked: list[Forked] | None = None) -> Spawn:
    """Workers that are processes, and log as `settings` say: at first those that are `forked`.

    These are taken out of that list.
    """
    waiting = forked or []
    numbers = itertools.count(len(waiting) + 1)

    @asynccontextmanager
    async def spawn(connection: socket.socket) -> AsyncIterator[Kill]:
        if waiting:
            async with working(waiting.pop(0), connection, within=EXIT_WITHIN) as kill:
                yield kill
            return
        with connection:
            descriptor = connection.fileno()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-c", _BOOT, os.pathsep.join(sys.path),
                str(descriptor), settings.level, settings.format, str(next(numbers)),
                "journal" if is_journal(sys.stderr.fileno()) else "",
                stdin=asyncio.subprocess.DEVNULL, pass_fds=[descriptor],
                start_new_session=True,  # Ctrl-C is for the mirror's process, which tells them
            )  # fmt: skip
        try:
            yield process.kill
        finally:
            await _end(process)
        if process.returncode:
            raise OSError(f"process {process.pid} has ended with status {process.returncode}")

    return spawn


async def _end(process: asyncio.subprocess.Process) -> None:
    try:
        async with asyncio.timeout(EXIT_WITHIN):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()

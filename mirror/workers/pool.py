"""The pool: the mirror's process keeps workers, and deals connections to them.

One socket is listened on, here, and each connection goes to the next worker: no worker has more
than its share, and none that has died takes clients with it that it has never served. A worker
that dies is replaced.
"""

import asyncio
import logging
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from mirror.config import Config, ConfigError, Log
from mirror.oci.digest import Digest
from mirror.oci.errors import Unavailable
from mirror.pull.mirror import Mirror
from mirror.tasks import owned_tasks
from mirror.telemetry.traffic import Traffic
from mirror.wire.channel import make_pair
from mirror.wire.desk import Desk
from mirror.wire.peer import Peer
from mirror.workers.worker import Report, Worker

_logger = logging.getLogger(__name__)

_GATHER = 5.0  # seconds between reports that nobody has asked for
_PATIENCE = 2.0  # seconds, for a worker that has too much to do to report
_RESPITE = 1.0  # seconds before a worker that has died is replaced
_FULL = 0.1  # seconds to wait where there is no descriptor left for one more client

Hire = Callable[[socket.socket], AbstractAsyncContextManager[None]]
"""Has a worker live inside the block, at the other end of this socket; waits for its end."""


class Pool:
    """The workers. `used` is called with what they have served from what they had at hand."""

    def __init__(
        self,
        config: Config,
        mirror: Mirror,
        *,
        hire: Hire,
        traffic: Traffic,
        used: Callable[[Digest], None],
    ) -> None:
        self._config = config
        self._mirror = mirror
        self._hire = hire
        self._traffic = traffic
        self._used = used
        self._peers: deque[Peer] = deque()
        self._staffed = asyncio.Event()
        self._stopping = False
        self._gathering: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def working(self, listeners: Sequence[socket.socket]) -> AsyncIterator[None]:
        """Serve clients inside the block; then let responses finish.

        Raises:
            ConfigError: A file that the configuration names makes no sense.
            OSError: A process cannot be started.
        """
        async with owned_tasks() as self._tasks, owned_tasks() as employment:
            started = [
                asyncio.get_running_loop().create_future()
                for _ in range(self._config.server.worker_count)
            ]
            employed = [employment.create_task(self._employ(future)) for future in started]
            await asyncio.gather(*started)
            async with owned_tasks() as dealing:
                for listener in listeners:
                    dealing.create_task(self._deal(listener))
                dealing.create_task(self._gather_now_and_then())
                yield
            await self._drain()
            await asyncio.wait(employed)

    async def gather(self) -> None:
        """Have everyone report; whoever takes too long is in the next report."""
        if self._gathering is None or self._gathering.done():
            self._gathering = self._tasks.create_task(self._gather())
        await asyncio.wait([self._gathering], timeout=_PATIENCE)

    @property
    def is_staffed(self) -> bool:
        """Whether there is anybody to serve clients."""
        return self._staffed.is_set()

    # A worker's life

    async def _employ(self, started: asyncio.Future[None]) -> None:
        """Have a worker, and after it the next."""
        while not self._stopping:
            ours, theirs = make_pair()
            try:
                async with self._hire(theirs):
                    await self._work_with(ours, started)
            except (ConfigError, OSError, Unavailable) as error:
                if not started.done():
                    started.set_exception(error)
                    return
                _logger.error("no worker could be started: %s", error)  # noqa: TRY400 - no fault
            if not self._stopping:
                _logger.error("a worker has died; another one takes its place")
                await asyncio.sleep(_RESPITE)

    async def _work_with(self, connection: socket.socket, started: asyncio.Future[None]) -> None:
        peer = Peer(connection, Desk(self._mirror).serves(), tasks=self._tasks)
        try:
            # Each has its share of the memory, and the mirror's process has one.
            near = self._config.store.memory_cache // (self._config.server.worker_count + 1)
            await peer.call("start", self._config, near)
            self._peers.append(peer)
            self._staffed.set()
            if not started.done():
                started.set_result(None)
            await peer.lost.wait()
        finally:
            peer.close()
            with suppress(ValueError):  # it has not even begun
                self._peers.remove(peer)
            if not self._peers:
                self._staffed.clear()

    async def _drain(self) -> None:
        self._stopping = True
        peers = [*self._peers]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.server.drain_timeout + _PATIENCE):
                await asyncio.gather(
                    *(peer.call("drain") for peer in peers), return_exceptions=True
                )
        await self.gather()
        for peer in peers:
            peer.close()

    # What it does

    async def _deal(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                await self._staffed.wait()
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:
                    _logger.error("no more clients for now: %s", error)  # noqa: TRY400 - no fault
                    await asyncio.sleep(_FULL)
                    continue
                with connection:
                    await self._staffed.wait()
                    self._peers.rotate(-1)
                    self._peers[-1].tell("connect", connection)
                await asyncio.sleep(0)  # others have their turn, also when a cluster arrives

    async def _gather_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_GATHER)
            await self.gather()

    async def _gather(self) -> None:
        await asyncio.gather(*(self._hear(peer) for peer in self._peers))

    async def _hear(self, peer: Peer) -> None:
        with suppress(Unavailable):  # it has just died, and nobody knows what it has done
            report: Report = await peer.call("report")
            self._traffic.add(report.traffic)
            for digest in report.used:
                self._used(digest)


def hire_here(clock: Callable[[], float]) -> Hire:
    """Workers that live in this process."""

    @asynccontextmanager
    async def hire(connection: socket.socket) -> AsyncIterator[None]:
        async with owned_tasks() as tasks:
            worker = Worker(connection, tasks=tasks, clock=clock)
            yield
            await worker.lost.wait()

    return hire


def hire_process(settings: Log) -> Hire:
    """Workers that are processes, and log as `settings` say."""

    @asynccontextmanager
    async def hire(connection: socket.socket) -> AsyncIterator[None]:
        with connection:
            descriptor = connection.fileno()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "mirror.workers",
                str(descriptor), settings.level, settings.format,
                stdin=asyncio.subprocess.DEVNULL, pass_fds=[descriptor],
            )  # fmt: skip
        try:
            yield
        finally:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    return hire

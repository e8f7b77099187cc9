"""The pool: the mirror's process keeps workers, and gives connections to them.

One socket is listened on, here, and each connection goes to the next worker that is fit: no worker
has more than its share, and whoever has not been given away yet is no dead worker's to lose. A
worker that dies is replaced; one that hangs gets no more clients, and then is killed.
"""

import asyncio
import logging
import resource
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random

from mirror.aio.addresses import client_of
from mirror.aio.backoff import Backoff
from mirror.aio.tasks import owned_tasks
from mirror.config import Config, ConfigError
from mirror.front.ports import Clients, Leases, Pulls, Pushes, Worker
from mirror.front.settings import UnusableFile
from mirror.front.wire.channel import make_pair
from mirror.front.wire.interface import Violation, serve
from mirror.front.wire.peer import Peer, proxy
from mirror.front.workers.connections import Connections, Given, room_for
from mirror.front.workers.last_good import Contents, read_files
from mirror.front.workers.lender import Lender, OpenBlob, OpenRest
from mirror.front.workers.reports import check_report
from mirror.front.workers.settings import files_of, settings_for_workers
from mirror.front.workers.spawn import EXIT_WITHIN, Kill, Spawn
from mirror.oci.digest import Digest
from mirror.pull.forget import Forgettable
from mirror.telemetry.asked import Entry
from mirror.telemetry.faults import Faults
from mirror.telemetry.log import fields
from mirror.telemetry.traffic import Traffic

_logger = logging.getLogger(__name__)

_REPORT_EVERY = 5.0  # seconds between reports that nobody has asked for
_REPORT_WITHIN = 2.0  # seconds, for those that have too much to do to report
_SILENT = 5.0  # seconds without the report it was asked for: it gets no more clients
_HUNG = 20.0  # seconds: it is killed
_BEHIND = 64  # messages that it has not read: it gets no more clients
_START_WITHIN = 60.0  # seconds, until a worker must be ready
_RETRY = 0.1  # seconds to wait where nobody is fit, or no descriptor is free for one more client


@dataclass(slots=True)
class _Member:
    """A worker that is at work. `asked_at` when it was first asked for the report that it owes."""

    peer: Peer
    worker: Worker
    kill: Kill
    given: Given
    room: int = field(default_factory=lambda: room_for(_descriptors()))
    asked_at: float | None = None

    def silence(self, now: float) -> float:
        """For how long it has owed a report, in seconds."""
        return 0.0 if self.asked_at is None else now - self.asked_at

    def is_fit(self, now: float) -> bool:
        """Whether one more client is well served by it."""
        if len(self.given) >= self.room:
            return False
        is_behind = self.silence(now) >= _SILENT or self.peer.waiting >= _BEHIND
        return not is_behind and not self.peer.lost.is_set()


class Pool:
    """The workers. `used` is called with what they have served from their caches.

    `asked` is called with what clients have asked of them, and `refused` for each connection that
    is closed since its client has too many. `welcome` makes what browsers are shown.
    """

    def __init__(
        self,
        config: Config,
        mirror: Pulls,
        open_blob: OpenBlob,
        open_rest: OpenRest,
        *,
        pushing: Pushes,
        spawn: Spawn,
        traffic: Traffic,
        faults: Faults,
        used: Callable[[Digest], None],
        asked: Callable[[Sequence[Entry]], None],
        refused: Callable[[], None],
        random: Random,
        welcome: Callable[[Config], str],
    ) -> None:
        self._welcome = welcome
        self._config = config
        self._upstreams = {*config.upstream}  # also those that are configured no longer
        self._mirror = mirror
        self._pushing = pushing
        self._open_blob = open_blob
        self._open_rest = open_rest
        self._spawn = spawn
        self._traffic = traffic
        self._faults = faults
        self._used = used
        self._asked = asked
        self._refused = refused
        self._random = random
        self._backoff = Backoff()
        self._members: deque[_Member] = deque()
        server = config.server
        self.connections = Connections(
            room_for(_descriptors()) * server.worker_count, server.max_connections_per_client
        )
        self._clock = asyncio.get_running_loop().time
        self._is_accepting = False
        self._stopping = False
        self._last_good: Contents = {}

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Have workers inside the block, all of them ready; then let responses finish.

        Raises:
            ConfigError: A file that the configuration names makes no sense.
            OSError: A process cannot be started.
        """
        note = self._faults.note
        async with owned_tasks(note) as self._tasks, owned_tasks(note) as supervising:
            started = [
                asyncio.get_running_loop().create_future()
                for _ in range(self._config.server.worker_count)
            ]
            for future in started:
                supervising.keep(partial(self._supervise, future), name="supervise")
            await asyncio.gather(*started)
            await self._note_good()
            async with owned_tasks(note) as watching:
                watching.keep(self._watch, name="watch")
                yield
            await self._drain()

    @asynccontextmanager
    async def accepting(self, listeners: Sequence[socket.socket]) -> AsyncIterator[None]:
        """Inside the block, who connects is served."""
        async with owned_tasks(self._faults.note) as tasks:
            for listener in listeners:
                tasks.keep(partial(self._accept, listener), name="dispatch")
            self._is_accepting = True
            try:
                yield
            finally:
                self._is_accepting = False

    async def gather(self) -> None:
        """Have everyone report; the report of whoever takes too long counts when it comes."""
        reports = [
            self._tasks.create_task(self._get_report(member), name="watch")
            for member in self._members
            if member.silence(self._clock()) < _REPORT_WITHIN
        ]
        if reports:
            await asyncio.wait(reports, timeout=_REPORT_WITHIN)

    def forget(self, what: Forgettable) -> None:
        """Have every worker forget it: what is asked after this is answered without it."""
        for member in self._members:
            member.worker.forget(what)

    async def reload(self, config: Config) -> set[str]:
        """Have every worker take up what has changed, and read certificates and passwords anew.

        Gives what is wrong with them; what was before stays in use.
        """
        self._config = config
        self._upstreams |= config.upstream.keys()
        self.connections.per_client = config.server.max_connections_per_client
        settings = settings_for_workers(config, self._welcome(config))
        told = await asyncio.gather(
            *(member.worker.reload(settings) for member in self._members), return_exceptions=True
        )
        # Who has died meanwhile is replaced by one that reads them anew.
        problems = {problem for one in told if isinstance(one, list) for problem in one}
        if not problems:
            await self._note_good()
        return problems

    async def _note_good(self) -> None:
        """What is in the files has just made sense to everyone."""
        with suppress(OSError):  # it is being replaced
            self._last_good = await asyncio.to_thread(read_files, files_of(self._config.server))

    def find_problem(self) -> str | None:
        """Why nobody is served now, if that is so."""
        if not self._is_accepting:
            return "it is being started, or stopped"
        if not self._members:
            return "no worker is running"
        if self.connections.is_full:
            return f"{self.connections.count} clients are connected, and descriptors allow no more"
        return None

    # A worker's life

    async def _supervise(self, started: asyncio.Future[None]) -> None:
        """Have a worker, and after it the next."""
        failures = 0
        while True:
            began = self._clock()
            try:
                ours, theirs = make_pair()
                with ours, theirs:
                    async with self._spawn(theirs) as kill:
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
        leases: Leases = Lender(self._open_blob, self._open_rest)
        given = Given(self.connections)
        served = serve(Pulls, self._mirror) | serve(Pushes, self._pushing)
        served |= serve(Leases, leases) | serve(Clients, given)
        peer = Peer(
            connection, served, tasks=self._tasks, note_fault=self._faults.note,
            client_at=given.find_client,
        )  # fmt: skip
        worker: Worker = proxy(Worker, peer)
        member = _Member(peer, worker, kill, given)
        try:
            async with asyncio.timeout(_START_WITHIN):
                settings = settings_for_workers(self._config, self._welcome(self._config))
                await worker.start(settings, self._last_good)
            self._members.append(member)
            if not started.done():
                started.set_result(None)
            await peer.lost.wait()
        finally:
            peer.close()
            if member in self._members:
                self._members.remove(member)
            given.close()

    async def _drain(self) -> None:
        self._stopping = True
        workers = [member.worker for member in self._members]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.server.drain_timeout + EXIT_WITHIN):
                await asyncio.gather(
                    *(worker.drain() for worker in workers), return_exceptions=True
                )
        await self.gather()

    # What it does

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            member = await self._next()
            try:
                connection, address = await loop.sock_accept(listener)
                with connection:
                    client = client_of(address[0] if isinstance(address, tuple) else "")
                    if not member.is_fit(self._clock()):  # nobody had come for long
                        member = await self._next()
                    if self.connections.admit(client):
                        self._give(member, connection, client)
                    else:
                        self._refuse(client)
            except OSError as error:
                _logger.error("no more clients for now: %s", error)  # noqa: TRY400 - no fault
                await asyncio.sleep(_RETRY)
            await asyncio.sleep(0)  # others have their turn, also when a cluster arrives

    def _give(self, member: _Member, connection: socket.socket, client: str) -> None:
        """Have a worker serve an admitted client. Raises OSError: it cannot be handed on."""
        number = member.given.add(client)
        try:
            member.worker.connect(connection, number)
        except BaseException:
            member.given.note_closed(number)  # or it would count for ever
            raise

    def _refuse(self, client: str) -> None:
        """Leave it without an answer: it is for others that there must be room."""
        self._refused()
        if self.connections.is_news(client):
            _logger.warning(
                "a client has as many connections as one may: more of them are closed",
                extra=fields(client=client, connections=self.connections.per_client),
            )

    async def _next(self) -> _Member:
        """Whose turn it is, of those that are fit."""
        while True:
            for _ in range(len(self._members)):
                self._members.rotate(-1)
                if self._members[-1].is_fit(self._clock()):
                    return self._members[-1]
            await asyncio.sleep(_RETRY)

    async def _watch(self) -> None:
        """Gather now and then, and see who hangs."""
        while True:
            await asyncio.sleep(_REPORT_EVERY)
            await self.gather()
            for member in self._members:
                if member.silence(self._clock()) > _HUNG:
                    _logger.error("a worker hangs, and is killed")
                    member.kill()

    async def _get_report(self, member: _Member) -> None:
        if member.asked_at is None:
            member.asked_at = self._clock()
        try:
            report = await member.worker.report()
            check_report(report, self._upstreams)
        except Violation as violation:
            _logger.error("a worker is let go: %s", violation)  # noqa: TRY400 - no fault of ours
            member.peer.close()
            return
        except Exception as error:  # noqa: BLE001 - nobody knows what it has done
            _logger.warning("a worker does not report: %s", error)
            return
        member.asked_at = None
        self._traffic.add(report.traffic)
        self._faults.add(report.faults)
        self._asked(report.asked)
        for digest in report.used:
            self._used(digest)


def _descriptors() -> int:
    """How many a process may have: workers are started with our limit."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _first(error: Exception) -> Exception:
    """Why the mirror cannot start, as the command line tells it."""
    if isinstance(error, UnusableFile):
        return ConfigError(error.file, error.problems)
    if isinstance(error, OSError):
        return error
    return OSError(f"a worker cannot be started: {error}")

"""A worker: everything that faces clients, in a process of its own.

It accepts no connections, keeps nothing on disk and asks no upstream: connections are given to it,
and what it has not in its cache it asks of the mirror's process (`mirror.front.ports`), which it
lends a connection to for a body that nobody has to parse. It lives as long as that process does.
"""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from aiohttp import web
from msgspec import structs

from mirror.aio.tasks import Tasks, owned_tasks
from mirror.aio.trust import trust
from mirror.front import ports
from mirror.front.api.access import Access
from mirror.front.api.cache import Cache
from mirror.front.api.frontend import Frontend
from mirror.front.api.handlers import Handlers
from mirror.front.api.handshakes import explain
from mirror.front.api.pulls import CachedPulls
from mirror.front.api.server import Server
from mirror.front.settings import Files, Settings, UnusableFile
from mirror.front.wire.interface import serve
from mirror.front.wire.peer import Peer, proxy
from mirror.front.workers.last_good import Contents, instead
from mirror.pull.forget import Forgettable
from mirror.pull.routing import Router
from mirror.telemetry import log
from mirror.telemetry.asked import Requests
from mirror.telemetry.faults import Faults
from mirror.telemetry.traffic import Traffic

_logger = logging.getLogger(__name__)

_wall_clock = time.time  # noqa: TID251 - here is where the clock comes from that others take
_UNREAD = 2**16  # bytes, and as much for what the system has to do with them (socket(7))
_LONGEST_TIMEOUT = 2**31 - 1  # milliseconds


class Worker:
    """Serves the connections that it is given: the port `mirror.front.ports.Worker`."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        tasks: Tasks,
        faults: Faults,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._tasks = tasks
        self._faults = faults
        self._clock = clock
        self._monotonic = monotonic
        self._traffic = Traffic()
        self._requests = Requests(self._traffic, clock=clock, steady=time.perf_counter)
        self._cache = Cache(0, clock=clock)
        self._tls: ssl.SSLContext | None = None
        self._settings = Settings()
        self._access = Access(self._settings)
        self._told: Settings | None = None  # as they came: with files as the configuration names
        self._handlers: Handlers | None = None
        self._frontend: Frontend | None = None
        self._send_timeout = 0  # milliseconds
        self._server: Server | None = None
        self._runner: web.ServerRunner | None = None
        served = serve(ports.Worker, self)
        self._peer = Peer(connection, served, tasks=tasks, note_fault=faults.note, is_trusted=True)
        self._front: ports.Front = proxy(ports.Front, self._peer)
        self.lost = self._peer.lost

    def close(self) -> None:
        """End at once."""
        self._peer.close()

    async def start(self, settings: Settings, last_good: Contents) -> None:
        """Get ready to serve.

        Raises:
            UnusableFile: A file that the configuration names makes no sense, and never did.
        """
        try:
            await self._read(settings)
        except UnusableFile as error:
            if not last_good:
                raise
            _logger.error("what was read before is used: %s", error)  # noqa: TRY400 - no fault
            with instead(settings.files, last_good) as files:
                await self._read(structs.replace(settings, files=files))
        self._told = self._settings = settings
        self._send_timeout = min(round(settings.send_timeout * 1000), _LONGEST_TIMEOUT)
        self._cache = Cache(settings.memory_share, clock=self._clock)
        cached = CachedPulls(
            self._front,
            self._cache,
            prefetches=settings.prefetches,
            tasks=self._tasks,
            monotonic=self._monotonic,
        )
        handlers = self._handlers = Handlers(
            self._front,
            cached,
            Router(settings.upstreams),
            request_timeout=settings.request_timeout,
            send_timeout=settings.send_timeout,
        )
        frontend = self._frontend = Frontend(
            handlers, self._access, self._traffic, self._requests, self._faults
        )
        frontend.page = settings.page
        self._server = Server(
            frontend,
            request_timeout=settings.request_timeout,
            keep_alive_timeout=settings.keep_alive_timeout,
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=settings.drain_timeout)
        await self._runner.setup()

    async def _read(self, settings: Settings) -> None:
        """What is in the files that the settings name. Raises UnusableFile."""
        self._access = await asyncio.to_thread(Access, settings)
        self._tls = await asyncio.to_thread(_tls, settings.files)

    async def reload(self, settings: Settings) -> list[str]:
        """As the port says."""
        problems: list[str] = []
        if settings != self._told:
            self._change(settings)
        with _noted(problems):
            self._tls = await asyncio.to_thread(_tls, self._settings.files)
        with _noted(problems):
            await asyncio.to_thread(self._access.renew, self._settings)
        return problems

    def _change(self, settings: Settings) -> None:
        """Serve by other settings."""
        self._told = self._settings = settings
        if self._handlers is not None and self._frontend is not None:
            self._handlers.renew(Router(settings.upstreams))
            self._frontend.page = settings.page
        log.set_level(settings.log_level)
        self._cache.clear()  # who may have what is in it may have changed

    def connect(self, connection: socket.socket, number: int) -> None:
        """Serve a client; the front is told the number when it has left."""
        if self._runner is None or self._server is None:
            connection.close()
            self._front.note_closed(number)
            return
        _ = self._tasks.create_task(self._serve(self._server, connection, number), name="request")

    def forget(self, what: Forgettable) -> None:
        """Drop what is remembered of it, and do not keep answers that are on their way."""
        self._cache.forget(what)

    async def report(self) -> ports.Report:
        """What there is to count."""
        asked, traffic = self._requests.take()
        return ports.Report(traffic, self._cache.take_used(), self._faults.take(), asked)

    async def drain(self) -> None:
        """Let responses finish, within `server.drain_timeout`; then close every connection."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def _serve(self, server: Server, connection: socket.socket, number: int) -> None:
        loop = asyncio.get_running_loop()
        served = None
        try:
            # The kernel's own watch over who takes what it is sent (tcp(7)): it is the same for
            # a file, a TLS record and the last bytes of a connection that is being closed.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._send_timeout)
            bound_unread(connection)
            peer = connection.getpeername()
            try:
                handler = server(number)
                await loop.connect_accepted_socket(lambda: handler, connection, ssl=self._tls)
                served = handler  # uvloop returns what does TLS in front of it
            except ssl.SSLError as error:
                status, why = explain(error)
                server.note_refused(peer, why, status)
        except OSError:
            pass  # it has left again
        finally:
            if served is None:
                self._front.note_closed(number)
            else:
                served.call_when_lost(partial(self._front.note_closed, number))


def bound_unread(connection: socket.socket) -> None:
    """Have the system keep little of what a client sends before it is read. Raises OSError.

    What is read at once is parsed at once, and a flood of what is tedious to parse, such as chunks
    of a byte, keeps everybody else waiting. But it is no less than a client may send unasked: 64
    KiB since they have shaken hands (tcp_rmem, tcp(7)). What finds no room is lost, and the client
    sends it once more after 0.2 s, and twice that if there is none again.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UNREAD)


async def serve_until_lost(connection: socket.socket) -> None:
    """Work for the process at the other end, until it ends."""
    faults = Faults()
    async with owned_tasks(faults.note) as tasks:
        worker = Worker(
            connection, tasks=tasks, faults=faults, clock=_wall_clock, monotonic=time.monotonic
        )
        await worker.lost.wait()


def _tls(files: Files) -> ssl.SSLContext | None:
    if files.tls_certificate_file is None:
        return None
    context = trust(None, ssl.Purpose.CLIENT_AUTH)
    with _readable_as("a certificate and its private key", files.tls_certificate_file):
        context.load_cert_chain(files.tls_certificate_file, files.tls_private_key_file)
    if files.client_ca_file is not None:
        with _readable_as("certificates", files.client_ca_file):
            context.load_verify_locations(files.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except UnusableFile as error:
        problems.append(str(error))


@contextmanager
def _readable_as(what: str, file: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        raise UnusableFile(file, [f"not {what} ({error.reason or error})"]) from error
    except OSError as error:
        raise UnusableFile(file, [f"cannot be read: {error.strerror}"]) from error

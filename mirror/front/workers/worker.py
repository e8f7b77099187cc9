"""A worker: everything that faces clients, in a process of its own.

It accepts no connections, keeps nothing on disk and asks no upstream: connections are dealt to it,
and what it does not have at hand it asks of the mirror's process (`mirror.front.wire`). It lives as
long as that process does.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from mirror.aio.tasks import Tasks, owned_tasks
from mirror.config import Config, ConfigError, Server
from mirror.front.api.access import Access
from mirror.front.api.frontend import Frontend
from mirror.front.api.handlers import Handlers
from mirror.front.wire.near import Near
from mirror.front.wire.peer import Peer, Served
from mirror.front.wire.remote import Remote
from mirror.oci.digest import Digest
from mirror.pull.routing import Router
from mirror.telemetry.faults import Faults
from mirror.telemetry.traffic import Traffic

_wall_clock = time.time  # noqa: TID251 - here is where the clock comes from that others take


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker tells of its work since it was last asked."""

    traffic: Traffic
    used: set[Digest]  # served from what it had at hand
    faults: dict[str, int]  # how many, by task


class Worker:
    """Serves the connections that it is dealt."""

    def __init__(
        self, connection: socket.socket, *, tasks: Tasks, faults: Faults, clock: Callable[[], float]
    ) -> None:
        self._tasks = tasks
        self._faults = faults
        self._clock = clock
        self._traffic = Traffic()
        self._near = Near(0, clock=clock)
        self._tls: ssl.SSLContext | None = None
        self._runner: web.ServerRunner | None = None
        serves: Served = {
            "start": self._start,
            "connect": self._connect,
            "report": self._report,
            "drain": self._drain,
        }
        self._peer = Peer(connection, serves, tasks=tasks)
        self.lost = self._peer.lost

    def close(self) -> None:
        """End at once."""
        self._peer.close()

    async def _start(self, config: Config) -> None:
        """Get ready to serve.

        Raises:
            ConfigError: A file that the configuration names makes no sense.
        """
        access = await asyncio.to_thread(Access, config.server)  # it reads files
        self._tls = await asyncio.to_thread(_tls, config.server)
        self._near = Near(config.memory_share, clock=self._clock)
        mirror = Remote(
            self._peer,
            Router(config),
            self._near,
            prefetches=config.fill.prefetch != "off",
            tasks=self._tasks,
            clock=self._clock,
        )
        frontend = Frontend(Handlers(mirror), access, self._traffic, self._faults)
        self._runner = web.ServerRunner(
            web.Server(frontend, handler_cancellation=True, access_log=None),
            shutdown_timeout=config.server.drain_timeout,
        )
        await self._runner.setup()

    async def _connect(self, connection: socket.socket) -> None:
        """Serve a client."""
        server = self._runner.server if self._runner is not None else None
        if server is None:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # it has left again, or its TLS is none
            await loop.connect_accepted_socket(server, connection, ssl=self._tls)

    async def _report(self) -> Report:
        return Report(self._traffic.take(), self._near.take_used(), self._faults.take())

    async def _drain(self) -> None:
        """Let responses finish, within `server.drain_timeout`; then close every connection."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()


async def serve(connection: socket.socket) -> None:
    """Work for the process at the other end, until it ends."""
    faults = Faults()
    async with owned_tasks(faults.note) as tasks:
        worker = Worker(connection, tasks=tasks, faults=faults, clock=_wall_clock)
        await worker.lost.wait()


def _tls(server: Server) -> ssl.SSLContext | None:
    if server.tls_certificate_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with _readable_as("a certificate and its private key", server.tls_certificate_file):
        context.load_cert_chain(server.tls_certificate_file, server.tls_private_key_file)
    if server.client_ca_file is not None:
        with _readable_as("certificates", server.client_ca_file):
            context.load_verify_locations(server.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@contextmanager
def _readable_as(what: str, file: Path) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        raise ConfigError(str(file), [f"not {what} ({error.reason or error})"]) from error

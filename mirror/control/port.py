"""The operators' port itself: nobody takes it away from the others, and nothing is quoted.

It is the mirror's own process that listens here, and metrics and health are for everyone who can
reach it. So connections are few, none may only wait, and what takes nothing is let go. What is no
request is answered and logged without its text, in which there may be a token.
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mirror.aio.tasks import NoteFault
from mirror.control.problems import Refusal, problem
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_MOST = 512  # connections
_SHARE = 64  # of them, of one address
_FIRST_REQUEST = 30.0  # seconds in which who connects has asked for something
_IDLE = 75.0  # seconds between requests
_TAKES_NOTHING = 60_000  # milliseconds, after which the kernel ends a connection (tcp(7))
_DRAINS = 1.0  # seconds; who watches events would for ever
_LINGERING = 2.0  # seconds for which the rest of a body that nobody wants is read


@asynccontextmanager
async def serving(
    application: web.Application, listeners: Iterable[socket.socket], note_fault: NoteFault
) -> AsyncIterator[None]:
    """Serve inside the block, on these sockets, which listen."""
    loop = asyncio.get_running_loop()
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=_DRAINS)
    await runner.setup()
    try:
        manager, clients = runner.server, Counter[str]()
        assert manager is not None  # noqa: S101 - it has been set up
        async with AsyncExitStack() as stack:
            for listener in listeners:
                server = await loop.create_server(
                    lambda: _Connection(manager, loop, clients, note_fault), sock=listener
                )
                stack.callback(server.close)
            yield
    finally:
        await runner.cleanup()


class _Connection(web.RequestHandler):
    """One connection; `clients` counts those of each address."""

    __slots__ = ("_address", "_clients", "_deadline", "_note_fault")

    def __init__(
        self,
        manager: web.Server,
        loop: asyncio.AbstractEventLoop,
        clients: Counter[str],
        note_fault: NoteFault,
    ) -> None:
        super().__init__(
            manager,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # the library's way to have none
            keepalive_timeout=_IDLE,
            lingering_time=_LINGERING,
            auto_decompress=False,
        )
        self._clients = clients
        self._note_fault = note_fault
        self._address = ""
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it, and see that it is used."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if peer else "-"
        self._clients[self._address] += 1
        if self._clients[self._address] > _SHARE or self._clients.total() > _MOST:
            self.force_close()
            return
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TAKES_NOTHING)
        self._deadline = self._loop.call_later(_FIRST_REQUEST, self._expect_a_request)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Nobody is there any more."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._clients[self._address] -= 1
        if not self._clients[self._address]:
            del self._clients[self._address]
        super().connection_lost(exc)

    def _expect_a_request(self) -> None:
        if not self._request_count:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be read, or could not be answered; then hang up."""
        del message  # it quotes the client
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun: there is no other")
        if not isinstance(exc, Exception) or isinstance(exc, HttpProcessingError):
            told = "not a request that can be read"
            extra = fields(client=request.remote or "-", status=status)
            _logger.info("of an operator: %s", told, extra=extra)
        else:
            told = "a fault of the mirror's own; see its log"
            self._note_fault("api", exc)
        response = problem(Refusal(HTTPStatus(status), told, {"Server": "mirror"}))
        response.force_close()
        return response

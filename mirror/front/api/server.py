"""aiohttp's server, but for what it makes of requests that are none, and of clients that wait.

Its own way is to log a traceback with the line that it could not read, a password perhaps, and to
send that back too. It waits an hour for a request, and takes a client that has nothing more to send
for one that has left.
"""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import aiohttp
from aiohttp import web
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage

from mirror.front import ports
from mirror.front.api.frontend import Frontend

_LONGEST_FIELD = 18 * 2**10  # bytes: tokens of 16 KiB, with their name and scheme
_LONGEST_HEAD = 64 * 2**10  # bytes: all fields of a request
_MOST_AHEAD = 2 * _LONGEST_HEAD  # bytes of requests that wait for the one before
_LINGERING = 2.0  # seconds for which the rest of a body that nobody wants is read
_HALF_CLOSED = 3.0  # seconds in which a client that sends nothing more must take something
_LARGE = 2**16  # bytes of an answer for which it is watched who takes it
_MOST_UNTAKEN = 64 * 2**20  # bytes of such that wait to be read, in a worker
_TIME_TO_READ = 5.0  # seconds; a page of tags has at most 8 MiB
_BYTES_ACKED = 120  # where tcpi_bytes_acked is in a tcp_info (linux/tcp.h)


class Server(web.Server):
    """Hands requests to the frontend, and tells it of what could not be read as one."""

    def __init__(
        self, frontend: Frontend, *, request_timeout: float, keep_alive_timeout: float
    ) -> None:
        super().__init__(
            frontend,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=keep_alive_timeout,
            lingering_time=_LINGERING,
            max_field_size=_LONGEST_FIELD,
            auto_decompress=False,  # of a body that nobody wants, it would fail afterwards
        )
        self._frontend = frontend
        self.note_refused = frontend.note_refused
        self.request_timeout = request_timeout
        self.untaken = _Untaken()

    def __call__(self, number: int = 0) -> "_Connection":
        """What answers on one connection, under the number by which the mirror knows it."""
        return _Connection(self._frontend, self, number, loop=self._loop, **self._kwargs)


class _Untaken:
    """Large answers that are in memory until their clients have taken them, the oldest first.

    Where they are more than `_MOST_UNTAKEN`, those who have waited with theirs for longest are let
    go, of the address that has most of them: but nobody who has not had the time to read it.
    """

    def __init__(self) -> None:
        self._held: dict[asyncio.Transport, tuple[str, float, bytes]] = {}

    @contextmanager
    def holding(self, transport: asyncio.Transport, now: float, body: bytes) -> Iterator[None]:
        """A client is to take this inside the block, which begins `now`."""
        client = (transport.get_extra_info("peername") or ("",))[0]
        self._held[transport] = client, now, body
        self._make_room(now)
        try:
            yield
        finally:
            self._held.pop(transport, None)

    def _make_room(self, now: float) -> None:
        # What many are sent of what is remembered is in memory once.
        bodies = {id(body): (client, len(body)) for client, _, body in self._held.values()}
        sizes = Counter[str]()
        for client, size in bodies.values():
            sizes[client] += size
        excess = sizes.total() - _MOST_UNTAKEN
        if excess <= 0:
            return
        [(greediest, _)] = sizes.most_common(1)
        for transport, (client, since, body) in [*self._held.items()]:
            if excess <= 0 or now - since < _TIME_TO_READ:
                return
            if client == greediest:
                excess -= len(body)
                del self._held[transport]
                transport.abort()


class _Connection(web.RequestHandler):
    __slots__ = (
        "_ahead", "_deadline", "_frontend", "_is_lent", "_is_lost", "_is_spoilt", "_number",
        "_queued", "_request_timeout", "_taken", "_unread", "_untaken", "_when_lost", "is_cut",
    )  # fmt: skip

    def __init__(self, frontend: Frontend, server: Server, number: int, **settings: object) -> None:
        super().__init__(server, **settings)  # type: ignore[arg-type]  # the library's own, as it passes them
        self._frontend = frontend
        self._number = number
        self._request_timeout = server.request_timeout
        self._untaken = server.untaken
        self._deadline: asyncio.TimerHandle | None = None
        self._is_lost = False
        self._when_lost: Callable[[], None] | None = None
        self._is_lent = False
        self.is_cut = False  # in the middle of a body that was lent, since the server ends
        self._is_spoilt = False  # by what is no request, or was lent: nothing more is read
        self._ahead = 0  # bytes that have come since a request began to wait behind others
        self._queued = 0  # requests, when that was last looked at
        self._unread = 0  # bytes since the last request was whole
        self._taken = -1  # bytes that the client's system had, when that was last looked at

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The first request has a deadline of its own: who connects has something to ask."""
        token = ports.connection.set(self._number)  # for all that is asked over it
        super().connection_made(transport)
        ports.connection.reset(token)
        self._deadline = self._loop.call_later(self._request_timeout, self._expect_a_request)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Nobody is there any more."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)
        self._is_lost = True
        if self._when_lost is not None:
            self._when_lost()

    def call_when_lost(self, act: Callable[[], None]) -> None:
        """Have somebody told when the connection has ended; at once, if it has."""
        if self._is_lost:
            act()
        else:
            self._when_lost = act

    def lend(self, body: aiohttp.StreamReader) -> bytes | None:
        """Leave what follows of a body to others until `give_back`; what has been read of it here.

        None: that cannot be, since what comes over TLS is not the body as it is.
        """
        if self.ssl_context is not None or self.transport is None or self.transport.is_closing():
            return None
        begun = bytearray()
        while some := body.read_nowait():  # where too much had come, there is more behind it
            begun += some
        self._is_spoilt = self._is_lent = True
        self.transport.pause_reading()
        return bytes(begun)

    def give_back(self, body: aiohttp.StreamReader, *, is_whole: bool) -> None:
        """Others are done with a body. What comes now is the next request, if all of it came.

        Else it is nothing any more, and the connection ends with the response.
        """
        self._is_lent = False
        if self.transport is None or self.transport.is_closing():
            return
        if not is_whole:
            self.transport.resume_reading()
            return
        # The one that there is waits for the rest of the body.
        self._parser = HttpRequestParser(
            self, self._loop, self._read_bufsize,
            max_line_size=self.max_line_size, max_field_size=self.max_field_size,
            max_headers=self.max_headers, max_msg_queue_size=self._max_msg_queue_size,
            payload_exception=web.RequestPayloadError, auto_decompress=False,
        )  # fmt: skip
        self._is_spoilt = False
        body.feed_eof()  # which goes on with reading

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send what is in memory; where much of it waits to be read, who reads least makes room."""
        body = resp.body if type(resp) is web.Response else None
        if not isinstance(body, bytes) or len(body) < _LARGE or self.transport is None:
            return await super().finish_response(request, resp, start_time)
        with self._untaken.holding(self.transport, self._loop.time(), body):
            with suppress(ConnectionError):
                await resp.prepare(request)
                request.writer.send_headers()  # else both are joined: a copy for each client
            return await super().finish_response(request, resp, start_time)

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - the library's
        """Let what is under way end in so many seconds; then end it.

        What the library ends then is the reading of a body, in which a lent one has no part.
        """
        if timeout is None:  # for as long as it takes
            await super().shutdown(None)
            return
        cutting = self._loop.call_later(timeout, self._cut_what_is_lent)
        try:
            await super().shutdown(timeout)
        finally:
            cutting.cancel()

    def _cut_what_is_lent(self) -> None:
        if self._is_lent and self.transport is not None:
            self.is_cut = True
            self.transport.abort()  # which cancels whoever waits for the rest

    def data_received(self, data: bytes) -> None:
        """Bytes of a request's fields are counted, up to where it is whole."""
        if self._is_spoilt:
            return
        messages = self._messages
        count, queued = self._request_count, len(messages)
        body = messages[-1][1] if queued else None
        super().data_received(data)
        if not queued and len(messages) == 1:
            message = messages[0][0]
            if type(message) is RawRequestMessage and not message.upgrade:
                self._unread, self._ahead, self._queued = 0, 0, 1  # as nearly always: one, whole
                return
        if body is not None and not body.is_eof() and self._request_count == count:
            self._unread = 0  # it is more of that, which is bounded by itself
            return
        if self._request_count != count:
            self._look_at_the_last()
        if self._request_count != count or self._waiter is None:  # or it is a body's
            self._unread = 0
            self._note_ahead(len(data), queued)
            return
        self._unread += len(data)
        if self._unread > _LONGEST_HEAD and not self._force_close:
            self._frontend.note_refused(self.peername, "its header fields are too long")
            self.force_close()

    def _look_at_the_last(self) -> None:
        """After what is no request the library would find another in each piece.

        And of what comes with a request that offers another protocol, such as h2c, it drops what
        is behind that: the next piece, in the middle of something, would be read as a request.
        """
        last = self._messages[-1][0] if self._messages else None
        if last is not None and not isinstance(last, RawRequestMessage):
            self._is_spoilt = True
            last.exc.with_traceback(None)  # whose frames hold all that came with it
        elif last is not None and last.upgrade:
            self._close_after_the_last()

    def _note_ahead(self, size: int, queued: int) -> None:
        """Bytes of requests that wait behind others; who sends too many waits for no answer.

        They count anew where none was `queued` before them, or some of those have been taken.
        """
        self._ahead = self._ahead + size if queued and queued >= self._queued else 0
        self._queued = len(self._messages)
        if self._ahead > _MOST_AHEAD and not self._force_close:
            self._frontend.note_refused(self.peername, "it asks for more than it waits for")
            self.force_close()

    def eof_received(self) -> bool:  # type: ignore[override]  # the library's says None: hang up
        """The client has nothing more to send: what it has asked for is answered all the same.

        It may as well have left; that shows when it takes nothing.
        """
        is_idle = self._waiter is not None and not self._waiter.done()
        if (
            is_idle or not self._request_count or self.ssl_context is not None
        ):  # a half of TLS's cannot be closed
            return False
        self._close_after_the_last()
        self._watch_taking()
        return True

    def _close_after_the_last(self) -> None:
        """Have the connection closed once everything that has been asked for is answered."""
        if not self._messages:
            self._close = True
            return
        message, body = self._messages[-1]
        if isinstance(message, RawRequestMessage):  # what is none ends the connection by itself
            self._messages[-1] = message._replace(should_close=True), body

    def _expect_a_request(self) -> None:
        if not self._request_count and not self._force_close:
            self._frontend.note_refused(self.peername, "it has sent no request in time")
            self.force_close()

    def _watch_taking(self) -> None:
        if self.transport is None:
            return
        taken = _acknowledged(self.transport.get_extra_info("socket"))
        if taken == self._taken:
            self.transport.abort()
            return
        self._taken = taken
        self._deadline = self._loop.call_later(_HALF_CLOSED, self._watch_taking)

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
        if exc is None or isinstance(exc, HttpProcessingError):
            response = self._frontend.refuse(request, status)
        else:
            response = self._frontend.confess(exc)
        response.force_close()
        return response


def _acknowledged(connection: socket.socket) -> int:
    """The bytes that the system at the other end has taken."""
    size = _BYTES_ACKED + 8
    information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    return int(struct.unpack_from("=Q", information, _BYTES_ACKED)[0])

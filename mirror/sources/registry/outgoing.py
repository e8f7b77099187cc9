"""The body of a request on its way to a registry, and how it fares.

A registry that takes no byte for a while has stalled, and one that has all of it must answer: but
what is waited for from whoever brings the bytes is not the registry's time. Whoever sends hands a
body the clock that it is to be measured by, and is told afterwards whether the bytes themselves
could not be had.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Self, cast

from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_writer import StreamWriter
from aiohttp.payload import Payload

from mirror.aio.sending import FilePart, Sendfile, Truncated, flushed
from mirror.oci.errors import StoreError
from mirror.sources.targets import Sendable

_PIECE = 2**16  # bytes

Pace = Callable[[int], Awaitable[None]]
"""Waits until so many bytes may be sent."""


class Short(ValueError):
    """Whoever brings a body has brought less than was announced, or more."""


class Outgoing:
    """A body of `length` bytes, or of as many as come (None: in chunked coding).

    Bytes can be sent once more; what comes in chunks is gone. `patience` is in seconds for the
    registry to take a piece, `answer` for it to answer once it has all. `is_alone`: it goes over a
    connection that carries nothing else, since there are lines that cut every one after so much.
    """

    def __init__(
        self,
        content: AsyncIterable[Sendable] | bytes,
        *,
        length: int | None = None,
        patience: float,
        answer: float,
        is_alone: bool = False,
    ) -> None:
        self._content = content
        self.is_alone = is_alone
        self.length = len(content) if isinstance(content, bytes) else length
        self._patience = patience
        self._answer = answer
        self._pace: Pace | None = None
        self._deadline: asyncio.Timeout | None = None
        self._source: AsyncIterator[Sendable] | None = None
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._is_answered = False
        self._sending: Sendfile | None = None
        self.sent = 0  # bytes of it, handed to the connection
        self.is_over = False  # all of it was
        self.error: Exception | None = None  # of whoever brings it

    @property
    def is_whole(self) -> bool:
        """Whether all of it is there, to be sent as often as need be."""
        return isinstance(self._content, bytes)

    @property
    def may_repeat(self) -> bool:
        """Whether it can be sent from its beginning, for all that was asked of it."""
        return self.is_whole or self._source is None

    def begin(self, deadline: asyncio.Timeout, pace: Pace) -> "Body":
        """What is to be sent now, by this clock and at this pace."""
        self._deadline, self._pace = deadline, pace
        self.sent, self.is_over, self._is_answered = 0, False, False
        if isinstance(self._content, bytes):
            self._source = None
        return Body(self)

    def answered(self) -> None:
        """There is an answer: nobody is measured any more, and nothing follows."""
        self._deadline, self._is_answered = None, True

    async def end(self) -> None:
        """Wait until whoever brings it is left alone: the request is over, or was given up."""
        self.answered()
        if self._sending is not None:
            self._sending.stop(ConnectionAbortedError("the request was given up"))
        await self._is_idle.wait()

    async def write_to(self, writer: StreamWriter) -> None:
        """Send it over a connection.

        Raises:
            OSError: It has ended, or whoever brings the body could not (`error`).
        """
        with _PlainConnection.of(writer) as plain:
            while (piece := await self._next()) is not None:
                if plain is not None and isinstance(piece, FilePart) and not piece.is_cold:
                    await self._send(piece, plain)
                    continue
                if plain is not None:
                    plain.end_chunk()
                await self._write(piece, writer)
        if writer.chunked and (writer.transport is None or writer.transport.is_closing()):
            # The library would find out at its last chunk, where nobody hears of it but the log.
            raise ConnectionResetError("the registry has hung up")

    async def _next(self) -> Sendable | None:
        """The next piece; the one before was taken by the connection."""
        if self.sent == self.length:
            self._finish()  # whoever has all may answer: nobody is waited for
            return None
        if self._is_answered:
            await asyncio.Event().wait()  # until the connection is closed
        source = self._source = self._source or self._begun()
        self._measure(None)
        with self._busy():
            piece = await anext(source, None)
            if piece is not None and self._pace is not None:
                await self._pace(len(piece))
        if piece is None:
            self._finish()
        elif self.length is not None and self.sent + len(piece) > self.length:
            raise self._short()
        return piece

    async def _write(self, piece: Sendable, writer: StreamWriter) -> None:
        if isinstance(piece, FilePart):
            with self._busy():
                piece = await piece.read()
        self._went(len(piece))
        await writer.write(bytes(piece))  # its memory is used again while the connection holds it

    async def _send(self, part: FilePart, plain: "_PlainConnection") -> None:
        """Have the kernel send it: nothing has to be done to its bytes."""
        self._measure(self._patience)
        await plain.announce(part)
        self._sending = Sendfile(
            plain.descriptor, part.file, part.position, part.position + len(part), self._went
        )
        self._is_idle.clear()  # its file is read
        try:
            await self._sending.run()
        except Truncated as error:
            self.error = StoreError(str(error))
            raise
        finally:
            self._sending = None
            self._is_idle.set()

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """Whoever brings it is at it inside the block; what it raises is noted."""
        self._is_idle.clear()
        try:
            yield
        except Exception as error:
            self.error = error
            raise
        finally:
            self._is_idle.set()

    def _went(self, size: int) -> None:
        """So many bytes more are the connection's."""
        self.sent += size
        self.is_over = self.sent == self.length
        self._measure(self._patience)

    def _begun(self) -> AsyncIterator[Sendable]:
        content = self._content
        return aiter(_pieces(content) if isinstance(content, bytes) else content)

    def _finish(self) -> None:
        if self.length is not None and self.sent != self.length:
            raise self._short()
        self.is_over = True
        self._measure(self._answer)

    def _short(self) -> Short:
        self.error = Short(f"a body of {self.length} bytes has {self.sent}")
        return self.error

    def _measure(self, seconds: float | None) -> None:
        """So long from now on for the registry; None: it is not its turn."""
        if self._deadline is not None and not self._deadline.expired():
            now = asyncio.get_running_loop().time()
            self._deadline.reschedule(None if seconds is None else now + seconds)


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _PIECE):
        yield content[start : start + _PIECE]


class Body(Payload):
    """An `Outgoing`, as aiohttp takes it for one request."""

    _autoclose = True

    def __init__(self, outgoing: Outgoing) -> None:
        super().__init__(outgoing)
        self._outgoing = outgoing

    async def write(self, writer: AbstractStreamWriter) -> None:
        """As the library says."""
        await self._outgoing.write_to(cast("StreamWriter", writer))

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """As the library says; who sends it sees to its length."""
        del content_length
        await self.write(writer)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """As the library says: it is no text."""
        del encoding, errors
        raise TypeError("a body that is on its way")


class _PlainConnection:
    """A connection over which the kernel can send files, in a writer's stead, from time to time.

    It goes over a descriptor of its own, since the loop watches the transport's.
    """

    def __init__(self, writer: StreamWriter, transport: asyncio.Transport) -> None:
        self._writer = writer
        self._transport = transport
        self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self._socket.setblocking(False)
        self._end = b""  # of the chunk before (RFC 9112, 7.1)

    @classmethod
    @contextmanager
    def of(cls, writer: StreamWriter) -> Iterator[Self | None]:
        """A writer's, inside the block; None: what goes over it has to be encrypted."""
        transport = writer.transport
        if transport is None or transport.get_extra_info("sslcontext") is not None:
            yield None
            return
        plain = cls(writer, transport)
        with plain._socket:
            yield plain
            plain.end_chunk()

    @property
    def descriptor(self) -> int:
        """Where a file is to go."""
        return self._socket.fileno()

    def end_chunk(self) -> None:
        """What comes next is not announced here."""
        if self._end and not self._transport.is_closing():
            self._transport.write(self._end)
        self._end = b""

    async def announce(self, part: FilePart) -> None:
        """Send what comes before a part; no packet of its own, but one with the part."""
        self._writer.send_headers()
        await flushed(self._transport, self._writer.drain)
        if not self._writer.chunked:
            return
        head, self._end = b"%b%x\r\n" % (self._end, len(part)), b"\r\n"
        try:
            sent = self._socket.send(head, socket.MSG_MORE)
        except BlockingIOError:
            sent = 0
        if sent < len(head):
            self._transport.write(head[sent:])
            await flushed(self._transport, self._writer.drain)

"""The body of a response, as it arrives.

aiohttp's reader is made for everything: each read makes a new object, its parser copies it, and
what has gathered is joined once more. Where the length of a body is known, a `Receiver` has the
connection write into buffers that are used in turn, and nothing is copied. It begins where aiohttp
has got to, and with the last byte the connection is aiohttp's again, to serve the next request.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

import aiohttp

from mirror.oci.digest import Chunk
from mirror.sources.registry.buffers import SIZE, Buffers

_ENOUGH = SIZE // 2  # bytes; less is not worth a thread's while if more is on its way
_AT_ONCE = 3  # buffers: one is filled while two are in use

_buffers = Buffers()


def arriving(response: aiohttp.ClientResponse, *, patience: float) -> AsyncGenerator[Chunk, None]:
    """The body in chunks, each of which stays as it is until the next but one is asked for.

    Raises:
        TimeoutError: Nothing arrives for `patience` seconds.
        aiohttp.ClientError, OSError: The connection broke. What had arrived has been handed out.
    """
    size = response.content_length
    return _read(response) if size is None else _receive(response, size, patience)


async def _read(response: aiohttp.ClientResponse) -> AsyncGenerator[Chunk, None]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, OSError):
        if rest := _arrived(response.content):
            yield rest
        raise


async def _receive(
    response: aiohttp.ClientResponse, size: int, patience: float
) -> AsyncGenerator[Chunk, None]:
    error = response.content.exception()
    early = _arrived(response.content)
    left = size - response.content.total_bytes
    with _buffers.receiving():
        receiver = Receiver(response, left, patience=patience) if left and error is None else None
        if early:
            yield early
        if left and error is not None:
            raise error
        while receiver is not None and (chunk := await receiver.take()) is not None:
            yield chunk


def _arrived(content: aiohttp.StreamReader) -> bytes:
    """What aiohttp has; once the line is broken it would drop it, and we pay for it twice."""
    content.set_exception(None)  # type: ignore[arg-type]  # or it raises instead
    return b"".join(iter(content.read_nowait, b""))


class Receiver(asyncio.BufferedProtocol):
    """Takes over the connection of a response of which `left` bytes are to come.

    aiohttp has been asked for all that it has.

    Raises:
        aiohttp.ClientError: The connection is gone.
    """

    def __init__(self, response: aiohttp.ClientResponse, left: int, *, patience: float) -> None:
        connection = response.connection
        if connection is None or connection.transport is None or connection.protocol is None:
            raise aiohttp.ClientConnectionResetError("the connection is gone")
        self._content = response.content
        self._aiohttp = connection.protocol
        self._transport = connection.transport
        self._patience = patience
        self._left = left
        self._used = deque(_buffers.take(left) for _ in range(_AT_ONCE))
        self._filling = self._used.popleft()
        self._filled = 0
        self._is_over = False
        self._news = asyncio.Event()
        self._aiohttp.pause_reading()  # and its clock
        self._transport.set_protocol(self)
        self._transport.resume_reading()

    async def take(self) -> memoryview | None:
        """What has arrived, if need be after a while; None at the end. Raises as `arriving`."""
        if not self._filled and not self._is_over:
            self._news.clear()
            async with asyncio.timeout(self._patience):
                await self._news.wait()
        if not self._filled:
            if self._left:
                raise self._content.exception() or aiohttp.ClientPayloadError
            return None
        chunk = self._filling[: self._filled]
        self._used.append(self._filling)
        self._filling, self._filled = self._used.popleft(), 0
        if not self._is_over:
            self._transport.resume_reading()
        return chunk

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where to put what comes next: nothing beyond the end of this body."""
        return self._filling[self._filled : self._filled + self._left]

    def buffer_updated(self, nbytes: int) -> None:
        """So much has come."""
        self._filled += nbytes
        self._left -= nbytes
        if not self._left:
            self._is_over = True
            self._transport.set_protocol(self._aiohttp)
            self._content.feed_eof()  # as if it had read it all: the connection is free
        elif self._filled >= min(_ENOUGH, len(self._filling)):
            self._transport.pause_reading()
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Too early; aiohttp knows what to call it."""
        self._is_over = True
        self._aiohttp.connection_lost(exc)
        self._news.set()

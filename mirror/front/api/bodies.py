"""What a client brings, read as it comes and handed on by turns.

While one piece is on its way, what comes meanwhile makes the next: so a slow client's bytes wait
for nothing, and a fast one's go in pieces that are worth a message between processes. All that is
gathered at once, of all clients of a worker, is bounded.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol, cast

from aiohttp import StreamReader, web
from aiohttp.http import HttpVersion11

from mirror.aio.sealed import MOST_AT_ONCE, Bulk
from mirror.push.answers import MOST_PATIENCE, Loan

_CUT = 2**18  # bytes of a chunk
_MOST = 2**25  # bytes of all that is gathered
_LEAST = 2**16  # bytes that one body may have of it, however many there are
_CHUNKS = 256  # of a body: each takes more than its bytes
_ENDS = "the body is cut: the server ends"
_WORTH = 2**20  # bytes of a body for which its connection is lent


class _Connection(Protocol):
    is_cut: bool

    def lend(self, body: StreamReader) -> bytes | None: ...
    def give_back(self, body: StreamReader, *, is_whole: bool) -> None: ...


@asynccontextmanager
async def lending(
    request: web.BaseRequest, *, patience: float
) -> AsyncIterator[tuple[Bulk, Loan] | None]:
    """What has come of a body, and the rest for others to take off its connection in the block.

    It is lent where that is worth it (None: it is to be read here). Where the block fails,
    not all of it was taken: the connection ends with the response, which has to say so.

    Raises:
        ConnectionError: The server ends.
    """
    length, connection = request.content_length, cast("_Connection", request.protocol)
    if length is None or length < _WORTH or request.content.is_eof():
        yield None
        return
    begun = connection.lend(request.content)
    if begun is None:
        yield None
        return
    is_whole = False
    try:
        await _go_ahead(request)
        descriptor = os.dup(request.get_extra_info("socket").fileno())
        with socket.socket(fileno=descriptor) as shared:
            yield Bulk(begun), Loan(shared, length - len(begun), min(patience, MOST_PATIENCE))
        is_whole = True
    except asyncio.CancelledError as error:
        if connection.is_cut:
            raise ConnectionError(_ENDS) from error
        raise
    finally:
        connection.give_back(request.content, is_whole=is_whole)


def waits_to_be_told(request: web.BaseRequest) -> bool:
    """Whether a client brings its body only once it is told to (RFC 9110, 10.1.1)."""
    expected = request.headers.get("Expect", "").lower()
    return expected == "100-continue" and request.version == HttpVersion11


async def read_body(request: web.BaseRequest, *, patience: float) -> AsyncIterator[bytes]:
    """What the client brings, as it comes; it has so many seconds to bring something.

    Chunk by chunk: who brings thousands of a byte at once is not read to their end in one go.

    Raises:
        ConnectionError: It has left, or brings nothing.
    """
    await _go_ahead(request)
    while True:
        try:
            async with asyncio.timeout(patience):
                chunk, is_chunk = await request.content.readchunk()
        except TimeoutError as error:
            raise ConnectionError("it brings nothing any more") from error
        except web.RequestPayloadError as error:
            raise ConnectionError("its body is none, or is cut") from error
        if not chunk and (not is_chunk or request.content.at_eof()):  # none at all says "chunk"
            return
        for start in range(0, len(chunk), _CUT):
            yield chunk[start : start + _CUT]


async def _go_ahead(request: web.BaseRequest) -> None:
    """Tell a client that waits for it to bring its body."""
    if waits_to_be_told(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the response has not begun


class Gathering:
    """What bodies share that are handed on."""

    def __init__(self) -> None:
        self._under_way = 0

    async def hand_on(
        self, chunks: AsyncIterator[bytes], write: Callable[[Bulk], Awaitable[None]]
    ) -> None:
        """Give `write` all that comes, one piece after another. Raises what either does.

        What came before the chunks broke has been handed on by then.
        """
        with self._share() as share:
            heap = _Heap(share)
            reading = asyncio.get_running_loop().create_task(heap.fill(chunks), name="body")
            try:
                while (piece := await heap.take()) is not None:
                    await write(piece)
            finally:
                reading.cancel()
                await asyncio.wait([reading])

    @contextmanager
    def _share(self) -> Iterator[Callable[[], int]]:
        self._under_way += 1
        try:
            yield lambda: max(_LEAST, min(MOST_AT_ONCE, _MOST // self._under_way))
        finally:
            self._under_way -= 1


class _Heap:
    """Chunks of one body that nobody has taken yet; `most` gives how many bytes they may have."""

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._has_changed = asyncio.Event()
        self._has_ended = False
        self._error: Exception | None = None

    async def fill(self, chunks: AsyncIterator[bytes]) -> None:
        """Take in all that comes, while there is room."""
        try:
            async for chunk in chunks:
                self._chunks.append(chunk)
                self._size += len(chunk)
                self._has_changed.set()
                while self._size >= self._most() or len(self._chunks) >= _CHUNKS:
                    await self._change()
        except Exception as error:  # noqa: BLE001 - it is told to whoever takes
            self._error = error
        except asyncio.CancelledError:  # where it is aiohttp's, which ends, somebody takes
            self._error = ConnectionError(_ENDS)
            raise
        finally:
            self._has_ended = True
            self._has_changed.set()

    async def take(self) -> Bulk | None:
        """What is there by now, and at least one chunk; None: there is no more."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._has_ended:
                return None
            await self._change()
        taken, size = list[bytes](), 0
        while self._chunks and size + len(self._chunks[0]) <= MOST_AT_ONCE:
            chunk = self._chunks.popleft()
            taken.append(chunk)
            size += len(chunk)
        self._size -= size
        self._has_changed.set()
        return Bulk(*taken)

    async def _change(self) -> None:
        self._has_changed.clear()
        await self._has_changed.wait()

"""Leases: blobs that the mirror has open, in the hands of one worker."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from weakref import WeakKeyDictionary, WeakValueDictionary

from mirror.front.ports import Authorization, Lease, Ranges
from mirror.oci.digest import Digest
from mirror.oci.errors import Unavailable
from mirror.oci.reference import Repository
from mirror.pull.answers import BlobAnswer, Progress, Reader, Stream

_GATHERED = 0.002  # seconds for which progress is gathered: each message has its price

OpenBlob = Callable[
    [Repository, Digest, Authorization, Ranges], AbstractAsyncContextManager[BlobAnswer]
]

OpenRest = Callable[[Repository, Digest, Authorization], AbstractAsyncContextManager[BlobAnswer]]


class Lender:
    """The port `Leases`, for one worker: what it has leased ends when it is done, or has died."""

    def __init__(self, open_blob: OpenBlob, open_rest: OpenRest) -> None:
        self._open_blob = open_blob
        self._open_rest = open_rest
        self._numbers = itertools.count(1)
        # A fill has many readers, and one number; both are gone with the last of them.
        self._growing: WeakKeyDictionary[Reader, int] = WeakKeyDictionary()
        self._readers: WeakValueDictionary[int, Reader] = WeakValueDictionary()
        self._streams: dict[int, _Leased] = {}

    @asynccontextmanager
    async def open_blob(
        self, repository: Repository, digest: Digest, authorization: Authorization, ranges: Ranges
    ) -> AsyncIterator[Lease]:
        """A blob, open for reading inside the block."""
        async with self._open_blob(repository, digest, authorization, ranges) as answer:
            match answer.body:
                case bytes() as content:
                    yield Lease(answer.size, answer.outcome, content=content)
                case Reader() as reader:
                    progress = reader.progress
                    number = 0 if progress.is_proved else self._number_of(reader)
                    yield Lease(answer.size, answer.outcome, None, reader.file, progress, number)
                case Stream() as stream:
                    async with self._leasing(stream) as number:
                        yield Lease(answer.size, answer.outcome, number=number)
                case None:
                    assert answer.location is not None  # noqa: S101 - else it has a body
                    yield Lease(answer.size, answer.outcome, location=answer.location)

    @asynccontextmanager
    async def open_rest(
        self, repository: Repository, digest: Digest, authorization: Authorization
    ) -> AsyncIterator[Lease]:
        """What is to come of a blob whose file comes no farther."""
        async with self._open_rest(repository, digest, authorization) as answer:
            assert isinstance(answer.body, Stream)  # noqa: S101 - there is no file of it
            async with self._leasing(answer.body) as number:
                yield Lease(answer.size, answer.outcome, number=number)

    async def follow(self, number: int, seen: Progress) -> Progress:
        """How far a leased file has come, once that is another progress than `seen`."""
        reader = self._reader(number)
        await reader.follow(seen)
        if seen.written and not reader.progress.is_proved:
            await asyncio.sleep(_GATHERED)
        return reader.progress

    async def reach(self, number: int, position: int, stop: int) -> int:
        """Up to where a range may have a leased file, once that is beyond `position`."""
        reader = self._reader(number)
        if (limit := await reader.reach(position, stop)) == stop:
            return limit
        await asyncio.sleep(_GATHERED)
        return await reader.reach(position, stop)

    async def next_chunk(self, number: int, start: int, stop: int | None) -> bytes | None:
        """What follows in a leased stream; None at its end."""
        leased = self._streams.get(number)
        if leased is None:
            raise Unavailable("nobody reads it any more")
        return await leased.next_chunk(start, stop)

    def _reader(self, number: int) -> Reader:
        reader = self._readers.get(number)
        if reader is None:
            raise Unavailable("nobody reads it any more")
        return reader

    def _number_of(self, reader: Reader) -> int:
        number = self._growing.get(reader)
        if number is None:
            number = self._growing[reader] = next(self._numbers)
            self._readers[number] = reader
        return number

    @asynccontextmanager
    async def _leasing(self, stream: Stream) -> AsyncIterator[int]:
        number = next(self._numbers)
        leased = self._streams[number] = _Leased(stream)
        try:
            yield number
        finally:
            del self._streams[number]
            await leased.close()


class _Leased:
    """A stream that is read from afar, piece by piece."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._chunks: AsyncGenerator[bytes, None] | None = None
        self._turn = asyncio.Lock()  # a generator is closed by nobody while it runs

    async def next_chunk(self, start: int, stop: int | None) -> bytes | None:
        async with self._turn:
            if self._chunks is None:
                self._chunks = self._stream.chunks(start, stop)
            return await anext(self._chunks, None)

    async def close(self) -> None:
        async with self._turn:
            if self._chunks is not None:
                await self._chunks.aclose()

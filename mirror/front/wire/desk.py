"""The desk: where workers ask. It lets one worker call the mirror's methods."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from weakref import WeakKeyDictionary, WeakValueDictionary

from mirror.front.wire.loan import Loan
from mirror.front.wire.peer import Served
from mirror.oci.digest import Digest
from mirror.oci.errors import Unavailable
from mirror.oci.manifest import Manifest
from mirror.pull.answers import Progress, Reader, Stream
from mirror.pull.mirror import Mirror, Route

_GATHER = 0.002  # seconds for which progress is gathered: each piece has its price


class Desk:
    """Answers one worker. What it has lent comes back when the worker is done, or has died."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._numbers = itertools.count(1)
        self._lent: WeakKeyDictionary[Reader, int] = WeakKeyDictionary()
        self._readers: WeakValueDictionary[int, Reader] = WeakValueDictionary()
        self._streams: dict[int, _LentStream] = {}

    def serves(self) -> Served:
        """What the worker may call."""
        mirror = self._mirror
        return {
            "get_manifest": mirror.get_manifest,
            "note_served": self._note_served,
            "head_blob": mirror.head_blob,
            "open_blob": self._open_blob,
            "follow": self._follow,
            "next_chunk": self._next_chunk,
            "list_tags": mirror.list_tags,
            "list_referrers": mirror.list_referrers,
            "list_repositories": mirror.list_repositories,
        }

    async def _note_served(
        self, route: Route, manifest: Manifest, authorization: str | None
    ) -> None:
        self._mirror.note_served(route, manifest, authorization)

    @asynccontextmanager
    async def _open_blob(
        self, route: Route, digest: Digest, authorization: str | None
    ) -> AsyncIterator[Loan]:
        async with self._mirror.open_blob(route, digest, authorization) as answer:
            lent = Loan(next(self._numbers), answer.size, answer.outcome)
            match answer.body:
                case bytes() as content:
                    yield replace(lent, content=content)
                case Reader() as reader:
                    # Everyone who reads from a fill asks by the same number, and nobody else ever.
                    number = self._lent.setdefault(reader, lent.number)
                    self._readers[number] = reader
                    yield replace(lent, number=number, file=reader.file, progress=reader.progress)
                case Stream() as stream:
                    async with self._lending(lent.number, stream):
                        yield lent
                case None:
                    raise AssertionError("an open blob has a body")

    @asynccontextmanager
    async def _lending(self, number: int, stream: Stream) -> AsyncIterator[None]:
        lent = self._streams[number] = _LentStream(stream)
        try:
            yield
        finally:
            del self._streams[number]
            await lent.close()

    async def _follow(self, number: int, seen: Progress) -> Progress:
        reader = self._readers.get(number)
        if reader is None:
            raise Unavailable("nobody reads it any more")
        await reader.follow(seen)
        if seen.written and not reader.progress.is_proved:
            await asyncio.sleep(_GATHER)
        return reader.progress

    async def _next_chunk(self, number: int, start: int, stop: int | None) -> bytes | None:
        return await self._streams[number].next_chunk(start, stop)


class _LentStream:
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

"""Pulls as a worker answers them: from its cache, else by the word of the process that decides.

Nothing is remembered for an upstream with `access = "client"`: each client's own authorization
decides there, and only the mirror can tell.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from weakref import WeakValueDictionary

from cachetools import TTLCache

from mirror.aio.single_flight import SingleFlight
from mirror.aio.tasks import Starter
from mirror.front.api.cache import Cache
from mirror.front.ports import Authorization, Front, Lease, Ranges
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference, Repository
from mirror.pull.answers import HIT, BlobAnswer, ManifestAnswer, Progress, Reader, Stream
from mirror.pull.routing import Route

_COMPLETE_FOR = 2.0  # seconds
_NOTED = 4096  # manifests
_NOTED_FOR = 10.0  # seconds; what has been served again after that is told again


class CachedPulls:
    """What a cache has a part in; the rest is asked of the `front` directly.

    What has been noted is remembered for a while by the `monotonic` clock: nobody sets that back.
    """

    def __init__(
        self,
        front: Front,
        cache: Cache,
        *,
        prefetches: bool,
        tasks: Starter,
        monotonic: Callable[[], float],
    ) -> None:
        self._front = front
        self._cache = cache
        self._prefetches = prefetches
        self._flights: SingleFlight[int, Progress] = SingleFlight(tasks)
        self._growing: WeakValueDictionary[int, _Growth] = WeakValueDictionary()
        self._noted: TTLCache[tuple[Repository, Digest], None] = TTLCache(
            _NOTED, ttl=_NOTED_FOR, timer=monotonic
        )
        self._complete: TTLCache[tuple[Repository, Digest], None] = TTLCache(
            _NOTED, ttl=_COMPLETE_FOR, timer=monotonic
        )

    def find_manifest(self, route: Route, reference: Reference) -> ManifestAnswer | None:
        """A manifest that nobody need be asked for."""
        return self._cache.find_manifest(route.repository, reference)

    def find_blob(self, route: Route, digest: Digest) -> BlobAnswer | None:
        """A small blob that nobody need be asked for."""
        content = self._cache.find_blob(route.repository, digest)
        return None if content is None else BlobAnswer(digest, len(content), content, HIT)

    async def get_manifest(
        self, route: Route, reference: Reference, authorization: Authorization
    ) -> ManifestAnswer:
        """A manifest that `find_manifest` has not; by tag or digest."""
        generation = self._cache.generation
        answer = await self._front.get_manifest(route.repository, reference, authorization)
        if not route.is_personal:
            self._cache.keep_manifest(route.repository, reference, answer, generation)
        return answer

    async def can_serve(self, route: Route, digest: Digest, authorization: Authorization) -> bool:
        """Whether all that a manifest names can be had; what was so a moment ago, still is."""
        key = (route.repository, digest)
        if key in self._complete and not route.is_personal:
            return True
        can_serve = await self._front.can_serve(route.repository, digest, authorization)
        if can_serve:
            self._complete[key] = None
        return can_serve

    def note_served(
        self, repository: Repository, digest: Digest, authorization: Authorization
    ) -> None:
        """A client has been given a manifest, and will soon ask for what it refers to."""
        if self._prefetches and (key := (repository, digest)) not in self._noted:
            self._noted[key] = None
            with suppress(OSError):  # no descriptor is free: the client will ask for all of it
                self._front.note_served(repository, digest, authorization)

    async def head_blob(
        self, route: Route, digest: Digest, authorization: Authorization
    ) -> BlobAnswer:
        """What is known of a blob that `find_blob` has not; it is not transferred."""
        told = await self._front.head_blob(route.repository, digest, authorization)
        return BlobAnswer(digest, told.size, None, told.outcome)

    @asynccontextmanager
    async def open_blob(
        self, route: Route, digest: Digest, authorization: Authorization, ranges: Ranges
    ) -> AsyncIterator[BlobAnswer]:
        """A blob that `find_blob` has not, open for reading inside the block.

        `ranges` of it, in this order, or (none) all.
        """
        generation = self._cache.generation
        opening = self._front.open_blob(route.repository, digest, authorization, ranges)
        async with opening as lease:
            if lease.content is not None and not route.is_personal:
                self._cache.keep_blob(route.repository, digest, lease.content, generation)
            if lease.location is not None:
                yield BlobAnswer(digest, lease.size, None, lease.outcome, location=lease.location)
                return
            rest = _Rest(self._front, route.repository, digest, authorization)
            yield BlobAnswer(digest, lease.size, self._body(lease), lease.outcome, rest)

    def _body(self, lease: Lease) -> bytes | Reader | Stream:
        if lease.content is not None:
            return lease.content
        if lease.file is None or lease.progress is None:
            return _LeasedStream(self._front, lease.number)
        growth = self._growing.get(lease.number)
        if growth is None:
            growth = _Growth(lease.progress)
            if not lease.progress.is_proved:
                self._growing[lease.number] = growth
        return _LeasedFile(self._front, self._flights, lease.file, growth, lease.number)


@dataclass(slots=True, weakref_slot=True)
class _Growth:
    """How far a blob has come, as far as this worker knows; its readers share it."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class _LeasedFile:
    """A `Reader` of a blob in a file of the mirror's."""

    _front: Front
    _flights: SingleFlight[int, Progress]
    file: FileIO
    _growth: _Growth
    _number: int

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        return self._growth.progress

    async def follow(self, seen: Progress) -> None:
        """Wait until it has come farther; asked once, however many readers want to know."""
        while self._growth.progress == seen:
            self._growth.progress = await self._flights.join(
                self._number, lambda: self._front.follow(self._number, seen)
            )

    async def reach(self, position: int, stop: int) -> int:
        """Wait for bytes from `position` on; each reader asks for its own."""
        return await self._front.reach(self._number, position, stop)


@dataclass(frozen=True, slots=True)
class _LeasedStream:
    """A `Stream` of a blob that is not kept."""

    _front: Front
    _number: int

    async def chunks(self, start: int, stop: int | None) -> AsyncGenerator[bytes, None]:
        """As the stream's own."""
        while (chunk := await self._front.next_chunk(self._number, start, stop)) is not None:
            yield chunk


@dataclass(frozen=True, slots=True)
class _Rest:
    """A `Stream` of what is to come of a blob whose file comes no farther."""

    _front: Front
    _repository: Repository
    _digest: Digest
    _authorization: Authorization

    async def chunks(self, start: int, stop: int | None) -> AsyncGenerator[bytes, None]:
        """As the stream's own."""
        opening = self._front.open_rest(self._repository, self._digest, self._authorization)
        async with opening as lease:
            async for chunk in _LeasedStream(self._front, lease.number).chunks(start, stop):
                yield chunk

"""The storage on this node's disk, as others know it: what it is asked, and which part answers.

How the parts are put together, and what each of them is, `building` says.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mirror.aio.waiting import to_the_end
from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.storage.accesses import Accesses
from mirror.storage.adoption import Adoption
from mirror.storage.changes import Changes, over
from mirror.storage.damage import Damage, Finding
from mirror.storage.files import Files
from mirror.storage.index import Index
from mirror.storage.open_files import BlobFile
from mirror.storage.openings import OTHER_CONTENT, Openings
from mirror.storage.pins import Pins
from mirror.storage.policy import Candidate
from mirror.storage.ports import IdlePartial, OpenBlob
from mirror.storage.room import Room
from mirror.storage.scrub import Scrub
from mirror.storage.space import Limits, Space
from mirror.storage.spools import Spool, Spools
from mirror.storage.states import PartialKey, States
from mirror.storage.upkeep import Upkeep
from mirror.storage.usage import Usage
from mirror.storage.writer import LocalWriter
from mirror.storage.writers import LocalWriters
from mirror.telemetry.collectors import StoreTotals


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a storage consists of."""

    files: Files
    usage: Usage
    index: Index
    states: States
    space: Space
    accesses: Accesses
    changes: Changes
    room: Room
    adoption: Adoption
    damage: Damage
    openings: Openings
    writers: LocalWriters
    pins: Pins
    upkeep: Upkeep
    scrub: Scrub
    spools: Spools
    dropped: Callable[[Digest], None]


class LocalStorage:
    """A `mirror.storage.ports.Storage`. Use `open_storage`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._files = parts.files
        self._index = parts.index
        self._states = parts.states
        self._accesses = parts.accesses

    @property
    def root(self) -> Path:
        """The directory that it is in."""
        return self._files.root

    @property
    def totals(self) -> StoreTotals:
        """What is here, as far as it is recorded."""
        return self._index.totals

    @property
    def index(self) -> Index:
        """What is recorded of what is here; only what it takes itself is anybody else's affair."""
        return self._index

    @property
    def is_adopted(self) -> bool:
        """Whether all that is on disk is in the index."""
        return self._index.is_adopted

    @property
    def taken(self) -> int:
        """Bytes of the disk that all of it takes: what `max_size` bounds, as of the last look."""
        return self._index.taken + self._parts.usage.last.overhead + self.promised

    @property
    def free(self) -> int:
        """Bytes of the file system that are free for us, as of the last look."""
        return self._parts.usage.last.free

    @property
    def capacity(self) -> int:
        """Bytes that blobs may take: what `max_size` leaves, as of the last look."""
        return self._parts.space.capacity

    @property
    def promised(self) -> int:
        """Bytes that blobs on their way take, or may take."""
        return self._parts.space.promised

    def change(self, limits: Limits) -> None:
        """Go by these from now on; what is too much goes within a minute."""
        self._parts.space.change(limits)

    @property
    def pins(self) -> Pins:
        """What is never evicted."""
        return self._parts.pins

    # Reading

    async def open_blob(self, digest: Digest) -> BlobFile | None:
        """As `Storage.open_blob`. Where the file is open already, it is there at once."""
        blob = await self.look_into(digest)
        if blob is not None:
            self._accesses.note(digest)
        return blob

    async def look_into(self, digest: Digest) -> BlobFile | None:
        """As `open_blob`, for an operator's curiosity: that makes it worth no more."""
        openings = self._parts.openings
        return await openings.reuse(digest) or await openings.open(digest)

    async def read_blob(self, digest: Digest, *, limit: int) -> bytes | None:
        """As `Storage.read_blob`."""
        blob = await self.open_blob(digest)
        if blob is None:
            return None
        try:
            return None if blob.size > limit else await self.read_open(blob)
        finally:
            blob.close()

    async def read_open(self, blob: BlobFile) -> bytes | None:
        """All of an open blob, proved anew; None: it was damaged, and is set aside."""
        content = await self._files.read(blob.file, blob.size, blob.digest)
        if content is None:
            await self._parts.damage.set_aside(blob.digest, OTHER_CONTENT)
        return content

    async def read_piece(self, blob: OpenBlob, offset: int, length: int) -> bytes:
        """As `Storage.read_piece`."""
        return await self._files.read_piece(blob.file, offset, length)

    def note_access(self, digest: Digest) -> None:
        """A blob was served from elsewhere (memory): it is in use all the same."""
        self._accesses.note(digest)

    async def is_stored(self, digest: Digest) -> bool:
        """Whether a complete blob is here, by the index."""
        return bool(await self.find_stored([digest]))

    async def find_stored(
        self, digests: Sequence[Digest], *, can_wait: bool = False
    ) -> set[Digest]:
        """Which of these are here, by the index. `can_wait`: no client's pull waits for it."""
        await self._parts.adoption.look_for(digests)
        return set(await self._index.find_sizes(digests, can_wait=can_wait))

    async def find_meant(self, digests: Sequence[Digest]) -> set[Digest]:
        """Which of these are here, and not superseded."""
        return await self._index.find_meant(digests)

    async def note_superseded(self, digests: Collection[Digest]) -> None:
        """Tags do not mean these any more: they go before what is meant."""
        await self._index.record_meaning(digests, is_superseded=True)

    async def note_meant(self, digests: Collection[Digest]) -> None:
        """Tags mean these again."""
        await self._index.record_meaning(digests, is_superseded=False)

    async def note_broken(self, digests: Collection[Digest]) -> None:
        """No image that these are in is here in whole: they go before others, until asked for."""
        await self._index.record_broken(digests)

    def watch_evictions(self, evicted: Callable[[Sequence[Digest]], None]) -> None:
        """Have `evicted` told of what has gone to make room."""
        self._parts.room.evicted = evicted

    async def list_next(self, most: int) -> list[Candidate]:
        """What would go first where there was need of room, in order. Raises StoreError."""
        return await self._parts.room.list_next(most)

    async def list_unused(self, *, since: float) -> AsyncIterator[list[tuple[Digest, float]]]:
        """What was last used before a time, and when, in batches. Both in epoch seconds."""
        await self._parts.changes.flush_accesses()
        async for batch in self._index.list_unused(since=since):
            yield batch

    def find_removable(self, digests: Sequence[Digest]) -> list[Digest]:
        """Those of these that are neither in use nor pinned."""
        return [
            digest for digest in digests
            if digest not in self._parts.pins and not self._states.is_in_use(digest)
        ]  # fmt: skip

    async def remove_unused(self, digests: Sequence[Digest]) -> int:
        """Remove those of these that are neither in use nor pinned; how many those are."""
        unused = self.find_removable(digests)
        if unused:
            self._parts.changes.begin_leaving(unused)
            for digest in unused:
                self._parts.dropped(digest)
            await to_the_end(self._parts.changes.finish_leaving(unused))
        return len(unused)

    async def remove(self, digests: Collection[Digest]) -> None:
        """These go, whoever reads them, but for what is pinned."""
        await self.remove_unused(list(digests))
        for digest in await self.find_stored(list(digests)):
            if digest not in self._parts.pins:
                await self.drop(digest)

    def list_stored(self) -> AsyncIterator[list[tuple[Digest, int]]]:
        """Everything that is here, with its size, in batches of at most 1,000."""
        return self._index.list_stored()

    async def is_writable(self) -> bool:
        """Whether new content could be kept."""
        return await self.find_trouble() is None

    async def find_trouble(self) -> str | None:
        """Why no new content can be kept, where that is so: the disk is asked now."""
        try:
            await self._files.probe()
        except StoreError as error:
            return str(error)
        return None

    async def find_free(self) -> int:
        """Bytes of the file system that are free for us: the disk is asked now. Raises StoreError.

        Where it does not answer, or refuses, as of the last look.
        """
        return await self._parts.usage.find_free()

    # Writing

    async def open_writer(
        self,
        upstream: str,
        digest: Digest,
        size: int | None,
        *,
        is_size_proved: bool = False,
    ) -> LocalWriter:
        """As `Storage.open_writer`. `size` is a hint, until `expect` says it."""
        key = PartialKey(upstream, digest)
        return await self._parts.writers.open(key, size, is_size_proved=is_size_proved)

    async def keep(
        self, upstream: str, digest: Digest, content: bytes, *, is_manifest: bool = False
    ) -> None:
        """As `Storage.keep`."""
        blob = await self.open_blob(digest)
        if blob is not None:
            try:  # nobody evicts it meanwhile
                if is_manifest:
                    await self._index.record_blob(
                        digest, blob.size, now=self._accesses.now(), is_manifest=True,
                        is_proved=False,
                    )  # fmt: skip
            finally:
                blob.close()
            return
        writer = await self.open_writer(upstream, digest, len(content), is_size_proved=True)
        try:
            async with writer.pen() as pen:
                await pen.write(0, [content])
            await writer.commit(is_manifest=is_manifest)
        finally:
            try:
                await writer.discard()
            finally:
                writer.close()

    @property
    def spools(self) -> Spools:
        """What is pushed, and has no name yet."""
        return self._parts.spools

    async def keep_spool(self, upstream: str, digest: Digest, spool: Spool) -> None:
        """Make a spool, which is what `digest` names, the blob; it is gone then.

        Raises:
            StoreError: It cannot be kept; or somebody writes this blob. It is there still, unless
                the disk has refused in the middle of it.
        """
        hasher = await spool.hasher(digest.algorithm)
        if not digest.matches(hasher):
            raise StoreError(f"{spool} is not {digest}")
        await spool.flushed()
        if await self.is_stored(digest):
            self.note_access(digest)
            await spool.remove()
            return
        writer = await self._parts.writers.take(PartialKey(upstream, digest), spool.path, hasher)
        try:
            await spool.remove()  # its note, and what it takes in the ledger
            await writer.commit()
        finally:
            try:
                await writer.discard()
            finally:
                writer.close()

    # Deleting

    def list_idle_partials(self) -> list[IdlePartial]:
        """Downloads that nobody continues at the moment."""
        return [
            IdlePartial(*it.key, it.promise.size, it.since) for it in self._states.list_evictable()
        ]

    async def remove_partials(self, partials: Collection[IdlePartial]) -> None:
        """Remove those of these that nobody has continued meanwhile."""
        keys = {PartialKey(it.upstream, it.digest) for it in partials}
        idle = [it for it in self._states.list_evictable() if it.key in keys]
        self._parts.changes.begin_removal(idle)
        await to_the_end(self._parts.changes.finish_removal(idle))

    async def tidy_quarantine(self, *, is_dry: bool) -> int:
        """Delete what is set aside beyond `max_quarantine`; how many bytes that is, or would be."""
        excess = await self._files.measure_quarantine_excess()
        if not is_dry:
            await self._parts.changes.count_quarantine()
        return excess

    async def drop(self, digest: Digest) -> None:
        """As `Storage.drop`: who reads it keeps the open file, and whoever asks next has none."""
        await to_the_end(self._drop(digest))

    async def _drop(self, digest: Digest) -> None:
        while (change := self._states.find_change(digest)) is not None:
            await over(change)
        self._parts.changes.begin_leaving([digest])
        self._parts.dropped(digest)
        await self._parts.changes.finish_leaving([digest])

    # Looking after it

    async def tidy(self) -> None:
        """See to what is done every few seconds anyway. Raises NoRoom, StoreError."""
        await self._parts.upkeep.tidy()

    async def adopt(self) -> None:
        """Return when all that was found on disk is on record. Raises StoreError."""
        await self._parts.adoption.run()

    async def scrub(self) -> None:
        """Prove again whatever is due. Raises StoreError."""
        await self._parts.scrub.round()

    def verify(
        self, digests: Collection[Digest] | None
    ) -> AsyncGenerator[tuple[Digest, int, Finding]]:
        """Prove these at once, or (None) all there are; each with its size and what was found.

        What is damaged is set aside. Raises StoreError.
        """
        return self._parts.scrub.verify(digests)

    async def measure(self, digests: Collection[Digest] | None) -> StoreTotals:
        """How many of these are here, or (None) of all, and their bytes."""
        if digests is None:
            return self.totals
        sizes = await self._index.find_sizes(list(digests))
        return StoreTotals(len(sizes), sum(sizes.values()))

"""The storage on this node's disk: blobs, and where each of them is in its life.

states    one state for each digest and each partial (pure)
space     who has been promised how much; `room` makes more, by a `policy`, of what is `worth` least
files     the files, `index` what is recorded of them
changes   what changes all of these together
openings  reading; `damage` is what is not as it should be, and `scrub` looks for it
spools    what comes in order, and is named by its last byte
writers   writing, as promised; `usage` is what the disk really gives
adoption  what was on disk before the index was
upkeep    recovery after a crash, and tidying
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mirror.aio.tasks import NoteFault, owned_tasks
from mirror.aio.waiting import to_the_end
from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.storage.accesses import Accesses
from mirror.storage.adoption import Adoption
from mirror.storage.changes import Changes, close, over
from mirror.storage.damage import Damage, Finding
from mirror.storage.files import Files
from mirror.storage.index import Index
from mirror.storage.openings import OTHER_CONTENT, Openings
from mirror.storage.pins import Pins
from mirror.storage.policy import Candidate, LeastWorth, Policy
from mirror.storage.ports import IdlePartial, OpenBlob
from mirror.storage.room import Room
from mirror.storage.scrub import Scrub, ScrubPace
from mirror.storage.space import Limits, Space
from mirror.storage.spools import Spool, Spools
from mirror.storage.states import BlobFile, PartialKey, States
from mirror.storage.threads import Threads
from mirror.storage.upkeep import Upkeep
from mirror.storage.usage import Usage
from mirror.storage.writer import LocalWriter
from mirror.storage.writers import LocalWriters
from mirror.telemetry.collectors import StoreTotals
from mirror.telemetry.metrics import Metrics

_NEVER = ScrubPace(0, 1)
_DAMAGED = 10  # a tenth of the store may be set aside


@dataclass(frozen=True, slots=True)
class _Parts:
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


@asynccontextmanager
async def _tended(parts: _Parts, note_fault: NoteFault, *, is_served: bool) -> AsyncIterator[None]:
    """Do, inside the block, what has to be done again and again."""
    try:
        async with owned_tasks(note_fault) as tasks:
            if is_served:
                tasks.keep(parts.adoption.run, name="adopt")
                tasks.keep(parts.upkeep.tidy_forever, name="tidy")
                tasks.keep(parts.scrub.run_forever, name="scrub")
            yield
    finally:
        parts.spools.close()
        await parts.room.close()
        await parts.changes.flush_accesses()


def _nobody(_: Digest) -> None:
    """Nobody has copies."""


class LocalStorage:
    """A `mirror.storage.ports.Storage`. Use `LocalStorage.open`."""

    def __init__(self, parts: _Parts) -> None:
        self._parts = parts
        self._files = parts.files
        self._index = parts.index
        self._states = parts.states
        self._accesses = parts.accesses

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        root: Path,
        limits: Limits,
        *,
        keep_partial_for: float,
        clock: Callable[[], float],
        metrics: Metrics,
        note_fault: NoteFault,
        dropped: Callable[[Digest], None] = _nobody,
        policy: Policy | None = None,
        threads: Threads | None = None,
        scrub: ScrubPace = _NEVER,
        max_quarantine: int = 0,
        is_served: bool = True,
        counting: type[Usage] = Usage,
    ) -> AsyncIterator["LocalStorage"]:
        """Open the storage below `root`, and finish what a crash interrupted.

        `clock` in seconds since the epoch, `keep_partial_for` in seconds. `dropped` is told of
        each blob that goes because it is damaged or not wanted: copies in memory must go too.
        Of what is damaged, up to `max_quarantine` bytes are set aside, and no more than a tenth of
        the store. Unless it `is_served`, nothing is done in it but what is asked for. `counting`
        says what of the disk counts in the limits.

        Raises:
            StoreError: The directory or the index cannot be used.
        """
        threads = threads or Threads()
        most_damaged = min(max_quarantine, limits.max_size // _DAMAGED)
        files = Files(root, threads, max_quarantine=most_damaged)
        usage = counting(root, threads)
        states, space = States(), Space(limits)
        try:
            await files.prepare()
            await usage.prepare()
            async with Index.open(root / "index.sqlite3", block=usage.block) as index:
                adoption = Adoption(root, files, index, now=clock())
                await adoption.begin()
                if is_served:
                    await files.make_shelves()
                pins = await Pins.load(index)
                accesses = Accesses(clock, latest=await index.latest_access())
                changes = Changes(files, index, states, space, accesses, usage=usage)
                room = Room(
                    space, states, usage, index, changes,
                    policy=policy or LeastWorth(), pins=pins, metrics=metrics,
                )  # fmt: skip
                damage = Damage(files, index, states, changes, dropped=dropped, metrics=metrics)
                upkeep = Upkeep(
                    files=files, usage=usage, index=index, states=states, space=space,
                    changes=changes, room=room, accesses=accesses,
                    keep_partial_for=keep_partial_for, clock=clock,
                )  # fmt: skip
                await upkeep.recover()
                writers = LocalWriters(
                    files=files, usage=usage, index=index, states=states, space=space,
                    changes=changes, room=room, clock=clock,
                )  # fmt: skip
                parts = _Parts(
                    files, usage, index, states, space, accesses, changes, room, adoption, damage,
                    Openings(files, index, states, adoption, damage, clock=clock),
                    writers, pins, upkeep,
                    Scrub(index, states, damage, scrub, metrics=metrics, clock=clock),
                    Spools(root, threads=threads, space=space, room=room, usage=usage), dropped,
                )  # fmt: skip
                space.overhead = (await usage.look()).overhead
                async with _tended(parts, note_fault, is_served=is_served):
                    yield cls(parts)
        finally:
            close(states.close_pool())
            files.close()

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

        Where it does not answer, as of the last look.
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

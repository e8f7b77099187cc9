"""The store: blobs, their catalog and the space they take, kept in step.

What is on disk and what is recorded agree whenever nobody is in the middle of something, and after
a crash the next start finishes what was in the middle:

    write     record the partial -> write -> sync, rename -> record the blob, forget the partial
    evict     mark as leaving -> delete -> forget

A step that has begun is done to its end, even for a caller who is cancelled meanwhile. While one is
under way its digest is `changing`, and whoever wants to write that blob waits.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from mirror.aio.tasks import NoteFault, owned_tasks
from mirror.aio.waiting import finish, to_the_end
from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.storage import extents
from mirror.storage.catalog import Catalog
from mirror.storage.errors import NoRoom, TooLarge
from mirror.storage.files import BlobFile, BlobStore
from mirror.storage.partial import Chunk, Partial
from mirror.storage.space import Limits, Promise, Space, Stored, choose
from mirror.storage.threads import Lane
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import Metrics

_logger = logging.getLogger(__name__)

_TIDY_INTERVAL = 10.0  # seconds between flushes of access times, and looks at the disk
_CANDIDATES = 256  # blobs considered for eviction at first
_BATCH = 1000  # blobs listed at a time
_GROWTH = 16 * 2**20  # bytes promised at a time, where they are to spare, to a blob of unknown size


class Writer:
    """A blob being written. `commit`, `suspend` or `discard` ends it, whichever comes first.

    Its file stays readable after that, until `close`. After a StoreError from `write` it can only
    be ended.
    """

    def __init__(
        self, store: "Store", partial: Partial, promise: Promise, size: int | None
    ) -> None:
        self._store = store
        self.partial = partial
        self.promise = promise
        self.size = size  # bytes; None: nobody knows yet
        self.ended = False
        self.closed = False
        self._claimed = partial.present  # ... and what is being written

    @property
    def digest(self) -> Digest:
        """Of the blob that this shall be."""
        return self.partial.digest

    @property
    def file(self) -> FileIO:
        """What has been written so far, for readers."""
        return self.partial.file

    @property
    def written(self) -> int:
        """Bytes from the first that are all in `file`, and hashed."""
        return self.partial.hashed

    def missing(self) -> list[tuple[int, int]]:
        """The half-open ranges still to be written, in order; `size` must be known."""
        if self.size is None:
            raise ValueError("the size is not known")
        return extents.missing(self.partial.present, 0, self.size)

    async def expect(self, size: int | None) -> None:
        """The size has become known, is another one than was thought, or nobody knows it (None).

        Raises:
            NoRoom: It cannot be kept within the limits.
            StoreError: More is written already.
        """
        if size is None:
            self.size = None
            return
        if extents.clip(self._claimed, size) != self._claimed:
            raise StoreError(f"more than {size} bytes of {self.digest} are written already")
        self.size = size
        await self._store.allow(self.promise, size)

    @asynccontextmanager
    async def pen(self, written: Callable[[], None] | None = None) -> AsyncIterator["Pen"]:
        """Write inside the block, and be done at its end; several tasks may, each with its own.

        `written` is called whenever more of it is. Raises as `Pen.write`.
        """

        def after() -> None:
            self.promise.written = extents.total(self.partial.present)
            if written is not None:
                written()

        pen = Pen(self, self._store.blobs.lane(after))
        try:
            yield pen
        finally:
            await pen.wait()

    async def write(self, offset: int, chunks: Sequence[Chunk]) -> None:
        """Write `chunks` at `offset`, and wait for it. Raises as `Pen.write`."""
        async with self.pen() as pen:
            await pen.write(offset, chunks)

    async def begin(
        self, lane: Lane, offset: int, chunks: Sequence[Chunk]
    ) -> "asyncio.Future[None] | None":
        """`Pen.write` without waiting; None where there is nothing to write."""
        end = offset + sum(map(len, chunks))
        if self.ended:
            raise StoreError("the writer has ended")
        if self.size is not None and end > self.size:
            raise ValueError(f"{offset}-{end} is beyond the blob's {self.size} bytes")
        gaps = extents.missing(self._claimed, offset, end)
        if not gaps:
            return None
        self._claimed = extents.add(self._claimed, offset, end)
        needed = extents.total(self._claimed)
        await self._store.allow(self.promise, needed, spare=_GROWTH)
        if gaps == [(offset, end)]:
            return self._store.blobs.write(lane, self.partial, (offset, chunks))
        content = b"".join(chunks)
        pieces = ((start, [content[start - offset : stop - offset]]) for start, stop in gaps)
        return self._store.blobs.write(lane, self.partial, *pieces)

    def is_proved(self) -> bool:
        """Whether everything is written, and is the blob that `digest` names."""
        return self.partial.is_proved(self.size)

    async def commit(self, *, media_type: str | None = None) -> None:
        """Keep the proved blob. Raises StoreError; then it is not kept, and not ended either."""
        if not self.is_proved():
            raise StoreError(f"{self.digest} is not proved")
        if not self.ended:
            await to_the_end(self._store.commit(self, media_type))

    async def suspend(self) -> None:
        """Stop for now; what is written is continued when the blob is next asked for."""
        if not self.ended:
            await to_the_end(self._store.suspend(self))

    async def discard(self) -> None:
        """Give up; nothing is kept."""
        if not self.ended:
            await to_the_end(self._store.discard(self))

    def close(self) -> None:
        """Close the file: nobody reads from it any more."""
        if not self.closed:
            self.closed = True
            self._store.abandon(self)
            self.partial.close()


class Pen:
    """Writes what one connection brings, one piece behind: see `Writer.pen`."""

    def __init__(self, writer: Writer, lane: Lane) -> None:
        self._writer = writer
        self._lane = lane
        self._behind: asyncio.Future[None] | None = None

    async def write(self, offset: int, chunks: Sequence[Chunk]) -> None:
        """Write `chunks` at `offset`; return when all before them are written.

        They may be memory that is used again after the next `write`. What is written already, or
        being written, stays as it is: it may have been hashed, or read by a client.

        Raises:
            NoRoom: They cannot be kept within the limits.
            StoreError: The disk refuses.
        """
        behind = self._behind
        self._behind = await self._writer.begin(self._lane, offset, chunks)
        if behind is not None:
            await finish(behind)

    async def wait(self) -> None:
        """Return when all is written. Raises as `write`."""
        if self._behind is not None:
            await finish(self._behind)


@dataclass(frozen=True, slots=True)
class _Idle:
    """A partial that nobody writes to; `since` when, in seconds since the epoch."""

    promise: Promise
    since: float


class Store:
    """What the mirror keeps. Use `Store.open`."""

    def __init__(
        self,
        blobs: BlobStore,
        catalog: Catalog,
        limits: Limits,
        *,
        keep_partial_for: float,
        clock: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self.blobs = blobs
        self.catalog = catalog
        self.space = Space(limits)
        self._keep_partial_for = keep_partial_for
        self._clock = clock
        self._metrics = metrics
        self._accesses: dict[Digest, float] = {}
        self._writing: set[Digest] = set()
        self._open_writers: Counter[Digest] = Counter()
        self._idle: dict[Digest, _Idle] = {}
        self._changing: dict[Digest, asyncio.Event] = {}
        self._making_room: asyncio.Event | None = None

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
    ) -> AsyncIterator["Store"]:
        """Open the store below `root`, and finish what a crash interrupted.

        Raises:
            StoreError: The directory or the catalog cannot be used.
        """
        blobs = BlobStore(root)
        try:
            await blobs.prepare()
            async with Catalog.open(root / "catalog.sqlite3") as catalog:
                store = cls(
                    blobs, catalog, limits, keep_partial_for=keep_partial_for, clock=clock,
                    metrics=metrics,
                )  # fmt: skip
                await store._recover()
                metrics.watch_store(lambda: catalog.totals, limit_bytes=limits.max_size)
                try:
                    async with owned_tasks(note_fault) as upkeep:
                        upkeep.keep(store._tidy_forever, name="tidy")
                        yield store
                finally:
                    await store._flush_accesses()
        finally:
            blobs.close()

    # Reading

    async def open_blob(self, digest: Digest) -> BlobFile | None:
        """Open a blob for reading; None where it is not on disk, whatever the record says."""
        if digest in self._changing and digest not in self._writing:
            return None  # it is being evicted
        blob = await self.blobs.open(digest)
        if blob is not None:
            self._accesses[digest] = self._clock()
        return blob

    async def read_blob(self, digest: Digest, *, limit: int) -> bytes | None:
        """All of a blob of at most `limit` bytes, proved anew; None where it is not here.

        What is no longer what its digest says is dropped. Raises StoreError.
        """
        blob = await self.open_blob(digest)
        if blob is None:
            return None
        try:
            if blob.size > limit:
                return None
            content = await self.blobs.read(blob)
        finally:
            blob.close()
        if await asyncio.to_thread(digest.names, content):
            return content
        _logger.error("damaged on disk, and dropped", extra=fields(digest=digest))
        await self.drop(digest)
        return None

    async def drop(self, digest: Digest) -> None:
        """A blob turned out to be damaged, or is not wanted: it goes, whoever reads it."""
        with self._change([digest]):
            await self.blobs.remove([digest])
            await self.catalog.forget_blobs([digest])

    async def find_stored(self, digests: Sequence[Digest]) -> set[Digest]:
        """Which of these are here, by the catalog."""
        return set(await self.catalog.find_recorded(digests))

    async def list_stored(self) -> AsyncIterator[list[tuple[Digest, int]]]:
        """Everything that is here, with its size, in batches."""
        after: Digest | None = None
        while batch := await self.catalog.list_recorded(after=after, limit=_BATCH):
            yield [(stored.digest, stored.size) for stored in batch]
            after = batch[-1].digest

    def note_access(self, digest: Digest) -> None:
        """A blob was served from elsewhere (memory): it is in use all the same."""
        self._accesses[digest] = self._clock()

    async def is_writable(self) -> bool:
        """Whether new content could be kept."""
        try:
            await self.blobs.probe()
        except StoreError:
            return False
        return True

    # Writing

    async def open_writer(self, digest: Digest, size: int | None) -> Writer:
        """Begin or continue a blob of `size` bytes (None: nobody knows yet).

        Raises:
            NoRoom: It cannot be kept within the limits.
            StoreError: The disk or the catalog refuses, or somebody else is writing it.
        """
        while (change := self._changing.get(digest)) is not None:
            await change.wait()
        if digest in self._writing:
            raise StoreError(f"{digest} is being written already")
        self._writing.add(digest)
        idle = self._idle.pop(digest, None)
        promise = idle.promise if idle else Promise()
        self.space.add(promise)
        partial = None
        try:
            await self._forget_if_gone(digest)
            await self.allow(promise, size or 0)
            await self.catalog.record_partial(digest, now=self._clock())
            partial = await self.blobs.open_partial(digest, size)
            promise.written = extents.total(partial.present)
            promise.size = max(promise.written, size or 0)
            await self.blobs.catch_up(partial)
        except BaseException:
            if partial is not None:
                partial.close()
            await to_the_end(self._give_back(digest, promise))
            raise
        self._open_writers[digest] += 1
        return Writer(self, partial, promise, size)

    async def _forget_if_gone(self, digest: Digest) -> None:
        """Somebody else may have removed a recorded blob: it takes no room, and has no copy."""
        if await self.blobs.size_of(digest) is None and await self.catalog.is_recorded(digest):
            await self.catalog.forget_blobs([digest])

    async def keep(self, digest: Digest, content: bytes, *, media_type: str | None = None) -> None:
        """Keep a blob that is in memory, and is what `digest` names. Raises NoRoom, StoreError."""
        blob = await self.open_blob(digest)
        if blob is not None:
            try:  # nobody evicts it meanwhile
                await self.catalog.record_blob(
                    digest, blob.size, now=self._clock(), media_type=media_type
                )
            finally:
                blob.close()
            return
        writer = await self.open_writer(digest, len(content))
        try:
            await writer.write(0, [content])
            await writer.commit(media_type=media_type)
        finally:
            await writer.discard()
            writer.close()

    async def allow(self, promise: Promise, size: int, *, spare: int = 0) -> None:
        """Let a blob on its way have `size` bytes in all, and up to `spare` more if there is room.

        Raises:
            NoRoom: Its `size` cannot be kept within the limits; nothing is evicted then.
            StoreError: Something was to be evicted, and the disk or the catalog refuses.
        """
        if size <= promise.size:
            return
        if not self.space.can_ever_hold(size):
            raise TooLarge("larger than store.max_size")
        async with self._turn_to_make_room():
            more = size - promise.size  # another write of this blob may have got it meanwhile
            if more > 0:
                room = await self._make_room(more)
                promise.size += more + max(0, min(spare, room - more))

    async def commit(self, writer: Writer, media_type: str | None) -> None:
        """`Writer.commit`."""
        with self._change([writer.digest]):
            await self.blobs.commit(writer.partial)
            try:
                await self.catalog.record_blob(
                    writer.digest, writer.written, now=self._clock(), media_type=media_type
                )
            except StoreError:
                await self.blobs.undo_commit(writer.partial)
                raise
            self._end(writer)
            self.space.remove(writer.promise)

    async def suspend(self, writer: Writer) -> None:
        """`Writer.suspend`."""
        with self._change([writer.digest]):
            try:
                await self.blobs.rest(writer.partial)
            except StoreError as error:
                _logger.warning("partial not tidied: %s", error, extra=fields(digest=writer.digest))
            self._end(writer)
            await self._rest(writer.digest, writer.promise)

    async def discard(self, writer: Writer) -> None:
        """`Writer.discard`."""
        with self._change([writer.digest]):
            self._end(writer)
            await self._drop(writer.digest, writer.promise)

    def abandon(self, writer: Writer) -> None:
        """A writer is closed: where nobody has ended it, what it wrote waits for the next one."""
        self._open_writers -= Counter([writer.digest])
        if not writer.ended:
            self._end(writer)
            writer.promise.size = writer.promise.written
            self._idle[writer.digest] = _Idle(writer.promise, self._clock())

    def _end(self, writer: Writer) -> None:
        writer.ended = True
        self._writing.discard(writer.digest)

    async def _give_back(self, digest: Digest, promise: Promise) -> None:
        with self._change([digest]):
            self._writing.discard(digest)
            await self._rest(digest, promise)

    async def _rest(self, digest: Digest, promise: Promise) -> None:
        """Nobody writes to this partial any more: keep it if there is anything in it."""
        promise.size = promise.written
        if promise.written:
            self._idle[digest] = _Idle(promise, self._clock())
        else:
            await self._drop(digest, promise)

    async def _drop(self, digest: Digest, promise: Promise) -> None:
        try:
            await self.blobs.remove_partial(digest)
            await self.catalog.forget_partial(digest)
        except StoreError as error:
            _logger.warning("partial not removed: %s", error, extra=fields(digest=digest))
        self.space.remove(promise)

    # Making room

    @asynccontextmanager
    async def _turn_to_make_room(self) -> AsyncIterator[None]:
        """One at a time, or two would evict for the same bytes, and one take what another freed."""
        while self._making_room is not None:
            await self._making_room.wait()
        self._making_room = asyncio.Event()
        try:
            yield
        finally:
            self._making_room.set()
            self._making_room = None

    async def _make_room(self, size: int) -> int:
        """See that `size` bytes can be promised; returns how many can. Raises NoRoom."""
        room = await self._room()
        if room < size:
            await to_the_end(self._evict(size - room))
            room = await self._room()
        return room

    async def _room(self) -> int:
        free = await self.blobs.free()
        return self.space.room(stored=self.catalog.totals.bytes, free=free)

    async def _evict(self, excess: int) -> None:
        """Free `excess` bytes: what waits to be continued, then what was used least recently.

        Raises:
            NoRoom: All that may go would not be enough; then nothing goes.
        """
        partials, blobs = await self._choose(excess)
        with self._change(stored.digest for stored in (*partials, *blobs)):
            if blobs:
                await self.catalog.mark_leaving(blobs)
            for stored in partials:
                await self._drop(stored.digest, self._idle.pop(stored.digest).promise)
            if blobs:
                await self._remove(blobs)

    async def _choose(self, excess: int) -> tuple[list[Stored], list[Stored]]:
        """Idle partials (they serve nobody yet), and blobs. Raises NoRoom."""
        await self._flush_accesses()
        waiting = sum(idle.promise.size for idle in self._idle.values())
        limit = _CANDIDATES
        while excess <= waiting + self.catalog.totals.bytes:
            blobs = await self.catalog.list_by_access(limit=limit)
            # No awaiting from here on: what is not in use now, and chosen, stays out of use.
            partials = [
                Stored(digest, idle.promise.size)
                for digest, idle in sorted(self._idle.items(), key=lambda item: item[1].since)
            ]
            free = [stored for stored in blobs if not self._is_in_use(stored.digest)]
            if chosen := choose([*partials, *free], excess):
                return chosen[: len(partials)], chosen[len(partials) :]
            if len(blobs) < limit:
                break
            limit *= 4
        raise NoRoom("store.max_size or store.min_free leaves no room, and nothing can go")

    async def _remove(self, blobs: list[Stored]) -> None:
        """Finish the eviction of blobs that are marked as leaving."""
        await self.blobs.remove(stored.digest for stored in blobs)
        await self.catalog.forget_blobs(stored.digest for stored in blobs)
        size = sum(stored.size for stored in blobs)
        self._metrics.evicted_blobs.inc(len(blobs))
        self._metrics.evicted_bytes.inc(size)
        _logger.info("evicted", extra=fields(blobs=len(blobs), bytes=size))

    def _is_in_use(self, digest: Digest) -> bool:
        return (
            digest in self._writing
            or digest in self._changing
            or digest in self._open_writers  # ended, but still read from
            or self.blobs.is_read(digest)
        )

    @contextmanager
    def _change(self, digests: Iterable[Digest]) -> Iterator[None]:
        event = asyncio.Event()
        mine = dict.fromkeys(digests, event)
        self._changing.update(mine)
        try:
            yield
        finally:
            for digest in mine:
                del self._changing[digest]
            event.set()

    # Upkeep

    async def _recover(self) -> None:
        """Make the disk and the catalog agree again after a crash, or a lost catalog."""
        if not self.catalog.is_adopted:
            await self.catalog.adopt(
                await self.blobs.scan(), await self.blobs.scan_partials(), now=self._clock()
            )
        await self._finish_evictions()
        for digest, since in (await self.catalog.list_partials()).items():
            await self._recover_partial(digest, since)

    async def _recover_partial(self, digest: Digest, since: float) -> None:
        promise = Promise()
        size = await self.blobs.size_of(digest)
        if size is None:
            partial = await self.blobs.open_partial(digest)
            promise.size = promise.written = extents.total(partial.present)
            partial.close()
        else:  # renamed, and then the mirror died: its digest was proved before
            await self.catalog.record_blob(digest, size, now=self._clock())
        if promise.size:
            self._idle[digest] = _Idle(promise, since)
            self.space.add(promise)
        else:
            await self._drop(digest, promise)

    async def _finish_evictions(self) -> None:
        """Remove what was marked as leaving when the mirror died, or the disk refused."""
        leaving = [
            stored for stored in await self.catalog.list_leaving()
            if not self._is_in_use(stored.digest)
        ]  # fmt: skip
        if leaving:
            with self._change(stored.digest for stored in leaving):
                await self._remove(leaving)

    async def _tidy_forever(self) -> None:
        while True:
            try:
                await self._tidy()
            except NoRoom:
                _logger.warning(
                    "the disk is fuller than store.min_free allows, and nothing more can be evicted"
                )
            except StoreError as error:
                _logger.error("store: %s", error)  # noqa: TRY400 - the message says it all
            await asyncio.sleep(_TIDY_INTERVAL)

    async def _tidy(self) -> None:
        await self._flush_accesses()
        await to_the_end(self._finish_evictions())
        await to_the_end(self._drop_old_partials())
        async with self._turn_to_make_room():
            await self._make_room(0)

    async def _drop_old_partials(self) -> None:
        oldest = self._clock() - self._keep_partial_for
        for digest in [digest for digest, idle in self._idle.items() if idle.since < oldest]:
            if idle := self._idle.pop(digest, None):  # else it was continued meanwhile
                with self._change([digest]):
                    await self._drop(digest, idle.promise)

    async def _flush_accesses(self) -> None:
        accesses, self._accesses = self._accesses, {}
        if not accesses:
            return
        try:
            await self.catalog.record_accesses(accesses)
        except StoreError as error:
            self._accesses = accesses | self._accesses  # next time
            _logger.error("store: %s", error)  # noqa: TRY400 - the message says it all

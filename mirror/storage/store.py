"""The storage on this node's disk: blobs, and where each of them is in its life.

states    one state for each digest and each partial (pure)
space     who has been promised how much; `room` makes more, by a `policy`
files     the files, `index` what is recorded of them
changes   what changes all of these together
upkeep    recovery after a crash, and tidying
"""

import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mirror.aio.tasks import NoteFault, owned_tasks
from mirror.aio.waiting import to_the_end
from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.storage import extents
from mirror.storage.accesses import Accesses
from mirror.storage.adoption import adopt
from mirror.storage.changes import Changes, close, over
from mirror.storage.costs import Costs
from mirror.storage.files import Files, SizedFile
from mirror.storage.index import Index
from mirror.storage.partial import Partial
from mirror.storage.policy import LeastWorth, Policy
from mirror.storage.room import Room
from mirror.storage.space import Limits, Space
from mirror.storage.states import BlobFile, Opening, PartialEntry, PartialKey, States
from mirror.storage.threads import Threads
from mirror.storage.upkeep import Upkeep
from mirror.storage.usage import Usage
from mirror.storage.writer import LocalWriter
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import Metrics, StoreTotals

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a storage consists of."""

    files: Files
    usage: Usage
    costs: Costs
    index: Index
    states: States
    space: Space
    accesses: Accesses
    changes: Changes
    room: Room
    clock: Callable[[], float]
    dropped: Callable[[Digest], None]


def _nobody(_: Digest) -> None:
    """Nobody has copies."""


class LocalStorage:
    """A `mirror.storage.ports.Storage`. Use `LocalStorage.open`."""

    def __init__(self, parts: _Parts, upkeep: Upkeep) -> None:
        self._parts = parts
        self._files = parts.files
        self._index = parts.index
        self._states = parts.states
        self._accesses = parts.accesses
        self._upkeep = upkeep

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
        counting: type[Usage] = Usage,
    ) -> AsyncIterator["LocalStorage"]:
        """Open the storage below `root`, and finish what a crash interrupted.

        `clock` in seconds since the epoch, `keep_partial_for` in seconds. `dropped` is told of
        each blob that goes because it is damaged or not wanted: copies in memory must go too.
        `counting` says what of the disk counts in the limits.

        Raises:
            StoreError: The directory or the index cannot be used.
        """
        threads = threads or Threads()
        files, usage = Files(root, threads), counting(root, threads)
        states, space = States(), Space(limits)
        try:
            await files.prepare()
            await usage.prepare()
            async with Index.open(root / "index.sqlite3", block=usage.block) as index:
                if not index.is_adopted:
                    await adopt(root, files, index, now=clock())
                accesses = Accesses(clock, latest=await index.latest_access())
                changes = Changes(files, index, states, space, accesses)
                room = Room(
                    space, states, usage, index, changes,
                    policy=policy or LeastWorth(), metrics=metrics,
                )  # fmt: skip
                upkeep = Upkeep(
                    files=files, usage=usage, index=index, states=states, space=space,
                    changes=changes, room=room, accesses=accesses,
                    keep_partial_for=keep_partial_for, clock=clock,
                )  # fmt: skip
                await upkeep.recover()
                parts = _Parts(
                    files,
                    usage,
                    Costs(),
                    index,
                    states,
                    space,
                    accesses,
                    changes,
                    room,
                    clock,
                    dropped,
                )
                space.overhead = (await usage.look()).overhead
                try:
                    async with owned_tasks(note_fault) as tasks:
                        tasks.keep(upkeep.tidy_forever, name="tidy")
                        yield cls(parts, upkeep)
                finally:
                    await room.close()
                    await changes.flush_accesses()
        finally:
            close(states.close_pool())
            files.close()

    @property
    def totals(self) -> StoreTotals:
        """What is here, as far as it is recorded."""
        return self._index.totals

    @property
    def taken(self) -> int:
        """Bytes of the disk that all of it takes: what `max_size` bounds, as of the last look."""
        return self._index.taken + self._parts.usage.last.overhead + self.promised

    @property
    def promised(self) -> int:
        """Bytes that blobs on their way take, or may take."""
        return self._parts.space.promised

    # Reading

    async def open_blob(self, digest: Digest) -> BlobFile | None:
        """As `Storage.open_blob`. Where the file is open already, it is there at once."""
        blob = self._states.take(digest) or await self._open(digest)
        if blob is not None:
            self._accesses.note(digest)
        return blob

    async def _open(self, digest: Digest) -> BlobFile | None:
        while not self._states.is_leaving(digest):
            opening = self._states.find_opening(digest)
            if opening is None:
                opening = self._states.begin_opening(digest)
                blob = await self._try_to_open(opening)
            else:
                await over(opening)
                blob = self._states.take(digest)
            if blob is not None or opening.has_outcome:
                return blob
        return None

    async def _try_to_open(self, opening: Opening) -> BlobFile | None:
        """Open a file that is of the size that was recorded; one that is not is dropped."""
        digest, blob, size = opening.digest, None, None
        has_outcome = False
        try:
            size = await self._index.find_size(digest)
            file = None if size is None else await self._files.open(digest)
            if file is not None:
                blob = self._as_recorded(digest, file, size)
            has_outcome = True
        finally:
            is_so = self._states.end_opening(opening, blob, has_outcome=has_outcome)
            if blob is not None and not is_so:
                blob.file.close()
        if not is_so:
            return None
        if blob is None and size is not None:
            await self._drop_damaged(digest, "its file is missing, or of another size")
        return blob

    def _as_recorded(self, digest: Digest, file: SizedFile, size: int | None) -> BlobFile | None:
        if file.size == size:
            return BlobFile(digest, file, file.size, self._release)
        file.close()
        return None

    def _release(self, blob: BlobFile) -> None:
        close(self._states.release(blob))

    async def read_blob(self, digest: Digest, *, limit: int) -> bytes | None:
        """As `Storage.read_blob`."""
        blob = await self.open_blob(digest)
        if blob is None:
            return None
        try:
            if blob.size > limit:
                return None
            content = await self._files.read(blob.file, blob.size, digest)
            if content is None:
                await self._drop_damaged(digest, "its content is not what its digest says")
        finally:
            blob.close()
        return content

    def note_access(self, digest: Digest) -> None:
        """A blob was served from elsewhere (memory): it is in use all the same."""
        self._accesses.note(digest)

    async def is_stored(self, digest: Digest) -> bool:
        """Whether a complete blob is here, by the index."""
        return await self._index.find_size(digest) is not None

    async def find_stored(self, digests: Sequence[Digest]) -> set[Digest]:
        """Which of these are here, by the index."""
        return set(await self._index.find_sizes(digests))

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

    async def list_unused(self, *, since: float) -> AsyncIterator[list[tuple[Digest, float]]]:
        """What was last used before a time, and when, in batches. Both in epoch seconds."""
        await self._parts.changes.flush_accesses()
        async for batch in self._index.list_unused(since=since):
            yield batch

    async def remove_unused(self, digests: Sequence[Digest]) -> int:
        """Remove those of these that nobody uses; how many those are."""
        unused = [digest for digest in digests if not self._states.is_in_use(digest)]
        if unused:
            self._parts.changes.begin_leaving(unused)
            for digest in unused:
                self._parts.dropped(digest)
            await to_the_end(self._parts.changes.finish_leaving(unused))
        return len(unused)

    def list_stored(self) -> AsyncIterator[list[tuple[Digest, int]]]:
        """Everything that is here, with its size, in batches of at most 1,000."""
        return self._index.list_stored()

    async def is_writable(self) -> bool:
        """Whether new content could be kept."""
        try:
            await self._files.probe()
        except StoreError:
            return False
        return True

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
        self._parts.room.check_ever(size or 0)
        while (change := self._states.find_change_of_partial(key)) is not None:
            await over(change)
        if self._states.is_written(key):
            raise StoreError(f"{digest} is being written already")
        entry = self._states.begin_writer(key)
        self._parts.space.add(entry.promise)
        try:
            entry.promise.is_proved = is_size_proved
            return await self._begin(entry, size)
        except BaseException:
            await to_the_end(self._fail(entry))
            raise

    async def _begin(self, entry: PartialEntry, size: int | None) -> LocalWriter:
        parts, promise = self._parts, entry.promise
        await self._index.record_partial(entry.key, now=parts.clock())
        partial = await self._files.open_partial(entry.key)
        try:
            promise.size = promise.written = parts.usage.of_partial(partial.present)
            await self._files.catch_up(partial)
        except BaseException:
            partial.close()
            raise
        self._states.end_opening_of_writer(entry)
        if size is not None and partial.present:
            size = _judged(partial, size)
        return LocalWriter(
            entry, partial, size,
            files=self._files, states=self._states, changes=parts.changes, room=parts.room,
            usage=parts.usage, costs=parts.costs, clock=parts.clock,
        )  # fmt: skip

    async def _fail(self, entry: PartialEntry) -> None:
        await self._parts.changes.suspend(entry, None, now=self._parts.clock())
        self._states.fail_writer(entry)

    async def keep(
        self, upstream: str, digest: Digest, content: bytes, *, is_manifest: bool = False
    ) -> None:
        """As `Storage.keep`."""
        blob = await self.open_blob(digest)
        if blob is not None:
            try:  # nobody evicts it meanwhile
                if is_manifest:
                    await self._index.record_blob(
                        digest, blob.size, now=self._accesses.now(), is_manifest=True
                    )
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

    # Deleting

    async def drop(self, digest: Digest) -> None:
        """As `Storage.drop`: who reads it keeps the open file, and whoever asks next has none."""
        await to_the_end(self._drop(digest))

    async def _drop(self, digest: Digest) -> None:
        while (change := self._states.find_change(digest)) is not None:
            await over(change)
        self._begin_drop(digest)
        await self._parts.changes.finish_leaving([digest])

    def _begin_drop(self, digest: Digest) -> None:
        self._parts.changes.begin_leaving([digest])
        self._parts.dropped(digest)

    async def _drop_damaged(self, digest: Digest, reason: str) -> None:
        if self._states.find_change(digest) is not None:
            return  # it goes already, or is replaced
        _logger.error("a blob is damaged, and is dropped: %s", reason, extra=fields(digest=digest))
        self._begin_drop(digest)
        try:
            await to_the_end(self._parts.changes.finish_leaving([digest]))
        except StoreError as error:
            _logger.error(  # noqa: TRY400 - the message says it all
                "store: %s", error, extra=fields(digest=digest)
            )

    async def tidy(self) -> None:
        """See to what is done every few seconds anyway. Raises NoRoom, StoreError."""
        await self._upkeep.tidy()


def _judged(partial: Partial, hint: int) -> int | None:
    """What the size is by what is there already; None where that and the hint cannot both be right.

    Somebody has lied then: who sent what is there, or who gave the hint.
    """
    if partial.is_proved(None):
        return partial.hashed
    return hint if extents.clip(partial.present, hint) == partial.present else None

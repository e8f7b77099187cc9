"""What changes the disk, the index, the ledger and the states, together and in order.

    write     record the partial -> write -> sync that record, and the bytes -> rename, sync the
              directory -> record the blob, forget the partial
    delete    mark as leaving (unless the disk is too full for that) -> delete -> forget
    damage    mark as leaving -> move into quarantine -> forget

What is on disk and what is recorded agree whenever nobody is in the middle of something, and after
a crash the next start finishes what was in the middle. That a blob is recorded is synced with
something else: until then, the record of the partial is on disk, and says where to look. A change
that has begun is done to its end: callers see to it that they are not cancelled
(`mirror.aio.waiting`).
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence

from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.sqlite import DiskFull
from mirror.storage.accesses import Accesses
from mirror.storage.files import Files
from mirror.storage.index import Index
from mirror.storage.open_files import BlobFile
from mirror.storage.partial import Partial
from mirror.storage.space import Promise, Space
from mirror.storage.states import PartialEntry, States
from mirror.storage.under_way import Change
from mirror.storage.usage import Usage
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)


class Changes:
    """Does them. `accesses` is the clock, too."""

    def __init__(
        self,
        files: Files,
        index: Index,
        states: States,
        space: Space,
        accesses: Accesses,
        *,
        usage: Usage,
    ) -> None:
        self._files = files
        self._usage = usage
        self._index = index
        self._states = states
        self._space = space
        self._accesses = accesses
        self._quarantine = Promise(is_idle=True)
        space.add(self._quarantine)

    async def commit(
        self, entry: PartialEntry, partial: Partial, *, is_manifest: bool, slowness: float
    ) -> None:
        """Make a proved partial the blob. Raises StoreError; then it is written as before."""
        digest = entry.key.digest
        while (change := self._states.find_change(digest)) is not None:
            await over(change)
        self._states.begin_commit(entry)
        is_stored = False
        try:
            await self._index.sync_partial(entry.key, now=self._accesses.now())
            await self._files.commit(partial)
            await self._record(entry, partial, is_manifest=is_manifest, slowness=slowness)
            is_stored = True
        finally:
            if is_stored:
                self._space.remove(entry.promise)
            close(self._states.end_commit(entry, is_stored=is_stored))
        superseded = self._states.list_superseded(digest)
        self.begin_removal(superseded)
        await self.finish_removal(superseded)

    async def _record(
        self, entry: PartialEntry, partial: Partial, *, is_manifest: bool, slowness: float
    ) -> None:
        upstream, digest = entry.key
        try:
            await self._index.record_blob(
                digest, partial.hashed, now=self._accesses.now(), is_manifest=is_manifest,
                upstream=upstream, slowness=slowness,
            )  # fmt: skip
        except StoreError:
            await self._files.undo_commit(partial)
            raise

    async def suspend(self, entry: PartialEntry, partial: Partial | None, *, now: float) -> None:
        """Leave a partial for later, from `now` on, if there is anything in it."""
        self._states.begin_suspend(entry)
        try:
            if partial is not None:
                await self._files.rest(partial)
        except StoreError as error:
            _logger.warning("partial not tidied: %s", error, extra=fields(digest=entry.key.digest))
        finally:
            is_kept = self._states.end_suspend(entry, now=now)
            if not is_kept:
                self.begin_removal([entry])
        if not is_kept:
            await self.finish_removal([entry])

    async def discard(self, entry: PartialEntry) -> None:
        """Nothing is kept of a partial."""
        self.begin_removal([entry])
        await self.finish_removal([entry])

    def begin_removal(self, entries: Iterable[PartialEntry]) -> None:
        """These partials are nobody else's from now on; `finish_removal` is owed."""
        for entry in entries:
            self._states.begin_removal(entry)

    async def finish_removal(self, entries: Sequence[PartialEntry]) -> None:
        """Remove partials; where the disk refuses, the next start does."""
        keys = [entry.key for entry in entries]
        if not keys:
            return
        try:
            await self._files.remove_partials(keys)
            await self._index.forget_partials(keys)
        except StoreError as error:
            _logger.warning("partials not removed: %s", error, extra=fields(partials=len(keys)))
        finally:
            for entry in entries:
                self._space.remove(entry.promise)
                self._states.end_removal(entry)

    def begin_leaving(self, digests: Iterable[Digest]) -> None:
        """These blobs are for nobody from now on; `finish_leaving` is owed."""
        close(self._states.begin_leaving(digests))

    async def finish_leaving(self, digests: Sequence[Digest], *, is_damage: bool = False) -> None:
        """Delete blobs; set aside what is damaged.

        Raises StoreError; what was marked is deleted later then (`Upkeep`).
        """
        if not digests:
            return
        try:
            await self._mark_leaving(digests)
            if is_damage:
                self._count_quarantine(await self._files.set_aside(digests))
            else:
                await self._files.remove(digests)
            await self._index.forget_blobs(digests)
        finally:
            self._states.end_leaving(digests)

    async def count_quarantine(self) -> None:
        """See what earlier processes have set aside."""
        self._count_quarantine(await self._files.tidy_quarantine())

    def _count_quarantine(self, sizes: Iterable[int]) -> None:
        """What is set aside takes of the disk, too."""
        taken = sum(map(self._usage.whole, sizes))
        self._quarantine.size = self._quarantine.written = taken

    async def _mark_leaving(self, digests: Sequence[Digest]) -> None:
        try:
            await self._index.mark_leaving(digests)
        except DiskFull:
            # The files go first, or nothing ever would. What dies between is a blob on record that
            # is not there, and is dropped when somebody asks for it.
            _logger.warning("the disk is full to the last byte: blobs are deleted unmarked")

    async def flush_accesses(self) -> None:
        """Write down when blobs were used; where that fails, the next time."""
        noted = self._accesses.take()
        if not noted:
            return
        try:
            await self._index.record_accesses(noted)
        except StoreError as error:
            self._accesses.put_back(noted)
            _logger.error("store: %s", error)  # noqa: TRY400 - the message says it all


async def over(change: Change) -> None:
    """Return when a change is over."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    change.then(wake)
    await future


def close(blobs: Iterable[BlobFile]) -> None:
    """Close files that nobody reads from."""
    for blob in blobs:
        blob.file.close()

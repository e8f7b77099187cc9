"""Upkeep: what an earlier process has left, and what has to be seen to again and again."""

import asyncio
import logging
from collections.abc import Callable

from mirror.aio.waiting import to_the_end
from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.storage.accesses import Accesses
from mirror.storage.changes import Changes
from mirror.storage.errors import NoRoom
from mirror.storage.files import Files
from mirror.storage.index import DAY, Index
from mirror.storage.room import Room
from mirror.storage.space import Promise, Space
from mirror.storage.states import PartialKey, States
from mirror.storage.usage import Usage

_logger = logging.getLogger(__name__)

_INTERVAL = 10.0  # seconds between flushes of access times, and looks at the disk
_AHEAD = DAY  # seconds that a clock has to have been ahead, for anything to be done about it
_LOOKS_BEHIND = 60  # in a row, ten minutes: a clock that is behind is put right by then
_NO_MIRROR_BEFORE = 1_767_225_600.0  # epoch seconds, 2026: a clock that says so is wrong itself
_SCORES_EVERY = 3600.0  # seconds between looks at what is remembered of what has gone
_DATABASES_EVERY = 3600.0  # the same at those that were set aside


class Upkeep:
    """Makes disk and index agree, and keeps them so. `clock` in seconds since the epoch.

    `keep_partial_for` in seconds.
    """

    def __init__(
        self,
        *,
        files: Files,
        usage: Usage,
        index: Index,
        states: States,
        space: Space,
        changes: Changes,
        room: Room,
        accesses: Accesses,
        keep_partial_for: float,
        clock: Callable[[], float],
    ) -> None:
        self._files = files
        self._usage = usage
        self._index = index
        self._states = states
        self._space = space
        self._changes = changes
        self._room = room
        self._accesses = accesses
        self._keep_partial_for = keep_partial_for
        self._clock = clock
        self._scores_at = clock()  # when they were last looked at
        self._databases_at: float | None = None
        self._is_quarantine_counted = False
        self._looks_behind = 0  # in a row, at a clock that is behind what was noted by it

    # At the start

    async def recover(self) -> None:
        """Finish what a crash interrupted, and find what can be continued. Raises StoreError."""
        await self._finish_leaving()
        partials = await self._index.list_partials()
        for key in await self._files.scan_partials():
            if key not in partials:  # a power cut came before its record was synced
                partials[key] = self._clock()
                await self._index.record_partial(key, now=partials[key])
        for key, since in partials.items():
            await self._recover_partial(key, since)
        if not await self._files.is_quarantine_crowded():  # else when clients are served
            await self._count_quarantine()

    async def _count_quarantine(self) -> None:
        await self._changes.count_quarantine()
        self._is_quarantine_counted = True

    async def _recover_partial(self, key: PartialKey, since: float) -> None:
        promise = Promise(upstream=key.upstream, is_idle=True)
        size = await self._files.size_of(key.digest)
        if size is None:
            partial = await self._files.open_partial(key)
            promise.size = promise.written = self._usage.of_partial(partial.present)
            partial.close()
        elif await self._index.find_size(key.digest) is None:
            # Renamed, and then the mirror died: its digest was proved before.
            await self._index.record_blob(key.digest, size, now=self._accesses.now())
        entry = self._states.add_idle(key, promise, since=min(since, self._clock()))
        self._space.add(promise)
        if not promise.size:  # nothing to continue
            self._changes.begin_removal([entry])
            await self._changes.finish_removal([entry])

    # Again and again

    async def tidy_forever(self) -> None:
        """Tidy up every now and then."""
        while True:
            try:
                await self.tidy()
            except NoRoom:
                _logger.warning(
                    "more is here than store.max_size allows, or the disk is fuller than"
                    " store.min_free allows, and nothing more can be evicted"
                )
            except StoreError as error:
                _logger.error("store: %s", error)  # noqa: TRY400 - the message says it all
            await asyncio.sleep(_INTERVAL)

    async def tidy(self) -> None:
        """Tidy up once. Raises NoRoom where the limits cannot be kept, and StoreError."""
        await self._changes.flush_accesses()
        await self._settle_clock()
        await to_the_end(self._finish_leaving())
        await to_the_end(self._drop_old_partials())
        if abs(self._clock() - self._scores_at) >= _SCORES_EVERY:
            self._scores_at = self._clock()
            await self._index.forget_old_scores(now=self._scores_at)
        await self._drop_old_databases()
        if not self._is_quarantine_counted:
            await to_the_end(self._count_quarantine())
        await self._room.keep_limits()

    async def _drop_old_databases(self) -> None:
        at, now = self._databases_at, self._clock()
        if at is not None and abs(now - at) < _DATABASES_EVERY:
            return
        self._databases_at = now
        for path in await self._files.remove_old_databases(now):
            _logger.info("%s was set aside long ago, and is removed", path.name)

    async def _settle_clock(self) -> None:
        """Have a clock believed that was set back, and has stayed so.

        One that was years ahead for a moment, as they are at a start without a battery, would have
        all that was used since count as used then: none of it would ever become older.
        """
        ahead, now = self._accesses.ahead, self._clock()
        if ahead < _AHEAD or now < _NO_MIRROR_BEFORE:
            self._looks_behind = 0
            return
        self._looks_behind += 1
        if self._looks_behind >= _LOOKS_BEHIND:
            self._accesses.settle(now)  # first: what is used meanwhile is not to stay ahead
            try:
                await self._index.settle_accesses(now=now, ahead=ahead)
            except StoreError:
                self._accesses.settle(now + ahead)  # as what is on record: until the next look
                raise
            _logger.warning(
                "the clock was %.0f days ahead once: what was used since counts as used now",
                ahead / DAY,
            )

    async def _finish_leaving(self) -> None:
        """Delete what was marked as leaving when the mirror died, or the disk refused."""
        found = [
            digest for digest, _ in await self._index.list_leaving()
            if not self._states.is_in_use(digest)
        ]  # fmt: skip
        if not found:
            return
        self._changes.begin_leaving(found)
        # One may have been committed anew while we asked; now nobody commits it any more.
        still: set[Digest] = set()
        try:
            still = {digest for digest, _ in await self._index.list_leaving()}
        finally:
            self._states.end_leaving(digest for digest in found if digest not in still)
        await self._changes.finish_leaving([digest for digest in found if digest in still])

    async def _drop_old_partials(self) -> None:
        expired = self._states.list_expired(now=self._clock(), after=self._keep_partial_for)
        self._changes.begin_removal(expired)
        await self._changes.finish_removal(expired)

"""What is on record, and for how long: all that is known of a digest is kept or forgotten together.

    the digest                                      what is known of it
    is here (on disk, in memory), or was lately     is kept
    is named by a manifest that is on record        is kept as long as that
    else: not of use for `forget_after`             is forgotten
    else: and the records take more than they may   is forgotten, the longest unused first

To forget costs a question when somebody asks again: upstream confirms links and tags anew, and says
what it sends. What is here is never forgotten: it may be all there is while upstream is down, and
that it came through an upstream with `access = "client"` keeps it from others.

A digest on record has the hour in which it was last seen: recorded (each pull from upstream does
that), or found here when its turn came. So nothing has to be written down for a hit. The walk goes
by that hour, the longest ago first, a small batch at a time.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.pull.memory import Memory
from mirror.records.ports import Records, Seen
from mirror.sqlite import Extent
from mirror.telemetry.collectors import StoreTotals
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import Database, Metrics

_logger = logging.getLogger(__name__)

_INTERVAL = 60.0  # seconds between sweeps
_PAUSE = 0.02  # seconds between batches, for everybody else
_BATCH = 250  # digests; a digest has a handful of rows
_REPOSITORIES = 1000
_YOUNG = 3600.0  # seconds within which nothing is forgotten: who sends it may be about to keep it
_UNAVAILING = 6 * 3600.0  # seconds until the next try, where there was too little to forget
_WORTH_IT = 10  # looked at for each that is forgotten
_TOLD_OF = 20_000  # forgotten digests of which memory is told at a time: it looks at everything

_RECORDS = 24 * 2**20  # bytes that records may take, and
_RECORDS_PER_BLOB = 384  # more bytes for each blob that is here

_SLACK = 2**18  # bytes that a database may have to spare, and
_SLACK_SHARE = 8  # that part of it
_PAIRS = 100_000  # of a manifest and what it names, at a time
_PORTION = 2**20  # bytes that are given back at a time


def room_for_records(blobs: int) -> int:
    """The bytes that records may take where so many blobs are here."""
    return _RECORDS + _RECORDS_PER_BLOB * blobs


class Measured(Protocol):
    """A database that can give back what it does not need."""

    async def measure(self) -> Extent:
        """What it takes on disk."""

    async def give_back(self, most: int) -> None:
        """Have the file shrink by up to so many bytes."""


class Store(Protocol):
    """What is asked of this node's storage."""

    @property
    def is_adopted(self) -> bool:
        """Whether all that is on disk is in the index; before that, nothing is forgotten."""

    @property
    def totals(self) -> StoreTotals:
        """What is here."""

    @property
    def index(self) -> Measured:
        """The other database."""

    async def find_stored(
        self, digests: Sequence[Digest], *, can_wait: bool = False
    ) -> set[Digest]:
        """Which of these are here."""


class Retention:
    """Forgets. `clock` in seconds since the epoch, `forget_after` in seconds.

    `room` says how many bytes the records may take where so many blobs are here.
    """

    def __init__(
        self,
        store: Store,
        records: Records,
        memory: Memory,
        *,
        forget_after: float,
        clock: Callable[[], float],
        metrics: Metrics,
        room: Callable[[int], int] = room_for_records,
        pause: float = _PAUSE,
    ) -> None:
        self._store = store
        self._records = records
        self._memory = memory
        self._room = room
        self._forget_after = max(forget_after, _YOUNG)
        self._clock = clock
        self._metrics = metrics
        self._pause = pause
        self._forgotten: set[Digest] = set()  # since memory was told
        self._unavailing_until = 0.0

    async def sweep_forever(self) -> None:
        """Forget, and have the databases shrink, every now and then."""
        while True:
            try:
                await self.sweep()
            except StoreError as error:
                _logger.error("store: %s", error)  # noqa: TRY400 - the message says it all
            await asyncio.sleep(_INTERVAL)

    async def sweep(self) -> None:
        """Do so once. Raises StoreError."""
        await self.forget_unused()
        for name, database in self._databases():
            extent = await self._shrink(database, least=_SLACK)
            self._metrics.catalog_bytes.labels(name).set(extent.size)

    async def forget_unused(self, *, is_dry: bool = False) -> int:
        """Forget what was of no use for long; of how many digests that is, or (`is_dry`) would be.

        Raises StoreError.
        """
        if not self._store.is_adopted:
            return 0
        if is_dry:
            return await self._count_unused()
        count = await self._forget()
        if count:
            await self._forget_repositories()
            extent = await self._records.measure()
            _logger.info(
                "forgot what was of no use for long",
                extra=fields(digests=count, records_bytes=extent.used),
            )
        return count

    async def shrink_databases(self, *, is_dry: bool = False) -> int:
        """Have them give back all that they can; how many bytes that is, or about would be.

        Raises StoreError.
        """
        count = 0
        for _, database in self._databases():
            before = await database.measure()
            count += before.spare if is_dry else before.size - (await self._shrink(database)).size
        return count

    def _databases(self) -> tuple[tuple[Database, Measured], ...]:
        return (Database.INDEX, self._store.index), (Database.RECORDS, self._records)

    async def _count_unused(self) -> int:
        """Those that no manifest on record names; what goes with such manifests is not counted."""
        count, after, before = 0, None, self._clock() - self._forget_after
        while batch := await self._records.list_unseen(before=before, after=after, limit=_BATCH):
            after, digests = batch[-1], [seen.digest for seen in batch]
            stored = await self._store.find_stored(digests, can_wait=True)
            unseen = [it for it in digests if it not in stored and not self._memory.holds(it)]
            pairs = await self._records.list_parents(unseen, limit=_PAIRS)
            count += len(set(unseen) - {child for _, child in pairs})
            await asyncio.sleep(self._pause)
        return count

    async def _forget(self) -> int:
        """Walk from what was seen the longest ago to what was seen lately; how many went."""
        now, count, looked_at, after = self._clock(), 0, 0, None
        try:
            while True:
                is_tight = await self._is_tight() and not self._unavailing_until > now
                before = now - (_YOUNG if is_tight else self._forget_after)
                batch = await self._records.list_unseen(before=before, after=after, limit=_BATCH)
                if not batch:
                    break
                count += await self._forget_some(batch, before)
                looked_at += len(batch)
                after = batch[-1]
                await asyncio.sleep(self._pause)
        finally:
            self._tell_memory()
        if is_tight and count * _WORTH_IT < looked_at and await self._is_tight():
            self._unavailing_until = now + _UNAVAILING
        return count

    async def _forget_some(self, batch: list[Seen], before: float) -> int:
        digests = [seen.digest for seen in batch]
        stored = await self._store.find_stored(digests, can_wait=True)
        if stored:
            await self._records.note_seen(stored)
        # After that: what comes to disk or memory now, its sender is on record anew before.
        unseen = [it for it in digests if it not in stored and not self._memory.holds(it)]
        forgotten = await self._records.forget_unseen(unseen, before=before)
        self._metrics.forgotten_digests.inc(len(forgotten))
        self._forgotten |= forgotten
        if len(self._forgotten) >= _TOLD_OF:
            self._tell_memory()
        return len(forgotten)

    def _tell_memory(self) -> None:
        forgotten, self._forgotten = self._forgotten, set()
        if forgotten:
            self._memory.forget_records(forgotten)

    async def _forget_repositories(self) -> None:
        after: str | None = ""
        while after is not None:
            after = await self._records.forget_empty(after=after, limit=_REPOSITORIES)
            await asyncio.sleep(self._pause)

    async def _is_tight(self) -> bool:
        """Whether the records take more than they may."""
        return (await self._records.measure()).used > self._room(self._store.totals.blobs)

    async def _shrink(self, database: Measured, *, least: int = 0) -> Extent:
        """Have a database give back what it will hardly need, or all; what it takes then.

        Where it has to spare no more than `least` bytes, and a share of it, it stays as it is.
        """
        extent = await database.measure()
        if least and extent.spare <= max(least, extent.size // _SLACK_SHARE):
            return extent
        while extent.spare > least:
            await database.give_back(_PORTION)
            before, extent = extent, await database.measure()
            if extent.size >= before.size:
                break  # it is read from, or cannot
            await asyncio.sleep(self._pause)
        return extent

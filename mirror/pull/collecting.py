"""Collecting by command: what nothing on record names any more goes now, and what it took is free.

    blobs         that no repository is linked to, nobody has asked for in the last hour, and no
                  import that is under way needs
    records       of digests that are not here, and were of no use for `store.forget_after`
    partials      older than `fill.keep_partial_for`, or of blobs that no repository is linked to
    quarantine    beyond `store.max_quarantine`
    databases     what they have to spare

All of this goes by itself in time, but for the blobs: those leave when there is need of room.
"""

from collections.abc import AsyncIterator, Callable, Collection, Container, Sequence
from dataclasses import dataclass
from typing import Protocol

from mirror.oci.digest import Digest
from mirror.pull.not_done import NotDone
from mirror.pull.retention import Retention
from mirror.records.ports import Records
from mirror.storage.ports import IdlePartial
from mirror.telemetry.collectors import StoreTotals

_YOUNG = 3600.0  # seconds: who has just pulled it, or is about to, may not be on record yet


@dataclass(slots=True)
class Collected:
    """What has gone, or would; sizes in bytes."""

    blobs: int = 0
    size: int = 0
    records: int = 0  # digests of which all is forgotten
    partials: int = 0
    partial_size: int = 0
    quarantine_size: int = 0
    database_size: int = 0


class CollectedStorage(Protocol):
    """What is asked of this node's storage. All methods raise StoreError."""

    @property
    def totals(self) -> StoreTotals:
        """What is here."""

    def list_unused(self, *, since: float) -> AsyncIterator[list[tuple[Digest, float]]]:
        """What was last used before a time, and when, in batches. Both in epoch seconds."""

    def find_removable(self, digests: Sequence[Digest]) -> list[Digest]:
        """Those of these that are neither in use nor pinned."""

    async def remove_unused(self, digests: Sequence[Digest]) -> int:
        """Remove those of these that are neither in use nor pinned; how many those are."""

    async def measure(self, digests: Collection[Digest] | None) -> StoreTotals:
        """How many of these are here, and their bytes."""

    def list_idle_partials(self) -> list[IdlePartial]:
        """Downloads that nobody continues at the moment."""

    async def remove_partials(self, partials: Collection[IdlePartial]) -> None:
        """Remove those of these that nobody has continued meanwhile."""

    async def tidy_quarantine(self, *, is_dry: bool) -> int:
        """Delete what is set aside beyond the bound; how many bytes that is."""


class Collecting:
    """Collects. `upstreams` are those that are configured; what is `arriving` stays.

    `clock` in seconds since the epoch, `keep_partial_for` in seconds.
    """

    def __init__(
        self,
        store: CollectedStorage,
        records: Records,
        retention: Retention,
        *,
        upstreams: Collection[str],
        arriving: Container[Digest],
        keep_partial_for: float,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._records = records
        self._retention = retention
        self._upstreams = upstreams
        self._arriving = arriving
        self._keep_partial_for = keep_partial_for
        self._clock = clock

    async def collect(self, *, is_dry: bool = False) -> Collected:
        """Have it gone, or (`is_dry`) see what would.

        Raises:
            NotDone: Nothing at all is on record: all that is here would go.
            StoreError: The disk or the records refuse.
        """
        known = await self._records.list_repositories(self._upstreams, after=None, limit=1)
        if self._store.totals.blobs and not known:
            raise NotDone(
                "the records name nothing of what is here (were they lost?): all of it would go."
                " mirror warm has upstream confirm them again, and so do pulls"
            )
        collected = Collected()
        await self._collect_blobs(collected, is_dry=is_dry)
        collected.records = await self._retention.forget_unused(is_dry=is_dry)
        await self._collect_partials(collected, is_dry=is_dry)
        collected.quarantine_size = await self._store.tidy_quarantine(is_dry=is_dry)
        collected.database_size = await self._retention.shrink_databases(is_dry=is_dry)
        return collected

    async def _collect_blobs(self, collected: Collected, *, is_dry: bool) -> None:
        async for batch in self._store.list_unused(since=self._clock() - _YOUNG):
            digests = [digest for digest, _ in batch]
            linked = await self._records.count_links(digests)
            unnamed = self._store.find_removable(
                [it for it in digests if it not in linked and it not in self._arriving]
            )
            before = await self._store.measure(unnamed)
            if not is_dry:
                await self._store.remove_unused(unnamed)
            after = await self._store.measure([] if is_dry else unnamed)
            collected.blobs += before.blobs - after.blobs
            collected.size += before.bytes - after.bytes

    async def _collect_partials(self, collected: Collected, *, is_dry: bool) -> None:
        now, partials = self._clock(), self._store.list_idle_partials()
        linked = await self._records.count_links({it.digest for it in partials})
        gone = [
            it for it in partials
            if now - it.since > self._keep_partial_for
            or (it.digest not in linked and now - it.since > _YOUNG)
        ]  # fmt: skip
        collected.partials, collected.partial_size = len(gone), sum(it.size for it in gone)
        if not is_dry:
            await self._store.remove_partials(gone)

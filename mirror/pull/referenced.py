"""What the store would take without deduplication: each blob once for each repository it is in.

Worked out when somebody asks, and not again for a while: it is a figure for a graph, and costs a
walk through all that is stored. One batch of digests is held at a time.
"""

from collections.abc import Callable

from mirror.aio.tasks import Starter
from mirror.records.ports import Records
from mirror.storage.ports import Storage


class ReferencedBytes:
    """The figure, in bytes. `good_for` in seconds by `clock`, a monotonic one."""

    def __init__(
        self,
        store: Storage,
        records: Records,
        *,
        tasks: Starter,
        clock: Callable[[], float],
        good_for: float,
    ) -> None:
        self._store = store
        self._records = records
        self._tasks = tasks
        self._clock = clock
        self._good_for = good_for
        self._bytes = 0
        self._counted_at: float | None = None
        self._is_counting = False

    def read(self) -> int:
        """What was last counted; where that is long ago, it is counted anew meanwhile."""
        is_good = self._counted_at is not None and self._clock() - self._counted_at < self._good_for
        if not is_good and not self._is_counting:
            self._is_counting = True
            _ = self._tasks.create_task(self._count(), name="count references")
        return self._bytes

    async def _count(self) -> None:
        try:
            total = 0
            async for batch in self._store.list_stored():
                counts = await self._records.count_links([digest for digest, _ in batch])
                total += sum(size * counts.get(digest, 0) for digest, size in batch)
            self._bytes = total
        finally:  # after a fault too: not again at each scrape
            self._counted_at, self._is_counting = self._clock(), False

"""What was: pulls, totals, arrivals and waste, as operators are told of them."""

import asyncio
from collections.abc import Awaitable, Callable

from mirror.control import models
from mirror.history.keeper import Keeper
from mirror.history.ports import DAY, PullFilter, TotalsFilter

_REFRESH_AFTER = 1.0  # seconds; who asks sooner is told what was known then
_MOST_TOTALS = 10_000


class Past:
    """Tells what `keeper` keeps, with what workers have not told of their own accord yet.

    `gather` has them do so; `clock` gives seconds since the epoch, `monotonic` is never set back.
    """

    def __init__(
        self,
        keeper: Keeper,
        *,
        gather: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._keeper = keeper
        self._gather = gather
        self._clock = clock
        self._monotonic = monotonic
        self._fresh_until = 0.0
        self._refreshing = asyncio.Lock()

    async def pulls(self, query: models.PullsQuery) -> models.Pulls:
        """A page of pulls, the latest first."""
        await self._refresh()
        wanted = PullFilter(
            before=query.cursor, repository=query.repository, reference=query.reference,
            digest=query.digest, client=query.client, result=query.result, since=query.since,
        )  # fmt: skip
        found = await self._keeper.history.list_pulls(wanted, query.limit + 1)
        pulls = found[: query.limit]
        return models.Pulls(pulls=pulls, next=pulls[-1].id if len(found) > len(pulls) else None)

    async def totals(self, query: models.TotalsQuery) -> models.Totals:
        """Hours or days, the latest first."""
        await self._refresh()
        wanted = TotalsFilter(
            since=self._since(query.since), span=query.span, by=query.by,
            upstream=query.upstream, repository=query.repository,
        )  # fmt: skip
        found = await self._keeper.history.list_totals(wanted, _MOST_TOTALS + 1)
        return models.Totals(totals=found[:_MOST_TOTALS], is_whole=len(found) <= _MOST_TOTALS)

    async def arrivals(self, query: models.ArrivalsQuery) -> models.Arrivals:
        """Where blobs came from."""
        await self._refresh()
        found = await self._keeper.history.list_arrivals(query.digest, query.limit)
        return models.Arrivals(arrivals=found)

    async def waste(self, query: models.WasteQuery) -> models.Waste:
        """Where the line's bytes went."""
        await self._refresh()
        since, now = self._since(query.since), self._clock()
        return await self._keeper.history.find_waste(since, now, query.limit)

    def watch(self) -> Callable[[], Awaitable[models.Pulls]]:
        """To be asked again and again: the pulls that have changed since the last time."""
        seen, _ = self._keeper.changed_since(0)

        async def look() -> models.Pulls:
            nonlocal seen
            await self._refresh()
            seen, pulls = self._keeper.changed_since(seen)
            return models.Pulls(pulls=pulls, next=None)

        return look

    def _since(self, when: float | None) -> float:
        return max(0.0, self._clock() - DAY if when is None else when)

    async def _refresh(self) -> None:
        async with self._refreshing:
            if (now := self._monotonic()) < self._fresh_until:
                return
            await self._gather()
            await self._keeper.write()
            self._fresh_until = now + _REFRESH_AFTER

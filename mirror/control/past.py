"""What was: pulls, totals, arrivals and waste, as operators are told of them."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from mirror.control import models
from mirror.history.keeper import Keeper
from mirror.history.ports import DAY, Down, PullFilter, Spell, TotalsFilter, Use

_REFRESH_AFTER = 1.0  # seconds; who asks sooner is told what was known then
_MOST_TOTALS = 10_000


class Outages(NamedTuple):
    """How endpoints (of an upstream) were in some time, as far as the mirror was `running`."""

    running: Sequence[Spell]
    longest: Sequence[Spell]  # in which they were down or paused
    down: Mapping[tuple[str, str], Down]


class Past:
    """Tells what `keeper` keeps, with what workers have not told of their own accord yet.

    `gather` has them do so; `clock` gives seconds since the epoch, `monotonic` is never set back.
    Where who asks may not be told what is `private` (upstreams), a question `hides` it.
    """

    def __init__(
        self,
        keeper: Keeper,
        *,
        private: Collection[str],
        gather: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._keeper = keeper
        self._private = private
        self._gather = gather
        self._clock = clock
        self._monotonic = monotonic
        self._fresh_until = 0.0
        self._refreshing = asyncio.Lock()

    async def pulls(self, query: models.PullsQuery, *, hides: bool = False) -> models.Pulls:
        """A page of pulls, the latest first."""
        await self._refresh()
        wanted = PullFilter(
            before=query.cursor, repository=query.repository, reference=query.reference,
            digest=query.digest, client=query.client, result=query.result, since=query.since,
            hidden=self._hidden(hides=hides),
        )  # fmt: skip
        found = await self._keeper.history.list_pulls(wanted, query.limit + 1)
        pulls = found[: query.limit]
        return models.Pulls(pulls=pulls, next=pulls[-1].id if len(found) > len(pulls) else None)

    async def totals(self, query: models.TotalsQuery, *, hides: bool = False) -> models.Totals:
        """Hours or days, the latest first."""
        await self._refresh()
        wanted = TotalsFilter(
            since=self._since(query.since), span=query.span, by=query.by,
            upstream=query.upstream, repository=query.repository,
            hidden=self._hidden(hides=hides),
        )  # fmt: skip
        found = await self._keeper.history.list_totals(wanted, _MOST_TOTALS + 1)
        return models.Totals(totals=found[:_MOST_TOTALS], is_whole=len(found) <= _MOST_TOTALS)

    async def sum_repositories(self, repositories: Sequence[str], since: float) -> dict[str, Use]:
        """What was pulled of repositories."""
        await self._refresh()
        return await self._keeper.history.sum_repositories(repositories, since)

    async def sum_images(
        self, repository: str, digests: Sequence[str], since: float
    ) -> dict[str, Use]:
        """What was pulled of a repository's images."""
        await self._refresh()
        return await self._keeper.history.sum_images(repository, digests, since)

    async def arrivals(
        self, query: models.ArrivalsQuery, *, hides: bool = False
    ) -> models.Arrivals:
        """Where blobs came from."""
        await self._refresh()
        found = await self._keeper.history.list_arrivals(
            query.digest, query.limit, hidden=self._hidden(hides=hides)
        )
        return models.Arrivals(arrivals=found)

    async def spells(self, query: models.SpellsQuery) -> models.Spells:
        """When endpoints were down or paused, and when the mirror ran."""
        since = self._since(query.since)
        found = await self._keeper.history.list_spells(since, query.cursor, query.limit + 1)
        spells = found[: query.limit]
        return models.Spells(
            spells=spells, next=spells[-1].id if len(found) > len(spells) else None
        )

    async def outages(self, since: float, most: int) -> Outages:
        """How endpoints were since then; at most so many of each kind, the longest ones."""
        history = self._keeper.history
        return Outages(
            await history.list_longest_spells(since, most, is_running=True),
            await history.list_longest_spells(since, most, is_running=False),
            await history.sum_down(since, self._clock()),
        )

    async def waste(self, query: models.WasteQuery, *, hides: bool = False) -> models.Waste:
        """Where the line's bytes went."""
        await self._refresh()
        since, now = self._since(query.since), self._clock()
        return await self._keeper.history.find_waste(
            since, now, query.limit, hidden=self._hidden(hides=hides)
        )

    def watch(self, hides: Callable[[], bool]) -> Callable[[], Awaitable[models.Pulls]]:
        """To be asked again and again: the pulls that have changed since the last time."""
        seen, _ = self._keeper.changed_since(0)

        async def look() -> models.Pulls:
            nonlocal seen
            await self._refresh()
            seen, pulls = self._keeper.changed_since(seen)
            hidden = self._hidden(hides=hides())
            pulls = [it for it in pulls if it.upstream not in hidden]
            return models.Pulls(pulls=pulls, next=None)

        return look

    def _hidden(self, *, hides: bool) -> frozenset[str]:
        return frozenset(self._private) if hides else frozenset()

    def _since(self, when: float | None) -> float:
        return max(0.0, self._clock() - DAY if when is None else when)

    async def _refresh(self) -> None:
        async with self._refreshing:
            if (now := self._monotonic()) < self._fresh_until:
                return
            await self._gather()
            await self._keeper.write()
            self._fresh_until = now + _REFRESH_AFTER

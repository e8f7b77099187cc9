"""What would go next, and when: the order is the storage's, the time a guess by the last week."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from msgspec.structs import replace

from mirror.contents.models import Leaving, LeavingBlob
from mirror.contents.questions import ListLeaving
from mirror.control.models import Store, TotalsQuery
from mirror.control.overview import Overview
from mirror.control.past import Past
from mirror.history.ports import DAY, HOUR

_WEEK = 7 * DAY
_FORESEEN = 3650 * DAY  # seconds; what is to stay for longer, stays


@dataclass(frozen=True, slots=True)
class Forecast:
    """Answers the question with `list_leaving`, and adds until when things will stay."""

    list_leaving: Callable[[ListLeaving], Awaitable[Leaving]]
    overview: Overview
    past: Past
    clock: Callable[[], float]

    async def tell(self, question: ListLeaving) -> Leaving:
        """What would go next. Raises as `Contents`."""
        found, store = await self.list_leaving(question), await self.overview.store()
        return foretell(found, room_of(store), await self._rate(), self.clock())

    async def _rate(self) -> float:
        """Bytes per second that have come in the last week, or as long as anything has."""
        now = self.clock()
        query = TotalsQuery(since=now - _WEEK)
        totals = (await self.past.totals(query)).totals
        began = min((it.start for it in totals), default=now)
        return sum(it.fetched for it in totals) / min(_WEEK, max(HOUR, now - began))


def room_of(store: Store) -> int:
    """Bytes that can come before anything has to go."""
    return max(0, min(store.limit - store.disk, store.free - store.min_free))


def foretell(found: Leaving, room: int, rate: float, now: float) -> Leaving:
    """The same, with when each is to go where as much comes in as `rate` (bytes per second)."""
    told, coming = list[LeavingBlob](), room
    for it in found.leaving:
        told.append(replace(it, goes_at=_goes_at(coming, rate, now)))
        coming += it.size
    return Leaving(leaving=told, room=room, rate=rate)


def _goes_at(coming: int, rate: float, now: float) -> float | None:
    """When so many bytes will have come; None: not in any time that can be foreseen."""
    return now + coming / rate if coming <= rate * _FORESEEN and rate > 0 else None

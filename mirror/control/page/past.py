"""What the views of the past show: periods, charts and tables made of what the history tells."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

from cachetools import TTLCache

from mirror.control import models
from mirror.control.past import Outages, Past
from mirror.control.reasons import WORDS
from mirror.history.ports import DAY, HOUR, Spell, Total

_ROWS = 50
_PULLS = 100
_GOOD_FOR = 10.0  # seconds for which charts and tables of the past stand
_REMEMBERED = 64
_MOST_SPELLS = 1000  # that are drawn
_LATEST_SPELLS = 200
_SPELLS_GOOD_FOR = 2.0  # seconds
_WIDTH, _HEIGHT = 600, 120  # of a chart, in its own units
_LONGEST_NAME = 600


@dataclass(frozen=True, slots=True)
class Period:
    """How far back a view looks, in seconds, and in which steps."""

    seconds: int
    span: Literal["hour", "day"]
    name: str


PERIODS: Mapping[str, Period] = MappingProxyType(
    {
        "day": Period(DAY, "hour", "24 hours"),
        "week": Period(7 * DAY, "hour", "7 days"),
        "month": Period(30 * DAY, "day", "30 days"),
        "year": Period(365 * DAY, "day", "1 year"),
    }
)

GROUPS: Mapping[str, str] = MappingProxyType({"upstream": "Upstream", "repository": "Repository"})


@dataclass(frozen=True, slots=True)
class Choice:
    """What of the past is looked at, as the page's address says."""

    period: str
    by: Literal["upstream", "repository"]
    repository: str | None

    @property
    def query(self) -> str:
        """The address's query, but for a repository."""
        return f"for={self.period}&by={self.by}"


def parse_choice(query: Mapping[str, str]) -> Choice:
    """What is chosen; what makes no sense is as if it were not said."""
    period = query.get("for", "day")
    return Choice(
        period if period in PERIODS else "day",
        "repository" if query.get("by") == "repository" else "upstream",
        query.get("repository", "")[:_LONGEST_NAME] or None,
    )


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of a chart: two amounts of one time, the lower one drawn before the other."""

    x: float
    width: float
    higher: float  # height, in the chart's units
    lower: float
    start: int
    more: int
    less: int


class PastViews:
    """Makes what the templates are filled with. `clock` gives seconds since the epoch."""

    def __init__(
        self, past: Past, *, clock: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        self._past = past
        self._clock = clock
        self._outages: TTLCache[str, tuple[Outages, list[Spell]]] = TTLCache(
            _REMEMBERED, ttl=_SPELLS_GOOD_FOR, timer=monotonic
        )
        self._made: TTLCache[tuple[str, Choice, bool], dict[str, object]] = TTLCache(
            _REMEMBERED, ttl=_GOOD_FOR, timer=monotonic
        )

    async def fill(self, view: str, choice: Choice, *, hides: bool) -> dict[str, object]:
        """The values of a view's template; `hides`: what is private."""
        if view == "pulls":
            query = models.PullsQuery(limit=_PULLS, repository=choice.repository)
            found = await self._past.pulls(query, hides=hides)
            return {"choice": choice, "pulls": found.pulls, "words": WORDS}
        if (made := self._made.get((view, choice, hides))) is None:
            make = self._history if view == "history" else self._waste
            made = await make(choice, hides=hides)
            made |= {"choice": choice, "periods": PERIODS, "groups": GROUPS}
            self._made[view, choice, hides] = made
        return made

    async def outages(self, choice: Choice) -> tuple[float, Outages, list[Spell]]:
        """Since when, how endpoints were since then, and the latest that is told of them."""
        since = self._clock() - PERIODS[choice.period].seconds
        if (found := self._outages.get(choice.period)) is None:
            query = models.SpellsQuery(since=since, limit=_LATEST_SPELLS)
            outages = await self._past.outages(since, _MOST_SPELLS)
            found = outages, (await self._past.spells(query)).spells
            self._outages[choice.period] = found
        return since, *found

    async def _history(self, choice: Choice, *, hides: bool) -> dict[str, object]:
        period = PERIODS[choice.period]
        since = self._clock() - period.seconds
        over_time = await self._past.totals(
            models.TotalsQuery(since=since, span=period.span, repository=choice.repository),
            hides=hides,
        )
        grouped = await self._past.totals(
            models.TotalsQuery(since=since, span="day", by=choice.by, repository=choice.repository),
            hides=hides,
        )
        length = HOUR if period.span == "hour" else DAY
        slots = int(since) // length * length, period.seconds // length + 1, length
        totals = over_time.totals
        return {
            "sum": add(totals),
            "bytes": bars([(it.start, it.served, it.fetched) for it in totals], *slots),
            "requests": bars([(it.start, it.hits + it.misses, it.hits) for it in totals], *slots),
            "rows": _largest(grouped.totals),
            "width": _WIDTH, "height": _HEIGHT,
        }  # fmt: skip

    async def _waste(self, choice: Choice, *, hides: bool) -> dict[str, object]:
        since = self._clock() - PERIODS[choice.period].seconds
        query = models.WasteQuery(since=since, limit=_ROWS)
        return {"waste": await self._past.waste(query, hides=hides)}


def add(totals: Sequence[Total]) -> Total:
    """All of them together."""
    return Total(
        start=min((it.start for it in totals), default=0),
        upstream=totals[0].upstream if totals else None,
        repository=totals[0].repository if totals else None,
        pulls=sum(it.pulls for it in totals), hits=sum(it.hits for it in totals),
        misses=sum(it.misses for it in totals), failed=sum(it.failed for it in totals),
        served=sum(it.served for it in totals), fetched=sum(it.fetched for it in totals),
        saved=sum(it.saved for it in totals), wasted=sum(it.wasted for it in totals),
        is_private=bool(totals) and totals[0].is_private,
    )  # fmt: skip


def _largest(totals: Sequence[Total]) -> list[Total]:
    """One for each name, who was served most first."""
    named: dict[tuple[str | None, str | None], list[Total]] = {}
    for total in totals:
        named.setdefault((total.upstream, total.repository), []).append(total)
    return sorted(map(add, named.values()), key=lambda it: -max(it.served, it.fetched))[:_ROWS]


def bars(amounts: Sequence[tuple[int, int, int]], first: int, count: int, length: int) -> list[Bar]:
    """A chart of (start, amount, other amount), from `first` on; the highest touches the top."""
    top = max((max(more, less) for _, more, less in amounts), default=0) or 1
    width = _WIDTH / count
    return [
        Bar(
            round((start - first) // length * width, 2), round(width * 0.8, 2),
            round(more / top * _HEIGHT, 2), round(less / top * _HEIGHT, 2), start, more, less,
        )
        for start, more, less in amounts
        if (more or less) and 0 <= (start - first) // length < count
    ]  # fmt: skip


def when(seconds: float) -> str:
    """A time as this machine's clock has it."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")

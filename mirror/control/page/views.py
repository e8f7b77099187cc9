"""What is seen: one template for each view, filled with what the overview tells."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from urllib.parse import urlencode

import jinja2

from mirror import __version__
from mirror.control.acts import Pins
from mirror.control.hidden import without_private
from mirror.control.models import Status
from mirror.control.page.availability import draw
from mirror.control.page.contents import ContentsViews
from mirror.control.page.past import PERIODS, PastViews, parse_choice, when
from mirror.control.page.words import LANGUAGES, say
from mirror.control.reasons import LEAVING
from mirror.control.units import brief, date, duration, printable, size

VIEWS: Mapping[str, str] = MappingProxyType(
    {
        "now": "Now",
        "history": "History",
        "images": "Images",
        "pulls": "Pulls",
        "waste": "Waste",
        "endpoints": "Endpoints",
        "store": "Store",
        "setup": "Setup",
    }
)
"""The views by their path, with what they are called."""

OF_ONE: Mapping[str, str] = MappingProxyType({"image": "Image", "files": "Files"})
"""Views of one thing, that others lead to."""

_PAST = frozenset({"history", "pulls", "waste"})
_CONTENTS = frozenset({"images", *OF_ONE})  # what is looked up costs more than a glance
_STILL = _CONTENTS | {"setup"}

Guides = Callable[[str | None], Sequence[tuple[str, str]]]
"""Titles and texts for all kinds of clients, of the mirror at an address (None: guessed).

Raises ValueError, OSError.
"""

LEVELS = ("debug", "info", "warning", "error")
_LONGEST_ADDRESS = 300

_CHART = 120  # samples, and the width of the chart in its own units
_HEIGHT = 40
_SPELLS = 20  # that are listed


class Views:
    """Renders pages, and the parts of them that change."""

    def __init__(
        self,
        *,
        status: Callable[[], Awaitable[Status]],
        pins: Callable[[], Awaitable[Pins]],
        line: Callable[[], Sequence[float]],
        past: PastViews,
        contents: ContentsViews,
        guides: Guides,
        level: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        self._status = status
        self._pins = pins
        self._line = line  # bytes per second from upstream, the latest last
        self._past = past
        self._contents = contents
        self._guides = guides
        self._level = level
        self._clock = clock
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("mirror.control.page"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self._templates.filters |= {
            "size": size, "duration": duration, "when": when, "printable": printable, "date": date,
            "brief": brief,
        }  # fmt: skip
        self._templates.globals["reasons"] = LEAVING

    async def page(
        self, view: str, language: str, query: Mapping[str, str], hidden: str | None = None
    ) -> str:
        """A whole page; `query` is of its address.

        `hidden`: why no contents are shown, and nothing that is private.
        """
        content = await self.part(view, language, query, hidden)
        kept = {name: value for name, value in query.items() if name != "lang"}
        return await self._render(
            "page.html", language, view=view, views=VIEWS, content=content, languages=LANGUAGES,
            version=__version__, levels=LEVELS, level=self._level(),
            title=VIEWS.get(view) or OF_ONE[view], is_still=view in _STILL,
            queries={one: urlencode({**kept, "lang": one}) for one in LANGUAGES},
        )  # fmt: skip

    async def part(
        self, view: str, language: str, query: Mapping[str, str], hidden: str | None = None
    ) -> str:
        """What of a page changes while one looks at it."""
        if view in _PAST:
            values = await self._past.fill(view, parse_choice(query), hides=hidden is not None)
            return await self._render(f"{view}.html", language, **values, hidden=hidden)
        if view == "setup":
            return await self._render("setup.html", language, **await self._setup(query))
        if view in _CONTENTS and hidden is not None:
            return await self._render("hidden.html", language, why=hidden)
        if view in _CONTENTS:
            return await self._render(
                f"{view}.html", language, **await self._contents.fill(view, query)
            )
        status, line = await self._status(), self._line()
        if hidden is not None:
            status = without_private(status)
        more: dict[str, object] = {}
        if view == "endpoints":
            more = await self._over_time(query, status)
        elif view == "store":
            more = {"leaving": None if hidden is not None else await self._contents.leaving()}
        return await self._render(
            f"{view}.html", language, status=status, now=self._clock(), **more,
            rate=line[-1] if line else 0.0, chart=_points(line),
            pins=(await self._pins()).pins if view == "store" else [], hidden=hidden,
        )  # fmt: skip

    async def _over_time(self, query: Mapping[str, str], status: Status) -> dict[str, object]:
        """How endpoints were, for as long as the address says."""
        choice, now = parse_choice(query), self._clock()
        since, outages, spells = await self._past.outages(choice)
        lines = {
            (it.upstream, it.name): draw(outages, it.upstream, it.name, since=since, now=now)
            for it in status.endpoints
        }
        latest = [it for it in spells if it.state != "running"][:_SPELLS]
        return {"choice": choice, "periods": PERIODS, "lines": lines, "spells": latest}

    async def _setup(self, query: Mapping[str, str]) -> dict[str, object]:
        """How clients are pointed at this mirror; `trouble` where that cannot be said."""
        address = query.get("address", "").strip()[:_LONGEST_ADDRESS]
        try:
            guides = await asyncio.to_thread(self._guides, address or None)
        except (ValueError, OSError) as error:
            return {"address": address, "guides": [], "trouble": str(error)}
        return {"address": address, "guides": guides, "trouble": None}

    async def _render(self, template: str, language: str, **values: object) -> str:
        """Aside: a template is read and compiled at its first use, and some fill long tables."""
        values |= {"_": partial(say, language), "language": language}
        find = self._templates.get_template
        return await asyncio.to_thread(lambda: find(template).render(values))


def _points(line: Sequence[float]) -> str:
    """The chart of a rate, as the points of an SVG polyline; the highest touches the top."""
    latest = line[-_CHART:]
    top = max(latest, default=0.0)
    first = _CHART - len(latest)
    return " ".join(
        f"{first + number},{_HEIGHT - (value / top * _HEIGHT if top else 0):.1f}"
        for number, value in enumerate(latest)
    )

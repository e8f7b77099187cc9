"""The page's words and what it brings with it."""

import hashlib
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import cast

import pytest

from mirror.control.acts import Pins
from mirror.control.models import Spells, SpellsQuery, Status
from mirror.control.page.availability import draw
from mirror.control.page.contents import ContentsViews
from mirror.control.page.past import GROUPS, PERIODS, PastViews, parse_choice
from mirror.control.page.views import VIEWS, Views
from mirror.control.page.words import _CHINESE, choose, say
from mirror.control.past import Outages, Past
from mirror.control.reasons import LEAVING, WORDS
from mirror.history.keeper import Keeper
from mirror.history.ports import DAY
from mirror.history.sqlite import Bounds, SqliteHistory
from tests.conformance.history import spell
from tests.unit.operate.test_status import status

PAGE = files("mirror.control.page")


def said() -> set[str]:
    """Every phrase in the templates."""
    texts = [it.read_text() for it in (PAGE / "templates").iterdir()]
    views = {*VIEWS.values(), *GROUPS.values(), *(it.name for it in PERIODS.values())}
    return (
        {phrase for text in texts for phrase in re.findall(r'_\("([^"]+)"', text)}
        | views
        | {*WORDS.values(), *LEAVING.values()}
    )


def test_every_phrase_is_said_in_chinese_too() -> None:
    assert said() - _CHINESE.keys() == set()
    assert _CHINESE.keys() - said() == set(), "nobody says these any more"


def test_what_is_put_into_a_phrase_is_put_into_each_language() -> None:
    for english, chinese in _CHINESE.items():
        assert re.findall(r"{\w+}", english) == re.findall(r"{\w+}", chinese)


@pytest.mark.parametrize(
    ("wanted", "accepted", "chosen"),
    [
        (None, None, "en"), ("zh", "en", "zh"), ("xx", "zh-CN,zh;q=0.9", "zh"),
        (None, "fr, zh-TW;q=0.5", "zh"), (None, "en-GB", "en"), (None, ";;,,", "en"),
    ],
)  # fmt: skip
def test_the_language_is_the_browsers(
    wanted: str | None, accepted: str | None, chosen: str
) -> None:
    assert choose(wanted, accepted) == chosen


def test_values_are_put_in() -> None:
    assert say("en", "in {count} requests", count=3) == "in 3 requests"
    assert say("zh", "in {count} requests", count=3) == "共 3 次请求"


def test_what_is_not_ours_is_as_it_was_released() -> None:
    static = PAGE / "static"
    vendored = tomllib.loads((static / "VENDORED.toml").read_text())
    scripts = {it.name for it in static.iterdir() if it.name.endswith(".min.js")}
    assert vendored.keys() == scripts
    for name, facts in vendored.items():
        assert hashlib.sha256((static / name).read_bytes()).hexdigest() == facts["sha256"]
        assert facts["licence"] == "0BSD"


async def test_an_upstream_that_is_never_asked_stands_among_the_endpoints() -> None:
    async def told() -> Status:
        return status()

    async def pins() -> Pins:
        return Pins(pins=[])

    class Empty:
        async def spells(self, _: SpellsQuery) -> Spells:
            return Spells(spells=[], next=None)

        async def outages(self, _since: float, _most: int) -> Outages:
            return Outages([], [], {})

    past = PastViews(cast("Past", Empty()), clock=lambda: 1000.0, monotonic=lambda: 0.0)
    views = Views(
        status=told, pins=pins, line=list, past=past,
        contents=cast("ContentsViews", None), clock=lambda: 1000.0,
        guides=lambda _: [], level=lambda: "info",
    )  # fmt: skip
    shown = await views.part("endpoints", "en", {})
    assert re.search(r"<td>old\.example</td>.*sealed: never asked", shown)


async def test_an_endpoint_that_comes_and_goes_hides_neither_that_the_mirror_ran_nor_how_often(
    tmp_path: Path,
) -> None:
    """More spells than are drawn are newer than the one in which the mirror runs."""
    many, now = 1500, 50_000.0
    began = spell(1, upstream="", endpoint="", state="running", began=0.0, ended=now)
    flaps = [
        spell(2 + it, upstream="u", endpoint="e", began=10.0 * it, ended=10.0 * it + 5)
        for it in range(many)
    ]

    async def gather() -> None:
        return

    def clock() -> float:
        return now

    bounds = Bounds(DAY, DAY, 2**30)
    async with (
        SqliteHistory.open(tmp_path / "history.sqlite3", bounds) as history,
        Keeper.keeping(history, private=(), tells_clients=True, clock=clock) as keeper,
    ):
        await history.record_spells([began, *flaps])
        past = Past(keeper, private=(), gather=gather, clock=clock, monotonic=clock)
        views = PastViews(past, clock=clock, monotonic=clock)
        since, outages, latest = await views.outages(parse_choice({}))
    line = draw(outages, "u", "e", since=since, now=now)
    gaps = [(it.began, it.ended) for it in line.parts if it.kind == "unknown"]
    assert gaps == [(since, 0.0)]
    assert (line.times, line.seconds) == (many, many * 5)
    assert len(line.parts) <= 1001
    assert latest[0] == flaps[-1]

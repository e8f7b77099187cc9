"""Endpoints over time, as they are drawn."""

from typing import Any

from mirror.control.page.availability import WIDTH, draw
from mirror.control.past import Outages
from mirror.history.ports import Down, Spell

_NEVER = Down()


def spell(began: float, ended: float, **changes: Any) -> Spell:
    facts: dict[str, Any] = {
        "id": 1,
        "upstream": "u",
        "endpoint": "e",
        "state": "down",
        "why": None,
    }
    return Spell(began=began, ended=ended, **facts | changes)


def outages(*spells: Spell, down: Down = _NEVER) -> Outages:
    return Outages(
        [it for it in spells if it.state == "running"],
        [it for it in spells if it.state != "running"],
        {("u", "e"): down},
    )


def running(began: float, ended: float) -> Spell:
    return spell(began, ended, upstream="", endpoint="", state="running")


def test_what_was_down_is_where_it_was_and_all_else_is_up() -> None:
    seen = outages(running(0, 90), spell(50, 60), down=Down(1, 10))
    line = draw(seen, "u", "e", since=0, now=100)
    assert (line.times, line.seconds) == (1, 10)
    assert [(it.kind, it.x, it.width) for it in line.parts] == [("down", WIDTH / 2, WIDTH / 10)]


def test_what_nobody_saw_is_not_known() -> None:
    seen = outages(running(10, 20), running(40, 60), spell(41, 42, endpoint="another"))
    line = draw(seen, "u", "e", since=0, now=100)
    assert [(it.kind, it.began, it.ended) for it in line.parts] == [
        ("unknown", 0, 10), ("unknown", 20, 40),
    ]  # fmt: skip
    assert [it.kind for it in draw(outages(), "u", "e", since=0, now=100).parts] == ["unknown"]


def test_what_began_before_counts_from_the_beginning_and_what_is_short_is_seen() -> None:
    line = draw(
        outages(running(-50, 100), spell(-10, 5), spell(99.99, 100, state="paused")),
        "u", "e", since=0, now=100,
    )  # fmt: skip
    assert (line.parts[0].began, line.parts[0].ended) == (0, 5)
    assert all(it.width >= 1 and it.x + it.width <= WIDTH for it in line.parts)

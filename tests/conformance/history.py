"""What every implementation of `mirror.history.ports.History` must do: inherit, and give a fixture.

class TestSomeHistory(HistoryConformance):
    @pytest.fixture
    async def history(self) -> AsyncIterator[History]: ...

It is empty to begin with, has no private upstreams, and keeps pulls for 30 days, totals for 1000.
"""

from typing import Any

import pytest

from mirror.history.ports import (
    DAY,
    HOUR,
    Arrival,
    Batch,
    History,
    Pull,
    PullFilter,
    Spell,
    Sum,
    TotalsFilter,
    Use,
)
from mirror.telemetry.traffic import Result, Why

NOW = 1_800_000_000.0 // DAY * DAY
EVER = PullFilter()
ALL = TotalsFilter(since=0)
HUB, GHCR = "docker.io", "ghcr.io"
APP, NGINX, OTHER = "docker.io/org/app", "docker.io/library/nginx", "ghcr.io/org/app"
ONE, TWO = f"sha256:{'ab' * 32}", f"sha256:{'cd' * 32}"


def pull(number: int, **changes: Any) -> Pull:
    """The pull of this number, and so many seconds after NOW."""
    facts: dict[str, Any] = {
        "id": number, "began": NOW + number, "seconds": 1.0, "client": "10.0.0.1",
        "agent": "docker", "upstream": HUB, "repository": APP,
        "reference": "1", "digest": ONE, "was": None, "result": Result.HIT,
        "why": Why.HERE, "requests": 3, "failed": 0, "served": 10, "fetched": 0,
        "endpoint": None, "is_private": False,
    }  # fmt: skip
    return Pull(**facts | changes)


def arrival(number: int, **changes: Any) -> Arrival:
    """The arrival of this number."""
    facts: dict[str, Any] = {
        "id": number, "upstream": HUB, "repository": APP, "digest": TWO, "began": NOW,
        "seconds": 1.0, "size": 100, "fetched": 100, "used": 0, "resumes": 1, "endpoint": "hub",
    }  # fmt: skip
    return Arrival(**facts | changes)


def spell(number: int, **changes: Any) -> Spell:
    """The spell of this number: a second in which an endpoint was down."""
    facts: dict[str, Any] = {
        "id": number, "upstream": HUB, "endpoint": "hub", "state": "down", "began": NOW,
        "ended": NOW + 1, "why": "no route",
    }  # fmt: skip
    return Spell(**facts | changes)


async def ids(history: History, **wanted: Any) -> list[int]:
    return [it.id for it in await history.list_pulls(PullFilter(**wanted), 99)]


class HistoryConformance:
    async def test_where_nothing_was_pulled_nothing_is_told(self, history: History) -> None:
        known = await history.begin(9, 9)
        assert (known.next_pull, known.next_arrival) == (1, 1)
        assert (*known.repositories, *known.unused) == ()
        assert await history.list_pulls(EVER, 9) == []
        assert await history.list_totals(ALL, 9) == []
        assert await history.list_arrivals(None, 9) == []
        waste = await history.find_waste(0, NOW, 9)
        assert (waste.costs, waste.again, waste.unused) == ([], [], [])
        await history.trim(NOW)

    # Pulls

    async def test_a_pull_is_kept_as_it_is_told_last(self, history: History) -> None:
        await history.record(Batch([pull(1), pull(2, was="sha256:old")], [], []))
        await history.record(Batch([pull(1, served=99)], [], []))
        assert await history.list_pulls(EVER, 9) == [pull(2, was="sha256:old"), pull(1, served=99)]
        assert (await history.begin(9, 9)).next_pull == 3

    async def test_whatever_stands_in_a_pull_comes_back_as_it_is(self, history: History) -> None:
        odd = pull(
            7, client=None, repository=None, reference=None, digest=None, was=None,
            result=Result.NEGATIVE, why=Why.MISSING_LATELY, agent="ä' \" %", endpoint="a/b",
            seconds=0.125, fetched=2**40,
        )  # fmt: skip
        await history.record(Batch([odd], [], []))
        assert await history.list_pulls(EVER, 9) == [odd]

    async def test_pulls_come_in_pages_the_latest_first(self, history: History) -> None:
        await history.record(Batch([pull(number) for number in range(1, 8)], [], []))
        seen, before = list[int](), None
        while page := await history.list_pulls(PullFilter(before=before), 3):
            seen += [it.id for it in page]
            before = page[-1].id
        assert seen == [7, 6, 5, 4, 3, 2, 1]

    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            ({"repository": NGINX}, [2]), ({"reference": "2"}, [3]), ({"digest": TWO}, [4]),
            ({"digest": "sha256:was"}, [5]), ({"client": "10.0.0.2"}, [6]),
            ({"result": Result.MISS}, [7]), ({"since": NOW + 6.5}, [7, 6]),
            ({"repository": APP, "reference": "1", "before": 6}, [5, 4, 1]),
            ({"repository": APP, "client": "nobody"}, []),
        ],
    )  # fmt: skip
    async def test_pulls_are_found_by_all_that_is_asked_for(
        self, history: History, wanted: dict[str, Any], found: list[int]
    ) -> None:
        pulls = [
            pull(1), pull(2, repository=NGINX), pull(3, reference="2"), pull(4, digest=TWO),
            pull(5, was="sha256:was"), pull(6, client="10.0.0.2"), pull(7, result=Result.MISS),
        ]  # fmt: skip
        await history.record(Batch(pulls, [], []))
        assert await ids(history, **wanted) == found

    async def test_pulls_go_when_they_are_old(self, history: History) -> None:
        late = {"began": NOW + 20 * DAY}
        await history.record(
            Batch([pull(1), pull(2, **late)], [], [arrival(1), arrival(2, **late)])
        )
        await history.trim(NOW + 31 * DAY)
        assert [it.id for it in await history.list_pulls(EVER, 9)] == [2]
        assert [it.id for it in await history.list_arrivals(None, 9)] == [2]

    async def test_numbers_are_not_given_twice_while_any_is_there(self, history: History) -> None:
        await history.record(Batch([pull(5)], [], [arrival(9)]))
        known = await history.begin(9, 9)
        assert (known.next_pull, known.next_arrival) == (6, 10)

    # Totals

    async def test_what_is_told_of_an_hour_adds_up(self, history: History) -> None:
        one = Sum(int(NOW), HUB, APP, 1, 2, 3, 4, 50, 6, 7, 8)
        await history.record(Batch([], [one, one], []))
        await history.record(Batch([], [one], []))
        [total] = await history.list_totals(ALL, 9)
        assert (total.pulls, total.hits, total.misses, total.failed) == (3, 6, 9, 12)
        assert (total.served, total.fetched, total.saved, total.wasted) == (150, 18, 129, 24)

    async def test_saved_and_wasted_are_never_below_nothing(self, history: History) -> None:
        await history.record(Batch([], [Sum(int(NOW), HUB, APP, served=5, used=9, unused=-3)], []))
        [total] = await history.list_totals(ALL, 9)
        assert (total.saved, total.wasted) == (0, 0)

    async def test_totals_are_told_apart_as_somebody_wants_them(self, history: History) -> None:
        sums = [
            Sum(int(NOW), HUB, APP, 1, served=10), Sum(int(NOW), HUB, NGINX, 2, served=30),
            Sum(int(NOW), GHCR, OTHER, 4, served=20), Sum(int(NOW), HUB, None, 8, served=1),
            Sum(int(NOW) + HOUR, HUB, APP, 16, served=5),
        ]  # fmt: skip
        await history.record(Batch([], sums, []))

        async def told(**wanted: Any) -> list[tuple[Any, ...]]:
            found = await history.list_totals(TotalsFilter(**{"since": 0, **wanted}), 99)
            return [(it.start - int(NOW), it.upstream, it.repository, it.pulls) for it in found]

        assert await told() == [(HOUR, None, None, 16), (0, None, None, 15)]
        assert await told(span="day") == [(0, None, None, 31)]
        assert await told(by="upstream", span="day") == [(0, HUB, None, 27), (0, GHCR, None, 4)]
        of_day = await told(by="repository", span="day")
        assert of_day[0] == (0, HUB, NGINX, 2), "who was served most"
        assert {*of_day} == {
            (0, HUB, NGINX, 2), (0, HUB, APP, 17), (0, GHCR, OTHER, 4), (0, HUB, None, 8),
        }  # fmt: skip
        assert sum(pulls for *_, pulls in await told(upstream=GHCR)) == 4
        assert sum(pulls for *_, pulls in await told(repository=APP)) == 17
        assert await told(since=NOW + HOUR) == [(HOUR, None, None, 16)]

    async def test_hours_become_days_and_nothing_is_lost_in_it(self, history: History) -> None:
        sums = [
            Sum(int(NOW) + hour * HOUR, HUB, APP, 1, 2, 3, 4, 50, 6, 7, 8) for hour in range(48)
        ]
        await history.record(Batch([], sums, []))
        before = await history.list_totals(TotalsFilter(since=0, span="day"), 99)
        assert len(await history.list_totals(ALL, 99)) == 48
        assert [(it.pulls, it.served, it.saved) for it in before] == [(24, 1200, 24 * 43)] * 2
        await history.trim(NOW + 366 * DAY + 25 * HOUR)
        assert len(await history.list_totals(ALL, 99)) == 24
        assert await history.list_totals(TotalsFilter(since=0, span="day"), 99) == before
        await history.trim(NOW + 2000 * DAY)
        assert await history.list_totals(TotalsFilter(since=0, span="day"), 99) == []

    # Arrivals and waste

    async def test_an_arrival_is_kept_as_it_is_told_last(self, history: History) -> None:
        odd = arrival(2, size=None, repository=None, digest=ONE, endpoint="")
        await history.record(Batch([], [], [arrival(1), odd]))
        await history.record(Batch([], [], [arrival(1, used=60)]))
        assert await history.list_arrivals(None, 9) == [odd, arrival(1, used=60)]
        assert await history.list_arrivals(ONE, 9) == [odd]
        assert await history.list_arrivals("sha256:none", 9) == []
        assert await history.list_arrivals(None, 1) == [odd]

    async def test_waste_is_what_came_twice_and_what_came_for_nobody(
        self, history: History
    ) -> None:
        other = f"sha256:{'ef' * 32}"
        arrivals = [
            arrival(1, used=100), arrival(2, used=100), arrival(3, digest=other, used=40),
            arrival(4, digest="sha256:whole", used=100),
        ]  # fmt: skip
        await history.record(Batch([], [], arrivals))
        waste = await history.find_waste(0, NOW + HOUR, 9)
        assert [(it.digest, it.arrivals, it.extra) for it in waste.again] == [(TWO, 2, 100)]
        assert [(it.digest, it.fetched - it.used) for it in waste.unused] == [(other, 60)]
        assert (await history.find_waste(0, NOW, 9)).unused == []  # it may still be on its way
        assert (await history.begin(9, 9)).unused == [arrival(3, digest=other, used=40)]

    async def test_what_costs_most_is_first_and_what_cost_nothing_is_no_cost(
        self, history: History
    ) -> None:
        sums = [
            Sum(int(NOW), HUB, APP, 1, served=9, fetched=5, used=4),
            Sum(int(NOW), GHCR, OTHER, 1, fetched=50, unused=50), Sum(int(NOW), HUB, NGINX, 1),
            Sum(int(NOW) - 9 * DAY, HUB, NGINX, 1, fetched=500),
        ]  # fmt: skip
        await history.record(Batch([], sums, []))
        costs = (await history.find_waste(NOW - DAY, NOW + HOUR, 9)).costs
        assert [(it.repository, it.fetched, it.saved, it.wasted) for it in costs] == [
            (OTHER, 50, 0, 50), (APP, 5, 5, 0),
        ]  # fmt: skip
        assert len((await history.find_waste(0, NOW + HOUR, 1)).costs) == 1

    async def test_names_are_known_again_the_latest_first(self, history: History) -> None:
        for number, name in enumerate((APP, NGINX, None), start=1):
            await history.record(Batch([pull(number, repository=name)], [], []))
        assert list((await history.begin(9, 9)).repositories) == [NGINX, APP]
        assert list((await history.begin(1, 9)).repositories) == [NGINX]

    # Spells

    async def test_a_spell_goes_on_until_it_is_over(self, history: History) -> None:
        assert await history.find_next_spell() == 1
        await history.record_spells([spell(1), spell(2, endpoint="other", state="paused")])
        await history.record_spells([spell(1, ended=NOW + 99)])
        assert await history.find_next_spell() == 3
        latest, first = await history.list_spells(0, None, 9)
        assert (latest, first) == (
            spell(2, endpoint="other", state="paused"), spell(1, ended=NOW + 99),
        )  # fmt: skip
        assert await history.list_spells(NOW + 50, None, 9) == [first]
        assert await history.list_spells(0, 2, 9) == [first]
        assert await history.list_spells(0, None, 1) == [latest]

    async def test_old_spells_go_and_so_do_too_many(self, history: History) -> None:
        await history.record_spells([spell(1), spell(2, ended=NOW + 900 * DAY)])
        await history.trim(NOW + 1001 * DAY)
        assert [it.id for it in await history.list_spells(0, None, 9)] == [2]
        await history.record_spells([spell(100_000, ended=NOW + 900 * DAY)])
        await history.trim(NOW + 1001 * DAY)
        assert [it.id for it in await history.list_spells(0, None, 9)] == [100_000]

    async def test_when_the_mirror_ran_is_kept_whatever_comes(self, history: History) -> None:
        running = spell(1, upstream="", endpoint="", state="running", ended=NOW + 900 * DAY)
        await history.record_spells([running, spell(100_000, ended=NOW + 900 * DAY)])
        await history.trim(NOW + 1001 * DAY)
        assert [it.id for it in await history.list_spells(0, None, 9)] == [100_000, 1]
        assert await history.list_longest_spells(0, 9, is_running=True) == [running]

    async def test_the_longest_spells_are_told_and_how_long_they_were_together(
        self, history: History
    ) -> None:
        short = [spell(number, began=NOW + number, ended=NOW + number + 0.5) for number in (1, 2)]
        long = spell(3, ended=NOW + 9)
        paused = spell(4, endpoint="other", state="paused", ended=NOW + 5)
        await history.record_spells([*short, long, paused])
        assert await history.list_longest_spells(0, 2, is_running=False) == [long, paused]
        assert await history.list_longest_spells(NOW + 6, 2, is_running=False) == [long]
        assert await history.list_longest_spells(0, 2, is_running=True) == []
        assert await history.sum_down(0, NOW + 99) == {(HUB, "hub"): (3, 10)}
        assert await history.sum_down(NOW + 2.25, NOW + 5) == {(HUB, "hub"): (2, 3)}

    # Sums

    async def test_what_was_pulled_of_something_is_summed_up(self, history: History) -> None:
        pulls = [
            pull(1, served=5, fetched=3), pull(2, served=5), pull(3, digest=TWO, served=1),
            pull(4, repository=NGINX),
        ]  # fmt: skip
        sums = [
            Sum(int(NOW), HUB, APP, pulls=2, served=10, fetched=3),
            Sum(int(NOW) + HOUR, HUB, APP, pulls=1, served=1), Sum(int(NOW), HUB, NGINX, pulls=1),
        ]  # fmt: skip
        await history.record(Batch(pulls, sums, []))
        assert await history.sum_repositories([APP, OTHER], NOW - 1) == {APP: Use(3, 11, 3)}
        assert await history.sum_repositories([APP], NOW + HOUR) == {APP: Use(1, 1, 0)}
        assert await history.sum_repositories([], NOW) == {}
        used = await history.sum_images(APP, [ONE, TWO], NOW)
        assert used == {ONE: Use(2, 10, 3), TWO: Use(1, 1, 0)}
        assert await history.sum_images(APP, [ONE], NOW + DAY) == {}

    # What is hidden

    async def test_what_is_hidden_is_told_in_sums_alone(self, history: History) -> None:
        sums = [
            Sum(HOUR, HUB, APP, served=1, fetched=1),
            Sum(HOUR, GHCR, OTHER, served=9, fetched=9),
        ]
        arrivals = [
            arrival(n, upstream=GHCR if n % 2 else HUB, repository=OTHER if n % 2 else APP,
                    digest=ONE if n % 2 else TWO)
            for n in range(1, 5)
        ]  # fmt: skip
        await history.record(
            Batch([pull(1), pull(2, upstream=GHCR, repository=OTHER)], sums, arrivals)
        )
        hidden = frozenset({GHCR})
        assert await ids(history, hidden=hidden) == [1]
        assert await ids(history, hidden=hidden, repository=OTHER) == []
        assert {it.repository for it in await history.list_arrivals(None, 9, hidden=hidden)} == {
            APP
        }
        assert await history.list_arrivals(ONE, 9, hidden=hidden) == []
        waste = await history.find_waste(0, NOW + DAY, 9, hidden=hidden)
        assert {(it.upstream, it.repository) for it in waste.costs} == {(HUB, APP), (GHCR, None)}
        assert {it.repository for it in waste.again} == {APP}
        assert {it.repository for it in waste.unused} == {APP}
        told = await history.list_totals(TotalsFilter(since=0, by="repository", hidden=hidden), 9)
        assert [(it.repository, it.served) for it in told] == [(None, 9), (APP, 1)]
        by_name = TotalsFilter(since=0, repository=OTHER, hidden=hidden)
        assert await history.list_totals(by_name, 9) == []
        (whole,) = await history.list_totals(TotalsFilter(since=0, hidden=hidden), 9)
        assert whole.served == 10

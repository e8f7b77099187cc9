"""The history on disk: in bounds of time and size, whatever comes."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mirror.history.ports import DAY, HOUR, Arrival, Batch, Pull, PullFilter, Sum, TotalsFilter
from mirror.history.sqlite import SCHEMA, Bounds, SqliteHistory
from mirror.oci.errors import StoreError
from mirror.telemetry.traffic import Result, Why

NOW = 1_800_000_000.0 // DAY * DAY
EVER = PullFilter()
LONG = Bounds(30 * DAY, 1000 * DAY, 2**30)


def pull(number: int, **changes: Any) -> Pull:
    facts: dict[str, Any] = {
        "id": number, "began": NOW + number, "seconds": 1.0, "client": "10.0.0.1",
        "agent": "docker", "upstream": "docker.io", "repository": "docker.io/org/app",
        "reference": "1", "digest": f"sha256:{'ab' * 32}", "was": None, "result": Result.HIT,
        "why": Why.HERE, "requests": 3, "failed": 0, "served": 10, "fetched": 0,
        "endpoint": None, "is_private": False,
    }  # fmt: skip
    return Pull(**facts | changes)


def arrival(number: int, **changes: Any) -> Arrival:
    facts: dict[str, Any] = {
        "id": number, "upstream": "docker.io", "repository": "docker.io/org/app",
        "digest": f"sha256:{'cd' * 32}", "began": NOW, "seconds": 1.0, "size": 100,
        "fetched": 100, "used": 0, "resumes": 1, "endpoint": "hub",
    }  # fmt: skip
    return Arrival(**facts | changes)


@pytest.fixture
async def history(tmp_path: Path) -> AsyncIterator[SqliteHistory]:
    async with SqliteHistory.open(tmp_path / "history.sqlite3", LONG) as history:
        yield history


async def test_a_pull_is_kept_as_it_is_told_last(history: SqliteHistory) -> None:
    await history.record(Batch([pull(1), pull(2, was="sha256:old")], [], []))
    await history.record(Batch([pull(1, served=99)], [], []))
    assert await history.list_pulls(EVER, 9) == [pull(2, was="sha256:old"), pull(1, served=99)]
    assert [it.id for it in await history.list_pulls(PullFilter(digest="sha256:old"), 9)] == [2]
    assert [it.id for it in await history.list_pulls(PullFilter(before=2), 9)] == [1]
    assert (await history.begin(9, 9)).next_pull == 3


async def test_pulls_go_when_they_are_old(history: SqliteHistory) -> None:
    await history.record(
        Batch([pull(1), pull(2, began=NOW + 20 * DAY)], [], [
            arrival(1), arrival(2, began=NOW + 20 * DAY),
        ])
    )  # fmt: skip
    await history.trim(NOW + 31 * DAY)
    assert [it.id for it in await history.list_pulls(EVER, 9)] == [2]
    assert [it.id for it in await history.list_arrivals(None, 9)] == [2]


async def test_hours_become_days_and_nothing_is_lost_in_it(history: SqliteHistory) -> None:
    sums = [
        Sum(int(NOW) + hour * HOUR, "docker.io", "docker.io/org/app", 1, 2, 3, 4, 50, 6, 7, 8)
        for hour in range(48)
    ]
    await history.record(Batch([], sums, []))
    hours = await history.list_totals(TotalsFilter(since=0), 99)
    before = await history.list_totals(TotalsFilter(since=0, span="day"), 99)
    assert len(hours) == 48
    assert [(it.pulls, it.served, it.saved) for it in before] == [(24, 1200, 24 * 43)] * 2
    await history.trim(NOW + 366 * DAY + 25 * HOUR)
    assert len(await history.list_totals(TotalsFilter(since=0), 99)) == 24
    assert await history.list_totals(TotalsFilter(since=0, span="day"), 99) == before
    await history.trim(NOW + 2000 * DAY)
    assert await history.list_totals(TotalsFilter(since=0, span="day"), 99) == []


async def test_it_takes_no_more_of_the_disk_than_it_may(tmp_path: Path) -> None:
    file, most = tmp_path / "history.sqlite3", 2**19
    async with SqliteHistory.open(file, Bounds(30 * DAY, 1000 * DAY, most)) as history:
        for first in range(1, 8001, 500):
            pulls = [pull(number) for number in range(first, first + 500)]
            sums = [
                Sum(int(NOW), "docker.io", f"docker.io/{n}", 1) for n in range(first, first + 500)
            ]
            await history.record(Batch(pulls, sums, []))
        await history.trim(NOW + DAY)
        kept = await history.list_pulls(EVER, 9999)
        totals = await history.list_totals(TotalsFilter(since=0, by="repository"), 9999)
    assert file.stat().st_size <= most + 2**20  # what it may have to spare
    with closing(sqlite3.connect(file)) as database:
        ((used,),) = database.execute(
            "SELECT (page_count - freelist_count) * 1024"
            " FROM pragma_page_count, pragma_freelist_count"
        )
    assert used <= most
    assert [it.id for it in kept] == [*range(8000, 8000 - len(kept), -1)]  # the oldest went
    assert 0 < len(kept) < len(totals) < 8000


async def test_addresses_are_forgotten_once_they_are_not_to_be_kept(tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite3"
    async with SqliteHistory.open(file, LONG) as history:
        await history.record(Batch([pull(1)], [], []))
    bounds = Bounds(30 * DAY, 1000 * DAY, 2**30, keeps_clients=False)
    async with SqliteHistory.open(file, bounds, private={"docker.io"}) as history:
        (told,) = await history.list_pulls(EVER, 9)
    assert (told.client, told.is_private) == (None, True)
    assert b"10.0.0.1" not in file.read_bytes()


async def test_nothing_but_totals_is_kept_where_no_pulls_are_wanted(tmp_path: Path) -> None:
    async with SqliteHistory.open(tmp_path / "h.sqlite3", Bounds(0, DAY, 2**30)) as history:
        sums = [Sum(int(NOW), "docker.io", None, 1)]
        await history.record(Batch([pull(1)], sums, [arrival(1)]))
        assert await history.list_pulls(EVER, 9) == []
        assert await history.list_arrivals(None, 9) == []
        assert [it.pulls for it in await history.list_totals(TotalsFilter(since=0), 9)] == [1]


async def test_waste_is_what_came_twice_and_what_came_for_nobody(history: SqliteHistory) -> None:
    other = f"sha256:{'ef' * 32}"
    await history.record(
        Batch([], [], [
            arrival(1, used=100), arrival(2, used=100), arrival(3, digest=other, used=40),
            arrival(4, digest="sha256:whole", used=100),
        ])
    )  # fmt: skip
    waste = await history.find_waste(0, NOW + HOUR, 9)
    assert [(it.digest, it.arrivals, it.extra) for it in waste.again] == [
        (arrival(1).digest, 2, 100)
    ]
    assert [(it.digest, it.fetched - it.used) for it in waste.unused] == [(other, 60)]
    assert (await history.begin(9, 9)).unused == [arrival(3, digest=other, used=40)]


async def test_somebody_elses_file_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite3"
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE theirs (x)")
        database.commit()
    with pytest.raises(StoreError, match="somebody else's database"):
        async with SqliteHistory.open(file, LONG):
            pass


def test_the_schema_is_only_ever_appended_to() -> None:
    assert SCHEMA.scripts == ("history.sql",)

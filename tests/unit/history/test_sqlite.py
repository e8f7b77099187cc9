"""The history on disk: in bounds of time and size, whatever comes."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from mirror.history.ports import DAY, Batch, History, Sum, TotalsFilter
from mirror.history.sqlite import SCHEMA, Bounds, SqliteHistory
from mirror.oci.errors import StoreError
from mirror.sqlite import damage
from tests.conformance.history import EVER, NOW, HistoryConformance, arrival, pull, spell

LONG = Bounds(30 * DAY, 1000 * DAY, 2**30)


class TestSqliteHistory(HistoryConformance):
    @pytest.fixture
    async def history(self, tmp_path: Path) -> AsyncIterator[History]:
        async with SqliteHistory.open(tmp_path / "history.sqlite3", LONG) as history:
            yield history


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


async def test_somebody_elses_file_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite3"
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE theirs (x)")
        database.commit()
    with pytest.raises(StoreError, match="somebody else's database"):
        async with SqliteHistory.open(file, LONG):
            pass


def test_the_schema_is_only_ever_appended_to() -> None:
    assert SCHEMA.scripts == ("history.sql", "history_spells.sql")


async def test_who_does_not_have_it_alone_leaves_a_damaged_file_where_it_is(tmp_path: Path) -> None:
    """A command reads it, and a mirror that does not answer may be writing it."""
    file = tmp_path / "history.sqlite3"
    async with SqliteHistory.open(file, LONG) as history:
        await history.record_spells([spell(1)])
        damage.note(file)
        async with SqliteHistory.open(file, LONG, sets_aside=False) as another:
            assert await another.list_spells(0, None, 9) == [spell(1)]
    _put(file, b"\xff" * 8192)
    with pytest.raises(StoreError, match="not a database"):
        async with SqliteHistory.open(file, LONG, sets_aside=False):
            pass
    assert _content(file) == b"\xff" * 8192


async def test_a_damaged_file_that_cannot_be_moved_is_told_in_words(tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite3"
    _put(file, b"\xff" * 8192)
    (tmp_path / "history.sqlite3.damaged").mkdir()
    with pytest.raises(StoreError, match="is damaged and cannot be set aside: Is a directory"):
        async with SqliteHistory.open(file, LONG):
            pass


def _put(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def _content(file: Path) -> bytes:
    return file.read_bytes()

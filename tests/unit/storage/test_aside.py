"""Databases that were set aside: they are there for whoever wants to look, and not for ever."""

import os
from pathlib import Path

import pytest

from mirror.sqlite import damage
from mirror.storage.rebuild import set_index_aside
from tests.support.clock import FakeClock
from tests.unit.storage.opening import open_store

DAY = 86400


async def test_they_stay_for_a_month_from_when_they_were_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    aside = {
        tmp_path / name
        for name in ("index.sqlite3.old", "index.sqlite3.old-wal", "history.sqlite3.damaged")
    }
    others = {tmp_path / name for name in ("records.sqlite3", "mirror.toml.old")}
    for path in aside | others:
        path.touch()
        os.utime(path, (clock(), clock()))
    async with open_store(tmp_path, clock=clock) as store:
        clock.advance(29 * DAY)
        await store.tidy()
        assert {path for path in aside if path.exists()} == aside
        clock.advance(DAY)
        with caplog.at_level("INFO"):
            await store.tidy()
        assert {path for path in aside | others if path.exists()} == others
        assert "index.sqlite3.old was set aside long ago, and is removed" in caplog.text


async def test_what_was_last_written_long_ago_counts_as_set_aside_now(tmp_path: Path) -> None:
    index, records = tmp_path / "index.sqlite3", tmp_path / "records.sqlite3"
    for path in (index, records):
        path.touch()
        os.utime(path, (0, 0))
    await set_index_aside(tmp_path)
    damage.set_aside(records)
    (now := tmp_path / "now").touch()
    async with open_store(tmp_path, clock=FakeClock(now.stat().st_mtime)) as store:
        await store.tidy()
    assert (tmp_path / "index.sqlite3.old").exists()
    assert (tmp_path / "records.sqlite3.damaged").exists()

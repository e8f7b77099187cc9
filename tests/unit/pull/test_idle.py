"""What nobody has asked for in `max_idle` goes, unless somebody keeps it longer or uses it."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from mirror.oci.digest import Digest
from mirror.pull.idle import Idle
from mirror.records.sqlite import SqliteRecords
from tests.support.clock import FakeClock
from tests.unit.storage.opening import content, held, on_disk, open_store, put

DAY = 86_400.0
HUB, QUAY, OWN = "docker.io", "quay.io", "registry.example"
LIMITS = {HUB: 30 * DAY, QUAY: 60 * DAY}


@pytest.mark.parametrize(
    ("senders", "days", "stays"),
    [
        ([HUB], 29, True),
        ([HUB], 31, False),
        ([HUB, QUAY], 31, True),
        ([HUB, QUAY], 61, False),
        ([HUB, OWN], 1_000, True),
        ([OWN], 1_000, True),
        ([], 1_000, True),
    ],
)
async def test_what_is_idle_goes_when_nobody_it_came_through_keeps_it_longer(
    tmp_path: Path, clock: FakeClock, senders: list[str], days: float, *, stays: bool
) -> None:
    async with (
        open_store(tmp_path, clock=clock) as store,
        SqliteRecords.open(tmp_path / "records.sqlite3", clock=clock) as records,
    ):
        digest = await put(store, content(100))
        for sender in senders:
            await records.record_sent(sender, digest)
        clock.advance(days * DAY)
        await Idle(store, records, LIMITS, clock=clock, monotonic=clock.monotonic).look()
        assert (await held(store, digest) is not None) == stays


async def test_what_was_asked_for_or_is_read_now_stays(tmp_path: Path, clock: FakeClock) -> None:
    gone: list[Digest] = []
    async with (
        open_store(tmp_path, clock=clock, dropped=gone.append) as store,
        SqliteRecords.open(tmp_path / "records.sqlite3", clock=clock) as records,
    ):
        read, asked, idle = [await put(store, content(100, seed)) for seed in range(3)]
        for digest in (read, asked, idle):
            await records.record_sent(HUB, digest)
        blob = await store.open_blob(read)
        assert blob is not None
        clock.advance(29 * DAY)
        store.note_access(asked)
        clock.advance(2 * DAY)
        await Idle(store, records, LIMITS, clock=clock, monotonic=clock.monotonic).look()
        blob.close()
        assert on_disk(tmp_path) == {read.encoded, asked.encoded}
        assert gone == [idle]  # so that no memory has it any more


async def test_what_is_pinned_stays_however_long_nobody_has_asked_for_it(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with (
        open_store(tmp_path, clock=clock) as store,
        SqliteRecords.open(tmp_path / "records.sqlite3", clock=clock) as records,
    ):
        pinned, other = [await put(store, content(100, seed)) for seed in range(2)]
        for digest in (pinned, other):
            await records.record_sent(HUB, digest)
        await store.pins.pin("app:1", [pinned])
        clock.advance(31 * DAY)
        idle = Idle(store, records, LIMITS, clock=clock, monotonic=clock.monotonic)
        await idle.look()
        assert on_disk(tmp_path) == {pinned.encoded}
        await store.pins.pin("app:1", [])
        await idle.look()
        assert not on_disk(tmp_path)


@pytest.mark.parametrize("limits", [{}, {QUAY: DAY}])
async def test_nothing_goes_where_nothing_is_said(
    tmp_path: Path, clock: FakeClock, limits: Mapping[str, float]
) -> None:
    async with (
        open_store(tmp_path, clock=clock) as store,
        SqliteRecords.open(tmp_path / "records.sqlite3", clock=clock) as records,
    ):
        await records.record_sent(HUB, await put(store, content(100)))
        clock.advance(1_000 * DAY)
        idle = Idle(store, records, limits, clock=clock, monotonic=clock.monotonic)
        assert await idle.look_if_steady()
        assert len(on_disk(tmp_path)) == 1


async def test_a_clock_that_is_years_ahead_for_a_while_has_nothing_removed(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with (
        open_store(tmp_path, clock=clock) as store,
        SqliteRecords.open(tmp_path / "records.sqlite3", clock=clock) as records,
    ):
        digest = await put(store, content(100))
        await records.record_sent(HUB, digest)
        idle = Idle(store, records, LIMITS, clock=clock, monotonic=clock.monotonic)
        clock.set_back(-25_000 * DAY)
        clock.advance(600)
        assert not await idle.look_if_steady()
        clock.set_back(25_000 * DAY)
        clock.advance(600)
        assert not await idle.look_if_steady()
        clock.advance(29 * DAY)
        assert await idle.look_if_steady()
        assert on_disk(tmp_path) == {digest.encoded}
        clock.set_back(-31 * DAY)  # it was wrong before: it stays so
        assert not await idle.look_if_steady()
        clock.advance(600)
        assert await idle.look_if_steady()
        assert not on_disk(tmp_path)

"""What has gone wrong on disk is found while nobody asks for it, set aside, and fetched again."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mirror.oci.digest import Digest, digest_of
from mirror.storage.hashing import PIECE, Hashed, HashingProcess
from mirror.storage.scrub import ScrubPace
from mirror.telemetry.metrics import Metrics
from tests.support.clock import FakeClock
from tests.support.mirror import sample
from tests.support.process import until
from tests.unit.storage.opening import (
    blob_path,
    content,
    held,
    on_disk,
    open_store,
    put,
    quarantined,
    recorded,
    rot,
)

DAY = 86400
DATA = content(300_000)
DIGEST = digest_of(DATA)
NAME = f"sha256-{DIGEST.encoded}"


def _cut(path: Path) -> None:
    os.truncate(path, 100)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"!")


@pytest.mark.parametrize("harm", [rot, _cut, _empty, _grow, Path.unlink])
async def test_damage_that_nobody_has_asked_for_is_found_and_gone_for_everyone(
    tmp_path: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    clock, metrics, forgotten = FakeClock(), Metrics(), list[Digest]()
    async with open_store(
        tmp_path, clock=clock, metrics=metrics, dropped=forgotten.append, max_quarantine=10**6
    ) as store:
        await put(store, DATA)
        other = await put(store, content(1_000))
        harm(blob_path(tmp_path, DIGEST))
        clock.advance(16 * DAY)
        with caplog.at_level(logging.ERROR):
            await store.scrub()
        assert forgotten == [DIGEST]
        assert on_disk(tmp_path) == {other.encoded}
        assert quarantined(tmp_path) == (set() if harm is Path.unlink else {NAME})
        assert store.totals.bytes == 1_000
        assert await store.open_blob(DIGEST) is None
        assert [record.message for record in caplog.records] == [
            record.message for record in caplog.records if "is set aside" in record.message
        ]
        assert len(caplog.records) == 1
        await put(store, DATA)
        assert await held(store, DIGEST) == DATA
        assert store.totals.bytes == 301_000
    shown = metrics.exposition().decode()
    assert sample(shown, "mirror_damaged_blobs_total") == 1
    assert sample(shown, "mirror_scrubbed_blobs_total") == 2


async def test_what_was_proved_lately_is_left_alone_also_after_a_restart(tmp_path: Path) -> None:
    clock, metrics = FakeClock(), Metrics()
    async with open_store(tmp_path, clock=clock, metrics=metrics) as store:
        await put(store, DATA)
        clock.advance(14 * DAY)
        await store.scrub()
        clock.advance(2 * DAY)
        await put(store, content(1_000))
        await store.scrub()
    assert sample(metrics.exposition().decode(), "mirror_scrubbed_bytes_total") == len(DATA)
    metrics = Metrics()
    async with open_store(tmp_path, clock=clock, metrics=metrics) as store:
        clock.advance(14 * DAY)
        await store.scrub()
    assert sample(metrics.exposition().decode(), "mirror_scrubbed_blobs_total") == 0


async def test_more_blobs_than_are_looked_at_at_once_are_all_proved_in_a_round(
    tmp_path: Path,
) -> None:
    clock, metrics = FakeClock(), Metrics()
    async with open_store(tmp_path, clock=clock, metrics=metrics) as store:
        for seed in range(120):
            await put(store, content(10, seed))
        clock.advance(40 * DAY)
        await store.scrub()
    assert sample(metrics.exposition().decode(), "mirror_scrubbed_blobs_total") == 120
    assert recorded(tmp_path, "SELECT count(DISTINCT proved_on), min(proved_on) FROM blobs") == [
        (1, int(clock() // DAY))
    ]


async def test_a_clock_that_is_set_back_keeps_no_blob_from_being_proved(tmp_path: Path) -> None:
    clock, metrics = FakeClock(), Metrics()
    async with open_store(tmp_path, clock=clock, metrics=metrics) as store:
        await put(store, DATA)
        clock.advance(-100 * DAY)
        await store.scrub()
    assert sample(metrics.exposition().decode(), "mirror_scrubbed_blobs_total") == 1


async def test_scrubbing_waits_while_a_client_reads_unless_a_blob_has_waited_too_long(
    tmp_path: Path,
) -> None:
    clock, metrics = FakeClock(), Metrics()

    def scrubbed() -> float:
        return sample(metrics.exposition().decode(), "mirror_scrubbed_blobs_total")

    async with open_store(tmp_path, clock=clock, metrics=metrics) as store:
        digest = await put(store, DATA)
        clock.advance(20 * DAY)
        reading = await store.open_blob(digest)
        assert reading is not None
        scrubbing = asyncio.get_running_loop().create_task(store.scrub())
        done, _ = await asyncio.wait([scrubbing], timeout=0.5)
        assert not done
        assert scrubbed() == 0
        reading.close()
        await scrubbing
        assert scrubbed() == 1
        reading = await store.open_blob(digest)
        assert reading is not None
        clock.advance(29 * DAY)
        await store.scrub()
        assert scrubbed() == 2
        reading.close()


async def test_where_it_is_never_quiet_what_is_urgent_is_proved_before_what_can_wait(
    tmp_path: Path,
) -> None:
    clock, metrics = FakeClock(), Metrics()

    def scrubbed() -> float:
        return sample(metrics.exposition().decode(), "mirror_scrubbed_blobs_total")

    async with open_store(tmp_path, clock=clock, metrics=metrics) as store:
        first, second = sorted(
            (content(1_000), content(1_000, 1)), key=lambda it: str(digest_of(it))
        )
        read = await put(store, content(1_000, 2))
        await put(store, second)
        clock.advance(8 * DAY)
        await put(store, first)  # is looked at first, in the order of digests
        clock.advance(20 * DAY)
        reading = await store.open_blob(read)
        assert reading is not None
        scrubbing = asyncio.get_running_loop().create_task(store.scrub())
        done, _ = await asyncio.wait([scrubbing], timeout=0.5)
        assert (scrubbed(), done) == (2, set())
        clock.advance(DAY)
        await scrubbing
        assert scrubbed() == 2
        clock.advance(6 * DAY)
        await store.scrub()  # nothing is left that could wait
        assert scrubbed() == 3
        reading.close()


async def test_a_slow_rate_is_kept_and_a_round_that_is_stopped_goes_on_where_it_was(
    tmp_path: Path,
) -> None:
    clock, metrics = FakeClock(), Metrics()
    size = PIECE + 1
    async with open_store(
        tmp_path, clock=clock, metrics=metrics, scrub=ScrubPace(30 * DAY, PIECE // 100)
    ) as store:
        for seed in range(2):
            await put(store, content(size, seed))
        clock.advance(20 * DAY)
        scrubbing = asyncio.get_running_loop().create_task(store.scrub())
        done, _ = await asyncio.wait([scrubbing], timeout=0.5)
        assert not done  # the second piece is due in 100 s
        scrubbing.cancel()
        await asyncio.wait([scrubbing])
    async with open_store(tmp_path, clock=clock, metrics=metrics) as store:
        await store.scrub()
    assert sample(metrics.exposition().decode(), "mirror_scrubbed_bytes_total") == 2 * size


async def test_what_is_read_while_it_turns_out_to_be_damaged_is_read_to_its_end(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    async with open_store(tmp_path, clock=clock, max_quarantine=10**6) as store:
        await put(store, DATA)
        reading = await store.open_blob(DIGEST)
        assert reading is not None
        rot(blob_path(tmp_path, DIGEST))
        clock.advance(30 * DAY)
        await store.scrub()
        assert os.fstat(reading.file.fileno()).st_size == len(DATA)
        reading.close()
        assert await store.open_blob(DIGEST) is None


def _lead_in_circles(path: Path) -> None:
    path.symlink_to(path)  # ELOOP, whoever asks


@pytest.mark.parametrize("replace", [_lead_in_circles, Path.mkdir])
async def test_what_cannot_be_read_for_another_reason_is_not_called_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, replace: Callable[[Path], None]
) -> None:
    clock, metrics = FakeClock(), Metrics()
    async with open_store(tmp_path, clock=clock, metrics=metrics) as store:
        await put(store, DATA)
        other = await put(store, content(1_000))
        path = blob_path(tmp_path, DIGEST)
        path.rename(tmp_path / "aside")
        replace(path)
        clock.advance(30 * DAY)
        with caplog.at_level(logging.WARNING):
            await store.scrub()
        assert "not scrubbed" in caplog.text
        assert store.totals.blobs == 2
        assert await held(store, other) == content(1_000)
    assert sample(metrics.exposition().decode(), "mirror_damaged_blobs_total") == 0


# What is set aside


async def test_quarantine_keeps_the_newest_within_its_bounds_and_counts_in_the_store(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    async with open_store(tmp_path, clock=clock, max_quarantine=2_500) as store:
        for seed in range(5):
            digest = await put(store, content(1_000, seed))
            rot(blob_path(tmp_path, digest))
            assert await store.read_blob(digest, limit=1_000) is None
        newest = {f"sha256-{digest_of(content(1_000, seed)).encoded}" for seed in (3, 4)}
        assert quarantined(tmp_path) == newest
        assert store.promised == 2_000
        large = await put(store, content(3_000))
        rot(blob_path(tmp_path, large))
        assert await store.read_blob(large, limit=3_000) is None
        assert quarantined(tmp_path) == newest
        assert large.encoded not in on_disk(tmp_path)
    async with open_store(tmp_path, clock=clock, max_quarantine=1_000) as store:
        assert store.promised == 1_000
        assert len(quarantined(tmp_path)) == 1
    async with open_store(tmp_path, clock=clock) as store:
        assert store.promised == 0
        assert quarantined(tmp_path) == set()


async def test_quarantine_takes_no_more_than_a_tenth_of_the_store_and_a_hundred_files(
    tmp_path: Path,
) -> None:
    async with open_store(tmp_path, max_size=2_000, max_quarantine=10**9) as store:
        for size in (201, 200):
            digest = await put(store, content(size))
            rot(blob_path(tmp_path, digest))
            assert await store.read_blob(digest, limit=size) is None
        assert store.promised == 200
    for number in range(150):
        (tmp_path / "quarantine" / str(number)).touch()
    async with open_store(tmp_path, max_size=2_000, max_quarantine=10**9):
        assert len(quarantined(tmp_path)) == 100


async def test_no_start_waits_for_what_others_have_piled_up_in_quarantine(tmp_path: Path) -> None:
    async with open_store(tmp_path):
        pass
    (tmp_path / "quarantine" / "a directory").mkdir(parents=True)
    for number in range(1_500):
        (tmp_path / "quarantine" / str(number)).write_bytes(b"x")
    async with open_store(tmp_path, max_quarantine=10**9, is_served=False) as store:
        assert len(quarantined(tmp_path)) == 1_501
        await store.tidy()
        assert len(quarantined(tmp_path)) == 101
        assert store.promised == 100
    assert "a directory" in quarantined(tmp_path)


# The process that hashes


async def _never(_: int) -> None:
    """No pace."""


async def test_hashing_is_done_by_a_process_of_the_idle_class_that_ends_with_its_work(
    tmp_path: Path,
) -> None:
    path = tmp_path / "name with \n and ü"
    path.write_bytes(bytes(2 * PIECE + 1))
    classes, pids = set(), set()

    before = _children()

    async def look(_: int) -> None:
        for pid in _children() - before:
            pids.add(pid)
            # It sets this before it answers the first question.
            classes.add(os.sched_getscheduler(pid))

    hashing = HashingProcess(is_idle=True)
    try:
        assert await hashing.hash(str(path), "sha256", look) == Hashed(
            2 * PIECE + 1, digest_of(path.read_bytes()).encoded
        )
        with pytest.raises(FileNotFoundError):
            await hashing.hash(str(tmp_path / "gone"), "sha256", _never)
        assert (await hashing.hash(str(path), "sha512", _never)).size == 2 * PIECE + 1
    finally:
        await hashing.close()
    assert classes == {os.SCHED_IDLE}
    assert len(pids) == 1
    assert _children() == before


async def test_a_process_that_is_killed_while_it_hashes_costs_that_blob_its_turn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, metrics = FakeClock(), Metrics()
    before = _children()  # servers of other tests are none of ours to kill
    async with open_store(
        tmp_path, clock=clock, metrics=metrics, scrub=ScrubPace(30 * DAY, PIECE)
    ) as store:
        await put(store, content(2 * PIECE + 1))
        clock.advance(30 * DAY)
        scrubbing = asyncio.get_running_loop().create_task(store.scrub())

        async def has_begun() -> bool:
            return bool(_children() - before)

        await until(has_begun)
        for pid in _children() - before:
            os.kill(pid, signal.SIGKILL)
        with caplog.at_level(logging.WARNING):
            await scrubbing
        assert "not scrubbed" in caplog.text
        assert store.totals.blobs == 1
    async with open_store(tmp_path, clock=clock, metrics=metrics) as store:
        await store.scrub()
    assert sample(metrics.exposition().decode(), "mirror_scrubbed_blobs_total") == 1


def _children() -> set[int]:
    """The processes that this one has started."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found

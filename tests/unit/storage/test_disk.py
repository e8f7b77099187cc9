"""A disk that is full, and one that may not be written to: real ones, small, in memory."""

import asyncio
import fcntl
import itertools
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from mirror.oci.digest import digest_of
from mirror.oci.errors import StoreError
from mirror.storage.errors import NoRoom
from mirror.storage.files import InUse
from mirror.storage.index import Index
from mirror.storage.ports import Writer
from tests.support.process import run
from tests.support.small_disk import small_disk
from tests.unit.storage.opening import (
    UPSTREAM,
    content,
    expecting,
    on_disk,
    open_store,
    partials,
    put,
    write,
)  # fmt: skip

SIZE = 4 * 2**20
KEPT = digest_of(b"kept")


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Path]:
    async with small_disk(tmp_path / "disk", SIZE) as path:
        yield path


async def test_a_disk_without_room_is_no_room_and_no_loss(disk: Path) -> None:
    async with open_store(disk, max_size=100 * SIZE) as store:
        kept = await put(store, content(100_000))
        data = content(2 * SIZE)
        writer = await store.open_writer(UPSTREAM, digest_of(data), None)
        with pytest.raises(NoRoom):
            await _write_in_pieces(writer, data)
        assert writer.written > 2**20
        assert not writer.is_proved()
        await writer.discard()
        writer.close()
        assert store.promised == 0
        assert await store.read_blob(kept, limit=SIZE) == content(100_000)
        await put(store, content(2**20))
        assert len(on_disk(disk)) == 2


async def test_what_was_written_before_the_disk_was_full_can_be_continued(disk: Path) -> None:
    data = content(2**20)
    async with open_store(disk, max_size=100 * SIZE) as store:
        writer = await store.open_writer(UPSTREAM, digest_of(data), len(data))
        await write(writer, 2**19, data[2**19 :])
        ballast = _fill_up(disk)
        with pytest.raises(NoRoom, match="No space left"):
            await write(writer, 0, data[: 2**19])
        await writer.suspend()
        writer.close()
        ballast.unlink()
    async with open_store(disk, max_size=100 * SIZE) as store:
        writer = await store.open_writer(UPSTREAM, digest_of(data), len(data))
        assert writer.missing() == [(0, 2**19)]
        await write(writer, 0, data[: 2**19])
        await writer.commit()
        writer.close()
        assert await store.read_blob(digest_of(data), limit=SIZE) == data


def _free(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


def _fill_up(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 4096):
            pass
    return ballast


async def _write_in_pieces(writer: Writer, data: bytes) -> None:
    for start in range(0, len(data), 2**18):
        await write(writer, start, data[start : start + 2**18])


async def _record_many(index: Index) -> None:
    for number in range(10_000):
        await index.record_blob(digest_of(b"%d" % number), 1, now=1.0)


async def test_an_index_on_a_full_disk_says_so_and_recovers(disk: Path) -> None:
    async with Index.open(disk / "index.sqlite3") as index:
        await index.record_blob(KEPT, 10, now=1.0)
        ballast = _fill_up(disk)
        with pytest.raises(StoreError, match="make room on its disk"):
            await _record_many(index)
        kept = index.totals
        assert await index.find_size(KEPT) == 10
        ballast.unlink()
        await index.record_blob(digest_of(b"later"), 10, now=1.0)
        assert await index.find_size(digest_of(b"later")) == 10
        assert index.totals.blobs == kept.blobs + 1


async def test_min_free_keeps_the_disk_from_filling_up(disk: Path) -> None:
    async with open_store(disk, max_size=100 * SIZE, min_free=2 * 2**20) as store:
        for seed in range(12):
            await put(store, content(2**18, seed))
            assert _free(disk) >= 2 * 2**20 - 2**17  # the index grows, too
        assert 3 <= len(on_disk(disk)) <= 8


async def test_a_disk_that_somebody_else_fills_makes_blobs_leave(disk: Path) -> None:
    async with open_store(disk, max_size=100 * SIZE) as store:
        for seed in range(8):
            await put(store, content(2**18, seed))
    (disk / "ballast").write_bytes(b"\0" * 2**20)
    async with open_store(disk, max_size=100 * SIZE, min_free=2**20) as store:
        async with asyncio.timeout(10):
            while _free(disk) < 2**20:
                await store.is_writable()
        assert len(on_disk(disk)) >= 3


def _full_to_the_last_byte(disk: Path) -> Path:
    """Where the index's log has no page to spare, either."""
    with closing(sqlite3.connect(disk / "index.sqlite3")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return _fill_up(disk)


async def test_a_disk_that_is_full_to_the_last_byte_is_made_room_on(disk: Path) -> None:
    async with open_store(disk, max_size=100 * SIZE, min_free=2**19) as store:
        for seed in range(8):
            await put(store, content(2**18, seed))
        _full_to_the_last_byte(disk)
        assert _free(disk) == 0
        assert not await store.is_writable()
        await store.tidy()
        assert _free(disk) >= 2**19
        assert await store.is_writable()
        stored = await store.find_stored([digest_of(content(2**18, seed)) for seed in range(8)])
        assert {digest.encoded for digest in stored} == on_disk(disk)
        assert 4 <= len(stored) <= 6


async def test_a_download_goes_on_where_somebody_else_has_filled_the_disk(disk: Path) -> None:
    data = content(2**20, 99)
    async with open_store(disk, max_size=100 * SIZE) as store:
        for seed in range(8):
            await put(store, content(2**18, seed))
        writer = await expecting(store, digest_of(data), len(data))
        await write(writer, 0, data[: 2**18])
        _full_to_the_last_byte(disk)
        for start in range(2**18, 2**20, 2**18):
            await write(writer, start, data[start : start + 2**18])
        assert writer.is_proved()
        assert len(on_disk(disk)) < 8
        (disk / "ballast").unlink()
        await writer.commit()
        writer.close()
        assert await store.read_blob(digest_of(data), limit=SIZE) == data


@pytest.fixture
async def few_files(tmp_path: Path) -> AsyncIterator[Path]:
    """A disk with room for many bytes, and for fewer files than that."""
    async with small_disk(tmp_path / "disk", 16 * SIZE, files=500) as path:
        yield path


def _take_all_files(disk: Path) -> None:
    others = disk / "of-another-program"
    others.mkdir(exist_ok=True)
    with suppress(OSError):
        for number in itertools.count(len(list(others.iterdir()))):
            (others / str(number)).touch()


async def test_where_there_are_no_more_files_blobs_make_room_for_some(few_files: Path) -> None:
    async with open_store(few_files, max_size=100 * SIZE) as store:
        small = [await put(store, content(100, seed)) for seed in range(90)]
        large = await put(store, content(2**20))
        _take_all_files(few_files)
        assert not await store.is_writable()
        for seed in range(100, 120):
            await put(store, content(100, seed))
        assert 90 - 64 + 20 <= len(on_disk(few_files)) - 1 < 90
        assert await store.find_stored([large])  # it takes no more of them than a small one
        assert len(await store.find_stored(small)) == 90 - 64


async def test_no_blob_goes_again_where_others_take_all_the_files_that_it_leaves(
    few_files: Path,
) -> None:
    async with open_store(few_files, max_size=100 * SIZE) as store:
        for seed in range(90):
            await put(store, content(100, seed))
        store.watch_evictions(lambda _: _take_all_files(few_files))
        _take_all_files(few_files)
        with pytest.raises(NoRoom, match="No space left"):
            await put(store, content(100, 100))
        assert len(on_disk(few_files)) == 90 - 64
        with pytest.raises(NoRoom, match="No space left"):
            await put(store, content(100, 101))
        assert len(on_disk(few_files)) == 90 - 64


async def test_a_disk_that_may_not_be_written_to_says_what_to_do(disk: Path) -> None:
    async with open_store(disk, max_size=SIZE) as store:
        digest = await put(store, content(1_000))
    await run("mount", "-o", "remount,ro", disk)
    with pytest.raises(StoreError, match=r"made it read-only .* set another store\.root"):
        async with open_store(disk, max_size=SIZE):
            pass
    assert on_disk(disk) == {digest.encoded}
    assert partials(disk) == set()


async def test_a_mirror_is_found_that_runs_on_a_disk_that_has_become_read_only(disk: Path) -> None:
    async with open_store(disk, max_size=SIZE):
        pass
    with (disk / "lock").open("rb") as held:  # as a writer's, it would keep the disk writable
        fcntl.flock(held, fcntl.LOCK_EX)
        await run("mount", "-o", "remount,ro", disk)
        with pytest.raises(InUse):
            async with open_store(disk, max_size=SIZE):
                pass

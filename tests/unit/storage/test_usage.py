"""What counts in `max_size` is what the disk really gives."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from mirror.oci.digest import digest_of
from mirror.storage.errors import NoRoom
from mirror.storage.index import Index
from mirror.storage.store import LocalStorage
from mirror.storage.usage import Usage
from tests.unit.storage.opening import (
    UPSTREAM,
    blob_path,
    content,
    on_disk,
    open_store,
    put,
    quarantined,
    rot,
    write,
)

BLOCK = 4096
SLACK = 13 * 2**20  # bytes: three logs at their size, and directories


def disk_usage(root: Path) -> int:
    """Bytes, as `du` counts them."""
    return sum(path.lstat().st_blocks * 512 for path in (root, *root.rglob("*")))


@pytest.fixture
async def empty(tmp_path: Path) -> int:
    """Bytes that the store takes when nothing is in it."""
    taken = 0
    for _ in range(2):
        async with open_store(tmp_path, max_size=2**40, counting=Usage) as store:
            taken = store.taken
    return taken


async def test_small_blobs_take_whole_blocks_of_the_limit(tmp_path: Path, empty: int) -> None:
    room = empty + 40 * BLOCK
    async with open_store(tmp_path, max_size=room, counting=Usage) as store:
        for seed in range(30):
            await put(store, content(BLOCK + 1, seed))
            await store.tidy()
            assert disk_usage(tmp_path) <= store.taken <= room
        assert 10 <= len(on_disk(tmp_path)) <= 20
        assert store.totals.bytes < 20 * (BLOCK + 1)
        assert store.taken - disk_usage(tmp_path) < SLACK


async def test_a_download_with_gaps_takes_whole_blocks_of_the_limit(
    tmp_path: Path, empty: int
) -> None:
    data = content(16 * BLOCK)
    room = empty + 16 * BLOCK
    async with open_store(tmp_path, max_size=room, counting=Usage) as store:
        before = store.taken
        writer = await store.open_writer(UPSTREAM, digest_of(data), len(data))
        for start in range(0, len(data), 4 * BLOCK):
            await write(writer, start + 1, data[start + 1 : start + 3])
            assert disk_usage(tmp_path) <= store.taken <= room
        await writer.suspend()
        writer.close()
        assert store.taken - before >= 5 * BLOCK  # and which of it is there
    async with open_store(tmp_path, max_size=room, counting=Usage) as store:
        assert store.promised == 5 * BLOCK


async def test_the_databases_count_in_the_limit(tmp_path: Path, empty: int) -> None:
    room = empty + 100 * BLOCK
    async with open_store(tmp_path, max_size=room, counting=Usage) as store:
        await put(store, content(50 * BLOCK))
        (tmp_path / "records.sqlite3").write_bytes(bytes(80 * BLOCK))
        await store.tidy()
        assert store.totals.blobs == 0
        with pytest.raises(NoRoom):
            await put(store, content(50 * BLOCK))
        assert disk_usage(tmp_path) <= store.taken <= room


async def test_blobs_are_counted_anew_where_blocks_are_of_another_size(tmp_path: Path) -> None:
    for block, taken in ((1, 300), (4096, 12_288), (65_536, 196_608)):
        async with Index.open(tmp_path / "index.sqlite3", block=block) as index:
            for seed in range(3):
                await index.record_blob(digest_of(b"%d" % seed), 100, now=1.0)
            assert index.taken == taken
            await index.record_blob(digest_of(b"0"), block + 1, now=2.0)
            await index.record_blob(digest_of(b"0"), 100, now=2.0)
            await index.record_blob(digest_of(b"3"), 2 * block + 1, now=1.0)
            assert index.taken == taken + (3 * block if block > 1 else 3)
            await index.forget_blobs([digest_of(b"3")])
            assert index.taken == taken


async def test_whatever_else_lies_in_the_store_counts(tmp_path: Path, empty: int) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found" / "blob").write_bytes(bytes(10 * BLOCK))
    async with open_store(tmp_path, max_size=empty + 9 * BLOCK, counting=Usage) as store:
        assert store.taken >= empty + 10 * BLOCK
        with pytest.raises(NoRoom):
            await put(store, content(BLOCK))


async def test_what_is_set_aside_counts_once_in_whole_blocks(tmp_path: Path, empty: int) -> None:
    room = empty + 400 * BLOCK

    def opened() -> AbstractAsyncContextManager[LocalStorage]:
        return open_store(tmp_path, max_size=room, max_quarantine=room, counting=Usage)

    async with opened() as store:
        digest = await put(store, content(20 * BLOCK + 1))
        full = store.taken
        rot(blob_path(tmp_path, digest))
        assert await store.read_blob(digest, limit=room) is None
        assert quarantined(tmp_path) == {f"sha256-{digest.encoded}"}
        await store.tidy()
        assert full <= store.taken < full + 10 * BLOCK  # directories are new
        assert disk_usage(tmp_path) <= store.taken
    async with opened() as store:
        assert full <= store.taken < full + 10 * BLOCK
        assert store.promised == 21 * BLOCK


async def test_a_disk_that_cannot_say_what_is_free_keeps_nobody_from_being_told(
    tmp_path: Path,
) -> None:
    root = tmp_path / "store"
    async with open_store(root, max_size=2**30) as store:
        root.rename(tmp_path / "away")
        assert await store.find_free() == store.free > 0
        (tmp_path / "away").rename(root)
        assert await store.find_free() > 0

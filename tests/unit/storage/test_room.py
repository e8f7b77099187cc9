"""What is not proved costs what is proved a bounded share at most, and nothing for a mere word."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.oci.digest import digest_of
from mirror.storage.errors import NoRoom, TooLarge
from mirror.storage.index import Index
from mirror.storage.ports import Writer
from mirror.storage.store import LocalStorage
from tests.unit.storage.opening import content, expecting, on_disk, open_store, put, write

MIB = 2**20
SIZE = 16 * MIB
PIECE = 256 * 2**10


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStorage]:
    """Full, with 16 blobs of 1 MiB that are proved."""
    async with open_store(tmp_path, max_size=SIZE) as store:
        for seed in range(16):
            await put(store, content(MIB, seed))
        yield store


async def _writer(store: LocalStorage, upstream: str, hint: int | None = None) -> Writer:
    return await store.open_writer(upstream, digest_of(upstream.encode()), hint)


async def _pour(writer: Writer, size: int) -> int:
    """Write until there is no more room; how many bytes there were."""
    try:
        for start in range(writer.written, size, PIECE):
            await write(writer, start, bytes(PIECE))
    except NoRoom:
        pass
    return writer.written


async def _drop(*writers: Writer) -> None:
    for writer in writers:
        await writer.discard()
        writer.close()


@pytest.mark.parametrize("hint", [1, MIB, SIZE - 1, SIZE])
async def test_a_promise_of_a_manifest_makes_nothing_leave(
    store: LocalStorage, tmp_path: Path, hint: int
) -> None:
    await _drop(await _writer(store, "evil", hint))
    assert len(on_disk(tmp_path)) == 16


async def test_what_upstream_tells_makes_nothing_leave_before_bytes_arrive(
    store: LocalStorage, tmp_path: Path
) -> None:
    writer = await _writer(store, "evil", SIZE)
    await writer.expect(SIZE // 2)
    assert len(on_disk(tmp_path)) == 16
    await write(writer, 0, b"?")
    assert len(on_disk(tmp_path)) == 14  # a byte, and a step of 1 MiB
    await _drop(writer)


async def test_as_bytes_arrive_twice_as_much_leaves_at_most(
    store: LocalStorage, tmp_path: Path
) -> None:
    writer = await _writer(store, "hub")
    await writer.expect(SIZE // 2)
    for start in range(0, SIZE // 2, PIECE):
        await write(writer, start, bytes(PIECE))
        come = start + PIECE
        assert (15 - len(on_disk(tmp_path))) * MIB < come + max(come, MIB)  # whole blobs leave
    assert len(on_disk(tmp_path)) == 8
    await _drop(writer)


async def test_a_told_size_that_would_cost_more_than_a_half_is_refused_unless_it_is_proved(
    store: LocalStorage, tmp_path: Path
) -> None:
    data = content(SIZE - 3 * MIB, 99)
    with pytest.raises(NoRoom):
        await expecting(store, digest_of(data), len(data))
    assert len(on_disk(tmp_path)) == 16
    writer = await expecting(store, digest_of(data), len(data), is_size_proved=True)
    await write(writer, 0, data)
    await writer.commit()
    writer.close()
    assert await store.is_stored(digest_of(data))


async def test_a_size_that_is_not_the_proved_one_is_a_mere_word(store: LocalStorage) -> None:
    writer = await store.open_writer("evil", digest_of(b"x"), 100, is_size_proved=True)
    with pytest.raises(NoRoom):
        await writer.expect(SIZE - 1)
    await _drop(writer)


async def test_a_blob_without_end_is_cut_at_a_quarter(store: LocalStorage, tmp_path: Path) -> None:
    writer = await _writer(store, "evil")
    await writer.expect(None)
    assert await _pour(writer, SIZE) == SIZE // 4
    with pytest.raises(TooLarge, match="nobody tells"):
        await write(writer, SIZE // 4, b"?")
    assert len(on_disk(tmp_path)) >= 11
    await _drop(writer)


async def test_many_blobs_of_one_upstream_cost_a_half_together_and_of_all_three_quarters(
    store: LocalStorage, tmp_path: Path
) -> None:
    writers = [
        await store.open_writer(upstream, digest_of(b"%d" % number), None)
        for upstream in ("evil", "wicked", "bad")
        for number in range(4)
    ]
    taken = [await _pour(writer, SIZE) for writer in writers]
    assert sum(taken[:4]) == SIZE // 2
    assert sum(taken) <= SIZE * 3 // 4
    assert len(on_disk(tmp_path)) >= 4
    await _drop(*writers)


async def test_a_word_keeps_nobody_elses_blob_out(tmp_path: Path) -> None:
    async with open_store(tmp_path, max_size=SIZE) as store:
        evil = await _writer(store, "evil")
        await evil.expect(SIZE)
        await write(evil, 0, b"?")
        with pytest.raises(NoRoom):
            await expecting(store, digest_of(b"y"), MIB, upstream="evil")
        data = content(SIZE - 2 * MIB)
        await put(store, data, upstream="hub")
        assert await store.is_stored(digest_of(data))
        await _drop(evil)


async def test_a_download_does_not_wait_until_all_has_gone_that_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.storage.room._BATCH", 10)
    async with open_store(tmp_path):
        pass
    async with Index.open(tmp_path / "index.sqlite3") as index:
        rows = [(f"sha256:{number:064x}", MIB, 0, float(number), 1) for number in range(5_000)]
        await index.adopt(rows, [])
    async with open_store(tmp_path, max_size=100 * MIB) as store:  # the limit was lowered
        for seed in range(3):
            await put(store, content(MIB, seed))
            assert store.totals.bytes > 1_000 * MIB
        await store.tidy()
        assert 90 * MIB < store.totals.bytes <= 100 * MIB
        assert len(on_disk(tmp_path)) == 3

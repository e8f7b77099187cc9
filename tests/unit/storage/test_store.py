import asyncio
import errno
import os
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest

from mirror.oci.digest import Digest, digest_of
from mirror.oci.errors import StoreError
from mirror.storage.errors import NoRoom
from mirror.storage.index import Index
from mirror.storage.policy import Candidate, LeastWorth
from mirror.storage.ports import Storage, Writer
from mirror.telemetry.collectors import StoreTotals
from mirror.telemetry.metrics import Metrics
from tests.support.clock import FakeClock
from tests.unit.storage.opening import (
    UPSTREAM,
    blob_path,
    content,
    expecting,
    held,
    on_disk,
    open_store,
    partial_path,
    partials,
    put,
    read,
    recorded_partials,
    write,
)

DATA = content(10_000)
DIGEST = digest_of(DATA)


async def _write(writer: Writer, start: int, end: int, data: bytes = DATA) -> None:
    await write(writer, start, data[start:end])


# Writing and reading


async def test_a_blob_is_kept_as_it_is_and_after_a_restart(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, len(DATA))
        assert writer.digest == DIGEST
        assert writer.size == 10_000
        assert writer.missing() == [(0, 10_000)]
        await _write(writer, 0, 6_000)
        assert writer.written == 6_000
        assert writer.missing() == [(6_000, 10_000)]
        assert not writer.is_proved()
        await _write(writer, 6_000, 10_000)
        assert writer.is_proved()
        await writer.commit()
        assert os.pread(writer.file.fileno(), 20_000, 0) == DATA
        writer.close()
        assert await held(store, DIGEST) == DATA
        assert store.promised == 0
        assert store.totals.bytes == 10_000
    assert partials(tmp_path) == set()
    async with open_store(tmp_path) as store:
        assert await held(store, DIGEST) == DATA
        assert await store.read_blob(DIGEST, limit=10_000) == DATA
        assert store.totals.bytes == 10_000


async def test_segments_may_come_in_any_order_at_once(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        async with asyncio.TaskGroup() as tasks:
            for start in range(9_900, -1, -100):
                tasks.create_task(_write(writer, start, start + 100))
        assert writer.written == 10_000
        await writer.commit()
        writer.close()
        assert await held(store, DIGEST) == DATA


async def test_an_empty_blob_is_a_blob(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        assert await held(store, await put(store, b"")) == b""


async def test_a_size_may_become_known_on_the_way_or_at_the_end(tmp_path: Path) -> None:
    async with open_store(tmp_path, max_size=10_000) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, None)
        await _write(writer, 0, 1_000)
        with pytest.raises(ValueError, match="not known"):
            writer.missing()
        await writer.expect(10_000)
        assert writer.missing() == [(1_000, 10_000)]
        assert not writer.is_proved()
        await _write(writer, 1_000, 10_000)
        await writer.commit()
        writer.close()
        other = await store.open_writer(UPSTREAM, digest_of(b"other"), None)
        await write(other, 0, b"other")
        assert other.is_proved()
        await other.commit()
        other.close()
        assert store.promised == 0
        assert on_disk(tmp_path) == {digest_of(b"other").encoded}


async def test_more_than_is_expected_is_an_error(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, None)
        await _write(writer, 0, 1_000)
        with pytest.raises(StoreError, match="more than 999 bytes"):
            await writer.expect(999)
        await writer.discard()
        writer.close()
        writer = await store.open_writer(UPSTREAM, DIGEST, 10)
        with pytest.raises(ValueError, match="beyond"):
            await _write(writer, 0, 11)
        await writer.discard()
        writer.close()


async def test_what_is_written_stays_as_it_is(tmp_path: Path) -> None:
    """A client may have read it, and the hash knows it: a second upstream cannot change it."""
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        await _write(writer, 3_000, 4_000)
        await write(writer, 3_500, b"?" * 500)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_write(writer, 0, 2_000))
            tasks.create_task(write(writer, 1_000, b"?" * 500))
        await write(writer, 0, b"?" * 1_000, DATA[1_000:2_500])
        for start, end in writer.missing():
            await _write(writer, start, end)
        assert writer.is_proved()
        assert os.pread(writer.file.fileno(), 20_000, 0) == DATA
        await writer.discard()
        writer.close()


async def test_every_byte_on_its_way_is_promised_wherever_it_lies(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, None)
        await _write(writer, 5_000, 6_000)
        await writer.suspend()
        writer.close()
        assert store.promised == 1_000
        writer = await store.open_writer(UPSTREAM, DIGEST, None)
        await _write(writer, 0, 500)
        assert store.promised >= 1_500
        await writer.suspend()
        writer.close()
        assert store.promised == 1_500


async def test_the_wrong_bytes_cannot_be_committed(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        await write(writer, 0, b"?" * 10_000)
        assert not writer.is_proved()
        with pytest.raises(StoreError, match="not proved"):
            await writer.commit()
        await writer.discard()
        writer.close()
        assert await held(store, DIGEST) is None
        assert store.promised == 0
    assert partials(tmp_path) | on_disk(tmp_path) == set()


async def test_a_blob_has_one_writer_at_a_time(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        with pytest.raises(StoreError, match="being written already"):
            await store.open_writer(UPSTREAM, DIGEST, 10_000)
        await _write(writer, 0, 10_000)
        async with asyncio.TaskGroup() as tasks:
            ending = tasks.create_task(writer.suspend())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not ending.done()
            second = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        assert second.is_proved()
        await second.commit()
        writer.close()
        second.close()


async def test_an_ended_writer_writes_no_more_and_ends_no_other_way(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        await _write(writer, 0, 10_000)
        await writer.commit()
        await writer.commit()
        await writer.suspend()
        await writer.discard()
        with pytest.raises(StoreError, match="ended"):
            await _write(writer, 0, 1)
        writer.close()
        writer.close()
        assert await held(store, DIGEST) == DATA
        assert partials(tmp_path) <= {".probe"}


async def test_memory_may_be_used_again_once_the_next_piece_is_given(tmp_path: Path) -> None:
    memory = [bytearray(100), bytearray(100)]
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        async with writer.pen() as pen:
            for number, start in enumerate(range(0, 10_000, 100)):
                piece = memory[number % 2]
                piece[:] = DATA[start : start + 100]
                await pen.write(start, [memoryview(piece)])
        assert writer.is_proved()
        await writer.discard()
        writer.close()


async def test_a_pen_tells_of_what_it_has_written_though_no_more_is_given(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        written = asyncio.Event()
        async with asyncio.timeout(10), writer.pen(written.set) as pen:
            await pen.write(0, [DATA[:100]])
            await written.wait()
            assert writer.written == 100
        await writer.discard()
        writer.close()


async def test_a_store_that_is_closed_under_a_writer_says_so(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        await _write(writer, 0, 4_000)
    with pytest.raises(StoreError, match="closed"):
        await _write(writer, 4_000, 5_000)
    writer.close()
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        assert writer.missing() == [(4_000, 10_000)]
        await writer.discard()
        writer.close()


async def test_a_blob_that_is_kept_twice_counts_once(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.keep(UPSTREAM, DIGEST, DATA)
        await put(store, DATA)
        await store.keep(UPSTREAM, DIGEST, DATA, is_manifest=True)
        assert store.totals.bytes == 10_000
        assert store.promised == 0
        assert await store.read_blob(DIGEST, limit=10_000) == DATA
        assert await store.read_blob(digest_of(b""), limit=10_000) is None


async def test_what_is_not_its_digest_is_not_kept(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        with pytest.raises(StoreError, match="not proved"):
            await store.keep(UPSTREAM, DIGEST, b"?" * 10_000)
        assert store.promised == 0
        await store.keep(UPSTREAM, DIGEST, DATA)
        assert await store.read_blob(DIGEST, limit=10_000) == DATA


# Being interrupted


async def test_what_was_suspended_is_continued_where_it_stopped(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        await _write(writer, 0, 1_234)
        await _write(writer, 5_000, 6_789)
        await writer.suspend()
        assert os.pread(writer.file.fileno(), 1_234, 0) == DATA[:1_234]
        writer.close()
        assert store.promised == 1_234 + 1_789
    async with open_store(tmp_path) as store:
        assert store.promised == 1_234 + 1_789
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        assert writer.written == 1_234
        assert writer.missing() == [(1_234, 5_000), (6_789, 10_000)]
        assert store.promised == 1_234 + 1_789  # nothing is, before it comes
        await _write(writer, 6_789, 10_000)
        await _write(writer, 1_234, 5_000)
        await writer.commit()
        writer.close()
        assert await held(store, DIGEST) == DATA
        assert store.promised == 0


async def test_a_writer_that_is_only_closed_leaves_its_bytes_to_the_next(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        await _write(writer, 0, 1_234)
        writer.close()
        assert store.promised == 1_234
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        assert writer.written == 1_234
        await writer.discard()
        writer.close()
        assert store.promised == 0


async def test_what_is_beyond_the_size_is_not_continued(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, None)
        await write(writer, 0, DATA, b"too much")
        await writer.suspend()
        writer.close()
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        assert not writer.is_proved()
        await writer.expect(10_000)  # by upstream's own word
        assert writer.is_proved()
        await writer.commit()
        writer.close()
        assert await held(store, DIGEST) == DATA
        assert store.promised == 0


async def test_a_suspended_writer_of_nothing_leaves_nothing(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        await writer.suspend()
        writer.close()
        assert recorded_partials(tmp_path) == set()
        assert store.promised == 0
    assert partials(tmp_path) == set()


async def test_a_discarded_blob_stays_readable_until_its_writer_is_closed(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        await _write(writer, 0, 1_000)
        await writer.discard()
        assert partials(tmp_path) <= {".probe"}
        assert os.pread(writer.file.fileno(), 20_000, 0) == DATA[:1_000]
        writer.close()


@pytest.mark.parametrize("steps", range(12))
async def test_a_commit_that_is_cancelled_at_any_step_is_a_commit(
    tmp_path: Path, steps: int
) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        await _write(writer, 0, 10_000)
        async with asyncio.TaskGroup() as tasks:
            commit = tasks.create_task(writer.commit())
            for _ in range(steps + 1):
                await asyncio.sleep(0)
            commit.cancel()
        assert commit.cancelled() or commit.done()
        await writer.suspend()  # what a fill does when it is cancelled
        writer.close()
        assert store.promised == 0
        assert store.totals.bytes == 10_000
        assert await held(store, DIGEST) == DATA


@pytest.mark.parametrize("steps", range(0, 12, 2))
async def test_opening_a_writer_may_be_cancelled_at_any_step(tmp_path: Path, steps: int) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        await _write(writer, 0, 1_000)
        await writer.suspend()
        writer.close()
        async with asyncio.TaskGroup() as tasks:
            opening = tasks.create_task(store.open_writer(UPSTREAM, DIGEST, 10_000))
            for _ in range(steps):
                await asyncio.sleep(0)
            opening.cancel()
        if not opening.cancelled():
            opening.result().close()
        assert store.promised == 1_000
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        assert writer.written == 1_000
        await writer.discard()
        writer.close()


async def test_a_write_that_is_cancelled_has_been_written(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        await _write(writer, 0, 1)  # and it has room for what follows
        async with asyncio.TaskGroup() as tasks:
            write = tasks.create_task(_write(writer, 0, 10_000))
            await asyncio.sleep(0)
            write.cancel()
        assert write.cancelled()
        assert writer.missing() == []
        assert writer.is_proved()
        await writer.discard()
        writer.close()


async def test_a_commit_that_cannot_be_recorded_is_none_and_loses_nothing(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        await _write(writer, 0, 10_000)
        with _index_refusing(tmp_path, "blobs"):
            with pytest.raises(StoreError, match="no more blobs"):
                await writer.commit()
            assert on_disk(tmp_path) == set()
            assert store.promised == 10_000
        await writer.commit()
        writer.close()
        assert await held(store, DIGEST) == DATA
        assert store.promised == 0


class _index_refusing:  # noqa: N801 - reads as the function that it is
    """Let the index's disk be as if it refused rows of one table."""

    def __init__(self, root: Path, table: str) -> None:
        self._path = root / "index.sqlite3"
        self._table = table

    def __enter__(self) -> None:
        self._execute(
            f"CREATE TRIGGER refusal BEFORE INSERT ON {self._table}"
            f" BEGIN SELECT raise(ABORT, 'no more {self._table}'); END"
        )

    def __exit__(self, *_: object) -> None:
        self._execute("DROP TRIGGER refusal")

    def _execute(self, sql: str) -> None:
        connection = sqlite3.connect(self._path)
        connection.execute(sql)
        connection.commit()
        connection.close()


async def test_a_index_that_refuses_a_new_download_leaves_nothing_promised(
    tmp_path: Path,
) -> None:
    async with open_store(tmp_path) as store:
        with (
            _index_refusing(tmp_path, "partials"),
            pytest.raises(StoreError, match="no more partials"),
        ):
            await store.open_writer(UPSTREAM, DIGEST, 10_000)
        assert store.promised == 0
        await put(store, DATA)


# Making room


async def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    clock, metrics = FakeClock(), Metrics()
    async with open_store(tmp_path, max_size=3_000, clock=clock, metrics=metrics) as store:
        one, two, three, four = (content(1_000, seed) for seed in range(4))
        for data in (one, two, three):
            clock.advance(1)
            await put(store, data)
        clock.advance(1)
        await held(store, digest_of(one))
        clock.advance(1)
        store.note_access(digest_of(two))  # served from memory
        await put(store, four)
        assert on_disk(tmp_path) == {digest_of(data).encoded for data in (one, two, four)}
        assert store.totals.bytes == 3_000
        exposition = metrics.exposition().decode()
        assert "mirror_evicted_blobs_total 1.0" in exposition
        assert "mirror_evicted_bytes_total 1000.0" in exposition


async def test_manifests_go_last_but_not_for_ever(tmp_path: Path) -> None:
    clock = FakeClock()
    size = 10_000_000
    async with open_store(tmp_path, max_size=2 * size, clock=clock) as store:
        manifest, *layers = content(1_000), *(content(size, seed) for seed in range(1, 5))
        await store.keep(UPSTREAM, digest_of(manifest), manifest, is_manifest=True)
        for layer in layers[:2]:
            clock.advance(30 * 86_400)
            await put(store, layer)
        assert on_disk(tmp_path) == {digest_of(it).encoded for it in (manifest, layers[1])}
        for layer in layers[2:]:
            clock.advance(60 * 86_400)
            await put(store, layer)
        assert on_disk(tmp_path) == {digest_of(it).encoded for it in layers[2:]}


async def test_times_of_use_survive_a_restart(tmp_path: Path) -> None:
    clock = FakeClock()
    one, two, three = (content(1_000, seed) for seed in range(3))
    async with open_store(tmp_path, max_size=2_000, clock=clock) as store:
        await put(store, one)
        clock.advance(1)
        await put(store, two)
        clock.advance(1)
        await held(store, digest_of(one))
    async with open_store(tmp_path, max_size=2_000, clock=clock) as store:
        await put(store, three)
        assert on_disk(tmp_path) == {digest_of(one).encoded, digest_of(three).encoded}


async def test_times_of_use_survive_a_index_that_refuses_them_for_a_while(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    one, two, three = (content(1_000, seed) for seed in range(3))
    async with open_store(tmp_path, max_size=2_000, clock=clock) as store:
        await put(store, one)
        clock.advance(1)
        await put(store, two)
        clock.advance(1)
        await held(store, digest_of(one))
        connection = sqlite3.connect(tmp_path / "index.sqlite3")
        connection.execute(
            "CREATE TRIGGER refusal BEFORE UPDATE OF accessed_at ON blobs"
            " BEGIN SELECT raise(ABORT, 'not now'); END"
        )
        connection.commit()
        with pytest.raises(NoRoom):
            await store.open_writer(UPSTREAM, digest_of(b""), 2_001)
        writer = await store.open_writer(UPSTREAM, digest_of(b"x"), 0)
        await writer.discard()
        writer.close()
        blob = await store.open_blob(digest_of(one))
        assert blob is not None
        with pytest.raises(NoRoom):  # flushes, and fails to
            await store.keep(UPSTREAM, digest_of(three + one), three + one)
        blob.close()
        connection.execute("DROP TRIGGER refusal")
        connection.commit()
        connection.close()
        await put(store, three)
        assert on_disk(tmp_path) == {digest_of(one).encoded, digest_of(three).encoded}


async def test_what_came_over_a_slow_line_goes_after_what_came_over_a_fast_one(
    tmp_path: Path,
) -> None:
    clock, size = FakeClock(), 2 * 2**20
    slow, fast, new = (content(size, seed) for seed in range(3))
    async with open_store(tmp_path, max_size=2 * size, clock=clock) as store:
        for upstream, data, seconds in (("slow", slow, 8), ("fast", fast, 1)):
            writer = await store.open_writer(upstream, digest_of(data), size)
            clock.advance(seconds)
            await write(writer, 0, data)
            await writer.commit()
            writer.close()
        await store.drop(digest_of(slow))  # the line is known to be slow now
        writer = await store.open_writer("slow", digest_of(slow), size)
        clock.advance(8)
        await write(writer, 0, slow)
        await writer.commit()
        writer.close()
        clock.advance(60)
        await held(store, digest_of(fast))
        await put(store, new)
        assert on_disk(tmp_path) == {digest_of(slow).encoded, digest_of(new).encoded}


async def test_a_blob_whose_file_went_before_a_crash_could_be_noted_goes_when_it_is_its_turn(
    tmp_path: Path,
) -> None:
    """So it is where the disk was full to the last byte: what leaves cannot be marked."""
    async with open_store(tmp_path, max_size=3_000) as store:
        digests = [await put(store, content(1_000, seed)) for seed in range(3)]
    blob_path(tmp_path, digests[0]).unlink()
    async with open_store(tmp_path, max_size=3_000) as store:
        digests.append(await put(store, content(1_000, 3)))
        assert store.totals == StoreTotals(3, 3_000)
        assert await store.find_stored(digests) == set(digests[1:])
        assert on_disk(tmp_path) == {digest.encoded for digest in digests[1:]}


async def test_what_is_being_read_stays(tmp_path: Path) -> None:
    async with open_store(tmp_path, max_size=2_000) as store:
        one = await put(store, content(1_000, 1))
        two = await put(store, content(1_000, 2))
        blob = await store.open_blob(one)
        assert blob is not None
        with pytest.raises(NoRoom):
            await expecting(store, DIGEST, 1_001)
        assert on_disk(tmp_path) == {one.encoded, two.encoded}  # nothing goes in vain
        await put(store, content(1_000, 3))
        assert one.encoded in on_disk(tmp_path)
        assert two.encoded not in on_disk(tmp_path)
        blob.close()


async def test_what_is_larger_than_everything_evicts_nothing(tmp_path: Path) -> None:
    async with open_store(tmp_path, max_size=2_000) as store:
        one = await put(store, content(1_000, 1))
        with pytest.raises(NoRoom, match=r"store\.max_size"):
            await store.open_writer(UPSTREAM, DIGEST, 10_000)
        assert recorded_partials(tmp_path) == set()
        writer = await store.open_writer(UPSTREAM, DIGEST, None)
        with pytest.raises(NoRoom):
            await _write(writer, 0, 10_000)
        await writer.discard()
        writer.close()
        assert on_disk(tmp_path) == {one.encoded}
        assert store.promised == 0


async def test_a_blob_of_unknown_size_makes_room_for_a_quarter_at_most(
    tmp_path: Path,
) -> None:
    async with open_store(tmp_path, max_size=10_000) as store:
        for seed in range(4):
            await put(store, content(2_000, seed))
        writer = await store.open_writer(UPSTREAM, DIGEST, None)
        await _write(writer, 0, 100)
        assert len(on_disk(tmp_path)) == 3
        assert store.promised == 2_500
        await _write(writer, 100, 2_100)
        assert len(on_disk(tmp_path)) == 3
        await writer.discard()
        writer.close()
        assert store.promised == 0


async def test_two_writers_at_once_make_room_for_two_and_no_more(tmp_path: Path) -> None:
    async with open_store(tmp_path, max_size=10_000) as store:
        for seed in range(10):
            await put(store, content(1_000, seed))
        async with asyncio.TaskGroup() as tasks:
            opening = [
                tasks.create_task(_beginning(store, digest_of(bytes([number])), 1_000))
                for number in range(2)
            ]
        assert len(on_disk(tmp_path)) == 8
        assert store.promised == 2_000
        for task in opening:
            await task.result().discard()
            task.result().close()


async def test_a_writer_without_room_is_no_burden_to_another(tmp_path: Path) -> None:
    async with open_store(tmp_path, max_size=10_000) as store:
        digests = [await put(store, content(1_000, seed)) for seed in range(10)]
        held = [await store.open_blob(digest) for digest in digests[:8]]
        async with asyncio.TaskGroup() as tasks:
            large = tasks.create_task(_try_to_open(store, digest_of(b"large"), 3_000))
            small = tasks.create_task(_try_to_open(store, digest_of(b"small"), 1_000))
        assert large.result() is None
        assert len(on_disk(tmp_path)) == 9
        writer = small.result()
        assert writer is not None
        await writer.discard()
        writer.close()
        for blob in held:
            assert blob is not None
            blob.close()


async def _beginning(store: Storage, digest: Digest, size: int) -> Writer:
    """A writer that has been told a size, and has its first byte."""
    writer = await expecting(store, digest, size)
    await write(writer, 0, b"?")
    return writer


async def _try_to_open(store: Storage, digest: Digest, size: int) -> Writer | None:
    try:
        return await _beginning(store, digest, size)
    except NoRoom:
        return None


async def test_partials_that_wait_go_before_blobs_and_the_oldest_first(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_store(tmp_path, max_size=4_000, clock=clock) as store:
        blob = await put(store, content(1_000, 1))
        for name in (b"old", b"young"):
            clock.advance(1)
            writer = await store.open_writer(UPSTREAM, digest_of(name), 1_500)
            await write(writer, 0, b"?" * 1_500)
            await writer.suspend()
            writer.close()
        await put(store, content(1_000, 2))
        assert partials(tmp_path) <= {partial_path(tmp_path, digest_of(b"young")).name, ".probe"}
        assert recorded_partials(tmp_path) == {(UPSTREAM, str(digest_of(b"young")))}
        assert blob.encoded in on_disk(tmp_path)
        assert store.promised == 1_500


class _Telling(LeastWorth):
    """Tells when something has been chosen to go."""

    def __init__(self) -> None:
        self.has_chosen = asyncio.Event()

    def choose(
        self, candidates: Iterable[Candidate], excess: int, *, most: int, beyond: int
    ) -> list[Candidate]:
        self.has_chosen.set()
        return super().choose(candidates, excess, most=most, beyond=beyond)


async def test_a_blob_that_is_being_evicted_is_opened_by_nobody(tmp_path: Path) -> None:
    policy = _Telling()
    async with open_store(tmp_path, max_size=10_000, policy=policy) as store:
        await put(store, DATA)
        other = content(10_000, 1)
        writer = await expecting(store, digest_of(other), 10_000, is_size_proved=True)
        blocker = sqlite3.connect(tmp_path / "index.sqlite3", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")  # so it cannot be marked as leaving yet
        async with asyncio.TaskGroup() as tasks:
            evicting = tasks.create_task(write(writer, 0, other))
            await policy.has_chosen.wait()
            assert await store.open_blob(DIGEST) is None
            assert DIGEST.encoded in on_disk(tmp_path)
            again = tasks.create_task(_try_to_open(store, DIGEST, 100))
            await asyncio.sleep(0)
            blocker.execute("ROLLBACK")
            await evicting
        blocker.close()
        await writer.commit()
        writer.close()
        assert again.result() is None  # it had to wait, and then there was no room beside the other
        assert on_disk(tmp_path) == {digest_of(other).encoded}
        assert store.totals.bytes == 10_000


async def test_a_blob_that_is_about_to_be_read_is_not_evicted(tmp_path: Path) -> None:
    async with open_store(tmp_path, max_size=10_000) as store:
        digest = await put(store, b"")  # so that it is of the right size
        path = blob_path(tmp_path, digest)
        path.unlink()
        os.mkfifo(path)  # a file that takes its time to open: until somebody writes to it
        async with asyncio.TaskGroup() as tasks:
            opening = tasks.create_task(store.open_blob(digest))
            await asyncio.sleep(0)
            await store.keep(UPSTREAM, DIGEST, DATA)
            other = content(10_000, 1)
            await store.keep(UPSTREAM, digest_of(other), other)
            assert path.exists()
            os.close(await asyncio.to_thread(os.open, path, os.O_WRONLY))
        blob = opening.result()
        assert blob is not None
        blob.close()


async def test_readers_and_evictions_at_once_never_lose_an_open_blob(tmp_path: Path) -> None:
    async with open_store(tmp_path, max_size=5_000) as store:

        async def pull(seed: int) -> None:
            data = content(1_000, seed % 9)
            for _ in range(20):
                blob = await store.open_blob(digest_of(data))
                if blob is None:
                    await _fill(store, data)
                    continue
                for _ in range(2):  # long enough for an eviction that has begun meanwhile
                    await store.is_writable()
                assert read(blob) == data
                assert blob_path(tmp_path, blob.digest).exists()
                blob.close()

        async with asyncio.TaskGroup() as tasks:
            for seed in range(9):
                tasks.create_task(pull(seed))
        sizes = [path.stat().st_size for path in (tmp_path / "blobs").glob("*/*/*")]
        assert sum(sizes) == store.totals.bytes <= 5_000
        assert store.promised == 0


async def _fill(store: Storage, data: bytes) -> None:
    try:
        writer = await expecting(store, digest_of(data), len(data))
    except NoRoom:
        return
    with suppress(NoRoom):  # others were faster
        await write(writer, 0, data)
        await writer.commit()
    await writer.discard()
    writer.close()


async def test_min_free_is_respected_too(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await put(store, DATA)
    status = os.statvfs(tmp_path)
    free = status.f_bavail * status.f_frsize
    async with open_store(tmp_path, min_free=free + 2**40) as store:
        with pytest.raises(NoRoom, match=r"store\.min_free"):
            await expecting(store, digest_of(b"more"), 10)
        assert await held(store, DIGEST) == DATA  # evicting it would not have helped


async def test_a_cap_that_was_lowered_is_met_at_the_next_start(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        for seed in range(4):
            await put(store, content(1_000, seed))
    async with open_store(tmp_path, max_size=2_500) as store, asyncio.timeout(10):
        while len(on_disk(tmp_path)) > 2:
            await store.is_writable()
        while store.totals.bytes > 2_000:
            await store.is_writable()


# Upkeep


async def test_a_partial_that_nobody_continues_is_removed(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_store(tmp_path, clock=clock) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)
        await _write(writer, 0, 1_000)
        await writer.suspend()
        writer.close()
    clock.advance(3_600)
    async with open_store(tmp_path, clock=clock, keep_partial_for=3_601) as store:
        assert store.promised == 1_000
        clock.advance(2)
    async with open_store(tmp_path, clock=clock, keep_partial_for=3_601) as store:
        async with asyncio.timeout(10):
            while store.promised:
                await store.is_writable()
        assert partials(tmp_path) <= {".probe"}
        assert recorded_partials(tmp_path) == set()


async def test_a_recorded_blob_that_somebody_else_removed_is_fetched_anew(tmp_path: Path) -> None:
    async with open_store(tmp_path, max_size=15_000) as store:
        await put(store, DATA)
        blob_path(tmp_path, DIGEST).unlink()
        assert await store.open_blob(DIGEST) is None
        writer = await store.open_writer(UPSTREAM, DIGEST, 10_000)  # what has gone takes no room
        assert store.totals.blobs == 0
        await _write(writer, 0, 10_000)
        await writer.commit()
        writer.close()
        assert await held(store, DIGEST) == DATA
        assert store.totals.bytes == 10_000


async def test_a_lost_index_is_made_anew_from_what_is_on_disk(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await put(store, DATA)
        writer = await store.open_writer(UPSTREAM, digest_of(b"other"), None)
        await write(writer, 5, b"?" * 100)
        await writer.suspend()
        writer.close()
    _lose_the_index(tmp_path)
    for _ in range(2):
        async with open_store(tmp_path) as store:
            await store.adopt()
            assert store.totals.bytes == 10_000
            assert await held(store, DIGEST) == DATA
            assert store.promised == 100


def _lose_the_index(root: Path) -> None:
    (root / "aside").mkdir()
    for path in root.glob("index.sqlite3*"):
        path.rename(root / "aside" / path.name)


async def test_an_adoption_that_was_interrupted_is_made_up_for(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await put(store, DATA)
    connection = sqlite3.connect(tmp_path / "index.sqlite3")
    connection.execute("DELETE FROM blobs")
    connection.execute("UPDATE totals SET adopted = 0")
    connection.commit()
    connection.close()
    async with open_store(tmp_path) as store:
        await store.adopt()
        assert store.totals.bytes == 10_000


async def test_a_start_looks_at_no_blob(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await put(store, DATA)
    shutil.move(tmp_path / "blobs" / "sha256", tmp_path / "elsewhere")
    async with open_store(tmp_path) as store:
        assert store.totals.bytes == 10_000


async def test_a_damaged_index_is_made_anew_and_loses_no_blob(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await put(store, DATA)
    (tmp_path / "index.sqlite3").write_bytes(b"garbage" * 1_000)
    async with open_store(tmp_path) as store:
        assert await held(store, DIGEST) == DATA
        assert store.totals.bytes == 10_000


async def test_a_clock_that_was_years_ahead_does_not_keep_what_was_used_then_for_ever(
    tmp_path: Path,
) -> None:
    clock, size = FakeClock(), 10_000
    async with open_store(tmp_path, max_size=3 * size, clock=clock) as store:
        once, later = [await put(store, content(size, seed)) for seed in range(2)]
        clock.advance(70 * 365 * 86_400)
        await held(store, once)
        await store.tidy()
        await store.remove([await put(store, content(size, 3))])  # is remembered
        clock.set_back(70 * 365 * 86_400)
        for _ in range(59):
            await store.tidy()
        await held(store, later)
        clock.advance(30 * 86_400)
        assert [it.digest for it in await store.list_next(2)] == [once, later]
        for _ in range(2):
            await store.tidy()
        clock.advance(30 * 86_400)
        await held(store, later)
        await store.tidy()
        await held(store, later)
        again = await put(store, content(size, 3))
        assert [it.digest for it in await store.list_next(3)] == [once, again, later]
        unused = [it async for batch in store.list_unused(since=clock() - 86_400) for it in batch]
        assert [digest for digest, _ in unused] == [once]
    async with open_store(tmp_path, max_size=3 * size, clock=clock) as store:
        clock.advance(86_400)
        await held(store, once)
        assert [it.digest for it in await store.list_next(3)] == [again, once, later]


async def test_what_is_used_while_a_clock_is_believed_again_counts_by_that_clock(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    async with open_store(tmp_path, clock=clock) as store:
        clock.advance(365 * 86_400)
        digests = [await put(store, content(100, seed)) for seed in range(20)]
        clock.set_back(365 * 86_400)
        for _ in range(59):
            await store.tidy()
        async with asyncio.TaskGroup() as tasks:
            tidying = tasks.create_task(store.tidy())
            while not tidying.done():
                for digest in digests:
                    store.note_access(digest)
                await store.list_next(1)  # and so it is written down
        async for batch in store.list_unused(since=clock() + 1000 * 86_400):
            assert {round(at - clock()) for _, at in batch} == {0}


async def test_a_clock_is_believed_at_the_next_look_where_the_index_has_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, settle, refusals = FakeClock(), Index.settle_accesses, [StoreError("disk I/O error")]

    async def refuse(index: Index, *, now: float, ahead: float) -> None:
        if refusals:
            raise refusals.pop()
        await settle(index, now=now, ahead=ahead)

    monkeypatch.setattr(Index, "settle_accesses", refuse)
    async with open_store(tmp_path, clock=clock) as store:
        clock.advance(365 * 86_400)
        digest = await put(store, content(100))
        clock.set_back(365 * 86_400)
        for _ in range(59):
            await store.tidy()
        with pytest.raises(StoreError):
            await store.tidy()
        await store.tidy()
        unused = [it async for batch in store.list_unused(since=clock() + 1) for it in batch]
        assert [(it, round(at - clock())) for it, at in unused] == [(digest, 0)]


@pytest.mark.parametrize("days", [-20_000, -0.5])
async def test_a_clock_that_is_behind_itself_or_but_a_little_is_not_believed(
    tmp_path: Path, days: float
) -> None:
    clock = FakeClock()
    async with open_store(tmp_path, clock=clock) as store:
        digest = await put(store, content(100))
        clock.set_back(-days * 86_400)
        for _ in range(70):
            await store.tidy()
        clock.set_back(days * 86_400)
        unused = [it async for batch in store.list_unused(since=clock() + 1) for it in batch]
        assert [(it, round(at - clock())) for it, at in unused] == [(digest, 0)]


async def test_a_second_mirror_on_the_same_root_does_not_start(tmp_path: Path) -> None:
    async with open_store(tmp_path):
        with pytest.raises(StoreError, match="another mirror"):
            async with open_store(tmp_path):
                pass


async def test_a_store_is_writable_as_long_as_its_directories_are(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        assert await store.is_writable()
        (tmp_path / "partial").rename(tmp_path / "moved")
        (tmp_path / "partial").touch()
        assert not await store.is_writable()


async def test_a_mirror_that_fails_takes_its_store_down_in_order(tmp_path: Path) -> None:
    async def fail() -> None:
        async with open_store(tmp_path) as store:
            await put(store, DATA)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with open_store(tmp_path) as store:
        assert await held(store, DIGEST) == DATA


async def test_a_disk_that_says_nothing_of_an_open_blob_leaves_it_without_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a file server has forgotten the file."""

    def refuse(_: int) -> os.stat_result:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    async with open_store(tmp_path) as store:
        digest = await put(store, b"content")
        assert await held(store, digest) == b"content"
        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", refuse)
            with pytest.raises(StoreError, match="Stale file handle"):
                await store.open_blob(digest)
        assert store.find_removable([digest]) == [digest]

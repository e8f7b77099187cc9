"""What is pinned is not evicted, whatever else wants its room."""

import asyncio
from pathlib import Path

import pytest

from mirror.oci.digest import digest_of
from mirror.storage.errors import NoRoom
from mirror.storage.index import Index
from mirror.storage.pins import Pins
from tests.support.clock import FakeClock
from tests.unit.storage.opening import content, held, on_disk, open_store, put

A, B, C = (digest_of(name) for name in (b"a", b"b", b"c"))
ONE, TWO = content(1_000, 1), content(1_000, 2)


async def test_what_is_pinned_stays_also_after_a_restart_and_goes_when_it_is_not(
    tmp_path: Path,
) -> None:
    async with open_store(tmp_path, max_size=4_000) as store:
        await store.pins.pin("a", [digest_of(ONE), digest_of(TWO)])
        await store.pins.pin("b", [digest_of(TWO)])
        await put(store, ONE)
        await put(store, TWO)
    async with open_store(tmp_path, max_size=4_000) as store:
        assert store.pins.list_images() == ["a", "b"]
        for seed in range(10, 20):
            await put(store, content(1_000, seed))
        assert await held(store, digest_of(ONE)) == ONE
        assert await held(store, digest_of(TWO)) == TWO
        await store.pins.pin("a", [])
        for seed in range(10, 20):
            await put(store, content(1_000, seed))
        assert on_disk(tmp_path) >= {digest_of(TWO).encoded}
        assert digest_of(ONE).encoded not in on_disk(tmp_path)
        await store.pins.pin("b", ())
        assert store.pins.list_images() == []
        for seed in range(20, 30):
            await put(store, content(1_000, seed))
        assert digest_of(TWO).encoded not in on_disk(tmp_path)


async def test_what_is_worth_more_goes_where_more_is_pinned_than_is_looked_at_at_a_time(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    async with open_store(tmp_path, max_size=120_000, clock=clock) as store:
        pinned = [await put(store, content(1_000, seed)) for seed in range(100)]
        await store.note_superseded(pinned)
        await store.pins.pin("a", [*pinned, *(digest_of(b"%d" % it) for it in range(100))])
        for seed in range(100, 150):
            clock.advance(60)
            await put(store, content(1_000, seed))
        assert on_disk(tmp_path) >= {digest.encoded for digest in pinned}
        assert await held(store, digest_of(content(1_000, 149))) is not None
        assert store.totals.blobs <= 120


async def test_where_all_is_pinned_there_is_no_room_and_nothing_leaves(tmp_path: Path) -> None:
    async with open_store(tmp_path, max_size=2_500) as store:
        await put(store, ONE)
        await put(store, TWO)
        await store.pins.pin("a", [digest_of(ONE), digest_of(TWO)])
        with pytest.raises(NoRoom):
            await put(store, content(1_000, 3))
        assert await held(store, digest_of(ONE)) == ONE
        assert await held(store, digest_of(TWO)) == TWO


async def test_a_cap_that_was_lowered_below_what_is_pinned_evicts_the_rest(
    tmp_path: Path,
) -> None:
    async with open_store(tmp_path) as store:
        for data in (ONE, content(1_000, 3), TWO):
            await put(store, data)
        await store.pins.pin("a", [digest_of(ONE), digest_of(TWO)])
    async with open_store(tmp_path, max_size=2_000) as store:
        await store.tidy()
        assert on_disk(tmp_path) == {digest_of(ONE).encoded, digest_of(TWO).encoded}
    async with open_store(tmp_path, max_size=1_500, is_served=False) as store:
        with pytest.raises(NoRoom):
            await store.tidy()
        assert len(on_disk(tmp_path)) == 2


async def test_a_cap_below_what_is_pinned_evicts_all_the_rest_though_that_is_not_enough(
    tmp_path: Path,
) -> None:
    async with open_store(tmp_path) as store:
        for data in (ONE, *(content(1_000, seed) for seed in range(3, 9)), TWO):
            await put(store, data)
        await store.pins.pin("a", [digest_of(ONE), digest_of(TWO)])
    async with open_store(tmp_path, max_size=1_500, is_served=False) as store:
        for _ in range(2):
            with pytest.raises(NoRoom):
                await store.tidy()
            assert on_disk(tmp_path) == {digest_of(ONE).encoded, digest_of(TWO).encoded}


async def test_what_is_being_pinned_or_unpinned_counts_once_whatever_is_on_record(
    tmp_path: Path,
) -> None:
    async with Index.open(tmp_path / "index.sqlite3", block=4096) as index:
        for digest in (A, B, C):
            await index.record_blob(digest, 5_000, now=1.0)
        pins = await Pins.load(index)
        await pins.pin("app", [A, B])
        assert not pins.list_changing()
        assert [one.digest for one in await index.list_least(limit=9)] == [C]
        async with asyncio.TaskGroup() as tasks:
            changing = tasks.create_task(pins.pin("app", [B, C]))
            while not pins.list_changing():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
            assert pins.list_changing() == {A, C}
            assert all(digest in pins for digest in (A, B, C))
            assert await index.weigh_staying([A, C]) == 3 * 8192
            await changing
        assert not pins.list_changing()
        assert [one.digest for one in await index.list_least(limit=9)] == [A]
        assert await index.weigh_staying([]) == 2 * 8192
        assert await index.weigh_staying([A, digest_of(b"not here")]) == 3 * 8192

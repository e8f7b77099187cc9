"""What a new index makes of a disk that an older mirror has used, catalog and all."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from threading import Event
from typing import TypeVar

import pytest

from mirror.oci.digest import digest_of
from mirror.storage.threads import Threads
from mirror.telemetry.metrics import Metrics
from tests.support.catalog import CATALOG_V1
from tests.support.mirror import sample
from tests.unit.storage.opening import (
    UPSTREAM,
    blob_path,
    content,
    held,
    on_disk,
    open_store,
    partials,
    put,
    recorded,
    recorded_partials,
    rot,
)

_T = TypeVar("_T")

LAYER, MANIFEST, HALF = content(4_000, 1), content(300, 2), content(2_000, 3)


def _old_store(root: Path, *namespaces: str) -> None:
    """What version 1 leaves: a layer, a manifest that was used before it, half a blob."""
    for data in (LAYER, MANIFEST):
        path = blob_path(root, digest_of(data))
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    half = root / "partial" / f"sha256-{digest_of(HALF).encoded}"
    half.parent.mkdir()
    half.write_bytes(bytes(1_000) + HALF[1_000:])
    half.with_suffix(".ranges").write_bytes(b"1000-2000\n")
    with closing(sqlite3.connect(root / "catalog.sqlite3", isolation_level=None)) as old:
        old.executescript(CATALOG_V1)
        old.execute("PRAGMA application_id = 0x6D697272")
        old.execute("PRAGMA user_version = 1")
        old.executemany(
            "INSERT INTO repositories (namespace, name) VALUES (?, 'app')",
            [(namespace,) for namespace in namespaces],
        )
        old.executemany(
            "INSERT INTO blobs VALUES (?, ?, ?, ?, ?)",
            [
                (str(digest_of(LAYER)), 4_000, None, 20.0, 0),
                (str(digest_of(MANIFEST)), 300, "application/x", 10.0, 0),
            ],
        )
        old.execute("INSERT INTO partials VALUES (?, 1799999999.0)", (str(digest_of(HALF)),))
        old.execute("UPDATE totals SET adopted = 1")


async def test_an_older_mirrors_blobs_and_partials_are_taken_over(tmp_path: Path) -> None:
    _old_store(tmp_path, UPSTREAM)
    before = (tmp_path / "catalog.sqlite3").read_bytes()
    for _ in range(2):
        async with open_store(tmp_path) as store:
            assert (store.totals.blobs, store.totals.bytes) == (2, 4_300)
            assert await store.is_stored(digest_of(LAYER))
            assert store.promised == 1_000
    assert (tmp_path / "catalog.sqlite3").read_bytes() == before
    assert recorded(tmp_path, "SELECT size, is_manifest, accessed_at FROM blobs ORDER BY size") == [
        (300, 1, 10.0),
        (4_000, 0, 20.0),
    ]
    async with open_store(tmp_path) as store:
        assert await held(store, digest_of(LAYER)) == LAYER
        writer = await store.open_writer(UPSTREAM, digest_of(HALF), 2_000)
        assert writer.missing() == [(0, 1_000)]
        writer.close()


@pytest.mark.parametrize("namespaces", [(), ("docker.io", "quay.io")])
async def test_partials_that_may_be_anybodys_are_dropped(
    tmp_path: Path, namespaces: tuple[str, ...]
) -> None:
    _old_store(tmp_path, *namespaces)
    async with open_store(tmp_path) as store:
        assert store.totals.blobs == 2
        assert store.promised == 0
    assert partials(tmp_path) <= {".probe"}
    assert recorded_partials(tmp_path) == set()


async def test_an_eviction_that_an_older_mirror_had_begun_is_finished(tmp_path: Path) -> None:
    _old_store(tmp_path, UPSTREAM)
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite3", isolation_level=None)) as old:
        old.execute("UPDATE blobs SET leaving = 1 WHERE size = 4000")
    async with open_store(tmp_path) as store:
        assert store.totals.blobs == 1
    assert on_disk(tmp_path) == {digest_of(MANIFEST).encoded}


async def test_an_older_mirrors_catalog_is_looked_at_once(tmp_path: Path) -> None:
    _old_store(tmp_path, UPSTREAM)
    async with open_store(tmp_path) as store:
        await store.drop(digest_of(LAYER))
        await put(store, HALF)
    async with open_store(tmp_path) as store:
        assert not await store.is_stored(digest_of(LAYER))
        assert store.totals.blobs == 2


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE totals SET adopted = 0",  # it did not know of everything itself
        "DROP TABLE totals",
        "PRAGMA user_version = 2",
    ],
)
async def test_where_the_old_catalog_is_of_no_use_the_disk_is_looked_through(
    tmp_path: Path, damage: str
) -> None:
    _old_store(tmp_path, UPSTREAM)
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite3", isolation_level=None)) as old:
        old.execute("DELETE FROM blobs")
        old.execute(damage)
    async with open_store(tmp_path) as store:
        await store.adopt()
        assert (store.totals.blobs, store.totals.bytes) == (2, 4_300)
        assert await held(store, digest_of(MANIFEST)) == MANIFEST
    assert partials(tmp_path) <= {".probe"}


async def test_a_catalog_that_is_garbage_loses_no_blob(tmp_path: Path) -> None:
    _old_store(tmp_path, UPSTREAM)
    (tmp_path / "catalog.sqlite3").write_bytes(b"garbage" * 1_000)
    async with open_store(tmp_path) as store:
        assert await held(store, digest_of(LAYER)) == LAYER


def _lose_the_index(root: Path) -> None:
    for path in root.glob("index.sqlite3*"):
        path.unlink()


async def test_what_is_asked_for_is_served_before_the_disk_has_been_looked_through(
    tmp_path: Path,
) -> None:
    async with open_store(tmp_path) as store:
        await put(store, LAYER)
        await put(store, HALF)
    _lose_the_index(tmp_path)
    async with open_store(tmp_path, is_served=False) as store:  # so nobody looks through it
        assert store.totals.blobs == 0
        assert await store.find_stored([digest_of(LAYER), digest_of(b"other")]) == {
            digest_of(LAYER)
        }
        assert await held(store, digest_of(HALF)) == HALF
        assert store.totals.bytes == 6_000


@pytest.mark.parametrize("size", [1_000, 3_000_000])
async def test_what_was_found_on_disk_is_proved_before_it_is_served_and_once(
    tmp_path: Path, size: int
) -> None:
    async with open_store(tmp_path) as store:
        right = await put(store, content(size, 1))
        rotten = await put(store, content(size, 2))
    rot(blob_path(tmp_path, rotten))
    _lose_the_index(tmp_path)
    async with open_store(tmp_path, max_quarantine=10**6) as store:
        await store.adopt()
        assert store.totals.blobs == 2
        assert await store.open_blob(rotten) is None
        assert await held(store, right) == content(size, 1)
        assert store.totals.blobs == 1
        await put(store, content(size, 2))
        assert await held(store, rotten) == content(size, 2)
    assert recorded(tmp_path, "SELECT count(*) FROM blobs WHERE proved_on > 1") == [(2,)]


class _Held(ThreadPoolExecutor):
    """Hashes nothing before it may."""

    has_begun = Event()
    may_go = Event()

    def submit(self, work: Callable[..., _T], /, *args: object, **kwargs: object) -> Future[_T]:
        def when_it_may() -> _T:
            if "_hash_some" in repr(work):
                self.has_begun.set()
                assert self.may_go.wait(60)
            return work(*args, **kwargs)

        return super().submit(when_it_may)


async def test_what_is_being_proved_when_its_reader_leaves_is_proved(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        digest = await put(store, LAYER)
    _lose_the_index(tmp_path)
    async with open_store(tmp_path, threads=Threads(_Held)) as store:
        await store.adopt()
        asking = asyncio.get_running_loop().create_task(store.open_blob(digest))
        assert await asyncio.to_thread(_Held.has_begun.wait, 60)
        asking.cancel()
        _Held.may_go.set()
        await asyncio.wait([asking])
        assert asking.cancelled()
        assert recorded(tmp_path, "SELECT proved_on > 1 FROM blobs") == [(1,)]
        assert await held(store, digest) == LAYER


async def test_what_leaves_while_the_disk_is_looked_through_does_not_come_back(
    tmp_path: Path,
) -> None:
    async with open_store(tmp_path) as store:
        await put(store, LAYER)
        await put(store, HALF)
    _lose_the_index(tmp_path)
    async with open_store(tmp_path, is_served=False) as store:
        assert await held(store, digest_of(LAYER)) == LAYER
        await store.drop(digest_of(LAYER))
        blob_path(tmp_path, digest_of(LAYER)).write_bytes(LAYER)  # as who has seen it before knows
        await store.adopt()
        assert store.totals.bytes == 2_000
        await put(store, LAYER)
        assert store.totals.bytes == 6_000
    assert on_disk(tmp_path) == {digest_of(LAYER).encoded, digest_of(HALF).encoded}


async def test_what_a_mirror_without_proofs_on_record_has_is_served_at_once_and_scrubbed_soon(
    tmp_path: Path,
) -> None:
    script = files("mirror.storage").joinpath("index.sql").read_text("utf-8")
    tmp_path.joinpath("blobs").mkdir()
    path = blob_path(tmp_path, digest_of(LAYER))
    path.parent.mkdir(parents=True)
    path.write_bytes(LAYER)
    with closing(sqlite3.connect(tmp_path / "index.sqlite3", isolation_level=None)) as old:
        old.executescript(script)
        old.execute("PRAGMA application_id = 0x6D697278")
        old.execute("PRAGMA user_version = 1")
        old.execute(
            "INSERT INTO blobs (digest, size, is_manifest, accessed_at) VALUES (?, 4000, 0, 1.0)",
            (str(digest_of(LAYER)),),
        )
        old.execute("UPDATE totals SET adopted = 1")
    metrics = Metrics()
    async with open_store(tmp_path, metrics=metrics) as store:
        assert await held(store, digest_of(LAYER)) == LAYER
        await store.scrub()
    assert sample(metrics.exposition().decode(), "mirror_scrubbed_blobs_total") == 1

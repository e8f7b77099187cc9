import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.oci.digest import Digest, digest_of
from mirror.oci.errors import StoreError
from mirror.storage.catalog import (
    MIGRATIONS,
    Catalog,
)
from mirror.storage.space import Stored
from mirror.telemetry.metrics import StoreTotals

ONE, TWO, THREE = (digest_of(name) for name in (b"1", b"2", b"3"))
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite3"


@pytest.fixture
async def catalog(path: Path) -> AsyncIterator[Catalog]:
    async with Catalog.open(path) as catalog:
        yield catalog


async def test_what_was_recorded_is_there_after_a_restart(path: Path) -> None:
    async with Catalog.open(path) as catalog:
        assert not catalog.is_adopted
        await catalog.adopt([(ONE, 10)], [TWO], now=1.0)
        await catalog.record_blob(THREE, 5, now=2.0, media_type=MANIFEST)
    async with Catalog.open(path) as catalog:
        assert catalog.is_adopted
        assert catalog.totals == StoreTotals(2, 15)
        assert await catalog.list_partials() == {TWO: 1.0}


async def test_totals_count_a_blob_once(catalog: Catalog) -> None:
    await catalog.record_blob(ONE, 10, now=1.0)
    await catalog.record_blob(ONE, 10, now=2.0)
    assert catalog.totals == StoreTotals(blobs=1, bytes=10)
    await catalog.record_blob(ONE, 12, now=3.0)
    assert catalog.totals == StoreTotals(blobs=1, bytes=12)
    await catalog.forget_blobs([ONE, TWO])
    assert catalog.totals == StoreTotals()


async def test_what_was_used_longest_ago_goes_first_and_manifests_last(catalog: Catalog) -> None:
    await catalog.record_blob(ONE, 1, now=1.0, media_type=MANIFEST)
    await catalog.record_blob(TWO, 2, now=2.0)
    await catalog.record_blob(THREE, 3, now=3.0)
    assert await catalog.list_by_access(limit=9) == [
        Stored(TWO, 2), Stored(THREE, 3), Stored(ONE, 1)
    ]  # fmt: skip
    await catalog.record_accesses({TWO: 4.0, digest_of(b"gone"): 5.0})
    assert await catalog.list_by_access(limit=1) == [Stored(THREE, 3)]


async def test_the_order_of_going_is_read_from_an_index(catalog: Catalog, path: Path) -> None:
    with sqlite3.connect(path) as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT digest, size FROM blobs WHERE NOT leaving"
            " ORDER BY media_type IS NOT NULL, accessed_at LIMIT 9"
        ).fetchall()
    connection.close()
    assert "USING INDEX blobs_by_access" in str(plan)
    assert "TEMP B-TREE" not in str(plan)


async def test_a_leaving_blob_is_on_disk_for_nobody_until_it_comes_anew(catalog: Catalog) -> None:
    await catalog.record_blob(ONE, 10, now=1.0)
    await catalog.mark_leaving([Stored(ONE, 10)])
    assert await catalog.list_by_access(limit=9) == []
    assert await catalog.list_leaving() == [Stored(ONE, 10)]
    assert catalog.totals.bytes == 10
    await catalog.record_blob(ONE, 10, now=2.0)
    assert await catalog.list_leaving() == []


async def test_a_download_that_is_continued_is_as_young_as_that(catalog: Catalog) -> None:
    await catalog.record_partial(ONE, now=1.0)
    await catalog.record_partial(ONE, now=2.0)
    assert await catalog.list_partials() == {ONE: 2.0}
    await catalog.forget_partial(ONE)
    assert await catalog.list_partials() == {}


async def test_writes_that_are_asked_for_together_are_all_kept(catalog: Catalog) -> None:
    digests = [digest_of(bytes([number])) for number in range(200)]
    async with asyncio.TaskGroup() as tasks:
        for digest in digests:
            tasks.create_task(catalog.record_blob(digest, 1, now=1.0))
    assert catalog.totals.blobs == 200
    assert {stored.digest for stored in await catalog.list_by_access(limit=999)} == set(digests)


@pytest.mark.parametrize("size", [2**70, "ten", None])
async def test_a_value_that_cannot_be_kept_harms_nobody_else(catalog: Catalog, size: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        good = tasks.create_task(catalog.record_blob(ONE, 1, now=1.0))
        with pytest.raises(StoreError, match=r"catalog\.sqlite3 cannot"):
            await catalog.record_blob(TWO, size, now=1.0)
    assert good.done()
    assert await catalog.list_by_access(limit=9) == [Stored(ONE, 1)]
    assert catalog.totals == StoreTotals(1, 1)
    await catalog.record_blob(THREE, 1, now=1.0)
    assert catalog.totals.blobs == 2


async def test_a_write_outlives_who_asked_for_it(path: Path) -> None:
    async with Catalog.open(path) as catalog, asyncio.TaskGroup() as tasks:
        task = tasks.create_task(catalog.record_blob(ONE, 1, now=1.0))
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()
    async with Catalog.open(path) as catalog:
        assert catalog.totals.blobs == 1


async def test_what_was_asked_for_before_the_end_is_written_at_the_end(path: Path) -> None:
    async with asyncio.TaskGroup() as tasks, Catalog.open(path) as catalog:
        for number in range(20):
            tasks.create_task(catalog.record_blob(digest_of(bytes([number])), 1, now=1.0))
        await asyncio.sleep(0)
    async with Catalog.open(path) as catalog:
        assert catalog.totals.blobs == 20


async def test_writes_go_on_while_all_tasks_are_cancelled(path: Path) -> None:
    """A mirror that goes down suspends its fills, when their group has been cancelled already."""

    async def fill(catalog: Catalog) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await catalog.record_partial(ONE, now=1.0)

    async def run(catalog: Catalog) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fill(catalog))
            await asyncio.sleep(0)
            raise ZeroDivisionError

    async with Catalog.open(path) as catalog:
        with pytest.raises(ExceptionGroup):
            await run(catalog)
        assert await catalog.list_partials() == {ONE: 1.0}


async def test_a_closed_catalog_says_so(path: Path) -> None:
    async with Catalog.open(path) as catalog:
        pass
    with pytest.raises(StoreError, match="closed"):
        await catalog.record_blob(ONE, 1, now=1.0)
    with pytest.raises(StoreError, match="closed"):
        await catalog.is_recorded(ONE)


# Files that are not what they should be


@pytest.mark.parametrize("garbage", [b"not a database" * 100, b"SQLite format 3\0" + b"\7" * 4096])
async def test_a_file_that_is_no_database_is_left_alone_and_the_error_says_what_to_do(
    path: Path, garbage: bytes
) -> None:
    _put(path, garbage)
    with pytest.raises(StoreError, match=r"catalog\.sqlite3 .*move the file .* aside"):
        async with Catalog.open(path):
            pass
    assert _content(path) == garbage


async def test_an_empty_file_becomes_a_catalog(path: Path) -> None:
    _put(path, b"")
    async with Catalog.open(path) as catalog:
        assert catalog.totals == StoreTotals()
        assert not catalog.is_adopted


async def test_somebody_elses_database_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE blobs (mine TEXT)")
    connection.close()
    before = _content(path)
    with pytest.raises(StoreError, match="somebody else's database"):
        async with Catalog.open(path):
            pass
    assert _content(path) == before


async def test_a_newer_mirrors_catalog_is_left_alone(path: Path) -> None:
    async with Catalog.open(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(StoreError, match="newer mirror; run that one"):
        async with Catalog.open(path):
            pass


async def test_a_catalog_that_cannot_be_opened_says_what_to_do(path: Path) -> None:
    path = path / "no" / "directory"
    with pytest.raises(StoreError, match="write access"):
        async with Catalog.open(path):
            pass


async def test_damage_that_shows_later_is_an_error_and_no_crash(path: Path) -> None:
    async with Catalog.open(path) as catalog:
        for number in range(250):
            await catalog.record_blob(digest_of(bytes([number])), 1, now=float(number))
    content = _content(path)
    _put(path, content[: 4096 * 2] + b"\x5a" * (len(content) - 4096 * 2))  # all but the schema
    with pytest.raises(StoreError, match="move the file"):
        await _use(path, ONE)


async def test_a_digest_that_is_none_is_damage(path: Path) -> None:
    async with Catalog.open(path) as catalog:
        await catalog.record_blob(ONE, 1, now=1.0)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE blobs SET digest = 'sha256:?'")
    connection.close()
    with pytest.raises(StoreError, match=r"damaged: .* move the file"):
        await _use(path, ONE)


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _content(path: Path) -> bytes:
    return path.read_bytes()


async def _use(path: Path, digest: Digest) -> None:
    async with Catalog.open(path) as catalog:
        await catalog.list_by_access(limit=999)
        await catalog.record_blob(digest, 1, now=1.0)

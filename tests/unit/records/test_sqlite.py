"""Records in an SQLite file."""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from mirror.oci.digest import digest_of
from mirror.oci.errors import StoreError
from mirror.records.ports import Link, Named, Records, ReferrersRecord, TagRecord
from mirror.records.sqlite import FIND_LINK, SqliteRecords
from tests.conformance.records import ALPINE, HUB, ONE, TWO, RecordsConformance
from tests.support.clock import FakeClock
from tests.support.loop_watch import watching_the_loop


def _clock() -> float:
    return 1_800_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.sqlite3"


class TestSqliteRecords(RecordsConformance):
    @pytest.fixture
    async def records(self, path: Path, clock: FakeClock) -> AsyncIterator[Records]:
        async with SqliteRecords.open(path, clock=clock) as records:
            yield records


async def test_what_was_recorded_is_there_after_a_restart(path: Path) -> None:
    async with SqliteRecords.open(path, clock=_clock) as records:
        await records.record_manifest(ALPINE, ONE, 5, [Named(TWO, 20)], sent_as="a/b")
        await records.record_tag(ALPINE, "3.20", TagRecord(ONE, 3.0))
    async with SqliteRecords.open(path, clock=_clock) as records:
        assert await records.find_link(ALPINE, ONE) == Link(5, is_confirmed=True, is_sent=True)
        assert await records.find_link(ALPINE, TWO) == Link(20, is_confirmed=False, is_sent=False)
        assert await records.find_media_type(HUB, ONE) == "a/b"
        assert await records.find_tag(ALPINE, "3.20") == TagRecord(ONE, 3.0)


async def test_of_the_referrers_only_the_latest_are_kept(path: Path) -> None:
    async with SqliteRecords.open(path, clock=_clock) as records, asyncio.TaskGroup() as tasks:
        for number in range(100):
            record = ReferrersRecord(b" " * 2**18, checked_at=float(number))
            tasks.create_task(records.record_referrers(ALPINE, digest_of(b"%d" % number), record))
    async with SqliteRecords.open(path, clock=_clock) as records:
        digests = [digest_of(b"%d" % number) for number in range(100)]
        kept = [await records.find_referrers(ALPINE, digest) is not None for digest in digests]
    assert kept == sorted(kept)  # the oldest are gone
    assert 60 <= sum(kept) <= 68  # 16 MiB of them


async def test_what_only_the_oldest_manifests_name_goes_where_manifests_name_too_much(
    path: Path,
) -> None:
    """Anybody may write manifests of thousands of digests, and have them asked for."""
    own = [digest_of(b"%d" % number) for number in range(100)]
    manifests = [digest_of(b"manifest %d" % number) for number in range(100)]
    confirmed, shared = own[1], digest_of(b"shared")
    async with SqliteRecords.open(path, clock=_clock, most_named=60) as records:
        await records.record_link(ALPINE, confirmed, 7)
        for manifest, child in zip(manifests, own, strict=True):
            children = [Named(child, 1), Named(shared, 2)]
            await records.record_manifest(ALPINE, manifest, 5, children)
            await records.record_manifest(ALPINE, manifests[0], 5, [Named(own[0], 1)])  # in use
    async with SqliteRecords.open(path, clock=_clock) as records:
        kept = [child for child in own if await records.find_link(ALPINE, child) is not None]
        assert 15 <= len(kept) <= 25
        assert kept[:2] == [own[0], confirmed]  # the one was used lately, the other upstream's word
        assert kept[2:] == own[-len(kept) + 2 :]
        assert await records.find_link(ALPINE, shared) is not None
        assert await records.find_link(ALPINE, manifests[50]) is not None  # confirmed by itself
        assert await records.list_children(manifests[50]) == []
        assert await records.list_children(manifests[-1]) == [own[-1], shared]


# Files that are not what they should be


async def test_a_file_that_is_no_database_is_set_aside_and_what_it_means_is_said(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    garbage = b"not a database" * 100
    _put(path, garbage)
    async with SqliteRecords.open(path, clock=_clock) as records:
        await records.record_link(ALPINE, ONE, 10)
    assert _content(path.with_name("records.sqlite3.damaged")) == garbage
    assert "has to be pinned again" in caplog.text
    assert "has to be imported again" in caplog.text
    assert "or a backup restored" in caplog.text


async def test_a_digest_that_is_none_is_damage(path: Path) -> None:
    async with SqliteRecords.open(path, clock=_clock) as records:
        await records.record_tag(ALPINE, "1", TagRecord(ONE, 1.0))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE digests SET digest = x'07'")
    async with SqliteRecords.open(path, clock=_clock) as records:
        with pytest.raises(StoreError, match="damaged"):
            await records.find_tag(ALPINE, "1")
    async with SqliteRecords.open(path, clock=_clock) as records:
        assert await records.find_tag(ALPINE, "1") is None


async def test_a_link_is_found_by_indexes_alone(path: Path) -> None:
    async with SqliteRecords.open(path, clock=_clock) as records:
        await records.record_link(ALPINE, ONE, 10)
    with closing(sqlite3.connect(path)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {FIND_LINK}", ("", b"")).fetchall()
    assert "SCAN" not in str(plan)


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _content(path: Path) -> bytes:
    return path.read_bytes()


async def test_while_many_rows_are_read_others_have_their_turn(path: Path) -> None:
    many = [Named(digest_of(b"%d" % number), 1) for number in range(60_000)]
    async with SqliteRecords.open(path, clock=_clock) as records:
        await records.record_manifest(ALPINE, ONE, 5, many)
        with watching_the_loop(limit=0.03 if sys.gettrace() is None else 0.06) as holds:
            found = await records.list_edges([ONE], limit=100_000)
        assert len(found) == len(many)
        assert not holds, holds

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest

from mirror.oci.digest import Digest, digest_of
from mirror.oci.errors import StoreError
from mirror.storage.index import LEAST, SCHEMA, Index
from mirror.storage.policy import Kind
from mirror.storage.states import PartialKey
from mirror.storage.worth import HALF_LIFE
from mirror.telemetry.collectors import StoreTotals

ONE, TWO, THREE = (digest_of(name) for name in (b"1", b"2", b"3"))
MIB, HOUR = 2**20, 3600.0
DOCKER, QUAY = PartialKey("docker.io", ONE), PartialKey("quay.io", ONE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite3"


@pytest.fixture
async def index(path: Path) -> AsyncIterator[Index]:
    async with Index.open(path) as index:
        yield index


async def _least(index: Index, limit: int = 9) -> list[Digest]:
    return [candidate.digest for candidate in await index.list_least(limit=limit)]


async def test_what_was_recorded_is_there_after_a_restart(path: Path) -> None:
    async with Index.open(path) as index:
        assert not index.is_adopted
        await index.adopt([(str(ONE), 10, 0, 1.0, 0)], [("docker.io", str(TWO), 1.0)])
        assert not index.is_adopted
        await index.end_adoption()
        await index.record_blob(THREE, 5, now=2.0, is_manifest=True)
    async with Index.open(path) as index:
        assert index.is_adopted
        assert index.totals == StoreTotals(2, 15)
        assert await index.find_size(THREE) == 5
        assert await index.find_size(TWO) is None
        assert await index.list_partials() == {PartialKey("docker.io", TWO): 1.0}
        assert await index.latest_access() == 2.0


async def test_totals_count_a_blob_once_at_its_size(index: Index) -> None:
    await index.record_blob(ONE, 10, now=1.0)
    await index.record_blob(ONE, 10, now=2.0)
    assert index.totals == StoreTotals(blobs=1, bytes=10)
    await index.record_blob(ONE, 12, now=3.0)
    assert index.totals == StoreTotals(blobs=1, bytes=12)
    await index.forget_blobs([ONE, TWO])
    assert index.totals == StoreTotals(0, 0)


async def test_a_transaction_that_fails_at_its_commit_leaves_the_totals_as_they_were(
    index: Index, path: Path
) -> None:
    await index.record_blob(ONE, 10, now=1.0)
    with closing(sqlite3.connect(path)) as connection:  # what SQLite looks at when it commits
        connection.executescript(
            "CREATE TABLE parents (id INTEGER PRIMARY KEY);"
            "CREATE TABLE children (id INTEGER REFERENCES parents DEFERRABLE INITIALLY DEFERRED);"
            "CREATE TRIGGER refusal AFTER INSERT ON blobs"
            " BEGIN INSERT INTO children VALUES (1); END"
        )
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        await index.record_blob(TWO, 20, now=1.0)
    assert index.totals == StoreTotals(1, 10)
    assert await index.find_size(TWO) is None


async def test_a_manifest_recorded_anew_as_a_blob_stays_a_manifest(index: Index) -> None:
    await index.record_blob(ONE, 5, now=1.0, is_manifest=True)
    await index.record_blob(ONE, 5, now=2.0)
    (one,) = await index.list_least(limit=9)
    assert (one.kind, one.digest, one.size) == (Kind.MANIFEST, ONE, 5)


async def test_what_was_used_longest_ago_is_worth_least_and_what_was_used_twice_more(
    index: Index,
) -> None:
    for at, digest in enumerate((ONE, TWO, THREE)):
        await index.record_blob(digest, MIB, now=at * HOUR)
    assert await _least(index) == [ONE, TWO, THREE]
    assert await _least(index, limit=1) == [ONE]
    await index.record_accesses({ONE: 3 * HOUR, digest_of(b"gone"): 3 * HOUR})
    assert await _least(index) == [TWO, THREE, ONE]
    await index.record_accesses({TWO: HOUR})  # noted before, and written down later
    assert await _least(index) == [THREE, TWO, ONE]
    assert await index.latest_access() == 3 * HOUR


async def test_what_has_gone_is_worth_what_it_was_when_it_comes_again(index: Index) -> None:
    for at in range(5):
        await index.record_blob(ONE, MIB, now=at * HOUR)
    await index.record_meaning([ONE], is_superseded=True)
    await index.record_blob(TWO, MIB, now=5 * HOUR)
    before = await index.list_least(limit=9)
    await index.forget_blobs([ONE])
    await index.record_blob(ONE, MIB, now=4 * HOUR)
    (one, *_) = await index.list_least(limit=9)
    assert one.digest == ONE
    assert before[0].rank < one.rank < before[0].rank + 0.3  # asked for once more, of six times
    await index.record_meaning([ONE], is_superseded=False)
    assert await _least(index) == [TWO, ONE]


async def test_no_more_is_remembered_of_what_has_gone_than_makes_a_difference(
    index: Index, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.storage.index.MOST_REMEMBERED", 3)
    digests = [digest_of(bytes([number])) for number in range(9)]
    for at, digest in enumerate(digests):
        await index.record_blob(digest, MIB, now=at * HALF_LIFE)
    await index.forget_blobs(digests)

    def remembered() -> int:
        with closing(sqlite3.connect(path)) as connection:
            ((count,),) = connection.execute("SELECT count(*) FROM remembered")
        return int(count)

    assert remembered() == 9
    await index.forget_old_scores(now=8 * HALF_LIFE)
    assert remembered() == 4
    await index.forget_old_scores(now=13 * HALF_LIFE)
    assert remembered() == 2


async def test_what_has_come_slowly_stays_longer_than_what_was_asked_for_at_that_time(
    index: Index,
) -> None:
    for at, digest in enumerate((ONE, TWO, THREE)):
        await index.record_blob(digest, 99 * MIB, now=at * HOUR, slowness=(1.0, 3.0, 1.0)[at])
    assert await _least(index) == [ONE, THREE, TWO]
    await index.record_blob(TWO, 99 * MIB, now=HOUR)
    await index.record_accesses({ONE: 3 * HOUR, THREE: 3 * HOUR, TWO: HOUR})
    assert await _least(index) == [ONE, THREE, TWO]


async def test_what_is_superseded_or_broken_goes_first(index: Index) -> None:
    for at, digest in enumerate((ONE, TWO, THREE)):
        await index.record_blob(digest, MIB, now=at * HOUR)
    assert await index.find_meant([ONE, THREE, digest_of(b"gone")]) == {ONE, THREE}
    await index.record_meaning([THREE], is_superseded=True)
    assert await _least(index) == [THREE, ONE, TWO]
    assert await index.find_meant([ONE, THREE]) == {ONE}
    await index.record_broken([TWO])
    assert await _least(index) == [THREE, TWO, ONE]
    await index.record_accesses({TWO: 3 * HOUR, THREE: 3 * HOUR})  # somebody completes its image
    assert await _least(index) == [THREE, ONE, TWO]
    await index.record_meaning([THREE], is_superseded=False)
    assert await _least(index) == [ONE, TWO, THREE]


async def test_what_is_known_already_is_neither_worth_less_nor_unproved_when_it_is_adopted(
    path: Path,
) -> None:
    async with Index.open(path) as index:
        for at in range(5):
            await index.record_blob(ONE, MIB, now=at * HOUR, is_manifest=True, slowness=2.0)
        before = await index.list_least(limit=9)
        await index.adopt([(str(ONE), 7, 0, 9 * HOUR, 0), (str(TWO), MIB, 0, 9 * HOUR, 0)], [])
        assert [one for one in await index.list_least(limit=9) if one.digest == ONE] == before
        assert (await index.find(ONE), await index.find(TWO)) == ((MIB, True), (MIB, False))
        await index.record_blob(THREE, MIB, now=9 * HOUR)
        ranks = {one.digest: one.rank for one in await index.list_least(limit=9)}
        assert ranks[TWO] == ranks[THREE]


async def test_a_blob_that_is_said_to_be_a_manifest_is_as_proved_as_before(index: Index) -> None:
    await index.adopt([(str(ONE), MIB, 0, HOUR, 0)], [])
    await index.record_blob(ONE, MIB, now=HOUR, is_manifest=True, is_proved=False)
    assert await index.find(ONE) == (MIB, False)
    await index.record_proved([ONE], on=7)
    await index.record_blob(ONE, MIB, now=HOUR, is_manifest=True, is_proved=False)
    assert await index.list_due(before=7, today=9, after=None, limit=9) == [(ONE, MIB, 7)]


async def test_an_index_of_the_first_version_keeps_its_order_and_its_totals(path: Path) -> None:
    script = files("mirror.storage").joinpath("index.sql").read_text("utf-8")
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
        connection.execute("UPDATE totals SET adopted = 1")
        connection.execute(f"PRAGMA application_id = {SCHEMA.application_id}")
        connection.execute("PRAGMA user_version = 1")
        rows = [(str(it), MIB, 1.8e9 + at) for at, it in enumerate((TWO, ONE, THREE))]
        connection.executemany("INSERT INTO blobs VALUES (?, ?, 0, ?, 0)", rows)
        connection.commit()
    async with Index.open(path) as index:
        assert index.is_adopted
        assert index.totals == StoreTotals(3, 3 * MIB)
        assert await index.latest_access() == 1.8e9 + 2
        assert await _least(index) == [TWO, ONE, THREE]


async def test_the_order_of_going_is_read_from_a_table_of_its_own(index: Index, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        plan = str(connection.execute(f"EXPLAIN QUERY PLAN {LEAST}", (9,)).fetchall())
    assert "blobs_by_rank" in plan
    assert "TEMP B-TREE" not in plan


async def test_what_is_pinned_costs_nothing_when_room_is_made(index: Index, path: Path) -> None:
    pinned = [digest_of(b"pinned %d" % number) for number in range(2000)]
    await index.adopt([(str(digest), 10, 0, 1.0, 1) for digest in pinned], [])
    await index.record_blob(ONE, 10, now=1e9)
    await index.record_blob(TWO, 10, now=2e9)

    def steps() -> int:
        with closing(sqlite3.connect(path)) as connection:
            counted = 0

            def count() -> None:
                nonlocal counted
                counted += 1

            connection.execute(LEAST, (1,)).fetchall()  # it has read the schema then
            connection.set_progress_handler(count, 1)
            connection.execute(LEAST, (2,)).fetchall()
            return counted

    await index.record_pin("app:1", pinned)
    assert await _least(index) == [ONE, TWO]
    assert await index.weigh_staying([ONE]) == 2001 * 10
    assert steps() < 100


async def test_pinned_bytes_are_known_whatever_becomes_of_a_blob(path: Path) -> None:
    async with Index.open(path, block=100) as index:
        await index.record_pin("app:1", [ONE, TWO])
        await index.record_pin("app:2", [ONE])
        assert await index.weigh_staying([]) == 0
        await index.record_blob(ONE, 150, now=1.0)
        await index.record_blob(TWO, 150, now=1.0)
        assert await index.weigh_staying([]) == 400
        await index.record_pin("app:1", [TWO])
        assert await index.weigh_staying([ONE]) == 400  # another one pins it
        await index.record_pin("app:2", [])
        assert await index.weigh_staying([]) == 200
        assert await _least(index) == [ONE]
        await index.record_blob(TWO, 250, now=2.0)
        assert await index.weigh_staying([]) == 300
        await index.mark_leaving([TWO])
        assert await index.weigh_staying([]) == 0
        await index.forget_blobs([TWO])
        await index.record_blob(TWO, 50, now=3.0)
        assert (await index.weigh_staying([]), await _least(index)) == (100, [ONE])
        await index.forget_blobs([TWO])
        assert await index.weigh_staying([]) == 0
    async with Index.open(path, block=4096) as index:
        await index.record_blob(TWO, 50, now=3.0)
        assert await index.weigh_staying([]) == 4096


async def test_a_leaving_blob_is_on_disk_for_nobody_until_it_comes_anew(index: Index) -> None:
    await index.record_blob(ONE, 10, now=1.0)
    await index.mark_leaving([ONE])
    assert await index.find_size(ONE) is None
    assert await index.find_sizes([ONE]) == {}
    assert [batch async for batch in index.list_stored()] == []
    assert await _least(index) == []
    assert await index.list_leaving() == [(ONE, 10)]
    assert index.totals.bytes == 10
    await index.record_blob(ONE, 10, now=2.0)
    assert await index.list_leaving() == []
    assert await index.find_size(ONE) == 10


async def test_everything_is_listed_once_in_batches(index: Index) -> None:
    digests = [digest_of(bytes([number])) for number in range(200)] + [
        digest_of(bytes([number]) * 9) for number in range(200)
    ]
    rows = [(str(digest), number, 0, 1.0, 0) for number, digest in enumerate(digests)]
    more = [(f"sha256:{number:064x}", 1, 0, 1.0, 0) for number in range(800)]
    await index.adopt([*rows, *more], [])
    batches = [batch async for batch in index.list_stored()]
    assert [len(batch) for batch in batches] == [1000, 200]
    listed = [digest for batch in batches for digest, _ in batch]
    assert len(set(listed)) == 1200
    assert await index.find_sizes([*digests, digest_of(b"gone")] * 2) == {
        digest: number for number, digest in enumerate(digests)
    }


async def test_a_download_is_its_upstreams_and_as_young_as_it_was_continued(index: Index) -> None:
    await index.record_partial(DOCKER, now=1.0)
    await index.record_partial(QUAY, now=1.5)
    await index.record_partial(DOCKER, now=2.0)
    assert await index.list_partials() == {DOCKER: 2.0, QUAY: 1.5}
    await index.forget_partials([DOCKER])
    assert await index.list_partials() == {QUAY: 1.5}
    await index.record_blob(ONE, 1, now=3.0, upstream="docker.io")
    assert await index.list_partials() == {QUAY: 1.5}
    await index.record_blob(ONE, 1, now=3.0, upstream="quay.io")
    assert await index.list_partials() == {}


async def test_one_sync_does_for_all_that_is_on_record(index: Index) -> None:
    for key in (DOCKER, QUAY):
        await index.record_partial(key, now=1.0)
        assert not index.is_synced(key)
    await index.sync_partial(DOCKER, now=2.0)
    assert index.is_synced(DOCKER)
    assert index.is_synced(QUAY)
    await index.sync_partial(QUAY, now=3.0)  # nothing is to be done
    assert await index.list_partials() == {DOCKER: 2.0, QUAY: 1.0}


async def test_writes_that_are_asked_for_together_are_all_kept(index: Index) -> None:
    digests = [digest_of(bytes([number])) for number in range(200)]
    async with asyncio.TaskGroup() as tasks:
        for digest in digests:
            tasks.create_task(index.record_blob(digest, 1, now=1.0))
    assert index.totals.blobs == 200
    assert set(await _least(index, 999)) == set(digests)


@pytest.mark.parametrize("size", [2**70, "ten", None])
async def test_a_value_that_cannot_be_kept_harms_nobody_else(index: Index, size: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        good = tasks.create_task(index.record_blob(ONE, 1, now=1.0))
        with pytest.raises(StoreError, match=r"index\.sqlite3 cannot"):
            await index.record_blob(TWO, size, now=1.0)
    assert good.done()
    assert await _least(index) == [ONE]
    assert index.totals == StoreTotals(1, 1)
    await index.record_blob(THREE, 1, now=1.0)
    assert index.totals.blobs == 2


async def test_a_write_outlives_who_asked_for_it(path: Path) -> None:
    async with Index.open(path) as index, asyncio.TaskGroup() as tasks:
        task = tasks.create_task(index.record_blob(ONE, 1, now=1.0))
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()
    async with Index.open(path) as index:
        assert index.totals.blobs == 1


async def test_what_was_asked_for_before_the_end_is_written_at_the_end(path: Path) -> None:
    async with asyncio.TaskGroup() as tasks, Index.open(path) as index:
        for number in range(20):
            tasks.create_task(index.record_blob(digest_of(bytes([number])), 1, now=1.0))
        await asyncio.sleep(0)
    async with Index.open(path) as index:
        assert index.totals.blobs == 20


async def test_writes_go_on_while_all_tasks_are_cancelled(path: Path) -> None:
    """A mirror that goes down suspends its fills, when their group has been cancelled already."""

    async def fill(index: Index) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await index.record_partial(DOCKER, now=1.0)

    async def run(index: Index) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fill(index))
            await asyncio.sleep(0)
            raise ZeroDivisionError

    async with Index.open(path) as index:
        with pytest.raises(ExceptionGroup):
            await run(index)
        assert await index.list_partials() == {DOCKER: 1.0}


async def test_a_closed_index_says_so(path: Path) -> None:
    async with Index.open(path) as index:
        pass
    with pytest.raises(StoreError, match="closed"):
        await index.record_blob(ONE, 1, now=1.0)
    with pytest.raises(StoreError, match="closed"):
        await index.find_size(ONE)


# Files that are not what they should be


@pytest.mark.parametrize("garbage", [b"not a database" * 100, b"SQLite format 3\0" + b"\7" * 4096])
async def test_a_file_that_is_no_database_is_set_aside_and_an_index_takes_its_place(
    path: Path, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for content in (b"an older one", garbage):
        _put(path, content)
        async with Index.open(path) as index:
            assert index.totals == StoreTotals(0, 0)
            assert not index.is_adopted
    assert _content(path.with_name("index.sqlite3.damaged")) == garbage
    assert "index.sqlite3 is set aside" in caplog.text
    assert "they are adopted" in caplog.text


async def test_an_empty_file_becomes_an_index(path: Path) -> None:
    _put(path, b"")
    async with Index.open(path) as index:
        assert index.totals == StoreTotals(0, 0)
        assert not index.is_adopted


async def test_somebody_elses_database_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE blobs (mine TEXT)")
    connection.close()
    before = _content(path)
    with pytest.raises(StoreError, match="somebody else's database") as refusal:
        async with Index.open(path):
            pass
    assert "damaged" not in str(refusal.value)
    assert _content(path) == before


async def test_a_newer_mirrors_index_is_left_alone(path: Path) -> None:
    async with Index.open(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(SCHEMA.scripts) + 1}")
    connection.close()
    with pytest.raises(StoreError, match="newer mirror; run that one") as refusal:
        async with Index.open(path):
            pass
    assert "damaged" not in str(refusal.value)


async def test_a_index_that_cannot_be_opened_says_what_to_do(path: Path) -> None:
    path = path / "no" / "directory"
    with pytest.raises(StoreError, match="write access"):
        async with Index.open(path):
            pass


async def test_damage_that_shows_later_is_an_error_and_the_next_start_sets_the_file_aside(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Index.open(path) as index:
        for number in range(250):
            await index.record_blob(digest_of(bytes([number])), 1, now=float(number))
    content = _content(path)
    _put(path, content[:-20_000] + b"\x5a" * 20_000)  # what comes last are blobs
    with pytest.raises(StoreError, match="cannot be used"):
        await _use(path, ONE)
    assert caplog.text.count("restart the mirror") == 1
    await _use(path, ONE)
    async with Index.open(path) as index:
        assert index.totals.blobs == 1
    assert path.with_name("index.sqlite3.damaged").exists()


async def test_a_good_index_in_the_place_of_a_damaged_one_is_used(path: Path) -> None:
    """A backup is restored, where the log told of damage."""
    async with Index.open(path) as index:
        await index.record_blob(ONE, 1, now=1.0)
        await index.record_blob(TWO, 1, now=1.0)
    backup = path.with_name("backup")
    shutil.copy2(path, backup)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            "UPDATE blobs SET digest = x'07' WHERE digest = (SELECT min(digest) FROM blobs)"
        )
    with pytest.raises(StoreError, match="damaged"):
        await _use(path, THREE)
    shutil.copy2(backup, path)
    async with Index.open(path) as index:
        assert index.totals.blobs == 2
    assert {it.name for it in path.parent.iterdir()} == {path.name, backup.name}


async def test_a_digest_that_is_none_is_damage(path: Path) -> None:
    async with Index.open(path) as index:
        await index.record_blob(ONE, 1, now=1.0)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE blobs SET digest = x'07'")
    connection.close()
    with pytest.raises(StoreError, match="damaged"):
        await _use(path, ONE)
    await _use(path, ONE)


@pytest.mark.parametrize(
    "damage",
    ["DELETE FROM totals", "DROP TABLE totals", "ALTER TABLE totals RENAME COLUMN block TO clock"],
)
async def test_an_index_without_its_totals_is_damaged(path: Path, damage: str) -> None:
    async with Index.open(path) as index:
        await index.record_blob(ONE, 1, now=1.0)
    with sqlite3.connect(path) as connection:
        connection.execute(damage)
    connection.close()
    async with Index.open(path) as index:
        assert index.totals.blobs == 0


async def test_an_index_whose_schema_no_text_is_any_more_is_damaged(path: Path) -> None:
    async with Index.open(path):
        pass
    content = _content(path)
    assert b"CREATE TRIGGER" in content
    _put(path, content.replace(b"CREATE TRIGGER", b"CREATE\xffTRIGGER"))
    async with Index.open(path) as index:
        assert index.totals.blobs == 0
    assert path.with_name("index.sqlite3.damaged").exists()


async def test_text_that_is_none_is_damage(path: Path) -> None:
    async with Index.open(path) as index:
        await index.record_partial(PartialKey("docker.io", ONE), now=1.0)
    _put(path, _content(path).replace(b"docker.io", b"docker\xffio"))
    with pytest.raises(StoreError, match="decode"):
        async with Index.open(path) as index:
            await index.list_partials()
    async with Index.open(path) as index:
        assert await index.list_partials() == {}


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _content(path: Path) -> bytes:
    return path.read_bytes()


async def _use(path: Path, digest: Digest) -> None:
    async with Index.open(path) as index:
        await index.list_least(limit=999)
        await index.record_blob(digest, 1, now=1.0)

"""Files of earlier mirrors are brought up to date, and nothing that they say is lost."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path

import pytest

from mirror.oci.compact import pack
from mirror.oci.digest import digest_of
from mirror.oci.errors import StoreError
from mirror.oci.manifest import OCI_INDEX, OCI_MANIFEST
from mirror.records.ports import Link, Named, ReferrersRecord, TagRecord
from mirror.records.sqlite import SCHEMA, SqliteRecords
from mirror.records.wishes import PinRecord
from tests.conformance.records import ALPINE, APP, GHCR, HUB, LONG, ONE, THREE, TWO, list_all_links

UNNAMED = digest_of(b"nobody names it")


def clock() -> float:
    return 1_800_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.sqlite3"


@contextmanager
def file_of(version: int, path: Path) -> Iterator[sqlite3.Connection]:
    """A file as a mirror of that version has made it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for script in SCHEMA.scripts[:version]:
            text = files(SCHEMA.package).joinpath(script).read_text(encoding="utf-8")
            connection.executescript(text)
        connection.execute(f"PRAGMA application_id = {SCHEMA.application_id}")
        connection.execute(f"PRAGMA user_version = {version}")
        yield connection


def fill(connection: sqlite3.Connection, version: int) -> None:
    many = connection.executemany
    many("INSERT INTO upstreams VALUES (?, ?)", [(1, HUB), (2, GHCR)])
    many("INSERT INTO repositories VALUES (?, ?, ?)", [(1, 1, str(ALPINE)), (7, 2, str(APP))])
    links = [(1, ONE, 5, 1), (1, TWO, 20, 0), (7, TWO, 21, 1), (7, LONG, 3, 0)]
    many("INSERT INTO links VALUES (?, ?, ?, ?)", [(r, pack(d), *rest) for r, d, *rest in links])
    sent = [(ONE, 1, OCI_MANIFEST), (TWO, 1, None), (TWO, 2, "text/odd"), (LONG, 2, OCI_INDEX)]
    many("INSERT INTO sent VALUES (?, ?, ?)", [(pack(d), *rest) for d, *rest in sent])
    edges = [(ONE, 0, TWO), (ONE, 1, THREE), (ONE, 2, TWO), (LONG, 0, ONE)]
    many("INSERT INTO edges VALUES (?, ?, ?)", [(pack(p), n, pack(c)) for p, n, c in edges])
    tags = [(1, "3.20", pack(ONE), 3.5), (7, "v1", pack(UNNAMED), 4.5)]
    insert = "INSERT INTO tags (repository, name, digest, checked_at) VALUES (?, ?, ?, ?)"
    many(insert, tags)
    if version == 1:
        insert = "INSERT INTO referrers VALUES (1, ?, ?, 0, ?, 1.5)"
        many(insert, [(pack(ONE), "", b"all"), (pack(ONE), "a/b", b"some")])
    else:
        connection.execute("UPDATE tags SET is_fallback = 1 WHERE name = 'v1'")
        insert = (
            "INSERT INTO referrers (repository, digest, checked_at, content) VALUES (1, ?, 1.5, ?)"
        )
        connection.execute(insert, (pack(ONE), b"all"))
        many("INSERT INTO manifests VALUES (?, ?, ?)", [(3, pack(LONG), 1), (9, pack(ONE), 3)])


@pytest.mark.parametrize("version", [1, 2])
async def test_what_an_earlier_mirror_has_recorded_is_all_there(path: Path, version: int) -> None:
    with file_of(version, path) as connection:
        fill(connection, version)
    async with SqliteRecords.open(path, clock=clock) as records:
        assert await records.find_link(ALPINE, ONE) == Link(5, is_confirmed=True, is_sent=True)
        assert await records.find_link(ALPINE, TWO) == Link(20, is_confirmed=False, is_sent=True)
        assert await records.find_link(APP, TWO) == Link(21, is_confirmed=True, is_sent=True)
        assert await records.find_link(ALPINE, LONG) is None
        assert len(await list_all_links(records, [HUB, GHCR])) == 4
        assert await records.find_media_type(HUB, ONE) == OCI_MANIFEST
        assert await records.find_media_type(GHCR, TWO) == "text/odd"
        assert await records.find_media_type(HUB, TWO) is None
        assert await records.find_media_type(GHCR, LONG) == OCI_INDEX
        assert await records.list_senders(TWO) == {HUB, GHCR}
        assert await records.list_children(ONE) == [TWO, THREE, TWO]
        assert await records.list_children(LONG) == [ONE]
        assert await records.find_tag(ALPINE, "3.20") == TagRecord(ONE, 3.5)
        assert await records.find_tag(APP, "v1") == TagRecord(
            UNNAMED, 4.5, is_fallback=version == 2
        )
        assert await records.find_referrers(ALPINE, ONE) == ReferrersRecord(b"all", 1.5)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
async def test_a_file_of_an_earlier_mirror_is_written_to_as_a_new_one(
    path: Path, version: int
) -> None:
    with file_of(version, path):
        pass
    async with SqliteRecords.open(path, clock=clock) as records:
        await records.record_manifest(ALPINE, ONE, 5, [Named(TWO, 20)], sent_as=OCI_MANIFEST)
        await records.record_tag(ALPINE, "3.20", TagRecord(ONE, 3.0, is_imported=True))
        assert await records.list_children(ONE) == [TWO]
    async with SqliteRecords.open(path, clock=clock) as records:
        assert await records.find_tag(ALPINE, "3.20") == TagRecord(ONE, 3.0, is_imported=True)


async def test_a_tag_that_was_on_record_before_there_were_bundles_is_upstreams_word(
    path: Path,
) -> None:
    with file_of(3, path) as connection:
        connection.execute("INSERT INTO upstreams VALUES (1, ?)", (HUB,))
        connection.execute("INSERT INTO repositories VALUES (1, 1, ?)", (str(ALPINE),))
        connection.execute("INSERT INTO digests VALUES (1, ?, 0)", (pack(ONE),))
        connection.execute("INSERT INTO tags VALUES (1, '3.20', 1, 3.5, 0)")
    async with SqliteRecords.open(path, clock=clock) as records:
        assert await records.find_tag(ALPINE, "3.20") == TagRecord(ONE, 3.5)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
async def test_a_file_of_an_earlier_mirror_keeps_what_operators_wish(
    path: Path, version: int
) -> None:
    with file_of(version, path):
        pass
    pin = PinRecord("docker.io/library/app:1", ("linux/amd64", "linux/arm64"), 60.5)
    async with SqliteRecords.open(path, clock=clock) as records:
        assert await records.wishes.list_pins() == []
        await records.wishes.record_pin(PinRecord(pin.image))
        await records.wishes.record_pin(pin)
        await records.wishes.record_pin(PinRecord("docker.io/library/b:1"))
        await records.wishes.record_warming("b", b"{}")
        await records.wishes.record_warming("a", b"{}")
        await records.wishes.record_warming("a", b"1")
    async with SqliteRecords.open(path, clock=clock) as records:
        assert await records.wishes.list_pins() == [pin, PinRecord("docker.io/library/b:1")]
        assert await records.wishes.list_warmings() == {"a": b"1", "b": b"{}"}
        await records.wishes.forget_pin(pin.image)
        await records.wishes.forget_warming("a")
        assert [it.image for it in await records.wishes.list_pins()] == ["docker.io/library/b:1"]
        assert await records.wishes.list_warmings() == {"b": b"{}"}


@pytest.mark.parametrize("version", [1, 2])
async def test_a_file_of_an_earlier_mirror_can_shrink_from_now_on(path: Path, version: int) -> None:
    with file_of(version, path) as connection:
        fill(connection, version)
    async with SqliteRecords.open(path, clock=clock):
        pass
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)  # incremental
        assert connection.execute("PRAGMA page_size").fetchone() == (1024,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


async def test_since_when_a_tag_means_something_is_known_from_now_on(path: Path) -> None:
    with file_of(3, path):
        pass

    def since() -> float:
        with closing(sqlite3.connect(path)) as connection:
            ((found,),) = connection.execute("SELECT since FROM tags")
        return float(found)

    async with SqliteRecords.open(path, clock=clock) as records:
        await records.record_tag(ALPINE, "3.20", TagRecord(ONE, 3.0))
        await records.record_tag(ALPINE, "3.20", TagRecord(ONE, 4.0))
        assert since() == 3.0
        await records.record_tag(ALPINE, "3.20", TagRecord(TWO, 5.0))
        assert since() == 5.0


async def test_a_migration_that_is_interrupted_is_begun_anew(path: Path) -> None:
    with file_of(2, path) as connection:
        fill(connection, 2)
        connection.execute("CREATE TABLE digests (in_the TEXT, way TEXT)")
    with pytest.raises(StoreError, match="records"):
        async with SqliteRecords.open(path, clock=clock):
            pass
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        connection.execute("DROP TABLE digests")
        connection.commit()
    async with SqliteRecords.open(path, clock=clock) as records:
        assert await records.find_tag(ALPINE, "3.20") == TagRecord(ONE, 3.5)


async def test_a_newer_mirrors_file_is_refused_and_left_as_it_is(path: Path) -> None:
    with file_of(len(SCHEMA.scripts), path) as connection:
        connection.execute(f"PRAGMA user_version = {len(SCHEMA.scripts) + 1}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with pytest.raises(StoreError, match="written by a newer mirror; run that one"):
        async with SqliteRecords.open(path, clock=clock):
            pass
    with closing(sqlite3.connect(path)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()
        assert version == (len(SCHEMA.scripts) + 1,)

"""What an older mirror has kept becomes records."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mirror.oci.digest import Digest, digest_of
from mirror.oci.errors import StoreError
from mirror.oci.manifest import OCI_MANIFEST
from mirror.oci.reference import Repository
from mirror.records.from_catalog import remove_catalog
from mirror.records.ports import Link, ReferrersRecord, TagRecord
from mirror.records.sqlite import SqliteRecords
from tests.conformance.records import ALPINE, APP, GHCR, HUB, NGINX, list_all_links
from tests.support.catalog import CATALOG_V1

MANIFEST, LAYER, SHARED, GONE, ODD = map(digest_of, (b"manifest", b"layer", b"both", b"gone", b"o"))
LONG = Digest("sha512", "ab" * 64)

BLOBS = [(MANIFEST, 5, OCI_MANIFEST), (LAYER, 20, None), (SHARED, 30, None), (ODD, 1, "no\x01pe")]
LINKS = [
    (ALPINE, MANIFEST, 5), (ALPINE, LAYER, 20), (NGINX, LAYER, 20), (ALPINE, SHARED, 30),
    (APP, SHARED, 30), (ALPINE, GONE, 40), (APP, LONG, 50), (APP, ODD, 1),
]  # fmt: skip


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Path]:
    """As a mirror of version 1 has left it: `docker.io` and `ghcr.io` share a blob."""
    path = tmp_path / "catalog.sqlite3"
    numbers = {ALPINE: 1, NGINX: 2, APP: 7}
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(CATALOG_V1)
        connection.execute("PRAGMA user_version = 1")
        insert = connection.executemany
        names = [(number, it.namespace, it.name) for it, number in numbers.items()]
        insert("INSERT INTO repositories VALUES (?, ?, ?)", names)
        insert(
            "INSERT INTO blobs VALUES (?, ?, ?, 0, 0)", [(str(it), *rest) for it, *rest in BLOBS]
        )
        links = [(numbers[repository], str(it), size) for repository, it, size in LINKS]
        insert("INSERT INTO links VALUES (?, ?, ?)", [*links, (1, "sha256:nonsense", 1)])
        connection.execute("INSERT INTO tags VALUES (1, '3.20', ?, 3.5)", (str(MANIFEST),))
        referrers = (str(MANIFEST), b"{}")
        connection.execute("INSERT INTO referrers VALUES (7, ?, '', 0, ?, 4.5)", referrers)
        filtered = "INSERT INTO referrers VALUES (7, ?, 'a/b', 1, ?, 9.5)"
        connection.execute(filtered, referrers)
        yield path


def _clock() -> float:
    return 1_800_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.sqlite3"


async def test_what_the_old_catalog_says_is_on_record(path: Path, catalog: Path) -> None:
    async with SqliteRecords.open(path, clock=_clock, catalog=catalog) as records:
        assert set(await list_all_links(records, [HUB, GHCR])) == {
            (str(repository), digest) for repository, digest, _ in LINKS
        }
        assert await records.find_tag(ALPINE, "3.20") == TagRecord(MANIFEST, 3.5)
        assert await records.find_referrers(APP, MANIFEST) == ReferrersRecord(b"{}", 4.5)
        assert await records.find_media_type(HUB, MANIFEST) == OCI_MANIFEST
        assert await records.find_media_type(GHCR, ODD) is None  # it could not stand in a header
        digests = [digest for _, digest, _ in LINKS]
        assert await records.count_links(digests) == {
            MANIFEST: 1, LAYER: 2, SHARED: 2, GONE: 1, LONG: 1, ODD: 1
        }  # fmt: skip


@pytest.mark.parametrize(
    ("repository", "digest", "link"),
    [
        # A tag is upstream's own word, and what is linked within one upstream came through it.
        (ALPINE, MANIFEST, Link(5, is_confirmed=True, is_sent=True)),
        (ALPINE, LAYER, Link(20, is_confirmed=False, is_sent=True)),
        (NGINX, LAYER, Link(20, is_confirmed=False, is_sent=True)),
        # Either may have sent it.
        (ALPINE, SHARED, Link(30, is_confirmed=False, is_sent=False)),
        (APP, SHARED, Link(30, is_confirmed=False, is_sent=False)),
        # It is not here: whoever will have sent it is not known yet.
        (ALPINE, GONE, Link(40, is_confirmed=False, is_sent=False)),
        (APP, LONG, Link(50, is_confirmed=False, is_sent=False)),
        (APP, LAYER, None),
    ],
)
async def test_an_old_link_stands_where_its_upstream_must_have_sent_the_bytes(
    path: Path, catalog: Path, repository: Repository, digest: Digest, link: Link | None
) -> None:
    async with SqliteRecords.open(path, clock=_clock, catalog=catalog) as records:
        assert await records.find_link(repository, digest) == link


async def test_it_is_taken_over_once_and_left_as_it_is(path: Path, catalog: Path) -> None:
    async with SqliteRecords.open(path, clock=_clock, catalog=catalog) as records:
        await records.forget_tag(ALPINE, "3.20")
    async with SqliteRecords.open(path, clock=_clock, catalog=catalog) as records:
        assert await records.find_tag(ALPINE, "3.20") is None
    with closing(sqlite3.connect(catalog)) as connection:
        assert connection.execute("SELECT count(*) FROM tags").fetchone() == (1,)


async def test_records_that_hold_something_already_take_nothing_over(
    path: Path, catalog: Path
) -> None:
    async with SqliteRecords.open(path, clock=_clock) as records:
        await records.record_link(APP, ODD, 1)
    async with SqliteRecords.open(path, clock=_clock, catalog=catalog) as records:
        assert await list_all_links(records, [HUB, GHCR]) == [(str(APP), ODD)]


async def test_without_an_old_catalog_there_is_nothing_to_take_over(
    path: Path, tmp_path: Path
) -> None:
    async with SqliteRecords.open(
        path, clock=_clock, catalog=tmp_path / "catalog.sqlite3"
    ) as records:
        assert await list_all_links(records, [HUB]) == []
    assert _names(tmp_path) == {"records.sqlite3"}


async def test_a_catalog_that_cannot_be_read_is_an_error_and_nothing_is_half_done(
    path: Path, catalog: Path
) -> None:
    with closing(sqlite3.connect(catalog, isolation_level=None)) as connection:
        connection.execute("DROP TABLE referrers")
        connection.execute("CREATE TABLE referrers (other TEXT)")
    with pytest.raises(StoreError, match=r"the catalog .*catalog\.sqlite3 cannot be used"):
        async with SqliteRecords.open(path, clock=_clock, catalog=catalog):
            pass
    async with SqliteRecords.open(path, clock=_clock) as records:
        assert await list_all_links(records, [HUB, GHCR]) == []


def test_the_old_catalog_goes_once_all_that_stands_in_for_it_is_there(tmp_path: Path) -> None:
    catalog, index, records = (tmp_path / name for name in ("catalog", "index", "records"))
    assert not remove_catalog(catalog, index, records)
    for path in (catalog, tmp_path / "catalog-wal", tmp_path / "catalog-shm", records):
        path.touch()
    assert not remove_catalog(catalog, index, records)
    assert catalog.exists()
    index.touch()
    assert remove_catalog(catalog, index, records)
    assert set(tmp_path.iterdir()) == {index, records}


def _names(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()}

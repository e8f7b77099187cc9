"""An index of an earlier mirror is brought up to date, and nothing that it says is lost."""

import sqlite3
from contextlib import closing
from importlib.resources import files
from pathlib import Path

from mirror.oci.digest import Digest, digest_of
from mirror.storage.index import SCHEMA, Index
from mirror.storage.policy import Candidate, Kind
from mirror.storage.states import PartialKey
from mirror.telemetry.metrics import StoreTotals

ONE, TWO, THREE = (digest_of(name) for name in (b"1", b"2", b"3"))
LONG = Digest("sha512", "ab" * 64)


async def test_what_an_index_with_digests_as_text_says_is_all_there(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(files(SCHEMA.package).joinpath("index.sql").read_text("utf-8"))
        connection.execute(f"PRAGMA application_id = {SCHEMA.application_id}")
        connection.execute("PRAGMA user_version = 1")
        blobs = [
            (str(ONE), 10, 1, 1.5, 0), (str(TWO), 20, 0, 2.5, 0), (str(LONG), 30, 0, 3.5, 0),
            (str(THREE), 40, 0, 4.5, 1), ("sha256:nonsense", 50, 0, 0.5, 0),
        ]  # fmt: skip
        connection.executemany("INSERT INTO blobs VALUES (?, ?, ?, ?, ?)", blobs)
        connection.execute("INSERT INTO partials VALUES ('docker.io', ?, 7.5)", (str(ONE),))
        connection.execute("UPDATE totals SET adopted = 1")
    async with Index.open(path) as index:
        assert index.is_adopted
        assert index.totals == StoreTotals(4, 100)
        assert await index.find_sizes([ONE, TWO, THREE, LONG]) == {ONE: 10, TWO: 20, LONG: 30}
        assert await index.list_leaving() == [(THREE, 40)]
        assert await index.list_coldest(limit=9) == [
            Candidate(Kind.BLOB, TWO, 20, 2.5),
            Candidate(Kind.BLOB, LONG, 30, 3.5),
            Candidate(Kind.MANIFEST, ONE, 10, 1.5),
        ]
        assert await index.list_partials() == {PartialKey("docker.io", ONE): 7.5}
        await index.forget_blobs([TWO, THREE])
        assert index.totals == StoreTotals(2, 40)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)  # incremental

"""An index of an earlier mirror is brought up to date, and nothing that it says is lost."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest

from mirror.oci.compact import pack, try_to_pack
from mirror.oci.digest import Digest, digest_of
from mirror.storage.index import SCHEMA, Index
from mirror.storage.policy import Kind
from mirror.storage.states import PartialKey
from mirror.storage.worth import HALF_LIFE
from mirror.telemetry.collectors import StoreTotals

ONE, TWO, THREE = (digest_of(name) for name in (b"1", b"2", b"3"))
LONG = Digest("sha512", "ab" * 64)
NOW = 1.8e9  # seconds since the epoch
DAY = 86_400.0

# By their size: what has no proved day yet has the first.
PROVED, UNPROVED, FOUND = 20_000, 1, 0
_HAVE_PROOFS = 3
_HAVE_PINS = 4
_HAVE_WORTH = 5


def _lay_out(path: Path, version: int) -> None:
    """An index of a version, with what a mirror of that version would have put into it."""
    name: Callable[[Digest], str | bytes] = str if version == 1 else pack
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.create_function("packed", 1, try_to_pack)
        for function in SCHEMA.functions:
            connection.create_function(function.__name__, -1, function)
        for script in SCHEMA.scripts[:version]:
            connection.executescript(files(SCHEMA.package).joinpath(script).read_text("utf-8"))
        connection.execute(f"PRAGMA application_id = {SCHEMA.application_id}")
        connection.execute(f"PRAGMA user_version = {version}")
        blobs = [
            (name(ONE), 10, 1, NOW, 0), (name(TWO), 20, 0, NOW + 1, 0),
            (name(LONG), 30, 0, NOW + 2, 0), (name(THREE), 40, 0, NOW + 3, 1),
        ]  # fmt: skip
        if version == 1:
            blobs.append(("sha256:nonsense", 50, 0, 0.5, 0))
        connection.executemany(
            "INSERT INTO blobs (digest, size, is_manifest, accessed_at, leaving)"
            " VALUES (?, ?, ?, ?, ?)",
            blobs,
        )
        connection.execute("INSERT INTO partials VALUES ('docker.io', ?, 7.5)", (name(ONE),))
        connection.execute("UPDATE totals SET adopted = 1")
        if version >= _HAVE_PROOFS:
            connection.execute("UPDATE blobs SET proved_on = ? WHERE size = 10", (PROVED,))
            connection.execute("UPDATE blobs SET proved_on = ? WHERE size = 20", (FOUND,))
        if version >= _HAVE_PINS:
            connection.execute("INSERT INTO pins VALUES ('app:1', ?)", (name(TWO),))
        if version >= _HAVE_WORTH:
            connection.execute("UPDATE blobs SET score = asked(NULL, accessed_at)")
            connection.execute("UPDATE blobs SET rank = rank(score, size)")
            connection.execute("UPDATE totals SET latest = ?", (NOW + 3,))


@pytest.mark.parametrize("version", range(1, len(SCHEMA.scripts)))
async def test_what_an_earlier_index_says_is_all_there(tmp_path: Path, version: int) -> None:
    path = tmp_path / "index.sqlite3"
    _lay_out(path, version)
    for _ in range(2):  # and it is as it was the next time
        async with Index.open(path, block=4096) as index:
            assert index.is_adopted
            assert (index.totals, index.taken) == (StoreTotals(4, 100), 4 * 4096)
            assert await index.find_sizes([ONE, TWO, THREE, LONG]) == {ONE: 10, TWO: 20, LONG: 30}
            assert await index.list_leaving() == [(THREE, 40)]
            assert await index.latest_access() == NOW + 3
            assert await index.list_partials() == {PartialKey("docker.io", ONE): 7.5}
            await index.record_pin("app:1", [])  # what is pinned does not go
            least = await index.list_least(limit=9)
            assert [(one.kind, one.digest, one.size) for one in least] == [
                (Kind.BLOB, LONG, 30),  # what is small is worth more
                (Kind.BLOB, TWO, 20),
                (Kind.MANIFEST, ONE, 10),
            ]
            assert least[0].rank > NOW / HALF_LIFE
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)  # incremental


@pytest.mark.parametrize("version", range(1, len(SCHEMA.scripts)))
async def test_an_earlier_index_counts_and_orders_as_a_new_one_from_then_on(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "index.sqlite3"
    _lay_out(path, version)
    async with Index.open(path, block=4096) as index:
        await index.forget_blobs([THREE])
        await index.record_accesses({LONG: NOW + 10 * HALF_LIFE})
        await index.record_blob(TWO, 5_000, now=NOW + DAY)
        await index.record_pin("app:1", [])
        assert (index.totals, index.taken) == (StoreTotals(3, 5_040), 4 * 4096)
        least = await index.list_least(limit=9)
        assert [one.digest for one in least] == [TWO, ONE, LONG]


@pytest.mark.parametrize("version", range(_HAVE_PROOFS, len(SCHEMA.scripts)))
async def test_what_was_proved_and_pinned_stays_so(tmp_path: Path, version: int) -> None:
    path = tmp_path / "index.sqlite3"
    _lay_out(path, version)
    async with Index.open(path) as index:
        due = await index.list_due(before=PROVED, today=PROVED, after=None, limit=9)
        assert {digest: proved_on for digest, _, proved_on in due} == {
            ONE: PROVED, TWO: FOUND, LONG: UNPROVED,
        }  # fmt: skip
        assert await index.find(TWO) == (20, False)
        pinned = {"app:1": frozenset({TWO})} if version >= _HAVE_PINS else {}
        assert await index.list_pins() == pinned
        assert await index.weigh_staying([]) == (20 if pinned else 0)
        assert TWO not in {one.digest for one in await index.list_least(limit=9)} or not pinned

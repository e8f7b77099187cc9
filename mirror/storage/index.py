"""The index of this node's disk: which blobs and partials are on it (SQLite, `index.sql`)."""

# ruff: noqa: S608 - all that is ever put into a statement's text is a number of question marks

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from mirror.oci.digest import Digest, parse_digest
from mirror.sqlite import Database, Row, Schema, Statement
from mirror.storage import worth
from mirror.storage.policy import Candidate, Kind
from mirror.storage.states import PartialKey
from mirror.telemetry.metrics import StoreTotals

SCHEMA = Schema(
    name="index",
    application_id=0x6D697278,  # "mirx"
    package="mirror.storage",
    scripts=("index.sql", "index-2.sql"),
    functions=(worth.asked, worth.rank),
    remedy=(
        ". The blobs are not affected: move the file (with its -wal and -shm) aside and start"
        " again, and they are adopted"
    ),
    summary="SELECT blobs, bytes, adopted, taken, block FROM totals",
)

_BATCH = 1000  # rows at a time, where there may be any number
_VALUES = 500  # in one statement

MOST_REMEMBERED = 200_000  # blobs that have gone; some 8 MB


class Index:
    """The open index. Use `Index.open`. All methods raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, *, block: int = 1) -> AsyncIterator["Index"]:
        """Open, and create where needed; everything asked for is written at exit.

        A blob takes whole blocks of so many bytes.

        Raises:
            StoreError: The file is damaged, not ours, or from a newer mirror.
        """
        async with Database.open(path, SCHEMA) as database:
            index = cls(database)
            await index._count_in(block)
            yield index

    @property
    def totals(self) -> StoreTotals:
        """As of the last transaction that was committed."""
        return StoreTotals(*self._database.summary[:2])

    @property
    def taken(self) -> int:
        """Bytes of the disk that all blobs take, as of then."""
        return int(self._database.summary[3])

    @property
    def is_adopted(self) -> bool:
        """Whether what was on disk before this index was is in it."""
        return bool(self._database.summary[2])

    # What is known

    async def find_size(self, digest: Digest) -> int | None:
        """The size in bytes of a blob; None where it is not here, or leaving."""
        return await self._database.first(
            "SELECT size FROM blobs WHERE digest = ? AND NOT leaving", (str(digest),), int
        )

    async def find_sizes(self, digests: Sequence[Digest]) -> dict[Digest, int]:
        """The sizes of those that are here, and not leaving."""
        found: dict[Digest, int] = {}
        for some in _batches(digests):
            sql = (
                "SELECT digest, size FROM blobs WHERE NOT leaving"
                f" AND digest IN ({', '.join('?' * len(some))})"
            )
            found.update(await self._database.rows(sql, [str(digest) for digest in some], _sized))
        return found

    async def list_stored(self) -> AsyncIterator[list[tuple[Digest, int]]]:
        """Everything that is here, with its size, in batches by digest."""
        after = ""
        while stored := await self._database.rows(
            "SELECT digest, size FROM blobs WHERE digest > ? AND NOT leaving"
            " ORDER BY digest LIMIT ?",
            (after, _BATCH),
            _sized,
        ):
            yield stored
            after = str(stored[-1][0])

    async def list_unused(self, *, since: float) -> AsyncIterator[list[tuple[Digest, float]]]:
        """What was last used before a time, and when, in batches by digest."""
        after = ""
        while rows := await self._database.page(
            "SELECT digest, accessed_at FROM blobs"
            " WHERE digest > ? AND NOT leaving ORDER BY digest LIMIT ?",
            (after, _BATCH),
            lambda digest, at: (str(digest), float(at)),
        ):
            after = rows[-1][0]
            yield [(parse_digest(digest), at) for digest, at in rows if at < since]

    async def list_least(self, *, limit: int) -> list[Candidate]:
        """What is worth least, in order, so many at most."""
        return await self._database.rows(
            "SELECT is_manifest, digest, size, rank FROM blobs"
            " WHERE NOT leaving ORDER BY rank LIMIT ?",
            (limit,),
            _candidate,
        )

    async def find_meant(self, digests: Sequence[Digest]) -> set[Digest]:
        """Which of these are here, and not superseded."""
        found: set[Digest] = set()
        for some in _batches(digests):
            sql = (
                "SELECT digest FROM blobs WHERE NOT leaving AND NOT is_superseded"
                f" AND digest IN ({', '.join('?' * len(some))})"
            )
            found.update(await self._database.page(sql, [str(it) for it in some], parse_digest))
        return found

    async def latest_access(self) -> float:
        """The latest time at which anything was used; 0 where there is nothing."""
        return await self._database.first("SELECT latest FROM totals", (), float) or 0.0

    async def list_leaving(self) -> list[tuple[Digest, int]]:
        """Some blobs whose deletion was begun and not finished, with their sizes."""
        return await self._database.rows(
            "SELECT digest, size FROM blobs WHERE leaving LIMIT ?", (_BATCH,), _sized
        )

    async def list_partials(self) -> dict[PartialKey, float]:
        """Downloads not recorded as blobs yet, with the time they were begun or continued."""
        rows = await self._database.rows(
            "SELECT upstream, digest, touched_at FROM partials",
            (),
            lambda upstream, digest, time: (PartialKey(upstream, parse_digest(digest)), time),
        )
        return dict(rows)

    # What changes

    async def record_blob(
        self,
        digest: Digest,
        size: int,
        *,
        now: float,
        is_manifest: bool = False,
        upstream: str | None = None,
        slowness: float = 1.0,
    ) -> None:
        """A blob is on disk, complete; the partial that it was of `upstream` is history."""
        name = worth.short_name(digest)
        history = [] if upstream is None else [(upstream, str(digest))]
        await self._database.write(
            Statement(_UPSERT_BLOB, [(str(digest), size, int(is_manifest), now, name, slowness)]),
            Statement("DELETE FROM remembered WHERE name = ?", [(name,)]),
            Statement(_NOTE_LATEST, [(now,)]),
            Statement(_FORGET_PARTIAL, history),
        )

    async def record_accesses(self, accesses: Mapping[Digest, float]) -> None:
        """When blobs were last used, in a batch: each has been asked for once more."""
        rows = [(time, str(digest)) for digest, time in accesses.items()]
        latest = max(accesses.values(), default=0.0)
        await self._database.write(
            Statement(_RECORD_ACCESS, rows), Statement(_NOTE_LATEST, [(latest,)])
        )

    async def record_meaning(self, digests: Iterable[Digest], *, is_superseded: bool) -> None:
        """Tags do not mean these any more, or mean them again."""
        rows = [(int(is_superseded), str(digest)) for digest in digests]
        await self._database.write(Statement(_RECORD_MEANING, rows))

    async def record_broken(self, digests: Iterable[Digest]) -> None:
        """The images that these belong to are not here in whole any more."""
        await self._database.write(Statement(_RECORD_BROKEN, _names(digests)))

    async def forget_old_scores(self, *, now: float) -> None:
        """Of what has gone, those are remembered that make a difference, and not too many."""
        await self._database.write(
            Statement(
                "DELETE FROM remembered WHERE score < max(?, coalesce((SELECT score FROM remembered"
                " ORDER BY score DESC LIMIT 1 OFFSET ?), 0))",
                [(worth.forgotten(now), MOST_REMEMBERED)],
            )
        )

    async def mark_leaving(self, digests: Iterable[Digest]) -> None:
        """Deletion begins: from now on these are not on disk for anyone who asks."""
        await self._database.write(
            Statement("UPDATE blobs SET leaving = 1 WHERE digest = ?", _names(digests))
        )

    async def forget_blobs(self, digests: Iterable[Digest]) -> None:
        """These are gone from disk; what they were worth is remembered."""
        rows = [(str(digest), worth.short_name(digest)) for digest in digests]
        await self._database.write(
            Statement(_REMEMBER, rows),
            Statement("DELETE FROM blobs WHERE digest = ?", [row[:1] for row in rows]),
        )

    async def record_partial(self, key: PartialKey, *, now: float) -> None:
        """A download is begun, or continued."""
        await self._database.write(
            Statement(_UPSERT_PARTIAL, [(key.upstream, str(key.digest), now)])
        )

    async def forget_partials(self, keys: Iterable[PartialKey]) -> None:
        """Downloads were given up, and their partials removed."""
        rows = [(key.upstream, str(key.digest)) for key in keys]
        await self._database.write(Statement(_FORGET_PARTIAL, rows))

    async def adopt(self, blobs: Iterable[Row], partials: Iterable[Row]) -> None:
        """These were on disk before this index was: rows as the tables have them.

        That everything is adopted is for `end_adoption` to say.
        """
        rows = [(*row, None, 1.0) for row in blobs]  # nothing is remembered of them
        latest = max((float(str(row[3])) for row in rows), default=0.0)
        await self._database.write(
            Statement(_UPSERT_BLOB, rows),
            Statement(_NOTE_LATEST, [(latest,)]),
            Statement(_UPSERT_PARTIAL, list(partials)),
        )

    async def _count_in(self, block: int) -> None:
        """Count blocks of so many bytes; slow where they were of another size before."""
        if block != self._database.summary[4]:
            whole = "(size + ?1 - 1) / ?1 * ?1"
            sql = (
                "UPDATE totals SET block = ?1,"
                f" taken = (SELECT coalesce(sum({whole}), 0) FROM blobs)"
            )
            await self._database.write(Statement(sql, [(block,)]))

    async def end_adoption(self) -> None:
        """All is adopted."""
        await self._database.write(Statement("UPDATE totals SET adopted = 1", [()]))


# Manifests may be fetched as blobs, too; they stay what they are.
_UPSERT_BLOB = (
    "INSERT INTO blobs"
    " (digest, size, is_manifest, accessed_at, is_superseded, slowness, score, rank)"
    " SELECT ?1, ?2, ?3, ?4, coalesce(r.is_superseded, 0), ?6, asked(r.score, ?4),"
    "  rank(asked(r.score, ?4), ?2, coalesce(r.is_superseded, 0), 0, ?6)"
    " FROM (SELECT 1) LEFT JOIN remembered AS r ON r.name = ?5 WHERE true"
    " ON CONFLICT DO UPDATE SET leaving = 0, size = excluded.size, is_broken = 0,"
    " is_manifest = max(is_manifest, excluded.is_manifest),"
    " accessed_at = max(accessed_at, excluded.accessed_at),"
    " slowness = max(slowness, excluded.slowness),"
    " score = asked(score, excluded.accessed_at),"
    " rank = rank(asked(score, excluded.accessed_at), excluded.size, is_superseded, 0,"
    "  max(slowness, excluded.slowness))"
)
_RECORD_ACCESS = (
    "UPDATE blobs SET accessed_at = max(accessed_at, ?1), score = asked(score, ?1), is_broken = 0,"
    " rank = rank(asked(score, ?1), size, is_superseded, 0, slowness) WHERE digest = ?2"
)
_RECORD_MEANING = (
    "UPDATE blobs SET is_superseded = ?1, rank = rank(score, size, ?1, is_broken, slowness)"
    " WHERE digest = ?2 AND is_superseded <> ?1"
)
_RECORD_BROKEN = (
    "UPDATE blobs SET is_broken = 1, rank = rank(score, size, is_superseded, 1, slowness)"
    " WHERE digest = ? AND NOT is_broken"
)
_NOTE_LATEST = "UPDATE totals SET latest = max(latest, ?)"
_REMEMBER = (
    "INSERT INTO remembered SELECT ?2, score, is_superseded FROM blobs WHERE digest = ?1"
    " ON CONFLICT DO UPDATE SET"
    " score = max(score, excluded.score), is_superseded = excluded.is_superseded"
)
_UPSERT_PARTIAL = (
    "INSERT INTO partials VALUES (?, ?, ?)"
    " ON CONFLICT DO UPDATE SET touched_at = excluded.touched_at"
)
_FORGET_PARTIAL = "DELETE FROM partials WHERE upstream = ? AND digest = ?"


def _names(digests: Iterable[Digest]) -> Sequence[Row]:
    return [(str(digest),) for digest in digests]


def _sized(digest: str, size: int) -> tuple[Digest, int]:
    return parse_digest(digest), size


def _batches(digests: Sequence[Digest]) -> Iterator[Sequence[Digest]]:
    for start in range(0, len(digests), _VALUES):
        yield digests[start : start + _VALUES]


def _candidate(is_manifest: int, digest: str, size: int, rank: float) -> Candidate:
    kind = Kind.MANIFEST if is_manifest else Kind.BLOB
    return Candidate(kind, parse_digest(digest), size, rank)

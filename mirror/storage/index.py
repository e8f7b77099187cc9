"""The index of this node's disk: which blobs and partials are on it (SQLite, `index.sql`)."""

# ruff: noqa: S608 - all that is ever put into a statement's text is a number of question marks

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from mirror.oci.compact import pack, unpack
from mirror.oci.digest import Digest, parse_digest
from mirror.sqlite import Database, Extent, Row, Schema, Statement
from mirror.storage.policy import Candidate, Kind
from mirror.storage.states import PartialKey
from mirror.telemetry.metrics import StoreTotals

SCHEMA = Schema(
    name="index",
    application_id=0x6D697278,  # "mirx"
    package="mirror.storage",
    scripts=("index.sql", "index_compact.sql", "index_proofs.sql", "index_pins.sql"),
    remedy=(
        ". The blobs are not affected: move the file (with its -wal and -shm) aside and start"
        " again, and they are adopted"
    ),
    summary="SELECT blobs, bytes, adopted FROM totals",
)

DAY = 86400.0
"""Seconds; proofs are on record by the day."""

_BATCH = 1000  # rows at a time, where there may be any number
_VALUES = 500  # in one statement


class Index:
    """The open index. Use `Index.open`. All methods raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.forgotten: set[Digest] = set()
        """What has been forgotten while not everything was adopted."""

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator["Index"]:
        """Open, and create where needed; everything asked for is written at exit.

        Raises:
            StoreError: The file is damaged, not ours, or from a newer mirror.
        """
        async with Database.open(path, SCHEMA) as database:
            yield cls(database)

    @property
    def totals(self) -> StoreTotals:
        """As of the last transaction that was committed."""
        return StoreTotals(*self._database.summary[:2])

    @property
    def is_adopted(self) -> bool:
        """Whether what was on disk before this index was is in it."""
        return bool(self._database.summary[2])

    async def measure(self) -> Extent:
        """What the index takes on disk."""
        return await self._database.measure()

    async def give_back(self, most: int) -> None:
        """Have the file shrink by so many bytes, as far as they are of no use."""
        await self._database.give_back(most)

    # What is known

    async def find_size(self, digest: Digest) -> int | None:
        """The size in bytes of a blob; None where it is not here, or leaving."""
        return await self._database.first(
            "SELECT size FROM blobs WHERE digest = ? AND NOT leaving", (pack(digest),), int
        )

    async def find(self, digest: Digest) -> tuple[int, bool] | None:
        """As `find_size`, with whether its content was ever proved since it was found on disk."""
        return await self._database.first(
            "SELECT size, proved_on > 0 FROM blobs WHERE digest = ? AND NOT leaving",
            (pack(digest),),
            lambda size, is_proved: (size, bool(is_proved)),
        )

    async def find_sizes(
        self, digests: Sequence[Digest], *, can_wait: bool = False
    ) -> dict[Digest, int]:
        """The sizes of those that are here, and not leaving. `can_wait`: it is no client's pull."""
        query = self._database.page if can_wait else self._database.rows
        found: dict[Digest, int] = {}
        for start in range(0, len(digests), _VALUES):
            some = digests[start : start + _VALUES]
            sql = (
                "SELECT digest, size FROM blobs WHERE NOT leaving"
                f" AND digest IN ({', '.join('?' * len(some))})"
            )
            found.update(await query(sql, [pack(digest) for digest in some], _sized))
        return found

    async def list_stored(self) -> AsyncIterator[list[tuple[Digest, int]]]:
        """Everything that is here, with its size, in batches by digest."""
        after = b""
        while stored := await self._database.page(
            "SELECT digest, size FROM blobs WHERE digest > ? AND NOT leaving"
            " ORDER BY digest LIMIT ?",
            (after, _BATCH),
            _sized,
        ):
            yield stored
            after = pack(stored[-1][0])

    async def list_coldest(self, *, limit: int) -> list[Candidate]:
        """What was used longest ago: so many manifests, and so many other blobs."""
        found = []
        for kind in (Kind.BLOB, Kind.MANIFEST):
            found += await self._database.rows(
                "SELECT is_manifest, digest, size, accessed_at FROM blobs"
                " WHERE is_manifest = ? AND NOT leaving ORDER BY accessed_at LIMIT ?",
                (kind is Kind.MANIFEST, limit),
                _candidate,
            )
        return found

    async def latest_access(self) -> float:
        """The latest time at which anything was used; 0 where there is nothing."""
        sql = "SELECT max(accessed_at) FROM blobs WHERE is_manifest = ?"
        times = [
            await self._database.first(sql, (is_manifest,), lambda time: float(time or 0))
            for is_manifest in (0, 1)
        ]
        return max(time or 0.0 for time in times)

    async def list_due(
        self, *, before: float, today: int, after: Digest | None, limit: int
    ) -> list[tuple[Digest, int, int]]:
        """Blobs that were not proved since the day `before`, with size and day, `after` one.

        What was proved after `today` was not: the clock was set back since.
        """
        return await self._database.page(
            "SELECT digest, size, proved_on FROM blobs WHERE digest > ? AND NOT leaving"
            " AND (proved_on <= ? OR proved_on > ?) ORDER BY digest LIMIT ?",
            (b"" if after is None else pack(after), before, today, limit),
            lambda digest, size, proved_on: (unpack(digest), size, proved_on),
        )

    async def count_overdue(self, *, before: float, today: int) -> int:
        """How many blobs `list_due` would list in all."""
        counted = await self._database.page(
            "SELECT count(*) FROM blobs WHERE (proved_on < ? OR proved_on > ?) AND NOT leaving",
            (before, today),
            int,
        )
        return counted[0]

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
            lambda upstream, digest, time: (PartialKey(upstream, unpack(digest)), time),
        )
        return dict(rows)

    async def list_pins(self) -> dict[str, frozenset[Digest]]:
        """What is pinned, by image."""
        pins: dict[str, set[Digest]] = {}
        for image, digest in await self._database.rows(
            "SELECT image, digest FROM pins", (), lambda image, it: (image, unpack(it))
        ):
            pins.setdefault(image, set()).add(digest)
        return {image: frozenset(digests) for image, digests in pins.items()}

    # What changes

    async def record_blob(
        self,
        digest: Digest,
        size: int,
        *,
        now: float,
        is_manifest: bool = False,
        upstream: str | None = None,
        is_proved: bool = True,
    ) -> None:
        """A blob is on disk, complete; the partial that it was of `upstream` is history.

        `is_proved`: by its digest, `now`; else nothing new is known of that.
        """
        proved_on = _day(now) if is_proved else 0
        row = (pack(digest), size, int(is_manifest), now, proved_on)
        history = [] if upstream is None else [(upstream, pack(digest))]
        await self._database.write(
            Statement(_UPSERT_BLOB, [row]), Statement(_FORGET_PARTIAL, history)
        )

    async def record_accesses(self, accesses: Mapping[Digest, float]) -> None:
        """When blobs were last used, in a batch."""
        rows = [(time, pack(digest)) for digest, time in accesses.items()]
        await self._database.write(
            Statement("UPDATE blobs SET accessed_at = max(accessed_at, ?) WHERE digest = ?", rows)
        )

    async def record_proved(self, digests: Iterable[Digest], *, on: int) -> None:
        """The content of these was proved, on a day since the epoch."""
        rows = [(on, pack(digest)) for digest in digests]
        if rows:
            await self._database.write(
                Statement("UPDATE blobs SET proved_on = ? WHERE digest = ?", rows)
            )

    async def record_pin(self, image: str, digests: Iterable[Digest]) -> None:
        """These are pinned for an image, and nothing else is."""
        rows = [(image, pack(digest)) for digest in digests]
        await self._database.write(
            Statement("DELETE FROM pins WHERE image = ?", [(image,)]),
            Statement("INSERT INTO pins VALUES (?, ?)", rows),
        )

    async def mark_leaving(self, digests: Iterable[Digest]) -> None:
        """Deletion begins: from now on these are not on disk for anyone who asks."""
        await self._database.write(
            Statement("UPDATE blobs SET leaving = 1 WHERE digest = ?", _names(digests))
        )

    async def forget_blobs(self, digests: Iterable[Digest]) -> None:
        """These are gone from disk."""
        gone = list(digests)
        if not self.is_adopted:
            self.forgotten.update(gone)
        await self._database.write(Statement("DELETE FROM blobs WHERE digest = ?", _names(gone)))

    async def record_partial(self, key: PartialKey, *, now: float) -> None:
        """A download is begun, or continued."""
        await self._database.write(
            Statement(_UPSERT_PARTIAL, [(key.upstream, pack(key.digest), now)])
        )

    async def forget_partials(self, keys: Iterable[PartialKey]) -> None:
        """Downloads were given up, and their partials removed."""
        rows = [(key.upstream, pack(key.digest)) for key in keys]
        await self._database.write(Statement(_FORGET_PARTIAL, rows))

    async def adopt(self, blobs: Iterable[Row], partials: Iterable[Row]) -> None:
        """These were on disk before this index was; what it knows already, it knows better.

        Rows are of digest, size, whether it is a manifest, time of use and day of proof (0: none),
        and of upstream, digest and time of use; digests as text.

        Blobs are (digest, size, is_manifest, accessed_at), partials (upstream, digest, touched_at),
        digests as text. That everything is adopted is for `end_adoption` to say.

        Raises RegistryError for what is no digest.
        """
        await self._database.write(
            Statement(_ADOPT_BLOB, [(_packed(digest), *rest) for digest, *rest in blobs]),
            Statement(
                _UPSERT_PARTIAL,
                [(upstream, _packed(digest), time) for upstream, digest, time in partials],
            ),
        )

    async def end_adoption(self) -> None:
        """All is adopted."""
        await self._database.write(Statement("UPDATE totals SET adopted = 1", [()]))
        self.forgotten.clear()


# Manifests may be fetched as blobs, too; they stay what they are.
_UPSERT_BLOB = (
    "INSERT INTO blobs (digest, size, is_manifest, accessed_at, proved_on) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET leaving = 0, size = excluded.size,"
    " is_manifest = max(is_manifest, excluded.is_manifest),"
    " proved_on = iif(excluded.proved_on, excluded.proved_on, proved_on),"
    " accessed_at = max(accessed_at, excluded.accessed_at)"
)
_ADOPT_BLOB = (
    "INSERT INTO blobs (digest, size, is_manifest, accessed_at, proved_on) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT DO NOTHING"
)
_UPSERT_PARTIAL = (
    "INSERT INTO partials VALUES (?, ?, ?)"
    " ON CONFLICT DO UPDATE SET touched_at = excluded.touched_at"
)
_FORGET_PARTIAL = "DELETE FROM partials WHERE upstream = ? AND digest = ?"


def _day(time: float) -> int:
    """A time in seconds since the epoch, as the day that it is in; never 0."""
    return max(1, int(time // DAY))


def _names(digests: Iterable[Digest]) -> Sequence[Row]:
    return [(pack(digest),) for digest in digests]


def _packed(digest: object) -> bytes:
    return pack(parse_digest(str(digest)))


def _sized(digest: bytes, size: int) -> tuple[Digest, int]:
    return unpack(digest), size


def _candidate(is_manifest: int, digest: bytes, size: int, accessed_at: float) -> Candidate:
    kind = Kind.MANIFEST if is_manifest else Kind.BLOB
    return Candidate(kind, unpack(digest), size, accessed_at)

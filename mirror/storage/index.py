"""The index of this node's disk: which blobs and partials are on it (SQLite, `index.sql`)."""

# ruff: noqa: S608 - all that is ever put into a statement's text is a number of question marks

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from mirror.oci.compact import pack, unpack
from mirror.oci.digest import Digest
from mirror.sqlite import Database, Extent, Row, Schema, Statement
from mirror.storage import statements, worth
from mirror.storage.policy import Candidate, Kind
from mirror.storage.states import PartialKey
from mirror.telemetry.collectors import StoreTotals

SCHEMA = Schema(
    name="index",
    application_id=0x6D697278,  # "mirx"
    package="mirror.storage",
    scripts=(
        "index.sql",
        "index_compact.sql",
        "index_proofs.sql",
        "index_pins.sql",
        "index_worth.sql",
        "index_pinned.sql",
    ),
    functions=(worth.asked, worth.settled, worth.rank),
    loss=("the blobs are not affected: they are adopted while the mirror serves"),
    summary="SELECT blobs, bytes, adopted, taken, block, pinned FROM totals",
)

DAY = 86400.0
"""Seconds; proofs are on record by the day."""

_BATCH = 1000  # rows at a time, where there may be any number
_VALUES = 500  # in one statement

LEAST = (
    "SELECT is_manifest, digest, size, rank FROM blobs"
    " WHERE NOT leaving AND NOT pins ORDER BY rank LIMIT ?"
)
"""Asked whenever there is need of room: it reads no more rows than it gives."""

MOST_REMEMBERED = 200_000  # blobs that have gone; some 11 MB


class Index:
    """The open index. Use `Index.open`. All methods raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.forgotten: set[Digest] = set()
        """What has been forgotten while not everything was adopted."""
        self._unsynced: set[PartialKey] = set()  # on record, unless the power is cut

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
        for some in _batches(digests):
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

    async def list_unused(self, *, since: float) -> AsyncIterator[list[tuple[Digest, float]]]:
        """What was last used before a time, and when, in batches by digest."""
        after = b""
        while rows := await self._database.page(
            "SELECT digest, accessed_at FROM blobs"
            " WHERE digest > ? AND NOT leaving ORDER BY digest LIMIT ?",
            (after, _BATCH),
            lambda digest, at: (unpack(digest), float(at)),
        ):
            yield [(digest, at) for digest, at in rows if at < since]
            after = pack(rows[-1][0])

    async def list_least(self, *, limit: int) -> list[Candidate]:
        """What is worth least and not pinned, in order, so many at most."""
        return await self._database.rows(LEAST, (limit,), _candidate)

    async def weigh_staying(self, digests: Sequence[Digest]) -> int:
        """Bytes of the disk that what is pinned takes, and these beside it."""
        total = 0
        for some in _batches(digests):
            sql = (
                "SELECT coalesce(sum((size + block - 1) / block * block), 0) FROM blobs, totals"
                f" WHERE NOT leaving AND NOT pins AND digest IN ({', '.join('?' * len(some))})"
            )
            packed = [pack(digest) for digest in some]
            total += await self._database.first(sql, packed, int) or 0
        return total + int(self._database.summary[5])

    async def find_meant(self, digests: Sequence[Digest]) -> set[Digest]:
        """Which of these are here, and not superseded."""
        found: set[Digest] = set()
        for some in _batches(digests):
            sql = (
                "SELECT digest FROM blobs WHERE NOT leaving AND NOT is_superseded"
                f" AND digest IN ({', '.join('?' * len(some))})"
            )
            found.update(await self._database.page(sql, [pack(it) for it in some], unpack))
        return found

    async def latest_access(self) -> float:
        """The latest time at which anything was used; 0 where there is nothing."""
        return await self._database.first("SELECT latest FROM totals", (), float) or 0.0

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
        slowness: float = 1.0,
    ) -> None:
        """A blob is on disk, complete; the partial that it was of `upstream` is history.

        `is_proved`: by its digest, `now`; else nothing new is known of that. `slowness` of where it
        came from (`costs.py`). A power cut may undo this: then there is the partial again, if that
        was `sync_partial`.
        """
        proved_on = _day(now) if is_proved else 0
        name, packed = worth.short_name(digest), pack(digest)
        row = (packed, size, int(is_manifest), now, proved_on, name, slowness)
        history = [] if upstream is None else [(upstream, packed)]
        await self._database.write(
            Statement(statements.UPSERT_BLOB, [row]),
            Statement("DELETE FROM remembered WHERE name = ?", [(name,)]),
            Statement(statements.NOTE_LATEST, [(now,)]),
            Statement(statements.FORGET_PARTIAL, history),
            is_durable=False,
        )

    async def record_accesses(self, accesses: Mapping[Digest, float]) -> None:
        """When blobs were last used, in a batch: each has been asked for once more."""
        rows = [(time, pack(digest)) for digest, time in accesses.items()]
        latest = max(accesses.values(), default=0.0)
        await self._write(
            Statement(statements.RECORD_ACCESS, rows),
            Statement(statements.NOTE_LATEST, [(latest,)]),
        )

    async def settle_accesses(self, *, now: float, ahead: float) -> None:
        """What was noted later than `now`, `ahead` seconds at most, counts as of now."""
        after = b""
        while packed := await self._database.page(
            "SELECT digest FROM blobs WHERE digest > ? AND accessed_at > ? ORDER BY digest LIMIT ?",
            (after, now, _BATCH),
            bytes,
        ):
            await self._write(Statement(statements.SETTLE_ACCESS, [(now, it) for it in packed]))
            after = packed[-1]
        await self._write(
            Statement(statements.SETTLE_LATEST, [(now,)]),
            Statement(statements.SETTLE_REMEMBERED, [(ahead, worth.incredible(now))]),
        )

    async def record_meaning(self, digests: Iterable[Digest], *, is_superseded: bool) -> None:
        """Tags do not mean these any more, or mean them again."""
        rows = [(int(is_superseded), pack(digest)) for digest in digests]
        await self._write(Statement(statements.RECORD_MEANING, rows))

    async def record_broken(self, digests: Iterable[Digest]) -> None:
        """The images that these belong to are not here in whole any more."""
        await self._write(Statement(statements.RECORD_BROKEN, statements.names(digests)))

    async def forget_old_scores(self, *, now: float) -> None:
        """Of what has gone, those are remembered that make a difference, and not too many."""
        await self._write(
            Statement(
                statements.FORGET_SCORES,
                [(worth.forgotten(now), MOST_REMEMBERED)],
            )
        )

    async def record_proved(self, digests: Iterable[Digest], *, on: int) -> None:
        """The content of these was proved, on a day since the epoch."""
        rows = [(on, pack(digest)) for digest in digests]
        if rows:
            await self._write(Statement("UPDATE blobs SET proved_on = ? WHERE digest = ?", rows))

    async def record_pin(self, image: str, digests: Iterable[Digest]) -> None:
        """These are pinned for an image, and nothing else is."""
        rows = [(image, pack(digest)) for digest in digests]
        await self._write(
            Statement("DELETE FROM pins WHERE image = ?", [(image,)]),
            Statement("INSERT INTO pins VALUES (?, ?)", rows),
        )

    async def mark_leaving(self, digests: Iterable[Digest]) -> None:
        """Deletion begins: from now on these are not on disk for anyone who asks."""
        await self._write(
            Statement("UPDATE blobs SET leaving = 1 WHERE digest = ?", statements.names(digests))
        )

    async def forget_blobs(self, digests: Iterable[Digest]) -> None:
        """These are gone from disk; what they were worth is remembered."""
        gone = list(digests)
        if not self.is_adopted:
            self.forgotten.update(gone)
        rows = [(pack(digest), worth.short_name(digest)) for digest in gone]
        await self._write(
            Statement(statements.REMEMBER, rows),
            Statement("DELETE FROM blobs WHERE digest = ?", [row[:1] for row in rows]),
        )

    async def record_partial(self, key: PartialKey, *, now: float) -> None:
        """A download is begun, or continued; a power cut may undo this."""
        row = (key.upstream, pack(key.digest), now)
        await self._database.write(Statement(statements.UPSERT_PARTIAL, [row]), is_durable=False)
        self._unsynced.add(key)

    async def sync_partial(self, key: PartialKey, *, now: float) -> None:
        """See that no power cut undoes that it is on record. One sync does for all that are."""
        if key in self._unsynced:
            row = (key.upstream, pack(key.digest), now)
            await self._write(Statement(statements.UPSERT_PARTIAL, [row]))

    def is_synced(self, key: PartialKey) -> bool:
        """Whether a partial that is on record stays so."""
        return key not in self._unsynced

    async def forget_partials(self, keys: Iterable[PartialKey]) -> None:
        """Downloads were given up, and their partials removed."""
        rows = [(key.upstream, pack(key.digest)) for key in keys]
        await self._write(Statement(statements.FORGET_PARTIAL, rows))

    async def adopt(self, blobs: Iterable[Row], partials: Iterable[Row]) -> None:
        """These were on disk before this index was; what it knows already, it knows better.

        Rows are of digest, size, whether it is a manifest, time of use and day of proof (0: none),
        and of upstream, digest and time of use; digests as text. That everything is adopted is for
        `end_adoption` to say.

        Raises RegistryError for what is no digest.
        """
        rows = [(statements.packed(digest), *rest) for digest, *rest in blobs]
        latest = max((float(str(row[3])) for row in rows), default=0.0)
        await self._write(
            Statement(statements.ADOPT_BLOB, rows),
            Statement(statements.NOTE_LATEST, [(latest,)]),
            Statement(
                statements.UPSERT_PARTIAL,
                [
                    (upstream, statements.packed(digest), time)
                    for upstream, digest, time in partials
                ],
            ),
        )

    async def _write(self, *todo: Statement) -> None:
        """Do it, and have it synced, with all that was committed before."""
        committed = set(self._unsynced)
        await self._database.write(*todo)
        self._unsynced -= committed

    async def _count_in(self, block: int) -> None:
        """Count blocks of so many bytes; slow where they were of another size before."""
        if block != self._database.summary[4]:
            await self._write(Statement(statements.COUNT_IN_BLOCKS, [(block,)]))

    async def end_adoption(self) -> None:
        """All is adopted."""
        await self._write(Statement("UPDATE totals SET adopted = 1", [()]))
        self.forgotten.clear()


def _day(time: float) -> int:
    """A time in seconds since the epoch, as the day that it is in; never 0."""
    return max(1, int(time // DAY))


def _batches(digests: Sequence[Digest]) -> Iterator[Sequence[Digest]]:
    for start in range(0, len(digests), _VALUES):
        yield digests[start : start + _VALUES]


def _sized(digest: bytes, size: int) -> tuple[Digest, int]:
    return unpack(digest), size


def _candidate(is_manifest: int, digest: bytes, size: int, rank: float) -> Candidate:
    kind = Kind.MANIFEST if is_manifest else Kind.BLOB
    return Candidate(kind, unpack(digest), size, rank)

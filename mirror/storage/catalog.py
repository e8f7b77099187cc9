"""The catalog: what the blobs on disk are (SQLite, `schema.sql`).

Writes from everywhere are gathered into one transaction at a time, so that fifty fills that end
together cost one commit. A write returns when it is committed and synced, and is not undone when
its caller is cancelled.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import aiosqlite

from mirror.aio.waiting import finish
from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import RegistryError, StoreError
from mirror.storage.space import Stored
from mirror.telemetry.metrics import StoreTotals

MIGRATIONS = ("schema.sql",)
"""The script that leads from each `user_version` to the next; only ever appended to."""

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # or a power cut loses what blobs there are, and they pile up
    "PRAGMA foreign_keys = ON",
)

_APPLICATION_ID = 0x6D697272
"""In the file's header: this database is a mirror's catalog ("mirr")."""

_Row = Sequence[object]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Statement:
    sql: str
    rows: Sequence[_Row]


@dataclass(slots=True)
class _Write:
    statements: tuple[_Statement, ...]
    done: asyncio.Future[None]
    error: StoreError | None = field(
        default_factory=lambda: StoreError("the catalog did not get to it")
    )


class Catalog:
    """The open catalog. Use `Catalog.open`."""

    def __init__(
        self, path: Path, reader: aiosqlite.Connection, writer: aiosqlite.Connection
    ) -> None:
        self._path = path
        self._reader = reader
        self._writer = writer
        self._pending: list[_Write] = []
        self._flushing: asyncio.Task[None] | None = None
        self._closed = False
        self.totals = StoreTotals()
        self.is_adopted = False  # what was on disk before this catalog was is in it

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator["Catalog"]:
        """Open, and create or migrate where needed; everything asked for is written at exit.

        Raises:
            StoreError: The file is damaged, not ours, or from a newer mirror.
        """
        async with AsyncExitStack() as connections:
            with _explained(path):
                await asyncio.to_thread(_try_to_open, path)
                connect = partial(aiosqlite.connect, path, isolation_level=None)
                writer = await connections.enter_async_context(connect())
                await _migrate(writer, path)
                reader = await connections.enter_async_context(connect())
                await reader.execute("PRAGMA query_only = ON")
                catalog = cls(path, reader, writer)
                await catalog._read_totals()
            try:
                yield catalog
            finally:
                await catalog._close()

    # What is known

    async def is_recorded(self, digest: Digest) -> bool:
        """Whether a blob is on disk by the catalog's word, leaving or not."""
        return bool(await self._rows("SELECT 1 FROM blobs WHERE digest = ?", (str(digest),), bool))

    async def find_recorded(self, digests: Sequence[Digest]) -> list[Digest]:
        """Which of these are on disk."""
        marks = ",".join("?" * len(digests))
        return await self._rows(
            f"SELECT digest FROM blobs WHERE NOT leaving AND digest IN ({marks})",  # noqa: S608 - question marks
            list(map(str, digests)),
            parse_digest,
        )

    async def list_recorded(self, *, after: Digest | None, limit: int) -> list[Stored]:
        """What is on disk, in the order of its digests."""
        return await self._rows(
            "SELECT digest, size FROM blobs WHERE NOT leaving AND digest > ?"
            " ORDER BY digest LIMIT ?",
            ("" if after is None else str(after), limit),
            _stored,
        )

    async def list_by_access(self, *, limit: int) -> list[Stored]:
        """Blobs in the order in which they should go: least recently used first, manifests last."""
        return await self._rows(
            "SELECT digest, size FROM blobs WHERE NOT leaving"
            " ORDER BY media_type IS NOT NULL, accessed_at LIMIT ?",
            (limit,),
            _stored,
        )

    async def list_leaving(self) -> list[Stored]:
        """Blobs whose eviction was begun and not finished."""
        return await self._rows("SELECT digest, size FROM blobs WHERE leaving", (), _stored)

    async def list_partials(self) -> dict[Digest, float]:
        """Downloads not recorded as blobs yet, with the time they were begun or continued."""
        rows = await self._rows(
            "SELECT digest, touched_at FROM partials",
            (),
            lambda digest, touched_at: (parse_digest(digest), touched_at),
        )
        return dict(rows)

    # What is learnt

    async def record_blob(
        self, digest: Digest, size: int, *, now: float, media_type: str | None = None
    ) -> None:
        """A blob is on disk, complete; its partial is history."""
        await self._write(*_blob(digest, size, now, media_type), _no_partial(digest))

    async def record_accesses(self, accesses: dict[Digest, float]) -> None:
        """When blobs were last used, in a batch."""
        rows = [(time, str(digest)) for digest, time in accesses.items()]
        await self._write(_Statement("UPDATE blobs SET accessed_at = ? WHERE digest = ?", rows))

    async def record_partial(self, digest: Digest, *, now: float) -> None:
        """A download is begun, or continued."""
        await self._write(_Statement(_UPSERT_PARTIAL, [(str(digest), now)]))

    async def forget_partial(self, digest: Digest) -> None:
        """A download was given up and its partial removed."""
        await self._write(_no_partial(digest))

    async def mark_leaving(self, blobs: Iterable[Stored]) -> None:
        """Eviction begins: from now on these are not on disk for anyone who asks."""
        rows = [(str(stored.digest),) for stored in blobs]
        await self._write(_Statement("UPDATE blobs SET leaving = 1 WHERE digest = ?", rows))

    async def forget_blobs(self, digests: Iterable[Digest]) -> None:
        """These are gone from disk."""
        rows = [(str(digest),) for digest in digests]
        await self._write(_Statement("DELETE FROM blobs WHERE digest = ?", rows))

    async def adopt(
        self, blobs: Iterable[tuple[Digest, int]], partials: Iterable[Digest], *, now: float
    ) -> None:
        """These were on disk before this catalog was."""
        await self._write(
            _Statement(_UPSERT_BLOB, [(str(digest), size, None, now) for digest, size in blobs]),
            _Statement(_UPSERT_PARTIAL, [(str(digest), now) for digest in partials]),
            _Statement("UPDATE totals SET adopted = ?", [(1,)]),
        )

    # How

    async def _rows(self, sql: str, values: _Row, read: Callable[..., _T]) -> list[_T]:
        """Every row that `sql` finds, as `read` makes it of the columns."""
        if self._closed:
            raise StoreError("the catalog is closed")
        with _explained(self._path):
            return [read(*row) for row in await self._reader.execute_fetchall(sql, values)]

    async def _write(self, *statements: _Statement) -> None:
        if self._closed:
            raise StoreError("the catalog is closed")
        loop = asyncio.get_running_loop()
        write = _Write(statements, loop.create_future())
        self._pending.append(write)
        if self._flushing is None:
            self._flushing = loop.create_task(self._flush())
        await write.done

    async def _close(self) -> None:
        self._closed = True
        if self._flushing is not None:
            await finish(self._flushing)

    async def _flush(self) -> None:
        """Commit what was asked for meanwhile in one transaction, until there is nothing left.

        A task of the catalog's own, which ends by itself: it must outlive every fill that is being
        taken down, and nothing that fails in it may take down anybody else.
        """
        writes: list[_Write] = []
        try:
            while self._pending:
                writes, self._pending = self._pending, []
                if not await self._commit(writes) and len(writes) > 1:
                    for write in writes:  # one is to blame: the others must not suffer
                        await self._commit([write])
                _settle(writes)
        finally:
            self._flushing = None
            _settle([*writes, *self._pending])
            self._pending = []

    async def _commit(self, writes: list[_Write]) -> bool:
        try:
            with _explained(self._path):
                await self._transact(writes)
        except StoreError as error:
            for write in writes:
                write.error = error
            return False
        for write in writes:
            write.error = None
        return True

    async def _transact(self, writes: list[_Write]) -> None:
        await self._writer.execute("BEGIN IMMEDIATE")
        try:
            for write in writes:
                for statement in write.statements:
                    await self._writer.executemany(statement.sql, statement.rows)
            await self._read_totals()
            await self._writer.execute("COMMIT")
        except BaseException:
            await self._writer.rollback()
            raise

    async def _read_totals(self) -> None:
        sql = "SELECT blobs, bytes, adopted FROM totals"
        async with self._writer.execute(sql) as rows:
            row = await rows.fetchone()
        if row is None:
            raise sqlite3.DatabaseError("it has lost its totals")
        self.totals, self.is_adopted = StoreTotals(*row[:2]), bool(row[2])


_UPSERT_BLOB = (
    "INSERT INTO blobs (digest, size, media_type, accessed_at) VALUES (?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET leaving = 0, accessed_at = excluded.accessed_at,"
    " size = excluded.size, media_type = coalesce(excluded.media_type, media_type)"
)
_UPSERT_PARTIAL = (
    "INSERT INTO partials VALUES (?, ?) ON CONFLICT DO UPDATE SET touched_at = excluded.touched_at"
)


def _blob(digest: Digest, size: int, now: float, media_type: str | None) -> tuple[_Statement, ...]:
    return (_Statement(_UPSERT_BLOB, [(str(digest), size, media_type, now)]),)


def _no_partial(digest: Digest) -> _Statement:
    return _Statement("DELETE FROM partials WHERE digest = ?", [(str(digest),)])


def _stored(digest: str, size: int) -> Stored:
    return Stored(parse_digest(digest), size)


def _settle(writes: Iterable[_Write]) -> None:
    for write in writes:
        if write.done.done():
            continue  # whoever asked was cancelled
        if write.error is None:
            write.done.set_result(None)
        else:
            write.done.set_exception(write.error)


def _try_to_open(path: Path) -> None:
    """Find out here: aiosqlite leaves a thread to itself when it cannot open a file."""
    sqlite3.connect(path).close()


async def _migrate(connection: aiosqlite.Connection, path: Path) -> None:
    """Bring the schema up to date.

    Raises:
        StoreError: Not a mirror, or a newer one, wrote this file.
    """
    await connection.execute("PRAGMA busy_timeout = 5000")
    version = await _number(connection, "PRAGMA user_version")
    if await _number(connection, "PRAGMA application_id") != _APPLICATION_ID and (
        version or await _number(connection, "SELECT count(*) FROM sqlite_master")
    ):
        raise StoreError(f"{path} is not a mirror's catalog but somebody else's database{_ASIDE}")
    if version > len(MIGRATIONS):
        raise StoreError(
            f"the catalog {path} is of version {version}, this mirror knows {len(MIGRATIONS)}:"
            " it was written by a newer mirror; run that one"
        )
    for pragma in _PRAGMAS:
        await connection.execute(pragma)
    for number, name in enumerate(MIGRATIONS[version:], start=version + 1):
        script = await asyncio.to_thread(files("mirror.storage").joinpath(name).read_text, "utf-8")
        await connection.executescript(
            f"BEGIN IMMEDIATE; {script} PRAGMA application_id = {_APPLICATION_ID};"
            f" PRAGMA user_version = {number}; COMMIT;"
        )


async def _number(connection: aiosqlite.Connection, sql: str) -> int:
    (row,) = await connection.execute_fetchall(sql)
    return int(row[0])


_ASIDE = (
    ". The blobs are not affected: move the file (with its -wal and -shm) aside and start again,"
    " and they are adopted"
)
_ADVICE = {
    sqlite3.SQLITE_CORRUPT: _ASIDE,
    sqlite3.SQLITE_NOTADB: _ASIDE,
    sqlite3.SQLITE_CANTOPEN: "; give the mirror's user write access to it",
    sqlite3.SQLITE_READONLY: "; give the mirror's user write access to it",
    sqlite3.SQLITE_FULL: "; make room on its disk",
}


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What SQLite and unreadable or unstorable values raise, in the operator's words."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary one
        advice = _ADVICE.get(code, "")
        raise StoreError(f"the catalog {path} cannot be used: {error}{advice}") from error
    except RegistryError as error:
        raise StoreError(f"the catalog {path} is damaged: {error}{_ASIDE}") from error
    except (ArithmeticError, TypeError, ValueError) as error:
        raise StoreError(f"the catalog {path} cannot keep this: {error}") from error

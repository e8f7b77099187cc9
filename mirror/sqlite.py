"""One SQLite file: opened, migrated, read, and written in as few transactions as there can be.

Writes from everywhere are gathered into one transaction at a time, so that fifty fills that end
together cost one commit. A write returns when it is committed and synced, and is not undone when
its caller is cancelled. What SQLite raises comes out as StoreError, in the operator's words.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from mirror.aio.waiting import finish
from mirror.oci.errors import RegistryError, StoreError

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # or a power cut loses what there is, and it piles up
    "PRAGMA foreign_keys = ON",
)

Row = Sequence[object]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Schema:
    """Of which kind a file is. `scripts` lead from each `user_version` to the next."""

    name: str  # as operators are told, "index"
    application_id: int  # in the file's header
    package: str  # where the scripts are
    scripts: tuple[str, ...]  # only ever appended to
    remedy: str  # what to do where the file is damaged
    summary: str | None = None  # a query of one row; see `Database.summary`
    functions: tuple[Callable[..., object], ...] = ()  # pure, for what is written, by their names


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement, done for each of `rows`."""

    sql: str
    rows: Sequence[Row]


@dataclass(slots=True)
class _Write:
    statements: tuple[Statement, ...]
    done: asyncio.Future[None]
    error: StoreError | None = field(
        default_factory=lambda: StoreError("the database did not get to it")
    )


class Database:
    """The open file. Use `Database.open`.

    `summary` is what the schema's query of that name gave in the last transaction that was
    committed: it is never of one that failed.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        *,
        reader: aiosqlite.Connection,
        lister: aiosqlite.Connection,
        writer: aiosqlite.Connection,
    ) -> None:
        self._path = path
        self._schema = schema
        self._reader = reader
        self._lister = lister
        self._writer = writer
        self._pending: list[_Write] = []
        self._flushing: asyncio.Task[None] | None = None
        self._closed = False
        self.summary: tuple[Any, ...] = ()

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, schema: Schema) -> AsyncIterator["Database"]:
        """Open, and create or migrate where needed; everything asked for is written at exit.

        Raises:
            StoreError: The file is damaged, not ours, or from a newer mirror.
        """
        async with AsyncExitStack() as connections:
            with explained(path, schema):
                await asyncio.to_thread(_try_to_open, path)
                connect = partial(aiosqlite.connect, path, isolation_level=None)
                writer = await connections.enter_async_context(connect())
                for function in schema.functions:
                    await writer.create_function(
                        function.__name__, -1, function, deterministic=True
                    )
                await _migrate(writer, path, schema)
                reader = await connections.enter_async_context(connect())
                lister = await connections.enter_async_context(connect())
                for only_reads in (reader, lister):
                    await only_reads.execute("PRAGMA query_only = ON")
                database = cls(path, schema, reader=reader, lister=lister, writer=writer)
                database.summary = await database._summarize()
            try:
                yield database
            finally:
                await database._close()

    async def rows(self, sql: str, values: Row, read: Callable[..., _T]) -> list[_T]:
        """Every row that `sql` finds, as `read` makes it of the columns. Raises StoreError."""
        return await self._fetch(self._reader, sql, values, read)

    async def page(self, sql: str, values: Row, read: Callable[..., _T]) -> list[_T]:
        """As `rows`, for what may take long: nobody who asks for a row waits behind it."""
        return await self._fetch(self._lister, sql, values, read)

    async def first(self, sql: str, values: Row, read: Callable[..., _T]) -> _T | None:
        """The first row that `sql` finds, as `read` makes it. Raises StoreError."""
        rows = await self.rows(sql, values, read)
        return rows[0] if rows else None

    async def write(self, *statements: Statement) -> None:
        """Do all of `statements`, or none. Raises StoreError."""
        if self._closed:
            raise StoreError(f"the {self._schema.name} is closed")
        loop = asyncio.get_running_loop()
        write = _Write(statements, loop.create_future())
        self._pending.append(write)
        if self._flushing is None:
            self._flushing = loop.create_task(self._flush())
        await write.done

    async def _fetch(
        self, connection: aiosqlite.Connection, sql: str, values: Row, read: Callable[..., _T]
    ) -> list[_T]:
        if self._closed:
            raise StoreError(f"the {self._schema.name} is closed")
        with explained(self._path, self._schema):
            return [read(*row) for row in await connection.execute_fetchall(sql, values)]

    async def _close(self) -> None:
        self._closed = True
        if self._flushing is not None:
            await finish(self._flushing)

    async def _flush(self) -> None:
        """Commit what was asked for meanwhile in one transaction, until there is nothing left.

        A task of the database's own, which ends by itself: it must outlive every fill that is being
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
            with explained(self._path, self._schema):
                self.summary = await self._transact(writes)
        except StoreError as error:
            for write in writes:
                write.error = error
            return False
        for write in writes:
            write.error = None
        return True

    async def _transact(self, writes: list[_Write]) -> tuple[Any, ...]:
        await self._writer.execute("BEGIN IMMEDIATE")
        try:
            for write in writes:
                for statement in write.statements:
                    await self._writer.executemany(statement.sql, statement.rows)
            summary = await self._summarize()
            await self._writer.execute("COMMIT")
        except BaseException:
            await self._writer.rollback()
            raise
        return summary

    async def _summarize(self) -> tuple[Any, ...]:
        if self._schema.summary is None:
            return ()
        async with self._writer.execute(self._schema.summary) as rows:
            row = await rows.fetchone()
        if row is None:
            raise sqlite3.DatabaseError("it has lost its totals")
        return tuple(row)


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


async def _migrate(connection: aiosqlite.Connection, path: Path, schema: Schema) -> None:
    """Bring the schema up to date.

    Raises:
        StoreError: Not a mirror, or a newer one, wrote this file.
    """
    await connection.execute("PRAGMA busy_timeout = 5000")
    version = await _number(connection, "PRAGMA user_version")
    if await _number(connection, "PRAGMA application_id") != schema.application_id and (
        version or await _number(connection, "SELECT count(*) FROM sqlite_master")
    ):
        raise StoreError(
            f"{path} is not a mirror's {schema.name} but somebody else's database{schema.remedy}"
        )
    if version > len(schema.scripts):
        raise StoreError(
            f"the {schema.name} {path} is of version {version}, this mirror knows"
            f" {len(schema.scripts)}: it was written by a newer mirror; run that one"
        )
    for pragma in _PRAGMAS:
        await connection.execute(pragma)
    for number, name in enumerate(schema.scripts[version:], start=version + 1):
        script = await asyncio.to_thread(files(schema.package).joinpath(name).read_text, "utf-8")
        await connection.executescript(
            f"BEGIN IMMEDIATE; {script} PRAGMA application_id = {schema.application_id};"
            f" PRAGMA user_version = {number}; COMMIT;"
        )


class DiskFull(StoreError):
    """Nothing can be written down before something is deleted."""


async def _number(connection: aiosqlite.Connection, sql: str) -> int:
    (row,) = await connection.execute_fetchall(sql)
    return int(row[0])


def _advice(schema: Schema, code: int) -> str:
    return {
        sqlite3.SQLITE_CORRUPT: schema.remedy,
        sqlite3.SQLITE_NOTADB: schema.remedy,
        sqlite3.SQLITE_CANTOPEN: "; give the mirror's user write access to it",
        sqlite3.SQLITE_READONLY: "; give the mirror's user write access to it",
        sqlite3.SQLITE_FULL: "; make room on its disk",
    }.get(code, "")


@contextmanager
def explained(path: Path, schema: Schema) -> Iterator[None]:
    """What SQLite and unreadable or unstorable values raise, in the operator's words."""
    what = f"the {schema.name} {path}"
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary one
        kind = DiskFull if code == sqlite3.SQLITE_FULL else StoreError
        raise kind(f"{what} cannot be used: {error}{_advice(schema, code)}") from error
    except RegistryError as error:
        raise StoreError(f"{what} is damaged: {error}{schema.remedy}") from error
    except (ArithmeticError, TypeError, ValueError) as error:
        raise StoreError(f"{what} cannot keep this: {error}") from error

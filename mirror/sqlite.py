"""One SQLite file: opened, migrated, read, and written in as few transactions as there can be.

Writes from everywhere are gathered into one transaction at a time, so that fifty fills that end
together cost one commit. A write returns when it is committed, and is not undone when its caller is
cancelled. What `is_durable` is synced too; the rest is with the next such commit, or when SQLite
copies it into the file: a power cut may undo the last of it, in whole transactions. What SQLite
raises comes out as StoreError, in the operator's words.

A file that is damaged is set aside when it is opened, and made anew: nothing in it is such that a
mirror could not serve without it. Where damage shows later, that is noted beside it, for the next
start; until then, what needs the damaged part of it fails.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from mirror.aio.waiting import finish, to_the_end
from mirror.oci.compact import try_to_pack
from mirror.oci.errors import RegistryError, StoreError
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

# A transaction is a handful of small rows in as many places: in pages of 4 KiB, a small image cost
# nine times its bytes. And a file can shrink.
_LAYOUT = ("PRAGMA page_size = 1024", "PRAGMA auto_vacuum = INCREMENTAL")

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA journal_size_limit = 16777216",  # a WAL that was once larger is cut when it is done
    "PRAGMA wal_autocheckpoint = 4000",  # pages
    "PRAGMA foreign_keys = ON",
)

_SYNCHRONOUS = {True: "PRAGMA synchronous = FULL", False: "PRAGMA synchronous = NORMAL"}
# Milliseconds for which another program may have the file locked, once it is open: clients wait for
# what is written, and what is not can be had again.
_BUSY_TIMEOUT = 500

Row = Sequence[object]
_AT_ONCE = 500  # rows of which something is made before others have their turn

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Schema:
    """Of which kind a file is. `scripts` lead from each `user_version` to the next."""

    name: str  # as operators are told, "index"
    application_id: int  # in the file's header
    package: str  # where the scripts are
    scripts: tuple[str, ...]  # only ever appended to
    loss: str  # what it means that a damaged one is made anew
    summary: str | None = None  # a query of one row; see `Database.summary`
    functions: tuple[Callable[..., float], ...] = ()  # pure, for what is written, by their names


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement, done for each of `rows`."""

    sql: str
    rows: Sequence[Row]


@dataclass(slots=True)
class _Write:
    statements: tuple[Statement, ...]
    is_durable: bool
    done: asyncio.Future[None]
    error: StoreError | None = field(
        default_factory=lambda: StoreError("the database did not get to it")
    )


@dataclass(frozen=True, slots=True)
class Extent:
    """What a file takes, in bytes."""

    size: int
    used: int

    @property
    def spare(self) -> int:
        """Bytes that could be given back."""
        return self.size - self.used


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
        writer: "_Writer",
    ) -> None:
        self._path = path
        self._schema = schema
        self._reader = reader
        self._lister = lister
        self._writer = writer
        self._pending: list[_Write] = []
        self._flushing: asyncio.Task[None] | None = None
        self._closed = False
        self._is_damaged = False
        self.summary: tuple[Any, ...] = ()

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, schema: Schema) -> AsyncIterator["Database"]:
        """Open, and create or migrate where needed; everything asked for is written at exit.

        Raises:
            StoreError: The file cannot be used, is not ours, or from a newer mirror.
        """
        async with AsyncExitStack() as connections:
            with explained(path, schema):
                writer = _Writer(path, schema)
                connections.push_async_callback(writer.close)
                summary = await writer.do(writer.begin)
                connect = partial(aiosqlite.connect, path, isolation_level=None)
                reader = await connections.enter_async_context(connect())
                lister = await connections.enter_async_context(connect())
                for only_reads in (reader, lister):
                    await only_reads.execute("PRAGMA query_only = ON")
            database = cls(path, schema, reader=reader, lister=lister, writer=writer)
            database.summary = summary
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

    async def write(self, *statements: Statement, is_durable: bool = True) -> None:
        """Do all of `statements`, or none. Raises StoreError."""
        if self._closed:
            raise StoreError(f"the {self._schema.name} is closed")
        loop = asyncio.get_running_loop()
        write = _Write(statements, is_durable, loop.create_future())
        self._pending.append(write)
        if self._flushing is None:
            self._flushing = loop.create_task(self._flush())
        await write.done

    async def measure(self) -> Extent:
        """What the file takes, without its WAL. Raises StoreError."""
        ((size, pages, spare),) = await self.page(
            "SELECT page_size, page_count, freelist_count"
            " FROM pragma_page_size, pragma_page_count, pragma_freelist_count",
            (),
            lambda *columns: columns,
        )
        return Extent(size * pages, size * (pages - spare))

    async def give_back(self, most: int) -> None:
        """Cut up to so many bytes off the file, as far as it has them to spare. Raises StoreError.

        They are moved for that: in small portions, nobody who writes waits for long.
        """
        with explained(self._path, self._schema):
            await to_the_end(self._writer.do(partial(self._writer.give_back, most)))

    async def _fetch(
        self, connection: aiosqlite.Connection, sql: str, values: Row, read: Callable[..., _T]
    ) -> list[_T]:
        if self._closed:
            raise StoreError(f"the {self._schema.name} is closed")
        try:
            with explained(self._path, self._schema):
                rows = [*await connection.execute_fetchall(sql, values)]
                found = [read(*row) for row in rows[:_AT_ONCE]]
                for start in range(_AT_ONCE, len(rows), _AT_ONCE):
                    await asyncio.sleep(0)
                    found += [read(*row) for row in rows[start : start + _AT_ONCE]]
                return found
        except Damaged:
            await self._note_damage()
            raise

    async def _note_damage(self) -> None:
        """Have the next start set the file aside."""
        if not self._is_damaged:
            self._is_damaged = True
            _logger.error(
                "the %s is damaged: restart the mirror, which sets it aside; %s",
                self._schema.name, self._schema.loss, extra=fields(path=self._path),
            )  # fmt: skip
            with suppress(OSError):  # the disk may be full, or worse
                await asyncio.to_thread(_note_of_damage(self._path).touch)

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
                refusal = await self._commit(writes)
                if refusal is not None and not isinstance(refusal, Locked) and len(writes) > 1:
                    for write in writes:  # one is to blame: the others must not suffer
                        await self._commit([write])
                _settle(writes)
        finally:
            self._flushing = None
            _settle([*writes, *self._pending])
            self._pending = []

    async def _commit(self, writes: list[_Write]) -> StoreError | None:
        """Do them all, or none: then why not."""
        statements = [statement for write in writes for statement in write.statements]
        is_durable = any(write.is_durable for write in writes)
        try:
            with explained(self._path, self._schema):
                self.summary = await self._writer.do(
                    partial(self._writer.transact, statements, is_durable=is_durable)
                )
        except StoreError as error:
            for write in writes:
                write.error = error
            if isinstance(error, Damaged):
                await self._note_damage()
            return error
        for write in writes:
            write.error = None
        return None


class _Writer:
    """The connection that writes, in a thread of its own: a transaction is one trip there.

    All but `do` and `close` is done there.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        self._path = path
        self._schema = schema
        self._thread = ThreadPoolExecutor(1, f"write {schema.name}")
        self._connection: sqlite3.Connection | None = None
        self._is_durable: bool | None = None

    async def do(self, work: Callable[[], _T]) -> _T:
        """Do `work` in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        """Close the connection, and end the thread."""
        if self._connection is not None:
            await to_the_end(self.do(self._connection.close))
        self._thread.shutdown(wait=False)

    def begin(self) -> tuple[Any, ...]:
        """Open the file, and bring it up to date; what the summary is then.

        One that is damaged is set aside, and made anew.
        """
        if _note_of_damage(self._path).exists():
            self._set_aside("it turned out to be damaged")
        try:
            return self._begin()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            self._set_aside(error)
        return self._begin()

    def _set_aside(self, why: object) -> None:
        if self._connection is not None:
            self._connection.close()
        _set_aside(self._path)
        _logger.error(
            "the %s is set aside and made anew (%s); %s",
            self._schema.name, why, self._schema.loss, extra=fields(path=self._path),
        )  # fmt: skip

    def _begin(self) -> tuple[Any, ...]:
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        for function in self._schema.functions:
            self._connection.create_function(function.__name__, -1, function, deterministic=True)
        _migrate(self._connection, self._path, self._schema)
        self._connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT}")
        return self._summarize()

    def transact(self, statements: Iterable[Statement], *, is_durable: bool) -> tuple[Any, ...]:
        """Do all, or none; what the summary is then."""
        connection = self._open()
        if is_durable is not self._is_durable:
            connection.execute(_SYNCHRONOUS[is_durable])
            self._is_durable = is_durable
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.executemany(statement.sql, statement.rows)
            summary = self._summarize()
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise
        return summary

    def give_back(self, most: int) -> None:
        """Move pages from the end of the file to where there is room, and cut it."""
        connection = self._open()
        size = _number(connection, "PRAGMA page_size")
        # A step of it frees one page, and `execute` takes only one.
        connection.executescript(f"PRAGMA incremental_vacuum({most // size})")
        connection.execute("PRAGMA wal_checkpoint").fetchall()  # it is cut then

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.ProgrammingError("it is not open")
        return self._connection

    def _summarize(self) -> tuple[Any, ...]:
        if self._schema.summary is None:
            return ()
        row = self._open().execute(self._schema.summary).fetchone()
        if row is None:
            raise _Lost("it has lost its totals")
        return tuple(row)


def _settle(writes: Iterable[_Write]) -> None:
    for write in writes:
        if write.done.done():
            continue  # whoever asked was cancelled
        if write.error is None:
            write.done.set_result(None)
        else:
            write.done.set_exception(write.error)


def _migrate(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    """Bring the schema up to date.

    Raises:
        StoreError: Not a mirror, or a newer one, wrote this file.
    """
    version = _check_version(connection, path, schema)
    if version is None:
        _set(connection, _LAYOUT)
    elif version < len(schema.scripts):
        _logger.info("the %s is brought up to date, once", schema.name, extra=fields(path=path))
    connection.create_function("packed", 1, try_to_pack, deterministic=True)  # for scripts
    done = version or 0
    for number, name in enumerate(schema.scripts[done:], start=done + 1):
        script = files(schema.package).joinpath(name).read_text("utf-8")
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE; {script} PRAGMA application_id = {schema.application_id};"
                f" PRAGMA user_version = {number}; COMMIT;"
            )
        except BaseException:
            connection.rollback()
            raise
    if not _number(connection, "PRAGMA auto_vacuum"):
        _rewrite(connection, schema)
    _set(connection, _PRAGMAS)


def _check_version(connection: sqlite3.Connection, path: Path, schema: Schema) -> int | None:
    """The schema's version that the file is of; None where there is nothing in it yet."""
    version = _number(connection, "PRAGMA user_version")
    if _number(connection, "PRAGMA application_id") != schema.application_id:
        if version or _number(connection, "SELECT count(*) FROM sqlite_master"):
            what = f"{path} is not a mirror's {schema.name} but somebody else's database"
            raise StoreError(f"{what}: move it (with its -wal and -shm) aside and start again")
        return None
    if version > len(schema.scripts):
        raise StoreError(
            f"the {schema.name} {path} is of version {version}, this mirror knows"
            f" {len(schema.scripts)}: it was written by a newer mirror; run that one"
        )
    return version


def _rewrite(connection: sqlite3.Connection, schema: Schema) -> None:
    """Lay an old file out as a new one; where there is no room for that, another time."""
    try:
        connection.execute("PRAGMA journal_mode = DELETE")
        _set(connection, _LAYOUT)
        connection.execute("VACUUM")
    except sqlite3.OperationalError as error:
        _logger.warning("the %s cannot shrink yet: %s", schema.name, error, extra=fields())


def _set_aside(path: Path) -> None:
    """Rename it to `*.damaged`, for whoever wants to look; an older one of these goes.

    In this order: without the file, its log means nothing. Raises OSError.
    """
    damaged = Path(f"{path}.damaged")
    for suffix in ("-wal", "-shm", ""):
        source, target = Path(f"{path}{suffix}"), Path(f"{damaged}{suffix}")
        if source.exists():
            source.rename(target)
        else:
            target.unlink(missing_ok=True)
    _note_of_damage(path).unlink(missing_ok=True)


def _note_of_damage(path: Path) -> Path:
    """It is there where the file is damaged."""
    return Path(f"{path}.is-damaged")


class _Lost(sqlite3.DatabaseError):
    """What every such file has is not in it."""


def _is_damage(error: sqlite3.Error) -> bool:
    return isinstance(error, _Lost) or _code(error) in _DAMAGE


def _code(error: sqlite3.Error) -> int:
    """The primary one."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


class Damaged(StoreError):
    """The file is not as it was written; for the next start to set aside."""


class DiskFull(StoreError):
    """Nothing can be written down before something is deleted."""


class Locked(StoreError):
    """Another program has the file locked."""


def _set(connection: sqlite3.Connection, pragmas: Sequence[str]) -> None:
    connection.executescript(";".join(pragmas))


def _number(connection: sqlite3.Connection, sql: str) -> int:
    ((number,),) = connection.execute(sql)
    return int(number)


_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_KINDS: dict[int, type[StoreError]] = {
    **dict.fromkeys(_DAMAGE, Damaged),
    sqlite3.SQLITE_FULL: DiskFull,
    sqlite3.SQLITE_BUSY: Locked,
}


def _advice(code: int) -> str:
    return {
        sqlite3.SQLITE_CANTOPEN: "; give the mirror's user write access to it",
        sqlite3.SQLITE_READONLY: "; give the mirror's user write access to it",
        sqlite3.SQLITE_FULL: "; make room on its disk",
        sqlite3.SQLITE_BUSY: ": another program uses it",
    }.get(code, "")


@contextmanager
def explained(path: Path, schema: Schema) -> Iterator[None]:
    """What SQLite and unreadable or unstorable values raise, in the operator's words."""
    what = f"the {schema.name} {path}"
    try:
        yield
    except sqlite3.Error as error:
        code = _code(error)
        kind = _KINDS.get(code, StoreError)
        raise kind(f"{what} cannot be used: {error}{_advice(code)}") from error
    except RegistryError as error:
        raise Damaged(f"{what} is damaged: {error}") from error
    except (ArithmeticError, TypeError, ValueError) as error:
        raise StoreError(f"{what} cannot keep this: {error}") from error

"""The open file, for whoever reads and writes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from mirror.aio.waiting import finish, to_the_end
from mirror.oci.errors import StoreError
from mirror.sqlite import damage
from mirror.sqlite.errors import Damaged, Locked, explained
from mirror.sqlite.schema import Schema
from mirror.sqlite.writer import Row, Statement, Writer
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_AT_ONCE = 500  # rows of which something is made before others have their turn

_T = TypeVar("_T")


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
        writer: Writer,
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
    async def open(
        cls, path: Path, schema: Schema, *, sets_aside: bool = True
    ) -> AsyncIterator["Database"]:
        """Open, and create or migrate where needed; everything asked for is written at exit.

        `sets_aside` a damaged one: for whoever knows that nobody else has it open.

        Raises:
            StoreError: The file cannot be used, is not ours, or from a newer mirror.
        """
        async with AsyncExitStack() as closed, AsyncExitStack() as connections:
            with explained(path, schema):
                writer = Writer(path, schema, sets_aside=sets_aside)
                connections.push_async_callback(writer.close)
                summary = await writer.do(writer.begin)
                connect = partial(aiosqlite.connect, path, isolation_level=None)
                reader = await connections.enter_async_context(connect())
                lister = await connections.enter_async_context(connect())
                for only_reads in (reader, lister):
                    await only_reads.execute("PRAGMA query_only = ON")
            database = cls(path, schema, reader=reader, lister=lister, writer=writer)
            database.summary = summary
            closed.push_async_callback(database._write_note)  # as the file is in the end
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
                "%s is damaged: restart the mirror, which sets it aside; %s",
                self._path.name, self._schema.loss, extra=fields(path=self._path),
            )  # fmt: skip
            await self._write_note()

    async def _write_note(self) -> None:
        if self._is_damaged:
            with suppress(OSError):  # the disk may be full, or worse
                await asyncio.to_thread(damage.note, self._path)

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


def _settle(writes: Iterable[_Write]) -> None:
    for write in writes:
        if write.done.done():
            continue  # whoever asked was cancelled
        if write.error is None:
            write.done.set_result(None)
        else:
            write.done.set_exception(write.error)

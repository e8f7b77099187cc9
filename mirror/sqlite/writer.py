"""The connection that writes; it sets a damaged file aside, too."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mirror.aio.waiting import to_the_end
from mirror.oci.errors import StoreError
from mirror.sqlite import damage
from mirror.sqlite.errors import Lost, is_damage
from mirror.sqlite.schema import Schema, migrate, one_number
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_SYNCHRONOUS = {True: "PRAGMA synchronous = FULL", False: "PRAGMA synchronous = NORMAL"}
# Milliseconds for which another program may have the file locked, once it is open: clients wait for
# what is written, and what is not can be had again.
_BUSY_TIMEOUT = 500

Row = Sequence[object]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement, done for each of `rows`."""

    sql: str
    rows: Sequence[Row]


class Writer:
    """The connection that writes, in a thread of its own: a transaction is one trip there.

    All but `do` and `close` is done there.
    """

    def __init__(self, path: Path, schema: Schema, *, sets_aside: bool) -> None:
        self._path = path
        self._schema = schema
        self._sets_aside = sets_aside
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

        One that is damaged is set aside, and made anew, where that is wanted.
        """
        if not self._sets_aside:
            return self._begin()
        if damage.is_noted(self._path):
            self._set_aside("it turned out to be damaged")
        elif damage.forget(self._path):
            _logger.warning(
                "%s is not as it was when it was found damaged, and is used", self._path.name,
                extra=fields(),
            )  # fmt: skip
        try:
            return self._begin()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if not is_damage(error):
                raise
            self._set_aside(error)
        return self._begin()

    def _set_aside(self, why: object) -> None:
        if self._connection is not None:
            self._connection.close()
        try:
            damage.set_aside(self._path)
        except OSError as error:
            raise StoreError(
                f"{self._path} is damaged and cannot be set aside: {error.strerror}; move it"
                " (with its -wal and -shm) aside and start again"
            ) from error
        _logger.error(
            "%s is set aside and made anew (%s); %s",
            self._path.name, why, self._schema.loss, extra=fields(path=self._path),
        )  # fmt: skip

    def _begin(self) -> tuple[Any, ...]:
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        for function in self._schema.functions:
            self._connection.create_function(function.__name__, -1, function, deterministic=True)
        migrate(self._connection, self._path, self._schema)
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
        size = one_number(connection, "PRAGMA page_size")
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
        try:
            row = self._open().execute(self._schema.summary).fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_ERROR:  # no such table, or column
                raise Lost(str(error)) from error
            raise
        if row is None:
            raise Lost("it has lost its totals")
        return tuple(row)

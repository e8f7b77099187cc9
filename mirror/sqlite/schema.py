"""Of which kind a file is, and how it is brought up to date."""

import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from mirror.oci.compact import try_to_pack
from mirror.oci.errors import StoreError
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


def migrate(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
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
    if not one_number(connection, "PRAGMA auto_vacuum"):
        _rewrite(connection, schema)
    _set(connection, _PRAGMAS)


def _check_version(connection: sqlite3.Connection, path: Path, schema: Schema) -> int | None:
    """The schema's version that the file is of; None where there is nothing in it yet."""
    version = one_number(connection, "PRAGMA user_version")
    if one_number(connection, "PRAGMA application_id") != schema.application_id:
        if version or one_number(connection, "SELECT count(*) FROM sqlite_master"):
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


def _set(connection: sqlite3.Connection, pragmas: Sequence[str]) -> None:
    connection.executescript(";".join(pragmas))


def one_number(connection: sqlite3.Connection, sql: str) -> int:
    """The one number that a query gives."""
    ((number,),) = connection.execute(sql)
    return int(number)

"""What SQLite raises, in the operator's words."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirror.oci.errors import RegistryError, StoreError
from mirror.sqlite.schema import Schema


class Lost(sqlite3.DatabaseError):
    """What every such file has is not in it."""


def is_damage(error: Exception) -> bool:
    """Whether the file is to be set aside."""
    if isinstance(error, sqlite3.Error):
        return isinstance(error, Lost) or _code(error) in _DAMAGE or _UNREADABLE in str(error)
    return isinstance(error, UnicodeDecodeError)


def _code(error: sqlite3.Error) -> int:
    """The primary one."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


class Damaged(StoreError):
    """The file is not as it was written; for the next start to set aside."""


class DiskFull(StoreError):
    """Nothing can be written down before something is deleted."""


class Locked(StoreError):
    """Another program has the file locked."""


_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNREADABLE = "Could not decode to UTF-8"  # without a code: it is the library that reads text
_KINDS: dict[int, type[StoreError]] = {
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
        kind = Damaged if is_damage(error) else _KINDS.get(code, StoreError)
        raise kind(f"{what} cannot be used: {error}{_advice(code)}") from error
    except StoreError:  # is in their words already
        raise
    except (RegistryError, UnicodeDecodeError) as error:
        raise Damaged(f"{what} is damaged: {error}") from error
    except (ArithmeticError, TypeError, ValueError) as error:
        raise StoreError(f"{what} cannot keep this: {error}") from error

"""Databases that were set aside, for whoever wants to look, and how long they stay.

    *.sqlite3.damaged    by a start that found them damaged (`damage.py`)
    *.sqlite3.old        by `mirror rebuild`

Each with its `-wal` and `-shm`. They are worth a look while somebody wonders what has happened, and
take as much room as they ever did: so they go by themselves, a while later. Everything here blocks.
"""

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

KEPT = 30 * 86400.0  # seconds
DAMAGED, OLD = "damaged", "old"


def set_aside(path: Path, kind: str) -> None:
    """Rename a database to `*.damaged` or `*.old`; an older one of these goes. Raises OSError.

    In this order: without the file, its log means nothing.
    """
    for suffix in ("-wal", "-shm", ""):
        source, target = Path(f"{path}{suffix}"), Path(f"{path}.{kind}{suffix}")
        if source.exists():
            source.rename(target)
            os.utime(target)  # from now on it counts as new
        else:
            target.unlink(missing_ok=True)


def find(directory: Path) -> list[Path]:
    """What was set aside there, each file by itself."""
    found = chain.from_iterable(directory.glob(f"*.sqlite3.{kind}*") for kind in (DAMAGED, OLD))
    return sorted(path for path in found if path.is_file())


def remove_old(directory: Path, now: float) -> Iterator[Path]:
    """Remove what was set aside long ago, one by one; `now` in seconds since the epoch."""
    for path in find(directory):
        if now - path.stat().st_mtime >= KEPT:
            path.unlink(missing_ok=True)
            yield path

"""Making the index anew, where it is damaged or not believed any more."""

import asyncio
from pathlib import Path

from mirror.storage.files import Files

_NAME = "index.sqlite3"


async def set_index_aside(root: Path) -> None:
    """Move the index of a store that nobody uses to `index.sqlite3.old`; an older one goes.

    Raises:
        InUse: A mirror runs there.
        StoreError: The directory cannot be used.
    """
    files = Files(root)
    try:
        await files.prepare()
        await asyncio.to_thread(_move, root)
    finally:
        files.close()


def _move(root: Path) -> None:
    for suffix in ("-wal", "-shm", ""):  # the file last: without it the others mean nothing
        path = root / f"{_NAME}{suffix}"
        if path.exists():
            path.rename(root / f"{_NAME}.old{suffix}")
        else:
            (root / f"{_NAME}.old{suffix}").unlink(missing_ok=True)

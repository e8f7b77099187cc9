"""Making the index anew, where it is damaged or not believed any more."""

import asyncio
from pathlib import Path

from mirror.sqlite import aside
from mirror.storage.files import Files

_NAME = "index.sqlite3"


async def set_index_aside(root: Path) -> None:
    """Move the index of a store that nobody uses to `index.sqlite3.old`; an older one goes.

    So does this, by itself, a while later (`mirror.sqlite.aside`).

    Raises:
        InUse: A mirror runs there.
        StoreError: The directory cannot be used.
    """
    files = Files(root)
    try:
        await files.prepare()
        await asyncio.to_thread(aside.set_aside, root / _NAME, aside.OLD)
    finally:
        files.close()

"""The records and the index, read together: whose what is stands in one, what is here in the other.

By a connection of its own, which only reads, in a thread of its own: no pull waits for it. What
takes longer than an operator would wait is given up.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from mirror.aio.waiting import to_the_end
from mirror.records.sqlite import SCHEMA
from mirror.sqlite import explained

_T = TypeVar("_T")

_PATIENCE = 20.0  # seconds, for one look
_STEPS = 100_000  # of SQLite's machine, before the time is looked at: some milliseconds


class Catalog:
    """Answers looks. Use `Catalog.open`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._thread = ThreadPoolExecutor(1, "contents")
        self._connection: sqlite3.Connection | None = None
        self._until = 0.0

    @classmethod
    @asynccontextmanager
    async def open(cls, root: Path) -> AsyncIterator["Catalog"]:
        """Of the store below `root`, which is open."""
        catalog = cls(root)
        try:
            yield catalog
        finally:
            await to_the_end(catalog._close())

    async def look(self, look: Callable[[sqlite3.Connection], _T]) -> _T:
        """What `look` finds, in the thread; `blobs` is the index's. Raises StoreError."""
        loop = asyncio.get_running_loop()
        with explained(self._root / "records.sqlite3", SCHEMA):
            return await loop.run_in_executor(self._thread, self._look, look)

    def _look(self, look: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._connection is None:
            self._connection = self._connect()
        self._until = time.monotonic() + _PATIENCE
        return look(self._connection)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(_only_read(self._root / "records.sqlite3"), uri=True)
        connection.execute("ATTACH ? AS disk", (_only_read(self._root / "index.sqlite3"),))
        connection.set_progress_handler(self._is_too_long, _STEPS)
        return connection

    def _is_too_long(self) -> bool:
        return time.monotonic() > self._until

    async def _close(self) -> None:
        if self._connection is not None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown(wait=False)


def _only_read(path: Path) -> str:
    return f"file:{quote(str(path.absolute()))}?mode=ro"

"""What the store takes of the disk: more than the bytes of its blobs.

    blobs, downloads    whole blocks of the file system; and what is set aside
    directories         those that blobs are spread over, from the start, and what they grow to;
                        and whatever else is there
    databases           the index, the records and the history; their logs at the size that they
                        come to anyway

All of that counts in `store.max_size`. So the limit holds at every instant: what grows between two
looks is counted before it grows.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from mirror.storage import extents
from mirror.storage.asking import Asking, DoesNotAnswer
from mirror.storage.errors import translated
from mirror.storage.threads import Threads

_LOG = 2**22 + 2**16  # bytes: SQLite tidies a log up at 4,000 pages of 1 KiB, and keeps the file
_LOGS = ("index.sqlite3-wal", "records.sqlite3-wal", "history.sqlite3-wal")
_SPREAD = 256  # directories that blobs of one algorithm are spread over
_DIRECTORIES_EVERY = 100  # looks; they hardly grow
_COUNTED = ("blobs", "partial", "push", "quarantine")  # directories whose files the ledger counts
_ST_BLOCK = 512  # bytes, whatever the file system's are


@dataclass(frozen=True, slots=True)
class Look:
    """Bytes: `free` on the file system for us, and taken by what the ledger does not count."""

    free: int
    overhead: int


class Usage:
    """Looks at the disk below `root`. `prepare` comes first."""

    def __init__(self, root: Path, threads: Threads) -> None:
        self._root = root
        self._threads = threads
        self._directories = 0  # bytes
        self._looks = 0
        self.block = 1  # bytes
        self.last = Look(0, 0)
        self._asking_free = Asking(lambda: self._threads.begin(self._find_free))

    async def prepare(self) -> None:
        """Find out how large a block is. Raises StoreError."""
        with translated():
            status = await self._threads.quick(os.statvfs, self._root)
        self.block = max(1, status.f_frsize)

    async def look(self) -> Look:
        """How it stands. Raises StoreError."""
        with translated():
            self.last = await self._threads.quick(self._look)
        return self.last

    async def find_free(self) -> int:
        """Bytes of the file system that are free for us now.

        As of the last look, where the disk does not answer, or refuses: why, `Files.probe` says.

        Raises:
            StoreError: The threads have ended.
        """
        try:
            return await self._asking_free.answer()
        except (DoesNotAnswer, OSError):
            return self.last.free

    def whole(self, size: int) -> int:
        """What a file of `size` bytes takes."""
        return -(-size // self.block) * self.block

    def of_partial(self, there: extents.Extents) -> int:
        """What a download takes of which this is there, and which of it is there."""
        return extents.blocks(there, self.block) + (self.block if there else 0)

    def _look(self) -> Look:
        if self._looks % _DIRECTORIES_EVERY == 0:
            self._directories = self._measure_directories()
        self._looks += 1
        files = {path.name: _taken(path) for path in self._root.iterdir() if not path.is_dir()}
        logs = sum(max(0, _LOG - files.get(name, 0)) for name in _LOGS)
        return Look(self._find_free(), sum(files.values()) + logs + self._directories)

    def _find_free(self) -> int:
        status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize

    def _measure_directories(self) -> int:
        spread = list(self._root.glob("blobs/*/*"))
        others = [self._root, *self._root.glob("blobs/*")]
        others += (path for path in self._root.glob("partial/*") if path.is_dir())
        for path in self._root.iterdir():
            if path.is_dir():
                others += [path] if path.name in _COUNTED else [path, *path.rglob("*")]
        taken = sum(_taken(path) for path in (*spread, *others))
        return taken + max(0, _SPREAD - len(spread)) * self.block


def _taken(path: Path) -> int:
    try:
        return path.lstat().st_blocks * _ST_BLOCK
    except FileNotFoundError:  # it has gone just now
        return 0


class ContentOnly(Usage):
    """Counts the bytes of blobs, and nothing else: for stores that are smaller than their index."""

    async def prepare(self) -> None:
        """Nothing to find out."""

    async def look(self) -> Look:
        """Only what is free."""
        self.last = Look((await super().look()).free, 0)
        return self.last

    def of_partial(self, there: extents.Extents) -> int:
        """Its bytes."""
        return extents.total(there)

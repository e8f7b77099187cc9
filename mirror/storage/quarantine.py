"""Damaged files, set aside so that somebody can see what has happened to them.

    quarantine/sha256-9f86d081…   what stood in the place of that blob

No more bytes than it is given, and no more than a hundred files: the oldest go. Nothing of it is
ever served, and whoever wants the room may delete it. Everything here blocks.
"""

import heapq
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

_MOST_FILES = 100
_CROWD = 1000  # files: nobody waits until they have been looked at
_OURS_ALONE = 0o700


class Quarantine:
    """The directory; `most` in bytes, 0 where nothing is to be kept."""

    def __init__(self, directory: Path, *, most: int) -> None:
        self._directory = directory
        self._most = most

    def take(self, path: Path, name: str) -> None:
        """Move what is at `path` here, or delete it where there is no room for it; then tidy."""
        try:
            if path.stat().st_size <= self._most:
                self._directory.mkdir(_OURS_ALONE, exist_ok=True)
                target = self._directory / name
                path.rename(target)
                os.utime(target)  # from now on it counts as new
        except FileNotFoundError:
            return  # nothing stands there
        finally:
            path.unlink(missing_ok=True)  # wherever it cannot be moved: nobody is served it

    def is_crowded(self) -> bool:
        """Whether there is far more than a mirror leaves here: to tidy takes a while."""
        return len(list(islice(self._list(), _CROWD))) == _CROWD

    def tidy(self) -> list[int]:
        """Delete the oldest, as far as there is too much; the sizes of what there is then."""
        kept = self._choose()
        for entry in self._list():
            if entry.name not in kept:
                Path(entry.path).unlink(missing_ok=True)
        return [*kept.values()]

    def measure_excess(self) -> int:
        """How many bytes `tidy` would delete."""
        kept = self._choose()
        return sum(size for _, name, size in self._look() if name not in kept)

    def _choose(self) -> dict[str, int]:
        """The names and sizes of what may stay: of any number of files, few are in memory."""
        kept = dict[str, int]()
        for _, name, size in heapq.nlargest(_MOST_FILES, self._look()):
            if sum(kept.values()) + size <= self._most:
                kept[name] = size
        return kept

    def _look(self) -> Iterator[tuple[int, str, int]]:
        """Since when, name and size of each."""
        for entry in self._list():
            with suppress(FileNotFoundError):  # somebody wants the room
                status = entry.stat(follow_symlinks=False)
                yield status.st_mtime_ns, entry.name, status.st_size

    def _list(self) -> "Iterator[os.DirEntry[str]]":
        """All files; what is not ours, such as a directory, is left alone."""
        with suppress(FileNotFoundError), os.scandir(self._directory) as entries:
            yield from (entry for entry in entries if not entry.is_dir(follow_symlinks=False))

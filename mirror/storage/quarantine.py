"""Damaged files, set aside so that somebody can see what has happened to them.

    quarantine/sha256-9f86d081…   what stood in the place of that blob

No more bytes than it is given, and no more than a hundred files: the oldest go. Nothing of it is
ever served, and whoever wants the room may delete it. Everything here blocks.
"""

import os
from pathlib import Path

_MOST_FILES = 100
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

    def tidy(self) -> list[int]:
        """Delete the oldest, as far as there is too much; the sizes of what there is then."""
        kept, excess = self._look()
        for path in excess:
            path.unlink(missing_ok=True)
        return kept

    def measure_excess(self) -> int:
        """How many bytes `tidy` would delete."""
        return sum(self._look()[1].values())

    def _look(self) -> tuple[list[int], dict[Path, int]]:
        """The sizes of what may stay; and what is too much, with its size."""
        kept, excess = list[int](), dict[Path, int]()
        try:
            files = [(path, path.stat()) for path in self._directory.iterdir()]
        except FileNotFoundError:
            return kept, excess
        files.sort(key=lambda file: file[1].st_mtime_ns, reverse=True)
        for path, status in files:
            if len(kept) < _MOST_FILES and sum(kept) + status.st_size <= self._most:
                kept.append(status.st_size)
            else:
                excess[path] = status.st_size
        return kept, excess

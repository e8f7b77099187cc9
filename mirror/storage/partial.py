"""A blob on its way: a sparse file, written by offset, hashed as far as it is whole.

    partial/docker.io/sha256-9f86d081…          the bytes
    partial/docker.io/sha256-9f86d081….ranges   which of them are there, once there was a gap

Without a gap the length of the file says how far it got. Before the first byte is written beyond
one, the ranges are put down in a file of their own, renewed after each write. Both live in the
page cache, which outlives the process: after `kill -9` they are exact. (The file system's holes
would not do: it knows blocks, and a gap within a block does not show.) After a power cut they may
promise bytes that never reached the disk; then the digest does not match, and nothing is kept.

Everything here blocks, and may be called from several threads at once.
"""

import os
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Self

from mirror.oci.digest import Chunk, Digest, Hasher
from mirror.storage import extents

_BLOCK = 2**20  # bytes read back for hashing at a time
_VECTOR = 512  # chunks per system call; the kernel takes 1024


class Partial:
    """An open partial. `present` and `hashed` may be read at any time, from any thread."""

    def __init__(self, digest: Digest, path: Path) -> None:
        self.digest = digest
        self.path = path
        self.file = _open(path)
        self.hashed = 0  # bytes from the first, all of them present
        self._hasher = digest.hasher()
        self._hashing = False  # one thread hashes for all
        self._lock = Lock()  # of `present`, its record and `_hashing`; never held while hashing
        self._ranges: FileIO | None = None
        self.present: extents.Extents = ()
        try:
            self._resume()
        except BaseException:
            self.close()
            raise

    @classmethod
    def of_whole(cls, digest: Digest, path: Path, hasher: Hasher) -> Self:
        """Of a file that has all of the blob, and that `hasher` has taken in."""
        partial = cls(digest, path)
        partial.hashed, partial._hasher = extents.total(partial.present), hasher
        return partial

    def write(self, offset: int, chunks: Sequence[Chunk]) -> None:
        """Write `chunks` at `offset`, and hash as far as the prefix then reaches.

        Where another thread is hashing, it is left to that one.
        """
        with self._lock:
            if self._ranges is None and offset > extents.prefix(self.present):
                self._ranges = _open(_ranges_path(self.path))
                self._record()
        end = _write(self.file.fileno(), offset, chunks)
        with self._lock:
            self.present = extents.add(self.present, offset, end)
            self._record()
            if self._hashing:
                return
            self._hashing = True
            continues = offset == self.hashed
        try:
            if continues:  # what is in memory need not be read back
                for chunk in chunks:
                    self._hasher.update(chunk)
                self.hashed = end
            while (reach := self._reach()) is not None:
                self._hash(reach)
        except BaseException:
            self._hashing = False
            raise

    def hasher(self) -> Hasher:
        """One more that has taken in the `hashed` bytes; while nobody writes."""
        return self._hasher.copy()

    def catch_up(self, length: int) -> bool:
        """Hash at most `length` bytes more of what an earlier process left; True: all is hashed."""
        reach = extents.prefix(self.present)
        self._hash(min(reach, self.hashed + length))
        return self.hashed == reach

    def is_proved(self, size: int | None) -> bool:
        """Whether all `size` bytes (None: as many as there are) are there, and are the blob."""
        return (
            not self._hashing
            and self.hashed == extents.total(self.present)
            and size in {None, self.hashed}
            and self.digest.matches(self._hasher)
        )

    def cut(self, size: int) -> None:
        """Drop what lies beyond `size`, where nobody writes.

        Meanwhile others may write before it; unless all of that is there and hashed already: then
        there is nothing to write, and it is hashed anew.
        """
        with self._lock:
            if os.fstat(self.file.fileno()).st_size > size:
                os.ftruncate(self.file.fileno(), size)
            self.present = extents.clip(self.present, size)
            self._record()
        if self.hashed > size:
            self._hasher, self.hashed = self.digest.hasher(), 0
            self._hash(size)

    def rest(self) -> None:
        """Leave just what is needed to continue later."""
        os.ftruncate(self.file.fileno(), self.present[-1][1] if self.present else 0)
        if extents.prefix(self.present) == extents.total(self.present):
            _ranges_path(self.path).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files."""
        self.file.close()
        if self._ranges is not None:
            self._ranges.close()

    def _reach(self) -> int | None:
        """How far to hash now; None, and the next write hashes, if that is done."""
        with self._lock:
            reach = extents.prefix(self.present)
            self._hashing = self.hashed < reach
            return reach if self._hashing else None

    def _hash(self, end: int) -> None:
        while self.hashed < end:
            block = os.pread(self.file.fileno(), min(_BLOCK, end - self.hashed), self.hashed)
            if not block:
                raise OSError(None, "somebody else has truncated it", str(self.path))
            self._hasher.update(block)
            self.hashed += len(block)

    def _resume(self) -> None:
        """Find out what an earlier process left."""
        length = os.fstat(self.file.fileno()).st_size
        self.present = extents.add((), 0, length)
        if _ranges_path(self.path).exists():
            self._ranges = _open(_ranges_path(self.path))
            if record := self._ranges.read():  # else there has been no gap yet
                self.present = extents.clip(_parse(record), length)
            self._record()  # what is not there must not seem to be once the file has grown

    def _record(self) -> None:
        if self._ranges is not None:
            line = " ".join(f"{start}-{end}" for start, end in self.present) + "\n"
            os.pwrite(self._ranges.fileno(), line.encode("ascii"), 0)


def remove(path: Path) -> None:
    """Delete a partial; in this order, since without its ranges it would look whole."""
    path.unlink(missing_ok=True)
    _ranges_path(path).unlink(missing_ok=True)


def move(path: Path, target: Path) -> None:
    """Give a partial another path; in this order, as in `remove`."""
    if _ranges_path(path).exists():
        _ranges_path(path).rename(_ranges_path(target))
    path.rename(target)


def _parse(record: bytes) -> extents.Extents:
    """Read what `_record` has written; nothing at all of what a power cut has left of it."""
    known: extents.Extents = ()
    line = record.partition(b"\n")[0]
    try:
        for start, end in (word.split(b"-") for word in line.split()):
            known = extents.add(known, int(start), int(end))
    except ValueError:
        return ()
    return known


def _ranges_path(path: Path) -> Path:
    return path.with_suffix(".ranges")


def _open(path: Path) -> FileIO:
    return FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+")


def _write(descriptor: int, offset: int, chunks: Sequence[Chunk]) -> int:
    """Write all of `chunks` at `offset`; returns where they end."""
    pending = [memoryview(chunk) for chunk in chunks if chunk]
    while pending:
        written = os.pwritev(descriptor, pending[:_VECTOR], offset)
        offset += written
        pending = list(_rest(pending, written))
    return offset


def _rest(chunks: list[memoryview], written: int) -> Iterator[memoryview]:
    """What is left of `chunks` after their first `written` bytes."""
    for chunk in chunks:
        if written < len(chunk):
            yield chunk[written:]
        written = max(0, written - len(chunk))

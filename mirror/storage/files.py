"""Blobs on disk, by digest.

    blobs/sha256/9f/9f86d081…     complete, proved, never written again
    partial/sha256-9f86d081…      on their way (`mirror.storage.partial`); survive a restart
    lock                          held while a mirror uses the directory

A blob comes into being by `rename` of a proved and synced partial, so a path below `blobs/` either
does not exist or holds exactly the bytes that its name promises. All calls into the file system
run in threads, and all their errors come out as StoreError; descriptors are shared by everyone who
reads the same blob.
"""

import asyncio
import errno
import fcntl
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import RegistryError, StoreError
from mirror.storage import partial as partials
from mirror.storage.errors import NoRoom
from mirror.storage.partial import Chunk, Partial
from mirror.storage.threads import Lane, Threads

_IDLE_DESCRIPTORS = 128
_CATCH_UP = 16 * 2**20  # bytes hashed in one go, so that others get their turn


class BlobFile:
    """An open file that any number of readers share; `close` once per reader."""

    __slots__ = ("_pool", "digest", "file", "readers", "size")

    def __init__(self, pool: "BlobStore", digest: Digest, file: FileIO, size: int) -> None:
        self._pool = pool
        self.digest = digest
        self.file = file
        self.size = size
        self.readers = 0

    def close(self) -> None:
        """Say that one reader is done."""
        self._pool.release(self)


class _File(FileIO):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.size = os.fstat(self.fileno()).st_size


class BlobStore:
    """The blobs below one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._blobs = root / "blobs"
        self._partial = root / "partial"
        self._threads = Threads()
        self._lock: FileIO | None = None
        self._opening: Counter[Digest] = Counter()
        self._open: dict[Digest, BlobFile] = {}
        self._idle: OrderedDict[Digest, BlobFile] = OrderedDict()
        self._most_idle = _IDLE_DESCRIPTORS

    async def prepare(self) -> None:
        """Create the directories, prove that they can be written to, and keep others out.

        Raises:
            StoreError: They cannot, or another mirror uses them.
        """
        await self.probe()
        with _translated():
            self._lock = await self._threads.open(_lock, self._root / "lock")

    async def probe(self) -> None:
        """Prove that the directories can be written to. Raises StoreError."""
        with _translated():
            await self._threads.slow(self._probe)

    # Complete blobs

    async def open(self, digest: Digest) -> BlobFile | None:
        """Open a complete blob for one more reader; None where it is not on disk."""
        blob = self._open.get(digest) or self._idle.pop(digest, None)
        if blob is None:
            self._opening[digest] += 1
            try:
                file = await self._open_file(digest)
            finally:
                self._opening -= Counter([digest])
            if file is None:
                return None
            # Another reader may have opened it in the meantime: keep the first.
            blob = self._open.get(digest) or self._idle.pop(digest, None)
            if blob is None:
                blob = BlobFile(self, digest, file, file.size)
            else:
                file.close()
        self._open[digest] = blob
        blob.readers += 1
        return blob

    async def _open_file(self, digest: Digest) -> "_File | None":
        with _translated():
            try:
                return await self._threads.open(_File, self._path(digest))
            except FileNotFoundError:
                return None

    async def read(self, blob: BlobFile) -> bytes:
        """All of an open blob, which is small."""
        with _translated():
            return await self._threads.quick(os.pread, blob.file.fileno(), blob.size, 0)

    def release(self, blob: BlobFile) -> None:
        """Take back a reader's share; the descriptor stays open a while for the next one."""
        blob.readers -= 1
        if blob.readers:
            return
        del self._open[blob.digest]
        self._idle[blob.digest] = blob
        while len(self._idle) > self._most_idle:
            self._idle.popitem(last=False)[1].file.close()

    def is_read(self, digest: Digest) -> bool:
        """Whether somebody is reading this blob now, or is about to."""
        return digest in self._open or digest in self._opening

    async def remove(self, digests: Iterable[Digest]) -> None:
        """Delete blobs; what is being read stays readable until it is closed."""
        digests = list(digests)
        for digest in digests:
            if idle := self._idle.pop(digest, None):
                idle.file.close()
        with _translated():
            await self._threads.slow(self._unlink, digests)

    async def size_of(self, digest: Digest) -> int | None:
        """The size on disk of a complete blob, in bytes."""
        with _translated():
            return await self._threads.quick(_size, self._path(digest))

    async def scan(self) -> list[tuple[Digest, int]]:
        """Every complete blob on disk with its size; slow, for a lost catalog."""
        with _translated():
            return await self._threads.slow(lambda: list(self._scan()))

    # Partial blobs

    async def open_partial(self, digest: Digest, size: int | None = None) -> Partial:
        """Open the partial of `digest`, with what an earlier process left of its `size` bytes."""
        with _translated():
            return await self._threads.open(self._open_partial, digest, size)

    async def catch_up(self, partial: Partial) -> None:
        """Hash what an earlier process left."""
        with _translated():
            while not await self._threads.quick(partial.catch_up, _CATCH_UP):
                pass

    def lane(self, after: Callable[[], None]) -> Lane:
        """For `write`: see `mirror.storage.threads.Lane`."""
        return self._threads.lane(after)

    def write(
        self, lane: Lane, partial: Partial, *pieces: tuple[int, Sequence[Chunk]]
    ) -> "asyncio.Future[None]":
        """Write pieces, by offset, to a partial, and hash as far as it is whole from the start."""

        def write() -> None:
            with _translated():
                for offset, chunks in pieces:
                    partial.write(offset, chunks)

        return lane.do(write)

    async def rest(self, partial: Partial) -> None:
        """Leave a partial for later."""
        with _translated():
            await self._threads.quick(partial.rest)

    async def commit(self, partial: Partial) -> None:
        """Make a proved partial a blob, durably; where that fails it is a partial still."""
        with _translated():
            await self._threads.slow(self._commit, partial)

    async def undo_commit(self, partial: Partial) -> None:
        """Make it a partial again."""
        with _translated():
            await self._threads.slow(self._path(partial.digest).rename, partial.path)

    async def remove_partial(self, digest: Digest) -> None:
        """Delete a partial."""
        with _translated():
            await self._threads.slow(partials.remove, self._partial_path(digest))

    async def scan_partials(self) -> list[Digest]:
        """Every partial on disk."""
        with _translated():
            return await self._threads.slow(lambda: list(self._scan_partials()))

    # The rest

    async def free(self) -> int:
        """Bytes that the file system has left for us."""
        with _translated():
            status = await self._threads.quick(os.statvfs, self._blobs)
        return status.f_bavail * status.f_frsize

    def close(self) -> None:
        """Close what nobody reads from, and end the threads."""
        self._most_idle = 0
        while self._idle:
            self._idle.popitem()[1].file.close()
        self._threads.close()
        if self._lock is not None:
            self._lock.close()

    def _probe(self) -> None:
        for directory in (self._blobs, self._partial):
            directory.mkdir(parents=True, exist_ok=True)
            probe = directory / ".probe"
            probe.touch()
            probe.unlink(missing_ok=True)  # somebody else may be asking, too

    def _unlink(self, digests: list[Digest]) -> None:
        for digest in digests:
            self._path(digest).unlink(missing_ok=True)

    def _open_partial(self, digest: Digest, size: int | None) -> Partial:
        partial = Partial(digest, self._partial_path(digest))
        if size is not None:
            partial.cut(size)
        return partial

    def _commit(self, partial: Partial) -> None:
        os.ftruncate(partial.file.fileno(), partial.hashed)
        os.fsync(partial.file.fileno())
        path = self._path(partial.digest)
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            _sync_directory(path.parent.parent)
            _sync_directory(self._blobs)
        partial.path.rename(path)
        try:
            _sync_directory(path.parent)
        except OSError:
            path.rename(partial.path)
            raise
        partials.remove(partial.path)  # its ranges

    def _path(self, digest: Digest) -> Path:
        return self._blobs / digest.algorithm / digest.encoded[:2] / digest.encoded

    def _partial_path(self, digest: Digest) -> Path:
        return self._partial / f"{digest.algorithm}-{digest.encoded}"

    def _scan(self) -> Iterator[tuple[Digest, int]]:
        for path in self._blobs.glob("*/*/*"):
            digest = _digest(path.parent.parent.name, path.name)
            if digest and path == self._path(digest):
                yield digest, path.stat().st_size

    def _scan_partials(self) -> Iterator[Digest]:
        for path in self._partial.iterdir():
            algorithm, _, encoded = path.name.partition("-")
            if digest := _digest(algorithm, encoded):
                yield digest


@contextmanager
def _translated() -> Iterator[None]:
    """The file system's errors, in the operator's words."""
    try:
        yield
    except OSError as error:
        where = error.filename or "store.root"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoRoom(f"cannot write to {where}: {error.strerror}") from error
        hint = (
            "; give the mirror's user write access to store.root, or set another store.root"
            if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
            else ""
        )
        raise StoreError(f"cannot use {where}: {error.strerror}{hint}") from error


def _lock(path: Path) -> FileIO:
    file = FileIO(path, "a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise StoreError(
            f"another mirror uses {path.parent}: stop it, or set another store.root"
        ) from error
    return file


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _digest(algorithm: str, encoded: str) -> Digest | None:
    try:
        return parse_digest(f"{algorithm}:{encoded}")
    except RegistryError:
        return None  # not ours

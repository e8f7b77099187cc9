"""The files of the store. What is done with them, and when, is decided elsewhere.

    blobs/sha256/9f/9f86d081…             complete, proved, never written again
    partial/docker.io/sha256-9f86d081…    on their way (`mirror.storage.partial`); survive a restart
    quarantine/sha256-9f86d081…           damaged (`mirror.storage.quarantine`)
    lock                                  held while a mirror uses the directory

A blob comes into being by `rename` of a proved and synced partial, so a path below `blobs/` either
does not exist or holds exactly the bytes that its name promises. All calls into the file system
run in threads, and all their errors come out as StoreError.
"""

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from urllib.parse import quote, unquote

from mirror.oci.digest import Chunk, Digest, Hasher, parse_digest
from mirror.oci.errors import RegistryError, StoreError
from mirror.sqlite import aside
from mirror.storage import partial as partials
from mirror.storage.asking import Asking, DoesNotAnswer
from mirror.storage.errors import translated
from mirror.storage.hashing import PIECE
from mirror.storage.partial import Partial
from mirror.storage.quarantine import Quarantine
from mirror.storage.states import PartialKey
from mirror.storage.threads import Lane, Threads

_USUAL = "sha256"  # by which nearly everything is called
_PROBED = 4096  # bytes: an empty file can be made on a full disk, too
_OURS_ALONE = 0o700  # private images are among them, whatever the umask
_CATCH_UP = 16 * 2**20  # bytes hashed in one go, so that others get their turn


class InUse(StoreError):
    """A mirror uses the store already; for whoever opens one, and never for a client."""


class SizedFile(FileIO):
    """A file opened for reading; `size` in bytes, as it was then."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.size = os.fstat(self.fileno()).st_size


class Files:
    """What is below one directory."""

    def __init__(
        self, root: Path, threads: Threads | None = None, *, max_quarantine: int = 0
    ) -> None:
        self.root = root
        self._blobs = root / "blobs"
        self._partial = root / "partial"
        self._quarantine = Quarantine(root / "quarantine", most=max_quarantine)
        self._threads = threads or Threads()
        self._probing = Asking(lambda: self._threads.begin(self._probe, bytes(_PROBED)))
        self._lock: FileIO | None = None

    async def prepare(self) -> None:
        """Keep others out, create the directories, and prove that they can be written to.

        Raises:
            InUse: Another mirror uses them, whatever else is wrong with them.
            StoreError: They cannot.
        """
        with translated():
            self._lock = await self._threads.open(_lock, self.root / "lock")
            await self._threads.slow(self._probe, b"")  # a full disk is one that can be tidied

    async def make_shelves(self) -> None:
        """Create the directories of blobs now: each would be synced, and its parents, by a pull."""
        with suppress(OSError):  # it is too full, or there are no more inodes: then one by one
            await self._threads.slow(self._make_shelves)

    async def probe(self) -> None:
        """Prove that bytes can be written to the directories.

        Raises:
            StoreError: They cannot; or nobody knows, since the disk does not answer.
        """
        try:
            with translated():
                await self._probing.answer()
        except DoesNotAnswer as error:
            raise StoreError(f"the disk of {self.root} does not answer") from error

    def close(self) -> None:
        """End the threads, and let another mirror use the directory."""
        self._threads.close()
        if self._lock is not None:
            self._lock.close()

    # Complete blobs

    async def open(self, digest: Digest) -> SizedFile | None:
        """Open a complete blob; None where it is not on disk."""
        with translated():
            try:
                return await self._threads.open(SizedFile, self.path_of(digest))
            except FileNotFoundError:
                return None

    async def read(self, file: FileIO, size: int, digest: Digest) -> bytes | None:
        """All of an open file of `size` bytes; None where that is not what `digest` names."""
        with translated():
            return await self._threads.quick(_read, file, size, digest)

    async def read_piece(self, file: FileIO, offset: int, length: int) -> bytes:
        """At most `length` bytes of an open file."""
        with translated():
            return await self._threads.quick(os.pread, file.fileno(), length, offset)

    async def remove(self, digests: Iterable[Digest]) -> None:
        """Delete blobs; what is open stays readable until it is closed."""
        with translated():
            await self._threads.slow(self._unlink, list(digests))

    async def set_aside(self, digests: Iterable[Digest]) -> list[int]:
        """Move damaged blobs into quarantine; the sizes of what is there then."""
        with translated():
            return await self._threads.slow(self._set_aside, list(digests))

    async def tidy_quarantine(self) -> list[int]:
        """See that it is within its bounds; the sizes of what is there."""
        with translated():
            return await self._threads.slow(self._quarantine.tidy)

    async def is_quarantine_crowded(self) -> bool:
        """Whether to tidy it takes a while."""
        with translated():
            return await self._threads.slow(self._quarantine.is_crowded)

    async def measure_quarantine_excess(self) -> int:
        """How many bytes of what is set aside there are beyond the bound."""
        with translated():
            return await self._threads.slow(self._quarantine.measure_excess)

    async def is_what_it_says(self, file: FileIO, digest: Digest) -> bool:
        """Whether all of an open file is what `digest` names."""
        hasher, offset = digest.hasher(), 0
        with translated():
            while read := await self._threads.slow(_hash_some, file, offset, hasher):
                offset += read
        return digest.matches(hasher)

    async def inode_of(self, digest: Digest) -> int | None:
        """What changes when a complete blob is replaced; None where there is none."""
        with translated():
            return await self._threads.quick(_inode, self.path_of(digest))

    async def remove_old_databases(self, now: float) -> list[Path]:
        """Delete those that were set aside long ago; which. `now` in seconds since the epoch."""
        with translated():
            return await self._threads.slow(lambda: list(aside.remove_old(self.root, now)))

    def path_of(self, digest: Digest) -> Path:
        """Where a complete blob is, or would be."""
        return self._blobs / digest.algorithm / digest.encoded[:2] / digest.encoded

    async def size_of(self, digest: Digest) -> int | None:
        """The size on disk of a complete blob, in bytes."""
        with translated():
            return await self._threads.quick(_size, self.path_of(digest))

    async def sizes_of(self, digests: Sequence[Digest]) -> list[tuple[Digest, int]]:
        """Those complete blobs of these that are on disk, with their sizes."""
        with translated():
            return await self._threads.slow(self._sizes_of, digests)

    async def list_shelves(self) -> list[Path]:
        """The directories in which complete blobs are."""
        with translated():
            return await self._threads.slow(lambda: sorted(self._blobs.glob("*/*/")))

    async def scan(self, shelf: Path) -> list[tuple[Digest, int]]:
        """Every complete blob in one of them, with its size."""
        with translated():
            return await self._threads.slow(lambda: list(self._scan(shelf)))

    # Partial blobs

    async def open_partial(self, key: PartialKey) -> Partial:
        """Open a partial, with what an earlier process left of it."""
        with translated():
            return await self._threads.open(_open_partial, key.digest, self._partial_path(key))

    async def take_partial(self, key: PartialKey, path: Path, hasher: Hasher) -> Partial:
        """Make a file, which `hasher` has taken in, the partial: all of it, whatever was there."""
        with translated():
            partial_path = self._partial_path(key)
            return await self._threads.open(_take_partial, key.digest, partial_path, path, hasher)

    async def catch_up(self, partial: Partial) -> None:
        """Hash what an earlier process left."""
        with translated():
            while not await self._threads.quick(partial.catch_up, _CATCH_UP):
                pass

    async def cut(self, partial: Partial, size: int) -> None:
        """Drop what lies beyond `size`."""
        with translated():
            await self._threads.slow(partial.cut, size)

    def lane(self, after: Callable[[], None]) -> Lane:
        """For `write`: see `mirror.storage.threads.Lane`."""
        return self._threads.lane(after)

    def write(
        self, lane: Lane, partial: Partial, *pieces: tuple[int, Sequence[Chunk]]
    ) -> "asyncio.Future[None]":
        """Write pieces, by offset, to a partial, and hash as far as it is whole from the start."""

        def write() -> None:
            with translated():
                for offset, chunks in pieces:
                    partial.write(offset, chunks)

        return lane.do(write)

    async def rest(self, partial: Partial) -> None:
        """Leave a partial for later."""
        with translated():
            await self._threads.quick(partial.rest)

    async def commit(self, partial: Partial) -> None:
        """Make a proved partial a blob, durably; where that fails it is a partial still."""
        with translated():
            await self._threads.slow(self._commit, partial)

    async def undo_commit(self, partial: Partial) -> None:
        """Make it a partial again."""
        with translated():
            await self._threads.slow(self.path_of(partial.digest).rename, partial.path)

    async def remove_partials(self, keys: Iterable[PartialKey]) -> None:
        """Delete partials."""
        with translated():
            await self._threads.slow(_remove_all, [self._partial_path(key) for key in keys])

    async def scan_partials(self) -> list[PartialKey]:
        """Every partial on disk."""
        with translated():
            return await self._threads.slow(lambda: list(self._scan_partials()))

    async def settle_old_partials(self, upstream: str | None) -> None:
        """Give the partials of an older mirror, which knew of no upstreams, to the one they are of.

        None: nobody knows, and they are removed.
        """
        with translated():
            await self._threads.slow(self._settle_old_partials, upstream)

    # How

    def _probe(self, content: bytes) -> None:
        for directory in (self._blobs, self._partial):
            directory.mkdir(_OURS_ALONE, parents=True, exist_ok=True)
            probe = directory / ".probe"
            try:
                probe.write_bytes(content)
            finally:
                probe.unlink(missing_ok=True)  # somebody else may be asking, too

    def _make_shelves(self) -> None:
        top = self._blobs / _USUAL
        top.mkdir(_OURS_ALONE, exist_ok=True)
        missing = {f"{number:02x}" for number in range(256)} - {path.name for path in top.iterdir()}
        for name in missing:
            (top / name).mkdir(_OURS_ALONE, exist_ok=True)
        if missing:
            _sync_directory(top)
            _sync_directory(self._blobs)

    def _unlink(self, digests: list[Digest]) -> None:
        for digest in digests:
            self.path_of(digest).unlink(missing_ok=True)

    def _set_aside(self, digests: list[Digest]) -> list[int]:
        for digest in digests:
            self._quarantine.take(self.path_of(digest), _partial_name(digest))
        return self._quarantine.tidy()

    def _commit(self, partial: Partial) -> None:
        os.ftruncate(partial.file.fileno(), partial.hashed)
        os.fsync(partial.file.fileno())
        path = self.path_of(partial.digest)
        if not path.parent.is_dir():
            path.parent.mkdir(_OURS_ALONE, parents=True, exist_ok=True)
            _sync_directory(path.parent.parent)
            _sync_directory(self._blobs)
        partial.path.rename(path)
        try:
            _sync_directory(path.parent)
        except OSError:
            path.rename(partial.path)
            raise
        partials.remove(partial.path)  # its ranges

    def _partial_path(self, key: PartialKey) -> Path:
        return self._partial / _quoted(key.upstream) / _partial_name(key.digest)

    def _sizes_of(self, digests: Sequence[Digest]) -> list[tuple[Digest, int]]:
        sizes = ((digest, _size(self.path_of(digest))) for digest in digests)
        return [(digest, size) for digest, size in sizes if size is not None]

    def _scan(self, shelf: Path) -> Iterator[tuple[Digest, int]]:
        for path in shelf.iterdir():
            digest = _digest(path.parent.parent.name, path.name)
            size = _size(path) if digest and path == self.path_of(digest) else None
            if digest and size is not None:
                yield digest, size

    def _scan_partials(self) -> Iterator[PartialKey]:
        for path in self._partial.glob("*/*"):
            algorithm, _, encoded = path.name.partition("-")
            if digest := _digest(algorithm, encoded):
                yield PartialKey(unquote(path.parent.name), digest)

    def _settle_old_partials(self, upstream: str | None) -> None:
        for path in list(self._partial.iterdir()):
            algorithm, _, encoded = path.name.partition("-")
            digest = _digest(algorithm, encoded)
            if digest is None or path.is_dir():
                continue
            if upstream is None:
                partials.remove(path)
            else:
                target = self._partial_path(PartialKey(upstream, digest))
                target.parent.mkdir(_OURS_ALONE, exist_ok=True)
                partials.move(path, target)


def _lock(path: Path) -> FileIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = FileIO(path, "a")
    except OSError as error:
        if error.errno != errno.EROFS or not path.exists():
            raise
        file = FileIO(path)  # who runs there already is to be found all the same
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise InUse(
            f"another mirror uses {path.parent}: stop it, or set another store.root"
        ) from error
    return file


def _read(file: FileIO, size: int, digest: Digest) -> bytes | None:
    content = os.pread(file.fileno(), size, 0)
    return content if len(content) == size and digest.names(content) else None


def _open_partial(digest: Digest, path: Path) -> Partial:
    try:
        return Partial(digest, path)
    except FileNotFoundError:  # the first one of its upstream
        path.parent.mkdir(_OURS_ALONE, exist_ok=True)
        return Partial(digest, path)


def _take_partial(digest: Digest, path: Path, spool: Path, hasher: Hasher) -> Partial:
    path.parent.mkdir(_OURS_ALONE, exist_ok=True)
    partials.remove(path)
    spool.rename(path)
    return Partial.of_whole(digest, path, hasher)


def _remove_all(paths: list[Path]) -> None:
    for path in paths:
        partials.remove(path)


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


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _hash_some(file: FileIO, offset: int, hasher: Hasher) -> int:
    content = os.pread(file.fileno(), PIECE, offset)
    hasher.update(content)
    return len(content)


def _quoted(upstream: str) -> str:
    """An upstream's name as that of a directory, whatever characters are in it."""
    name = quote(upstream, safe="")
    return f"%2E{name[1:]}" if name.startswith(".") else name


def _partial_name(digest: Digest) -> str:
    return f"{digest.algorithm}-{digest.encoded}"


def _digest(algorithm: str, encoded: str) -> Digest | None:
    try:
        return parse_digest(f"{algorithm}:{encoded}")
    except RegistryError:
        return None  # not ours

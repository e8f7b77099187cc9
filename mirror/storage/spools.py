"""Spools: bytes that come in order, and whose digest nobody knows before the last of them.

    push/3f0c…         the bytes, as far as they have come
    push/3f0c….json    what their owner has to know to go on with them

What a client pushes is kept here until the registry has it; then the file itself becomes the blob
(`LocalStorage.keep_spool`). They count in the ledger as downloads do, and are evicted by nobody but
their owner. Both files live in the page cache, which outlives the process: after `kill -9` they are
exact. After a power cut the bytes may not be what they were; then the digest does not match.

The disk takes them as they come, so that to keep a large one takes it no longer than the last of
them: a client waits for that.
"""

import asyncio
import os
import re
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from io import FileIO
from pathlib import Path

from mirror.aio.waiting import finish, to_the_end
from mirror.oci.digest import Chunk, Digest, Hasher
from mirror.oci.errors import StoreError
from mirror.storage.blocks import BLOCK, Blocks, Source, read_some
from mirror.storage.errors import NoRoom, translated
from mirror.storage.room import Room
from mirror.storage.space import Promise, Space
from mirror.storage.threads import Lane, Threads
from mirror.storage.usage import Usage

DIRECTORY = "push"
"""Below the store's root."""

_IDENTITY = re.compile(r"[0-9a-f]{32}")
_OURS_ALONE = 0o700
_FLUSHED = 2**26  # bytes that come between two times that the disk is made to take them
_ALGORITHM = "sha256"
_EMPTY = Digest(_ALGORITHM, "0" * 64)


class Spool:
    """One of them. `size`: bytes that are there; so many of them were `found` at the start."""

    def __init__(
        self, path: Path, file: FileIO, promise: Promise, *, threads: Threads, room: Room,
        usage: Usage, space: Space, blocks: Blocks, closed: Callable[[], object],
    ) -> None:  # fmt: skip
        self.path = path
        self.file = file
        self.size = 0
        self.found = 0
        self._promise = promise
        self._threads = threads
        self._room = room
        self._usage = usage
        self._space = space
        self._blocks = blocks
        self._closed = closed
        self._hasher = _EMPTY.hasher()
        self._hashed = 0
        self._lane: Lane | None = None
        self._flushed = 0  # bytes, once `_flush` is over
        self._flush: Future[None] | None = None
        self._turn = asyncio.Lock()  # bytes are written one piece after another
        self._noting = asyncio.Lock()  # and so is what is noted: the last of it stays

    def __repr__(self) -> str:
        return f"<Spool {self.identity}: {self.size} bytes>"

    @property
    def identity(self) -> str:
        """What it is called."""
        return self.path.name

    def rest(self) -> None:
        """Nothing more comes for now: it takes what it has taken."""
        self._promise.size = self._promise.written

    async def append(self, chunk: bytes) -> None:
        """Write what follows, and hash it. Where that fails, nothing has changed.

        Raises:
            NoRoom: It cannot be kept within the limits.
            StoreError: The disk refuses.
        """
        async with self._turn:
            await self._promise_room(len(chunk))
            await self._write(chunk)
        self._flush_some()

    async def take(self, source: Source, most: int) -> int:
        """Write what a source has by now, at most so many bytes; how many. Raises as `append`.

        What cannot be kept is lost; nothing is taken where there is no room for as much.

        Raises:
            ConnectionError: The source has no more.
        """
        async with self._turn:
            most = min(most, BLOCK)
            await self._promise_room(most)
            before = self.size
            if (refused := await self._fill(source, most)) is not None:
                await self._write(refused)
        self._flush_some()
        return self.size - before

    async def _promise_room(self, length: int) -> None:
        needed = self._usage.whole(self.size + length)
        if needed > self._promise.size:
            await self._room.allow(self._promise, needed, None)

    def _flush_some(self) -> None:
        if self.size - self._flushed >= _FLUSHED:
            self.flush()

    def flush(self) -> None:
        """Have the disk take what is there, unless it is at it; nobody waits for that."""
        if self._flush is not None and (not self._flush.done() or self._flush.exception()):
            return  # what it refuses is told once: `flushed` keeps it
        self._flushed = self.size
        with suppress(StoreError):  # the threads have ended: so has whoever would keep it
            self._flush = self._threads.begin(_sync, self.path)

    async def flushed(self) -> None:
        """Return when the disk is no longer at it. Raises StoreError where it has refused."""
        if self._flush is not None:
            with translated():
                await self._threads.over(self._flush)

    async def _write(self, chunk: bytes) -> None:
        try:
            await self._do(lambda: self._put(chunk))
        except NoRoom:
            await self._room.keep_limits()
            await self._do(lambda: self._put(chunk))

    async def _fill(self, source: Source, most: int) -> bytes | None:
        """Write what there is; what could not be written."""
        refused: bytes | None = None

        def fill() -> int:
            nonlocal refused
            with self._blocks.taking() as block:
                came = read_some(source, block[:most])
                try:
                    return self._put(block[:came])
                except StoreError:
                    refused = bytes(block[:came])
                    return 0

        await self._do(fill)
        return refused

    async def _do(self, write: Callable[[], int]) -> None:
        """Have so many bytes more. What is written counts, even where nobody waits any more."""
        if self._lane is None:
            self._lane = self._threads.lane(lambda: None)
        written = 0

        def work() -> None:
            nonlocal written
            written = write()

        try:
            await finish(self._lane.do(work))
        finally:
            self.size += written
            self._promise.written = self._usage.whole(self.size)

    def _put(self, chunk: Chunk) -> int:
        """In a thread: how many bytes were written, and hashed unless others wait to be."""
        with translated():
            _write_all(self.file, self.size, chunk)
        if self._hashed == self.size:
            self._take_in(chunk)
        return len(chunk)

    async def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset` on, and at least one. Raises StoreError."""
        if offset >= self.size:
            raise StoreError(f"{self} has no byte {offset}")
        with translated():
            length = min(length, self.size - offset)
            found = await self._threads.quick(os.pread, self.file.fileno(), length, offset)
        if len(found) < length:
            raise StoreError(f"somebody else has truncated {self.path}")
        return found

    async def hasher(self, algorithm: str = _ALGORITHM) -> Hasher:
        """What has taken in all of it. Raises StoreError."""
        async with self._turn:
            if algorithm == _ALGORITHM:
                while self._hashed < self.size:
                    block = await self.read(self._hashed, BLOCK)
                    await self._threads.quick(self._take_in, block)
                return self._hasher.copy()
            hasher, offset = Digest(algorithm, "0" * 128).hasher(), 0
            while offset < self.size:
                block = await self.read(offset, BLOCK)
                await self._threads.quick(hasher.update, block)
                offset += len(block)
            return hasher

    def _take_in(self, chunk: Chunk) -> None:
        """In a thread: nobody may wait any more, and what is hashed is not to be hashed again."""
        self._hasher.update(chunk)
        self._hashed += len(chunk)

    async def written_at(self, now: float) -> float:
        """When bytes of it last came; not after `now` (both in seconds since the epoch).

        A clock that has run ahead would keep it for ever: what it says is forgotten.

        Raises:
            StoreError: The disk refuses.
        """
        with translated():
            return await self._threads.quick(_date, self.file.fileno(), now)

    async def note(self, record: bytes) -> None:
        """Keep beside it what its owner has to know after a restart. Raises StoreError."""
        async with self._noting:
            with translated():
                await self._threads.quick(_replace, _record_path(self.path), record)

    async def remove(self) -> None:
        """It goes from the disk, and can be read until `close`. Raises StoreError.

        To its end, also where nobody waits any more: what comes next is to close the file.
        """
        await to_the_end(self._remove())

    async def _remove(self) -> None:
        try:
            async with self._turn:  # whoever closes it now has no thread still write to it
                with translated():
                    await self._threads.slow(_unlink, self.path)
        finally:
            self._let_go()

    def close(self) -> None:
        """Nobody reads or writes it any more; it stays on disk, if it was not removed."""
        self.file.close()
        self._let_go()
        self._closed()

    def _let_go(self) -> None:
        """It is in the ledger no longer."""
        self._space.remove(self._promise)
        self._promise.size = self._promise.written = 0


class Spools:
    """Those below a store's root."""

    def __init__(
        self, root: Path, *, threads: Threads, space: Space, room: Room, usage: Usage
    ) -> None:
        self._directory = root / DIRECTORY
        self._threads = threads
        self._space = space
        self._room = room
        self._usage = usage
        self._open: dict[str, Spool] = {}
        self._blocks = Blocks()

    async def begin(self, identity: str) -> Spool:
        """A new one, empty. Raises StoreError."""
        return await self._make(identity, is_new=True)

    async def find_all(self) -> list[tuple[Spool, bytes]]:
        """What an earlier process has left, with what it has noted; what makes no sense goes.

        Raises StoreError.
        """
        with translated():
            found = await self._threads.slow(_scan, self._directory)
        return [(await self._make(name, is_new=False), record) for name, record in found]

    def close(self) -> None:
        """Close the files; they stay."""
        for spool in [*self._open.values()]:
            spool.close()

    async def _make(self, identity: str, *, is_new: bool) -> Spool:
        path = self._directory / identity
        promise = Promise(is_proved=True)  # who pushes is let in by upstream, and bounded by [push]
        with translated():
            file = await self._threads.open(_create if is_new else _reopen, path)
        spool = Spool(
            path, file, promise,
            threads=self._threads, room=self._room, usage=self._usage, space=self._space,
            blocks=self._blocks, closed=lambda: self._closed(identity),
        )  # fmt: skip
        if not is_new:
            spool.size = spool.found = os.fstat(file.fileno()).st_size
            promise.size = promise.written = self._usage.whole(spool.size)
        self._space.add(promise)
        self._open[identity] = spool
        return spool

    def _closed(self, identity: str) -> None:
        self._open.pop(identity, None)
        if not self._open:
            self._blocks.clear()


def _sync(path: Path) -> None:
    with suppress(FileNotFoundError):  # it was removed meanwhile
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_all(file: FileIO, offset: int, chunk: Chunk) -> None:
    rest = memoryview(chunk)
    while rest:
        written = os.pwrite(file.fileno(), rest, offset)
        offset, rest = offset + written, rest[written:]


def _create(path: Path) -> FileIO:
    path.parent.mkdir(_OURS_ALONE, exist_ok=True)
    return _open(path, os.O_CREAT | os.O_EXCL)


def _reopen(path: Path) -> FileIO:
    return _open(path, 0)


def _open(path: Path, flags: int) -> FileIO:
    return FileIO(os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600), "r+")


def _date(descriptor: int, now: float) -> float:
    written = os.fstat(descriptor).st_mtime
    if written > now:
        os.utime(descriptor, (now, now))
    return min(written, now)


def _record_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _replace(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - it is open
        file.write(content)
    new.replace(path)


def _unlink(path: Path) -> None:
    _record_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _scan(directory: Path) -> list[tuple[str, bytes]]:
    """By name, what is noted; a spool without a note, and a note without its spool, go."""
    if not directory.is_dir():
        return []
    found = []
    for path in directory.iterdir():
        record = _record_path(path)
        if _IDENTITY.fullmatch(path.name) and record.exists():
            found.append((path.name, record.read_bytes()))
        elif path.suffix != ".json" or not path.with_suffix("").exists():
            path.unlink(missing_ok=True)
    return found

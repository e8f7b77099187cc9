"""A blob on its way: who writes it, and how that ends."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import FileIO

from mirror.aio.waiting import finish
from mirror.oci.digest import Chunk, Digest, Hasher
from mirror.oci.errors import StoreError
from mirror.storage import extents
from mirror.storage.changes import Changes
from mirror.storage.costs import Costs
from mirror.storage.errors import NoRoom
from mirror.storage.files import Files
from mirror.storage.partial import Partial
from mirror.storage.room import Room
from mirror.storage.states import PartialEntry, PartialState, States
from mirror.storage.threads import Lane
from mirror.storage.usage import Usage

_logger = logging.getLogger(__name__)


class LocalWriter:
    """A `mirror.storage.ports.Writer` of a partial on this disk.

    `clock` in seconds since the epoch.
    """

    def __init__(
        self,
        entry: PartialEntry,
        partial: Partial,
        size: int | None,
        *,
        files: Files,
        states: States,
        changes: Changes,
        room: Room,
        usage: Usage,
        costs: Costs,
        clock: Callable[[], float],
    ) -> None:
        self._entry = entry
        self._partial = partial
        self._files = files
        self._states = states
        self._changes = changes
        self._room = room
        self._usage = usage
        self._costs = costs
        self._began_at = clock()
        self._clock = clock
        self.size = size
        self._inherited = partial.present  # from an earlier writer
        self._claimed = partial.present  # ... and what is written, or being written, by this one
        self._ending: asyncio.Task[None] | None = None
        self._has_ended = False
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<LocalWriter: {self._entry}, {self.written} of {self.size} bytes in order>"

    @property
    def digest(self) -> Digest:
        """Of the blob that this shall be."""
        return self._partial.digest

    @property
    def file(self) -> FileIO:
        """What has been written so far, for readers."""
        return self._partial.file

    @property
    def written(self) -> int:
        """Bytes from the first that are all in `file`, and hashed."""
        return self._partial.hashed

    def hasher(self) -> Hasher:
        """What has hashed the `written` bytes, to go on with elsewhere; while nobody writes."""
        return self._partial.hasher()

    @property
    def total(self) -> int:
        """Bytes that are in `file`, wherever they lie."""
        return extents.total(self._partial.present)

    def end_at(self, position: int) -> int:
        """Up to where bytes from `position` on are in `file`, hashed or not; else `position`."""
        return extents.end_at(self._partial.present, position)

    @property
    def reach(self) -> int:
        """Where the last byte of what is there, or is being written, ends."""
        return self._claimed[-1][1] if self._claimed else 0

    @property
    def promised(self) -> int:
        """Bytes that it may take of the disk."""
        return self._entry.promise.size

    def missing(self) -> list[tuple[int, int]]:
        """The half-open ranges still to be written, in order; `size` must be known."""
        if self.size is None:
            raise ValueError("the size is not known")
        return extents.missing(self._partial.present, 0, self.size)

    async def expect(self, size: int | None, *, is_whole: bool = True) -> None:
        """The size has become known, is another one than was thought, or nobody knows it (None).

        Unless `is_whole`, only what arrives takes room. What an earlier writer has left beyond it
        goes. Raises NoRoom, and StoreError where this one has written more already.
        """
        promise = self._entry.promise
        if size is None:
            promise.expected, self.size = 0, None
            return
        if extents.clip(self._claimed, size) != self._claimed:
            await self._cut(size)
        promise.is_proved &= size == self.size
        if is_whole:
            await self._room.admit(promise, size)
        else:
            self._room.check_ever(size)
        promise.size = max(min(promise.size, self._usage.whole(size)), self._taken(self._claimed))
        self.size = size

    async def _cut(self, size: int) -> None:
        beyond = extents.missing(self._inherited, size, self._claimed[-1][1])
        if any(extents.missing(self._claimed, *gap) != [gap] for gap in beyond):
            raise StoreError(f"more than {size} bytes of {self.digest} are written already")
        self._inherited = extents.clip(self._inherited, size)
        self._claimed = extents.clip(self._claimed, size)
        await self._files.cut(self._partial, size)
        self._note_written()

    @asynccontextmanager
    async def pen(self, written: Callable[[], None] | None = None) -> AsyncIterator["LocalPen"]:
        """Write inside the block, and be done at its end; several tasks may, each with its own.

        `written` is called whenever more of it is. Raises as `LocalPen.write`.
        """

        def after() -> None:
            self._note_written()
            if written is not None:
                written()

        pen = LocalPen(self, self._files.lane(after))
        try:
            yield pen
        finally:
            await pen.wait()

    async def begin(self, lane: Lane, offset: int, chunks: Sequence[Chunk]) -> "_Begun | None":
        """`LocalPen.write` without waiting; None where there is nothing to write."""
        end = offset + sum(map(len, chunks))
        self._check(offset, end)
        while (needed := self._needed(offset, end)) > self._entry.promise.size:
            await self._room.allow(self._entry.promise, needed, self.size)
            self._check(offset, end)
        gaps = extents.missing(self._claimed, offset, end)
        if not gaps:
            return None
        self._claimed = extents.add(self._claimed, offset, end)
        pieces: list[_Piece] = [(offset, chunks)]
        if gaps != [(offset, end)]:
            content = b"".join(chunks)
            pieces = [(start, [content[start - offset : stop - offset]]) for start, stop in gaps]
        return _Begun(self._files.write(lane, self._partial, *pieces), pieces)

    async def finish(self, lane: Lane, begun: "_Begun") -> None:
        """Return when it is written. Where somebody else has filled the disk, blobs make room once.

        Raises as `LocalPen.write`.
        """
        try:
            await finish(begun.work)
        except NoRoom as error:
            _logger.warning("the disk is full: blobs make room for a download: %s", error)
            try:
                await self._room.keep_limits()
            except NoRoom:
                raise error from None
            await finish(self._files.write(lane, self._partial, *begun.pieces))

    def _check(self, offset: int, end: int) -> None:
        if self._has_ended or self._ending is not None:
            raise StoreError("the writer has ended")
        if self.size is not None and end > self.size:
            raise ValueError(f"{offset}-{end} is beyond the blob's {self.size} bytes")

    def _needed(self, offset: int, end: int) -> int:
        """What it takes of the disk, with these."""
        return self._taken(extents.add(self._claimed, offset, end))

    def _taken(self, there: extents.Extents) -> int:
        return self._usage.of_partial(there)

    def is_proved(self) -> bool:
        """Whether everything is written, and is the blob that `digest` names."""
        return self._partial.is_proved(self.size)

    async def commit(self, *, is_manifest: bool = False) -> None:
        """Keep the proved blob. Raises StoreError; then it is not kept, and not ended either."""
        if not self.is_proved():
            raise StoreError(f"{self.digest} is not proved")
        upstream = self._entry.key.upstream
        came = self._partial.hashed - extents.total(self._inherited)
        self._costs.note(upstream, came, self._clock() - self._began_at)
        slowness = self._costs.slowness(upstream)
        await self._end(
            lambda: self._changes.commit(
                self._entry, self._partial, is_manifest=is_manifest, slowness=slowness
            )
        )

    async def suspend(self) -> None:
        """Stop for now; what is written is continued when the same upstream is asked again."""
        await self._end(
            lambda: self._changes.suspend(self._entry, self._partial, now=self._clock())
        )

    async def discard(self) -> None:
        """Give up; nothing is kept."""
        await self._end(lambda: self._changes.discard(self._entry))

    def close(self) -> None:
        """Close the file: nobody reads from it any more."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._ending is None:
            self._close()
        else:  # which still needs it
            self._ending.add_done_callback(lambda _: self._close())

    async def _end(self, end: Callable[[], Coroutine[None, None, None]]) -> None:
        """End in one way or another, and to the end of that, even when cancelled meanwhile."""
        while self._ending is not None:
            await asyncio.wait([self._ending])
        if not self._has_ended and not self._is_closed:
            self._ending = asyncio.get_running_loop().create_task(self._run(end))
            await finish(self._ending)

    async def _run(self, end: Callable[[], Coroutine[None, None, None]]) -> None:
        try:
            await end()
        finally:
            self._has_ended = self._entry.state is not PartialState.WRITING
            self._ending = None

    def _close(self) -> None:
        is_ended, self._has_ended = self._has_ended, True
        self._states.close_writer(self._entry, is_ended=is_ended, now=self._clock())
        self._partial.close()

    def _note_written(self) -> None:
        self._entry.promise.written = self._taken(self._partial.present)


_Piece = tuple[int, Sequence[Chunk]]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A write under way, and what it writes: by offset."""

    work: "asyncio.Future[None]"
    pieces: list[_Piece]


class LocalPen:
    """Writes what one connection brings, one piece behind: see `LocalWriter.pen`."""

    def __init__(self, writer: LocalWriter, lane: Lane) -> None:
        self._writer = writer
        self._lane = lane
        self._behind: _Begun | None = None

    async def write(self, offset: int, chunks: Sequence[Chunk]) -> None:
        """Write `chunks` at `offset`; return when all before them are written.

        They may be memory that is used again after the next `write`. What is written already, or
        being written, stays as it is: it may have been hashed, or read by a client.

        Raises:
            NoRoom: They cannot be kept within the limits.
            StoreError: The disk refuses.
        """
        behind = self._behind
        self._behind = await self._writer.begin(self._lane, offset, chunks)
        if behind is not None:
            await self._writer.finish(self._lane, behind)

    async def wait(self) -> None:
        """Return when all is written. Raises as `write`."""
        behind, self._behind = self._behind, None
        if behind is not None:
            await self._writer.finish(self._lane, behind)

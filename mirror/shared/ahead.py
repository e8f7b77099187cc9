"""Reading ahead: while one span of a blob's pieces is read, the next ones are asked for already.

A bucket needs its time before the first byte of each object, and the first pieces of a blob are
small. What comes early is kept in memory: of one reader at most `MOST_AHEAD` bytes, and of all
readers of a mirror as much as `Memory` has left. Where that is nothing, one span is read after
another, and each reader has at most that one in memory.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import aclosing

from mirror.aio.waiting import to_the_end
from mirror.oci.digest import Chunk
from mirror.shared.pieces import Piece, Pieces
from mirror.shared.ports import Bucket

SPAN = 2**22  # bytes; of a large piece, so much is asked for at once
MOST_AHEAD = 2**24  # bytes beyond the span that is read
_REQUESTS = 8  # at once


class Memory:
    """For what comes early, for all readers of a mirror: so many bytes."""

    def __init__(self, size: int) -> None:
        self._left = size

    def __repr__(self) -> str:
        return f"<Memory: {self._left} left>"

    @property
    def left(self) -> int:
        """Bytes."""
        return self._left

    def take(self, length: int) -> bool:
        """Have so many bytes of it, to be given back; False: there are not so many."""
        if length > self._left:
            return False
        self._left -= length
        return True

    def give_back(self, length: int) -> None:
        """Have them no more."""
        self._left += length


class Coming:
    """The bytes of a piece from `start` to `stop` (in the blob), asked for when this is made."""

    def __init__(self, bucket: Bucket, piece: Piece, start: int, stop: int, *, lent: int) -> None:
        self.piece = piece
        self.start = start
        self.stop = stop
        self.lent = lent  # bytes of memory
        self._came: asyncio.Queue[Chunk | Exception | None] = asyncio.Queue()
        self._task = asyncio.get_running_loop().create_task(self._fetch(bucket), name="read ahead")

    async def next(self) -> Chunk | None:
        """What comes next; None at the end. Raises what `Bucket.read` does."""
        came = await self._came.get()
        if isinstance(came, Exception):
            raise came
        return came

    async def end(self) -> None:
        """Read no more of it."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _fetch(self, bucket: Bucket) -> None:
        start, stop = self.start - self.piece.start, self.stop - self.piece.start
        try:
            async with aclosing(bucket.read(self.piece.key, start, stop)) as chunks:
                async for chunk in chunks:
                    self._came.put_nowait(chunk)
        except Exception as error:  # noqa: BLE001 - it is for who reads
            self._came.put_nowait(error)
        else:
            self._came.put_nowait(None)


class Ahead:
    """What one reader of `pieces` has asked for, in order, up to `stop`. It has to be closed."""

    def __init__(self, bucket: Bucket, pieces: Pieces, memory: Memory, stop: int | None) -> None:
        self._bucket = bucket
        self._pieces = pieces
        self._memory = memory
        self._stop = stop
        self._coming: deque[Coming] = deque()

    def at(self, position: int) -> Coming | None:
        """What begins there; None: it is in no piece yet. Whatever follows is asked for, too."""
        if not self._coming and not self._ask(position, is_read_now=True):
            return None
        self.extend()
        return self._coming[0]

    def extend(self) -> None:
        """Ask for what follows, as far as it is there, and there is memory."""
        if self._coming:
            while self._ask(self._coming[-1].stop, is_read_now=False):
                pass

    def done(self) -> None:
        """The first has been read."""
        self._memory.give_back(self._coming.popleft().lent)

    async def aclose(self) -> None:
        """Drop it all."""
        dropped = list(self._coming)
        self._coming.clear()
        for coming in dropped:
            self._memory.give_back(coming.lent)
        if dropped:
            await to_the_end(_end(dropped))

    def _ask(self, position: int, *, is_read_now: bool) -> bool:
        piece = self._pieces.find(position)
        stop = position + SPAN if self._stop is None else min(self._stop, position + SPAN)
        if piece is None or position >= stop:
            return False
        stop = min(stop, piece.stop)
        lent = 0 if is_read_now else stop - position
        if lent:
            ahead = sum(it.stop - it.start for it in self._coming) + lent - self._length_of_first
            if len(self._coming) >= _REQUESTS or ahead > MOST_AHEAD or not self._memory.take(lent):
                return False
        self._coming.append(Coming(self._bucket, piece, position, stop, lent=lent))
        return True

    @property
    def _length_of_first(self) -> int:
        return self._coming[0].stop - self._coming[0].start


async def _end(dropped: Sequence[Coming]) -> None:
    await asyncio.gather(*(coming.end() for coming in dropped))

"""Reading the pieces of a blob as they come: a body of bytes that another mirror has fetched.

The next ones are asked for while one is read (`ahead.py`); what is handed out is in order.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from mirror.oci.digest import Chunk
from mirror.oci.errors import Unavailable
from mirror.shared.ahead import Ahead, Coming, Memory
from mirror.shared.pieces import Piece, Pieces
from mirror.shared.ports import Bucket, BucketDown, NoObject
from mirror.shared.turns import Turn

_TRIES = 4  # of a piece, without a byte
_PAUSE = 0.2  # seconds between them


class PieceSender:
    """Sends what other mirrors have fetched; a `mirror.sources.ports.Sender`."""

    name = "shared"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PieceSender)

    def __hash__(self) -> int:
        return hash(PieceSender)

    def broke(self, *, timed_out: bool) -> None:
        """A body of its has broken: who tends the turn knows."""


class Copying(Protocol):
    """What knows of the pieces that there are (`mirror.shared.part`)."""

    blob: int | None  # the number of the copy that they are of
    pieces: Pieces
    memory: Memory
    vouched: set[str]
    turn: Turn  # it knows for how long nothing may come

    @property
    def bucket(self) -> Bucket:
        """Where they are."""

    async def come(self, position: int) -> bool:
        """Wait for the piece that a position is in; False: it does not come."""

    def unreadable(self, *, is_missing: bool) -> None:
        """The pieces cannot be had here; `is_missing`: nor anywhere, for they are not there."""


async def follow(
    part: Copying, blob: int | None, start: int, stop: int | None
) -> AsyncGenerator[Chunk, None]:
    """The bytes of a copy from `start` to `stop` (None: until no more is to come), as they come.

    Raises:
        Unavailable: The rest does not come from here.
    """
    position, failures = start, 0
    vouching = _Vouching(part.vouched)
    async with aclosing(Ahead(part.bucket, part.pieces, part.memory, stop)) as ahead:
        while stop is None or position < stop:
            coming = await _begin(part, ahead, blob, position)
            try:
                while (chunk := await _next(coming, part.turn.patience)) is not None:
                    position, failures = position + len(chunk), 0
                    ahead.extend()
                    yield chunk
            except TimeoutError as error:  # who waited so long once has no time for more tries
                part.unreadable(is_missing=False)
                raise Unavailable("the bucket is silent", timed_out=True) from error
            except (BucketDown, NoObject) as error:
                failures += 1
                vouching.note_read(coming.piece, coming.start, position)
                await ahead.aclose()
                await _bear(part, coming.piece, error, failures)
            else:
                ahead.done()
                vouching.note_read(coming.piece, coming.start, coming.stop)


async def _begin(part: Copying, ahead: Ahead, blob: int | None, position: int) -> Coming:
    """Wait for what begins there. Raises Unavailable where it does not come from this copy."""
    while part.blob == blob:  # else also what has come early is of the one before
        if (coming := ahead.at(position)) is not None:
            return coming
        if not await part.come(position):
            raise Unavailable("the mirror that fetches it brings no more of it")
    raise Unavailable("there is another copy now")


async def _next(coming: Coming, patience: float) -> Chunk | None:
    """What comes next; None at the end. Raises TimeoutError where nothing comes so long."""
    async with asyncio.timeout(patience):
        return await coming.next()


async def _bear(part: Copying, piece: Piece, error: Exception, failures: int) -> None:
    """Wait before the next try. Raises Unavailable where there were enough."""
    is_missing = isinstance(error, NoObject)
    if is_missing:
        part.pieces.remove(piece)  # there may be another in its place
    if failures >= _TRIES:
        part.unreadable(is_missing=is_missing)
        raise Unavailable("the bucket does not give what others have put there") from error
    await asyncio.sleep(_PAUSE * failures)


class _Vouching:
    """Notes the pieces of which all has been read here: the digest proves them, too."""

    def __init__(self, vouched: set[str]) -> None:
        self._vouched = vouched
        self._key: str | None = None
        self._position = 0  # up to where that piece has been read, from its start

    def note_read(self, piece: Piece, start: int, stop: int) -> None:
        """These of its bytes have been read, after what was noted before."""
        if start == piece.start:
            self._key, self._position = piece.key, start
        if piece.key != self._key or start != self._position:
            self._key = None  # some of it was read of another in its place
            return
        self._position = stop
        if stop == piece.stop:
            self._vouched.add(piece.key)

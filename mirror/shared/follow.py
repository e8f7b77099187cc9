"""Reading the pieces of a blob as they come: a body of bytes that another mirror has fetched."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from mirror.oci.digest import Chunk
from mirror.oci.errors import Unavailable
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

    bucket: Bucket
    pieces: Pieces
    vouched: set[str]
    turn: Turn  # it knows for how long nothing may come

    async def come(self, position: int) -> bool:
        """Wait for the piece that a position is in; False: it does not come."""

    def unreadable(self, *, is_missing: bool) -> None:
        """The pieces cannot be had here; `is_missing`: nor anywhere, for they are not there."""


async def follow(part: Copying, start: int, stop: int | None) -> AsyncGenerator[Chunk, None]:
    """The bytes from `start` to `stop` (None: until nothing more is to come), as they come.

    Raises:
        Unavailable: The rest does not come from here.
    """
    position, failures = start, 0
    while stop is None or position < stop:
        piece = part.pieces.find(position)
        if piece is None:
            if not await part.come(position):
                raise Unavailable("the mirror that fetches it brings no more of it")
            continue
        end = piece.stop if stop is None else min(stop, piece.stop)
        try:
            reading = part.bucket.read(piece.key, position - piece.start, end - piece.start)
            async with aclosing(reading) as chunks:
                while (chunk := await _next(chunks, part.turn.patience)) is not None:
                    position, failures = position + len(chunk), 0
                    yield chunk
        except TimeoutError as error:  # whoever waited so long once has no time for more tries
            part.unreadable(is_missing=False)
            raise Unavailable("the bucket is silent", timed_out=True) from error
        except (BucketDown, NoObject) as error:
            failures += 1
            await _bear(part, piece, error, failures)
        else:
            _vouch(part, piece, start, position)


async def _next(chunks: AsyncGenerator[Chunk, None], patience: float) -> Chunk | None:
    """What comes next; None at the end. Raises TimeoutError where nothing comes so long."""
    async with asyncio.timeout(patience):
        return await anext(chunks, None)


async def _bear(part: Copying, piece: Piece, error: Exception, failures: int) -> None:
    """Wait before the next try. Raises Unavailable where there were enough."""
    is_missing = isinstance(error, NoObject)
    if is_missing:
        part.pieces.remove(piece)  # there may be another in its place
    if failures >= _TRIES:
        part.unreadable(is_missing=is_missing)
        raise Unavailable("the bucket does not give what others have put there") from error
    await asyncio.sleep(_PAUSE * failures)


def _vouch(part: Copying, piece: Piece, start: int, position: int) -> None:
    """All of a piece has been read here: the digest proves it, too."""
    if start <= piece.start and position == piece.stop:
        part.vouched.add(piece.key)

"""Pieces: what a blob is in the bucket, in order. Pure.

The first is 256 KiB, and each is twice as large as the one before, up to 16 MiB: whoever follows has
its first byte soon, and a large blob is few objects. Where a piece begins and ends depends on nothing
else, so that one mirror can go on where another has stopped. The last one ends with the blob.
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from mirror.oci.digest import Digest

FIRST = 2**18  # bytes
LARGEST = 2**24

_DOUBLINGS = (LARGEST // FIRST).bit_length() - 1
_GROWN = FIRST * (2**_DOUBLINGS - 1)  # where the first of the largest begins


class Piece(NamedTuple):
    """The bytes of a blob from `start` up to, and not including, `stop`, and their object's key."""

    start: int
    stop: int
    key: str


def bounds(position: int, size: int | None) -> tuple[int, int]:
    """Where the piece begins and ends that a position is in; of a blob of `size` bytes, if known."""
    if position < _GROWN:
        order = (position // FIRST + 1).bit_length() - 1
        start, length = FIRST * (2**order - 1), FIRST * 2**order
    else:
        start = _GROWN + (position - _GROWN) // LARGEST * LARGEST
        length = LARGEST
    stop = start + length
    return start, stop if size is None else min(stop, size)


def spans(size: int) -> Iterator[tuple[int, int]]:
    """The pieces of a blob of this size."""
    position = 0
    while position < size:
        _, stop = bounds(position, size)
        yield position, stop
        position = stop


def key(digest: Digest, epoch: int, random: str, start: int) -> str:
    """The object of a piece. Nobody ever writes one again: of each turn they are others.

    `random` keeps them apart also where a database that was set back gives an epoch twice.
    """
    return f"{digest.algorithm}/{digest.encoded}/{epoch}-{random}/{start}"


class Pieces:
    """Those of one blob that are known to be in the bucket."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._pieces: dict[int, Piece] = {}

    def __repr__(self) -> str:
        return f"<Pieces: {len(self._starts)}, up to {self.reach(0)}>"

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Piece]:
        return (self._pieces[start] for start in self._starts)

    def add(self, piece: Piece) -> bool:
        """One more, or another for the same bytes; whether that is news."""
        if self._pieces.get(piece.start) == piece:
            return False
        if piece.start not in self._pieces:
            self._starts.insert(bisect_right(self._starts, piece.start), piece.start)
        self._pieces[piece.start] = piece
        return True

    def remove(self, piece: Piece) -> None:
        """It is not there after all."""
        if self._pieces.get(piece.start) == piece:
            self._starts.remove(piece.start)
            del self._pieces[piece.start]

    def clear(self) -> None:
        """Nothing is there."""
        self._starts.clear()
        self._pieces.clear()

    def find(self, position: int) -> Piece | None:
        """The one that has the byte at a position."""
        index = bisect_right(self._starts, position) - 1
        if index < 0:
            return None
        piece = self._pieces[self._starts[index]]
        return piece if position < piece.stop else None

    def reach(self, position: int) -> int:
        """Up to where there is everything from a position on; else the position."""
        while (piece := self.find(position)) is not None:
            position = piece.stop
        return position

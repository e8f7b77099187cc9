"""Pieces: what a blob is in the bucket. Pure.

Each is what one mirror had written of it when it was ready for the next: at least 256 KiB, and of
what is far into a large blob a sixty-fourth of all before it, so that hardly anything is lost with
the mirror that fetches it; and at most 16 MiB, so that a slow bucket gets few, large ones. The
first are smaller, each at most as large as all before it: others' clients wait for their first byte
until a piece is put as a whole. None overlaps another: who goes on where another has stopped puts
what is between.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Container, Iterator, Sequence
from typing import NamedTuple

from mirror.oci.digest import Digest

LEAST = 2**18  # bytes
LARGEST = 2**24
FIRST = 2**20  # bytes; no larger is the first one
_SHARE = 64
_KEY = re.compile(r"sha(?:256|512)/[0-9a-f]{64,128}/[0-9]+-[0-9a-f]{16}/[0-9]+")

Span = tuple[int, int]
"""From the first byte up to, and not including, the second."""


class Piece(NamedTuple):
    """The bytes of a blob from `start` up to, and not including, `stop`, and their object's key."""

    start: int
    stop: int
    key: str


def least(position: int) -> int:
    """How long a piece has to be that begins there, unless nothing is to follow."""
    return min(LARGEST, max(LEAST, position // _SHARE))


def most(position: int) -> int:
    """How long a piece may be that begins there."""
    return min(LARGEST, max(FIRST, position))


def key(digest: Digest, epoch: int, random: str, start: int) -> str:
    """The object of a piece. Nobody ever writes one again: of each turn they are others.

    `random` keeps them apart also where a database that was set back gives an epoch twice.
    """
    return f"{digest.algorithm}/{digest.encoded}/{epoch}-{random}/{start}"


def turn_of(key: str) -> str:
    """Where the keys of all pieces begin that one mirror puts of a blob in one turn."""
    return key.rpartition("/")[0]


def is_piece(key: str) -> bool:
    """Whether an object's key is one that `key` gives."""
    return _KEY.fullmatch(key) is not None


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
        """One more, or another for the same bytes, or for more; whether that is news.

        What lies in it is no piece any more: so it is where all of a blob was put as one object.
        """
        if self._pieces.get(piece.start) == piece:
            return False
        first = bisect_left(self._starts, piece.start)
        last = bisect_left(self._starts, piece.stop)
        for start in self._starts[first:last]:
            del self._pieces[start]
        self._starts[first:last] = [piece.start]
        self._pieces[piece.start] = piece
        return True

    def fits(self, piece: Piece) -> bool:
        """Whether it is known, or takes the place of no other."""
        if self._pieces.get(piece.start) == piece:
            return True
        follows = self.next_start(piece.start)
        return self.find(piece.start) is None and (follows is None or follows >= piece.stop)

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

    def next_start(self, position: int) -> int | None:
        """Where the first one begins after a position that none has."""
        index = bisect_right(self._starts, position)
        return self._starts[index] if index < len(self._starts) else None

    def next_span(
        self,
        written: Sequence[Span],
        size: int | None,
        vouched: Container[str],
        *,
        hurries: bool = False,
    ) -> Span | None:
        """What to put next, of what is `written`, in order; None: nothing is worth it yet.

        What is not `vouched` for is to be put anew, as it is. `hurries`: however little it is.
        """
        for start, stop in written:
            position = start
            while position < stop:
                piece = self.find(position)
                if piece is None:
                    follows = self.next_start(position)
                    end = min(stop, position + most(position), stop if follows is None else follows)
                    is_last = end in {follows, size}
                    if is_last or hurries or end - position >= least(position):
                        return position, end
                    break
                if piece.key not in vouched and start <= piece.start and piece.stop <= stop:
                    return piece.start, piece.stop
                position = piece.stop
        return None


def without(spans: Sequence[Span], taken: Collection[Span]) -> list[Span]:
    """What is left of `spans` where none of what is `taken` counts, in order."""
    left = list(spans)
    for start, stop in taken:
        cut = [((a, min(b, start)), (max(a, stop), b)) for a, b in left]
        left = [(a, b) for pair in cut for a, b in pair if a < b]
    return left

"""The last bytes of a blob on its way: who is a little behind others still finds them. Pure."""

from collections import deque
from dataclasses import dataclass

from mirror.pull.prefix import Prefix

MOST = 8 * 2**20
"""Bytes that are held for whoever is behind."""

_SMALL = 2**16  # bytes; each piece costs more than these, and an upstream may send them one by one


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some bytes of a blob. `prefix` is up to their end; None where nobody has hashed that."""

    start: int
    content: bytes
    prefix: Prefix | None

    @property
    def stop(self) -> int:
        """Where it ends (exclusive)."""
        return self.start + len(self.content)


class Window:
    """[start, position) of a blob, in pieces; `position` is where the next one goes."""

    def __init__(self, start: int, prefix: Prefix | None) -> None:
        self.start = self.position = start
        self._before = prefix  # up to `start`
        self._pieces: deque[Piece] = deque()

    def __repr__(self) -> str:
        return f"<Window: {self.start}-{self.position}, {len(self._pieces)} pieces>"

    def add(self, piece: Piece) -> None:
        """The next bytes; small pieces become one."""
        if self._pieces and len(self._pieces[-1].content) + len(piece.content) <= _SMALL:
            last = self._pieces.pop()
            piece = Piece(last.start, last.content + piece.content, piece.prefix)
        self._pieces.append(piece)
        self.position = piece.stop

    def find(self, position: int) -> Piece | None:
        """The piece that holds this byte."""
        if not self.start <= position < self.position:
            return None
        return next(piece for piece in reversed(self._pieces) if piece.start <= position)

    def prefix_at(self, position: int) -> Prefix | None:
        """Up to there; None where nobody knows."""
        if position == self.start:
            return self._before
        return next((one.prefix for one in self._pieces if one.stop == position), None)

    def trim(self, *, read: int, kept: int) -> None:
        """Drop what is too much, and of what lies before `read` all but the last `kept` bytes.

        The last piece stays: who waits for it has not had it yet.
        """
        while len(self._pieces) > 1:
            first, size = self._pieces[0], self.position - self.start
            if size <= MOST and (first.stop > read or size <= kept):
                return
            self._pieces.popleft()
            self.start, self._before = first.stop, first.prefix

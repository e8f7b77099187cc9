"""What readers of a blob wait for: all of it in order, or ranges of it, wherever they lie. Pure.

Who asks for ranges tells them when it joins, and again what of them it waits for. Wants are served
in turn: one that has had something goes behind the others.
"""

from collections.abc import Callable, Iterator, Sequence

from mirror.oci.errors import RangeNotSatisfiable
from mirror.oci.ranges import ByteRange

_AHEAD = 16 * 2**20  # bytes of one range that are wanted before its reader asks for more: who asks
# for everything from somewhere on (containerd) may leave early


class Want:
    """Ranges that one reader sends, in this order."""

    __slots__ = ("_all", "_hull", "_left")

    def __init__(self, ranges: Sequence[ByteRange]) -> None:
        self._all = ranges
        self._left = list(reversed(ranges))
        self._hull: tuple[int, int, int] | None = None  # of which size; from where, to where

    def __repr__(self) -> str:
        return f"<Want: {len(self._left)} of {len(self._all)} ranges>"

    def spans(self, size: int | None) -> Iterator[tuple[int, int | None]]:
        """The half-open ranges that are not known to be there; None: to the blob's end."""
        for one in reversed(self._left):
            if (span := _resolve(one, size)) is not None:
                start, stop = span
                yield start, start + _AHEAD if stop is None else min(stop, start + _AHEAD)

    def drop_first(self, size: int | None) -> None:
        """The first of `spans` is there."""
        while self._left and _resolve(self._left.pop(), size) is None:
            pass

    def overlaps(self, start: int, stop: int, size: int) -> bool:
        """Whether anything of [start, stop) lies between the ends of what its reader sends."""
        if self._hull is None or self._hull[0] != size:
            spans = [span for one in self._all if (span := _resolve(one, size)) is not None]
            first = min((span[0] for span in spans), default=size)
            self._hull = size, first, max((span[1] or size for span in spans), default=0)
        return self._hull[1] < stop and start < self._hull[2]


class Wants:
    """All that is wanted of one blob; `changed` is called when it is more.

    `is_whole`: the whole of it, since somebody has asked for that, or whatever is asked for. It
    never becomes less. `followers` is how many wait for what comes next in order.
    """

    def __init__(self, *, is_whole: bool) -> None:
        self.is_whole = is_whole
        self.followers = 0
        self.changed: Callable[[], None] = _nobody_minds
        self._wants: dict[Want, None] = {}  # whose turn it is, first

    def __len__(self) -> int:
        return len(self._wants)

    def __iter__(self) -> Iterator[Want]:
        return iter(self._wants)

    def want_whole(self) -> None:
        """Somebody reads it from its start to its end."""
        if not self.is_whole:
            self.is_whole = True
            self.changed()

    def follow(self) -> None:
        """One more waits for what comes next in order, until `unfollow`."""
        self.followers += 1
        self.is_whole = True
        self.changed()

    def unfollow(self) -> None:
        """One less does."""
        self.followers -= 1

    def add(self, want: Want) -> None:
        """Somebody wants this, until `discard`."""
        self._wants[want] = None
        self.changed()

    def discard(self, want: Want) -> None:
        """Nobody does any more."""
        self._wants.pop(want, None)

    def turn(self, want: Want) -> None:
        """It has had something: now it is the others' turn."""
        del self._wants[want]
        self._wants[want] = None

    def overlap(self, start: int, stop: int, size: int) -> bool:
        """Whether anybody who asks for ranges may send anything of [start, stop)."""
        return any(want.overlaps(start, stop, size) for want in self._wants)


def _resolve(one: ByteRange, size: int | None) -> tuple[int, int | None] | None:
    """[start, stop) of a blob of this size; None where nobody can tell, or there is nothing."""
    if size is not None:
        try:
            return one.resolve(size)
        except RangeNotSatisfiable:
            return None
    if one.first is None:
        return None
    return one.first, None if one.last is None else one.last + 1


def _nobody_minds() -> None:
    pass

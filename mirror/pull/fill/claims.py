"""Claims: ranges of a blob that are being fetched, and what nobody has claimed yet. Pure."""

from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass

Gap = tuple[int, int | None]
"""From the first byte up to, and not including, the second; None: the end that nobody knows."""


@dataclass(eq=False, slots=True)
class Claim:
    """A range that one connection fetches; `stop` is None while nobody knows the blob's end."""

    start: int
    stop: int | None
    began_at: float
    position: int
    may_split: bool = True  # not where upstream would send everything to both halves
    is_ahead: bool = False  # somebody wants it before what comes in order
    body_stop: int | None = None  # up to where its connection would bring more, if that was wanted

    @property
    def left(self) -> int:
        """Bytes still to come; 0 where that is unknown."""
        return 0 if self.stop is None else max(0, self.stop - self.position)

    @property
    def is_done(self) -> bool:
        """Whether every byte of it is there."""
        return self.stop is not None and self.position >= self.stop

    def rate(self, now: float) -> float:
        """Bytes a second, so far."""
        return (self.position - self.start) / max(now - self.began_at, 0.001)

    def overlaps(self, start: int, stop: int | None) -> bool:
        """Whether anything of [start, stop) is still to come of it."""
        return _overlap(self.position, self.stop, start, stop)


class Gaps:
    """What nobody has claimed: ranges in order, none next to another."""

    def __init__(self, gaps: list[Gap]) -> None:
        self._gaps = gaps

    def __repr__(self) -> str:
        return str(self._gaps)

    def __len__(self) -> int:
        return len(self._gaps)

    def __iter__(self) -> Iterator[Gap]:
        return iter(self._gaps)

    @property
    def first(self) -> Gap:
        """The one that comes first; there must be one."""
        return self._gaps[0]

    def find(self, start: int, stop: int | None) -> Gap | None:
        """The first gap that has anything of [start, stop)."""
        index = max(0, bisect_right(self._gaps, start, key=_start_of) - 1)
        for gap in self._gaps[index : index + 2]:
            if _overlap(*gap, start, stop):
                return gap
        return None

    def take(self, start: int, stop: int | None) -> None:
        """[start, stop), which lies in one gap, is one no more."""
        index = bisect_right(self._gaps, start, key=_start_of) - 1
        first, end = self._gaps.pop(index)
        if stop is not None and (end is None or stop < end):
            self._gaps.insert(index, (stop, end))
        if first < start:
            self._gaps.insert(index, (first, start))

    def put_back(self, start: int, stop: int | None) -> None:
        """[start, stop) is one (again), with whatever it touches."""
        for gap in [gap for gap in self._gaps if gap[0] == stop or gap[1] == start]:
            self._gaps.remove(gap)
            start, stop = min(start, gap[0]), gap[1] if gap[0] == stop else stop
        insort(self._gaps, (start, stop), key=_start_of)

    def remove(self, gap: Gap) -> None:
        """A whole gap is none any more."""
        self._gaps.remove(gap)

    def keep_before(self, position: int) -> None:
        """Whatever begins there, or later, is none any more."""
        self._gaps = [gap for gap in self._gaps if gap[0] < position]

    def end_at(self, size: int) -> None:
        """The blob is of this size."""
        cut = [(start, min(size, size if stop is None else stop)) for start, stop in self._gaps]
        self._gaps = [(start, stop) for start, stop in cut if start < stop]


def _start_of(gap: Gap) -> int:
    return gap[0]


def _overlap(start: int, stop: int | None, other: int, end: int | None) -> bool:
    return (end is None or start < end) and (stop is None or other < stop)

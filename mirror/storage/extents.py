"""Which bytes of a file are there: half-open ranges, kept apart and in order.

Values are immutable, so that one thread may read what another is about to replace.
"""

from bisect import bisect_right
from operator import itemgetter

Range = tuple[int, int]
"""From the first byte up to, and not including, the second."""

Extents = tuple[Range, ...]
"""Ranges in ascending order that neither overlap nor touch."""


def add(extents: Extents, start: int, end: int) -> Extents:
    """`extents` and [start, end), joined with everything it overlaps or touches."""
    if start >= end:
        return extents
    before = tuple(extent for extent in extents if extent[1] < start)
    after = tuple(extent for extent in extents if extent[0] > end)
    joined = extents[len(before) : len(extents) - len(after)]
    if joined:
        start, end = min(start, joined[0][0]), max(end, joined[-1][1])
    return (*before, (start, end), *after)


def clip(extents: Extents, size: int) -> Extents:
    """What of `extents` lies within the first `size` bytes."""
    return tuple((start, min(end, size)) for start, end in extents if start < size)


def missing(extents: Extents, start: int, end: int) -> list[Range]:
    """The parts of [start, end) that are not there, in order."""
    gaps = []
    for known_start, known_end in extents:
        if known_end <= start:
            continue
        if known_start >= end:
            break
        if start < known_start:
            gaps.append((start, known_start))
        start = known_end
    if start < end:
        gaps.append((start, end))
    return gaps


def end_at(extents: Extents, position: int) -> int:
    """Where what is there from `position` on ends; `position` where that byte is not there."""
    index = bisect_right(extents, position, key=itemgetter(0)) - 1
    return position if index < 0 else max(position, extents[index][1])


def blocks(extents: Extents, block: int) -> int:
    """How many bytes a file takes, in blocks of `block` bytes, that has nothing but these."""
    taken, end = 0, 0
    for first, beyond in extents:
        start = max(end, first // block * block)
        end = max(start, -(-beyond // block) * block)
        taken += end - start
    return taken


def prefix(extents: Extents) -> int:
    """How many bytes are there from the very first without a gap."""
    return extents[0][1] if extents and extents[0][0] == 0 else 0


def total(extents: Extents) -> int:
    """How many bytes are there."""
    return sum(end - start for start, end in extents)

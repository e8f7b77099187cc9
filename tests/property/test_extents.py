"""Extents against a plain set of the bytes that are there."""

from itertools import pairwise

from hypothesis import given, strategies as st

from mirror.storage.extents import Extents, add, clip, end_at, missing, prefix, total

POSITIONS = st.integers(0, 60)
RANGES = st.tuples(POSITIONS, POSITIONS)


def _build(ranges: list[tuple[int, int]]) -> tuple[Extents, set[int]]:
    extents: Extents = ()
    there: set[int] = set()
    for start, end in ranges:
        extents = add(extents, start, end)
        there |= set(range(start, end))
    return extents, there


def _bytes(ranges: Extents | list[tuple[int, int]]) -> list[int]:
    return [position for start, end in ranges for position in range(start, end)]


@given(st.lists(RANGES))
def test_every_byte_that_was_added_is_there_once_and_ranges_never_touch(
    ranges: list[tuple[int, int]],
) -> None:
    extents, there = _build(ranges)
    assert _bytes(extents) == sorted(there)
    assert all(start < end for start, end in extents)
    assert all(one[1] < other[0] for one, other in pairwise(extents))
    assert total(extents) == len(there)


@given(st.lists(RANGES), POSITIONS, POSITIONS)
def test_a_byte_is_either_there_or_missing(
    ranges: list[tuple[int, int]], start: int, end: int
) -> None:
    extents, there = _build(ranges)
    assert _bytes(missing(extents, start, end)) == sorted(set(range(start, end)) - there)


@given(st.lists(RANGES))
def test_the_prefix_ends_at_the_first_byte_that_is_not_there(
    ranges: list[tuple[int, int]],
) -> None:
    extents, there = _build(ranges)
    assert prefix(extents) == min(set(range(62)) - there)


@given(st.lists(RANGES), POSITIONS)
def test_what_is_there_from_a_position_on_ends_at_the_next_byte_that_is_not(
    ranges: list[tuple[int, int]], position: int
) -> None:
    extents, there = _build(ranges)
    assert end_at(extents, position) == min(set(range(position, 62)) - there)


@given(st.lists(RANGES), POSITIONS)
def test_a_cut_keeps_what_is_before_it(ranges: list[tuple[int, int]], size: int) -> None:
    extents, there = _build(ranges)
    assert _bytes(clip(extents, size)) == sorted(position for position in there if position < size)

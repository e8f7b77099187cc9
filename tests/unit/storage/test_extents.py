import pytest

from mirror.storage.extents import Extents, Range, add, blocks, clip, missing, prefix, total


@pytest.mark.parametrize(
    ("start", "end", "joined"),
    [
        (0, 5, ((0, 5), (10, 20), (30, 40))),
        (0, 10, ((0, 20), (30, 40))),
        (20, 30, ((10, 40),)),
        (12, 18, ((10, 20), (30, 40))),
        (5, 35, ((5, 40),)),
        (0, 50, ((0, 50),)),
        (50, 60, ((10, 20), (30, 40), (50, 60))),
        (25, 25, ((10, 20), (30, 40))),
    ],
)
def test_a_range_is_joined_with_what_it_overlaps_or_touches(
    start: int, end: int, joined: Extents
) -> None:
    assert add(((10, 20), (30, 40)), start, end) == joined


@pytest.mark.parametrize(
    ("start", "end", "gaps"),
    [
        (0, 50, [(0, 10), (20, 30), (40, 50)]),
        (10, 20, []),
        (15, 35, [(20, 30)]),
        (22, 28, [(22, 28)]),
        (20, 30, [(20, 30)]),
        (45, 50, [(45, 50)]),
    ],
)
def test_what_is_missing_lies_between(start: int, end: int, gaps: list[Range]) -> None:
    assert missing(((10, 20), (30, 40)), start, end) == gaps


def test_only_what_begins_at_the_first_byte_is_a_prefix() -> None:
    assert prefix(()) == 0
    assert prefix(((1, 9),)) == 0
    assert prefix(((0, 9), (10, 12))) == 9


def test_what_is_beyond_a_size_is_cut() -> None:
    assert clip(((0, 9), (10, 12)), 11) == ((0, 9), (10, 11))
    assert clip(((0, 9), (10, 12)), 10) == ((0, 9),)
    assert total(clip(((0, 9), (10, 12)), 4)) == 4


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ((), 0),
        (((0, 1),), 10),
        (((0, 10),), 10),
        (((5, 15),), 20),
        (((3, 4), (8, 9)), 10),  # in the same block
        (((9, 11), (19, 21)), 30),
        (((0, 1), (100, 101)), 20),
    ],
)
def test_a_file_takes_the_blocks_that_something_is_in(there: Extents, taken: int) -> None:
    assert blocks(there, 10) == taken
    assert blocks(there, 1) == total(there)

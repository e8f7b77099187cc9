"""What is put next, and what of it is there."""

from hypothesis import given, strategies as st

from mirror.oci.digest import digest_of
from mirror.shared.pieces import LARGEST, LEAST, Piece, Pieces, is_piece, key, least, without

MIB = 2**20


def _pieces(*spans: tuple[int, int]) -> Pieces:
    pieces = Pieces()
    for start, stop in spans:
        pieces.add(Piece(start, stop, f"{start}"))
    return pieces


def test_the_first_are_small_and_later_ones_a_bounded_share_of_what_comes_before() -> None:
    assert least(0) == least(16 * MIB) == LEAST
    assert least(64 * MIB) == MIB
    assert least(100 * 1024 * MIB) == LARGEST


def test_what_is_too_little_waits_for_more() -> None:
    assert _pieces().next_span([(0, LEAST - 1)], None, ()) is None
    assert _pieces().next_span([(0, LEAST)], None, ()) == (0, LEAST)
    assert _pieces().next_span([(0, 10)], None, (), hurries=True) == (0, 10)


def test_what_ends_the_blob_or_fills_a_gap_waits_for_nothing() -> None:
    assert _pieces().next_span([(0, 10)], 10, ()) == (0, 10)
    there = _pieces((5, 9))
    assert there.next_span([(0, 5)], 100, {"5"}) == (0, 5)
    assert there.next_span([(0, 20)], 100, {"5"}) == (0, 5)


def test_a_bucket_that_is_slow_gets_few_and_large_ones() -> None:
    there = _pieces((0, 20 * MIB))
    assert there.next_span([(0, 100 * MIB)], None, {"0"}) == (20 * MIB, 20 * MIB + LARGEST)


def test_nobody_waits_for_a_large_piece_to_have_the_first_byte() -> None:
    there, written = _pieces(), [(0, 100 * MIB)]
    for _ in range(6):
        span = there.next_span(written, None, {"here"})
        assert span is not None
        there.add(Piece(*span, key="here"))
    assert [(piece.stop - piece.start) // MIB for piece in there] == [1, 1, 2, 4, 8, 16]


def test_what_lies_ahead_is_put_where_what_comes_before_is_not_there_yet() -> None:
    spans = [(0, 10), (8 * MIB, 9 * MIB)]
    assert _pieces().next_span(spans, 20 * MIB, ()) == (8 * MIB, 9 * MIB)


def test_what_another_has_put_is_put_anew_where_it_was_not_read_here() -> None:
    there = _pieces((0, 100), (100, 200))
    assert there.next_span([(0, 200)], 200, {"0"}) == (100, 200)
    assert there.next_span([(0, 200)], 200, {"0", "100"}) is None
    assert there.next_span([(0, 150)], 200, {"0"}) is None  # not all of it is here


@given(st.lists(st.integers(1, 5 * MIB), max_size=30))
def test_however_bytes_come_what_is_put_overlaps_nothing_and_is_all_in_the_end(
    lengths: list[int],
) -> None:
    size = sum(lengths)
    pieces, vouched, written = Pieces(), set[str](), 0
    for length in lengths:
        written += length
        while (span := pieces.next_span([(0, written)], size, vouched)) is not None:
            start, stop = span
            assert start == pieces.reach(0)
            assert 0 < stop - start <= LARGEST
            pieces.add(Piece(start, stop, f"{start}"))
            vouched.add(f"{start}")
    assert pieces.reach(0) == size


def test_what_is_there_is_found_by_any_of_its_bytes() -> None:
    there = _pieces((0, 10), (10, 20), (30, 40))
    assert there.find(10) == Piece(10, 20, "10")
    assert there.find(19) == Piece(10, 20, "10")
    assert there.find(20) is None
    assert (there.reach(0), there.reach(20), there.reach(35)) == (20, 20, 40)
    assert (there.next_start(20), there.next_start(40)) == (30, None)
    there.remove(Piece(10, 20, "another"))
    assert there.reach(0) == 20
    there.remove(Piece(10, 20, "10"))
    assert (there.reach(0), len(there)) == (10, 2)


def test_what_is_put_as_a_whole_takes_the_place_of_its_parts() -> None:
    there = _pieces((0, 10), (10, 20), (20, 30), (40, 50))
    assert there.add(Piece(0, 40, "whole"))
    assert [*there] == [Piece(0, 40, "whole"), Piece(40, 50, "40")]
    assert there.find(25) == Piece(0, 40, "whole")
    assert there.reach(0) == 50
    assert not there.add(Piece(0, 40, "whole"))


def test_keys_are_known_from_what_else_there_is_in_a_bucket() -> None:
    assert is_piece(key(digest_of(b"one"), 12, "0123456789abcdef", 5))
    for other in ("mirror-deployment", "sha256/readme.txt", "photos/sha256/1.jpg"):
        assert not is_piece(other)


_SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), max_size=4)


@given(spans=_SPANS, taken=_SPANS)
def test_what_is_taken_is_left_to_who_has_taken_it_and_nothing_else_is(
    spans: list[tuple[int, int]], taken: list[tuple[int, int]]
) -> None:
    there, position = list[tuple[int, int]](), 0
    for gap, length in spans:
        there.append((position + gap, position + gap + length))
        position += gap + length + 1
    gone = [(start, start + length) for start, length in taken]
    left = without(there, gone)
    assert left == sorted(left)
    expected = {byte for span in there for byte in range(*span)}
    expected -= {byte for span in gone for byte in range(*span)}
    assert [byte for span in left for byte in range(*span)] == sorted(expected)

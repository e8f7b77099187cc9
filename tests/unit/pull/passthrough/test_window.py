from mirror.oci.digest import digest_of
from mirror.pull.passthrough.window import MOST, Piece, Window
from mirror.pull.prefix import Prefix
from tests.support.memory_source import MemorySender

MIB = 2**20
SENDER = MemorySender("memory")


def _filled(count: int, *, size: int = MIB) -> Window:
    window = Window(0, None)
    for number in range(count):
        window.add(Piece(number * size, bytes([number % 256]) * size, None))
        window.trim(read=window.position, kept=MOST)
    return window


def test_it_holds_a_bounded_number_of_bytes() -> None:
    window = _filled(20)
    assert (window.start, window.position) == (12 * MIB, 20 * MIB)
    assert window.find(12 * MIB - 1) is None
    assert window.find(20 * MIB) is None
    piece = window.find(13 * MIB + 5)
    assert piece is not None
    assert (piece.start, piece.content[:1]) == (13 * MIB, bytes([13]))


def test_what_all_have_read_goes_where_nobody_comes_later() -> None:
    window = _filled(4)
    window.trim(read=2 * MIB, kept=0)
    assert (window.start, window.position) == (2 * MIB, 4 * MIB)


def test_the_last_piece_stays_however_large() -> None:
    window = Window(0, None)
    window.add(Piece(0, bytes(2 * MOST), None))
    window.trim(read=0, kept=0)
    assert window.find(0) is not None


def test_bytes_that_come_one_by_one_cost_no_more_than_others() -> None:
    window = _filled(100_000, size=1)
    piece = window.find(0)
    assert piece is not None
    assert piece.stop == 2**16


def test_what_has_been_hashed_is_known_at_the_ends_of_pieces() -> None:
    empty = Prefix.empty(digest_of(b""))
    one = empty.extended(bytes(MIB), SENDER)
    window = Window(0, empty)
    window.add(Piece(0, bytes(MIB), one))
    window.add(Piece(MIB, bytes(MIB), one.extended(bytes(MIB), SENDER)))
    assert window.prefix_at(0) is empty
    assert window.prefix_at(5) is None
    window.trim(read=MIB, kept=0)
    assert window.prefix_at(MIB) is one
    assert window.prefix_at(0) is None
    assert one.is_like(empty.extended(bytes(MIB), SENDER))
    assert not one.is_like(empty)

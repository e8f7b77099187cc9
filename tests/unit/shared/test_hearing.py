"""What is told of pieces: believed where nobody but a mirror can have told it."""

import pytest

from mirror.oci.digest import digest_of
from mirror.shared.hearing import Hearing, is_about, tell
from mirror.shared.pieces import Piece, Pieces, key

DIGEST = digest_of(b"told")
WORD, NEXT = "0123456789abcdef", "fedcba9876543210"
BLOB = 12


def _piece(start: int, stop: int, *, epoch: int = 7, word: str = WORD) -> Piece:
    return Piece(start, stop, key(DIGEST, epoch, word, start))


class Follower:
    """Knows what it has read from the database, and what it has believed."""

    def __init__(self, *read: Piece) -> None:
        self.pieces = Pieces()
        self.hearing = Hearing(self.pieces)
        for piece in read:
            self.pieces.add(piece)
            self.hearing.note_read(piece)

    def hears(self, word: str) -> bool:
        return self.hearing.hear(word)


FIRST, SECOND, THIRD = _piece(0, 10), _piece(10, 30), _piece(30, 40)


def test_a_piece_of_a_turn_that_is_known_is_had_with_the_key_that_is_on_record() -> None:
    follower = Follower(FIRST)
    assert follower.hears(tell(BLOB, SECOND))
    assert list(follower.pieces) == [FIRST, SECOND]


def test_in_whatever_order_and_however_often_it_is_told() -> None:
    follower = Follower(FIRST)
    for piece in (THIRD, SECOND, THIRD, FIRST, SECOND):
        assert follower.hears(tell(BLOB, piece))
    assert list(follower.pieces) == [FIRST, SECOND, THIRD]


@pytest.mark.parametrize(
    "word",
    [
        str(BLOB),
        tell(BLOB, _piece(10, 30, word=NEXT)),
        tell(BLOB, _piece(10, 30, epoch=8)),
        tell(BLOB, Piece(10, 30, key(digest_of(b"another"), 7, WORD, 10))),
        tell(BLOB, SECOND).replace(" 30 ", " 31 "),
        tell(BLOB, SECOND).replace(" 10 ", " 11 "),
        tell(BLOB, SECOND)[:-1],
        f"{BLOB} 10 30",
        f"{BLOB} 10 30 ",
        f"{BLOB} 10 30 ünsigned",
        "",
        " ",
    ],
)
def test_what_no_mirror_has_told_of_this_turn_is_not_believed(word: str) -> None:
    follower = Follower(FIRST)
    assert not follower.hears(word)
    assert list(follower.pieces) == [FIRST]


def test_who_knows_no_piece_of_a_turn_yet_believes_nothing() -> None:
    follower = Follower()
    assert not follower.hears(tell(BLOB, FIRST))
    assert not len(follower.pieces)


def test_what_is_late_takes_no_place_of_what_another_has_put_there_since() -> None:
    again = _piece(10, 20, epoch=9, word=NEXT)
    follower = Follower(FIRST, again)
    for late in (SECOND, _piece(5, 12), _piece(15, 30)):
        assert not follower.hears(tell(BLOB, late))
    assert list(follower.pieces) == [FIRST, again]


def test_after_another_has_taken_over_its_pieces_are_believed_once_one_was_read() -> None:
    follower = Follower(FIRST)
    new = _piece(10, 20, epoch=9, word=NEXT)
    assert not follower.hears(tell(BLOB, new))
    follower.pieces.add(new)
    follower.hearing.note_read(new)
    more = _piece(20, 30, epoch=9, word=NEXT)
    assert follower.hears(tell(BLOB, more))
    assert list(follower.pieces) == [FIRST, new, more]


def test_a_word_is_about_one_blob_whatever_else_it_says() -> None:
    for word in (str(BLOB), tell(BLOB, FIRST), f"{BLOB} something newer"):
        assert is_about(word, BLOB)
        assert not is_about(word, 1)
        assert not is_about(word, 120)
        assert not is_about(word, None)


def test_a_word_tells_nobody_where_the_objects_are() -> None:
    """Whoever may connect to the database hears it."""
    assert WORD not in tell(BLOB, FIRST)

import os

import pytest

from mirror.aio.sealed import MOST_AT_ONCE, Bulk, read_sealed, seal


@pytest.mark.parametrize(
    "pieces",
    [[], [b""], [b"one"], [b"one", b"", b"two"], [b"x"] * 1500, [bytes(MOST_AT_ONCE)]],
    ids=["nothing", "no byte", "one", "several", "more than one system call takes", "the most"],
)
def test_what_was_sealed_is_read_as_it_was(pieces: list[bytes]) -> None:
    descriptor = seal(pieces)
    try:
        assert read_sealed(descriptor, most=MOST_AT_ONCE) == b"".join(pieces)
        with pytest.raises(OSError, match="not permitted"):
            os.pwrite(descriptor, b"other", 0)
        with pytest.raises(OSError, match="not permitted"):
            os.truncate(descriptor, 7)
    finally:
        os.close(descriptor)


def test_what_holds_more_than_is_wanted_is_not_read() -> None:
    descriptor = seal([b"four"])
    try:
        with pytest.raises(ValueError, match="4 bytes"):
            read_sealed(descriptor, most=3)
    finally:
        os.close(descriptor)


def test_bytes_that_came_in_several_pieces_are_one() -> None:
    bulk = Bulk(b"one", b"two")
    assert (bulk.size, bulk.whole()) == (6, b"onetwo")
    assert Bulk(b"one").whole() == b"one"
    assert (Bulk().size, Bulk().whole()) == (0, b"")

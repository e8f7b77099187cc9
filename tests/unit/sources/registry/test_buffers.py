"""Buffers that are used again, and never while somebody looks at them."""

from mirror.sources.registry.buffers import SIZE, Buffers


def test_a_buffer_of_which_nobody_has_a_view_is_used_again() -> None:
    buffers = Buffers()
    with buffers.receiving():
        first = buffers.take(SIZE)
        first[:5] = b"there"
        del first
        assert bytes(buffers.take(SIZE)[:5]) == b"there"


def test_a_buffer_that_somebody_still_reads_from_is_not_given_to_others() -> None:
    buffers = Buffers()
    with buffers.receiving():
        first = buffers.take(SIZE)
        first[:5] = b"there"
        piece = first[:5]  # as a thread holds it that has yet to write it
        del first
        buffers.take(SIZE)[:5] = b"other"
        assert bytes(piece) == b"there"


def test_of_a_small_body_only_as_much_is_taken() -> None:
    buffers = Buffers()
    with buffers.receiving():
        assert len(buffers.take(1000)) == 1000
        assert len(buffers.take(10 * SIZE)) == SIZE


def test_nothing_is_kept_once_nobody_receives() -> None:
    buffers = Buffers()
    with buffers.receiving():
        buffers.take(SIZE)[:5] = b"there"
    with buffers.receiving():
        assert bytes(buffers.take(SIZE)[:5]) == bytes(5)

import pytest

from mirror.pull.fill.sizes import Sizes


@pytest.mark.parametrize(("promised", "told"), [(None, 5), (5, 5), (5, None), (None, None)])
def test_a_size_that_nothing_contradicts_is_taken(promised: int | None, told: int | None) -> None:
    sizes = Sizes(promised)
    assert sizes.accepts(told, reach=0)
    sizes.begin(told)
    assert (sizes.told, sizes.is_odd) == (told, False)


def test_a_sender_that_contradicts_a_promise_is_left_for_others_once() -> None:
    sizes = Sizes(promised=5)
    assert not sizes.accepts(7, reach=0)
    assert sizes.accepts(7, reach=0)
    sizes.begin(7)
    assert (sizes.told, sizes.is_odd) == (7, True)


def test_a_sender_that_ends_before_what_is_there_is_left_for_others_once() -> None:
    sizes = Sizes(promised=None)
    assert not sizes.accepts(7, reach=8)
    assert sizes.accepts(7, reach=8)


def test_what_one_sender_has_told_no_other_changes() -> None:
    sizes = Sizes(promised=None)
    sizes.begin(5)
    assert [sizes.accepts(size, reach=0) for size in (7, 7, 5, None)] == [False, False, True, True]


def test_a_sender_that_tells_none_may_be_followed_by_one_that_does() -> None:
    sizes = Sizes(promised=5)
    sizes.begin(None)
    assert sizes.accepts(7, reach=6)
    assert not sizes.accepts(7, reach=8)
    assert not sizes.accepts(7, reach=8), "readers have what is there"
    sizes.begin(9)
    assert (sizes.told, sizes.is_odd) == (9, False)

"""How much is sent at once to a registry that forgets."""

from mirror.push.caution import Caution

MIB = 1 << 20


def test_all_is_sent_in_one_request_until_something_was_forgotten() -> None:
    assert Caution().at(0) == 0


def test_half_of_what_got_through_is_sent_next_and_never_more_than_before() -> None:
    caution = Caution()
    caution.note_forgotten(8 * MIB, now=0)
    assert caution.at(1) == 4 * MIB
    caution.note_forgotten(2 * MIB, now=1)
    assert caution.at(2) == MIB
    caution.note_forgotten(64 * MIB, now=2)
    assert caution.at(3) == MIB


def test_chunks_stay_large_enough_to_be_worth_a_request() -> None:
    caution = Caution()
    caution.note_forgotten(10, now=0)
    assert caution.at(1) == 64 * 2**10


def test_on_a_slow_line_a_request_ends_and_all_that_follow_are_as_short() -> None:
    caution = Caution()
    assert not caution.is_enough(6 * MIB, 2.9, now=10)
    assert not caution.is_enough(6 * MIB - 1, 60, now=10)
    assert caution.at(10) == 0
    assert caution.is_enough(6 * MIB, 3, now=10)
    assert caution.at(10) == 6 * MIB


def test_who_takes_no_parts_is_sent_none_however_slow_the_line_is() -> None:
    caution = Caution()
    caution.note_no_parts(now=0)
    assert not caution.is_enough(60 * MIB, 60, now=10)
    caution.note_forgotten(8 * MIB, now=10)
    assert caution.at(10) == 0
    assert caution.is_enough(60 * MIB, 60, now=3600) or caution.at(3600) == 0


def test_after_an_hour_all_is_sent_in_one_request_again() -> None:
    caution = Caution()
    caution.note_forgotten(8 * MIB, now=0)
    assert caution.at(3599) == 4 * MIB
    assert caution.at(3600) == 0


def test_a_line_is_fast_for_an_hour_after_a_request_that_was() -> None:
    caution = Caution()
    assert not caution.is_fast(0)
    caution.note_through(6 * MIB, 0.375, now=10)
    assert caution.is_fast(3609)
    assert not caution.is_fast(3610)


def test_a_request_that_was_slow_ends_it_and_a_short_one_says_nothing() -> None:
    caution = Caution()
    caution.note_through(6 * MIB, 0.1, now=0)
    caution.note_through(6 * MIB - 1, 60, now=1)
    assert caution.is_fast(2)
    caution.note_through(6 * MIB, 0.376, now=2)
    assert not caution.is_fast(3)

from mirror.pull.passthrough.seats import Seats
from mirror.pull.passthrough.window import MOST, Piece, Window

WINDOW = Window(0, None)
WINDOW.add(Piece(0, bytes(MOST), None))


def test_who_is_a_little_behind_is_not_waited_for() -> None:
    seats = Seats(0)
    seats.sit(MOST // 2, now=0)
    assert seats.find_behind(WINDOW, now=0)[1] == []


def test_who_is_far_behind_is_waited_for_but_not_for_long() -> None:
    seats = Seats(0)
    slow = seats.sit(0, now=0)
    patience, behind = seats.find_behind(WINDOW, now=0)
    assert (patience, behind) == (1.0, [slow])
    seats.note_lost(1.0, behind)
    assert seats.find_behind(WINDOW, now=5)[1] == [slow]
    seats.note_lost(0.5, behind)
    assert seats.find_behind(WINDOW, now=5)[1] == []


def test_one_who_takes_long_costs_another_nothing() -> None:
    seats = Seats(0)
    slow = seats.sit(0, now=0)
    seats.note_lost(1.0, [slow])
    other = seats.sit(0, now=0)
    assert seats.find_behind(WINDOW, now=0)[1] == [other]


def test_many_who_come_and_stop_hold_the_others_for_half_of_the_time_at_most() -> None:
    seats = Seats(0)
    now = lost = 0.0
    for _ in range(1000):
        seat = seats.sit(0, now=now)
        patience, behind = seats.find_behind(WINDOW, now=now)
        now += 0.1
        if behind:
            seats.note_lost(patience, behind)
            now, lost = now + patience, lost + patience
        seats.leave(seat)
    assert lost <= 3 + now / 2


def test_who_has_been_left_behind_is_not_waited_for() -> None:
    window = Window(MOST, None)
    window.add(Piece(MOST, bytes(MOST), None))
    seats = Seats(0)
    seats.sit(0, now=0)
    assert seats.find_behind(window, now=0)[1] == []

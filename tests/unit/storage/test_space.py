import pytest

from mirror.storage.space import Limits, Promise, Request, Space, ahead_of


def test_what_is_promised_is_taken_at_once() -> None:
    space = Space(Limits(max_size=100, min_free=0))
    assert space.room(stored=30, free=1000) == 70
    space.add(Promise(50))
    assert space.room(stored=30, free=1000) == 20


def test_a_promise_counts_once_and_as_it_changes() -> None:
    space = Space(Limits(max_size=100, min_free=0))
    promise = Promise(50)
    space.add(promise)
    space.add(promise)
    promise.size = 60
    assert space.promised == 60
    space.remove(promise)
    assert space.promised == 0


def test_two_promises_of_the_same_size_are_two() -> None:
    space = Space(Limits(max_size=100, min_free=0))
    space.add(Promise(50))
    space.add(Promise(50))
    assert space.room(stored=0, free=1000) == 0


def test_the_disk_stays_as_free_as_it_shall_when_every_promise_is_kept() -> None:
    space = Space(Limits(max_size=10_000, min_free=200))
    assert space.room(stored=0, free=300) == 100
    promise = Promise(80)
    space.add(promise)
    assert space.room(stored=0, free=300) == 20
    promise.written = 80
    assert space.room(stored=0, free=220) == 20


def test_too_much_is_negative_room() -> None:
    assert Space(Limits(max_size=100, min_free=0)).room(stored=130, free=1000) == -30
    assert Space(Limits(max_size=100, min_free=50)).room(stored=0, free=10) == -40


def test_only_what_is_larger_than_everything_can_never_be_held() -> None:
    space = Space(Limits(max_size=100, min_free=0))
    assert space.can_ever_hold(100)
    assert not space.can_ever_hold(101)


class _Asking:
    """Somebody who asks for space; `answers` is what they were told."""

    def __init__(self, space: Space, size: int, *, ahead: int = 0) -> None:
        self.answers: list[Exception | None] = []
        self.promise = Promise()
        self.request = Request(self.answers.append, self.promise, size, ahead)
        space.add(self.promise)
        space.ask(self.request)


def _grant(space: Space, *, stored: int = 0) -> bool:
    """Grant the request whose turn it is, if there is room."""
    request = space.first()
    assert request is not None
    if space.excess(request, stored=stored, free=10_000) > 0:
        return False
    space.grant(request, stored=stored, free=10_000)
    return True


def test_who_comes_first_is_served_first_even_where_the_next_one_would_fit() -> None:
    space = Space(Limits(max_size=100, min_free=0))
    large, small = _Asking(space, 60), _Asking(space, 10)
    assert not _grant(space, stored=50)
    assert small.answers == []
    assert _grant(space, stored=40)
    assert (large.promise.size, large.answers) == (60, [None])
    assert not _grant(space, stored=40)
    assert _grant(space, stored=30)
    assert (small.promise.size, small.answers) == (10, [None])
    assert space.first() is None


def test_who_has_left_keeps_nobody_waiting_and_gets_nothing() -> None:
    space = Space(Limits(max_size=100, min_free=0))
    one, two, three = _Asking(space, 10), _Asking(space, 10), _Asking(space, 10)
    one.request.has_left = two.request.has_left = True
    assert _grant(space)
    assert [each.promise.size for each in (one, two, three)] == [0, 0, 10]
    assert [each.answers for each in (one, two, three)] == [[], [], [None]]


def test_who_cannot_be_served_is_told_and_the_next_one_is_not() -> None:
    space = Space(Limits(max_size=100, min_free=0))
    large, small = _Asking(space, 90), _Asking(space, 10)
    reason = OSError("no room")
    space.settle(large.request, reason)
    assert large.answers == [reason]
    assert _grant(space, stored=90)
    assert small.answers == [None]


def test_room_is_made_for_what_comes_next_unless_that_is_too_much() -> None:
    space = Space(Limits(max_size=100, min_free=0))
    assert _Asking(space, 10, ahead=50).promise.size == 0
    assert _grant(space)
    assert space.promised == 60
    asking = _Asking(space, 30, ahead=50)
    assert not _grant(space)
    asking.request.makes_do = True
    assert _grant(space)
    assert space.promised == 100


@pytest.mark.parametrize(
    ("needed", "whole", "ahead"),
    [
        (1, None, 2**20),
        (2**23, None, 2**23),
        (2**40, None, 2**26),
        (10, 10, 0),
        (1, 100, 99),
        (2**23, 2**40, 2**23),
        (2**40, 2**40 + 5, 5),
    ],
)
def test_no_more_is_made_room_for_than_has_come_but_for_a_little(
    needed: int, whole: int | None, ahead: int
) -> None:
    assert ahead_of(needed, whole) == ahead


def _on_its_way(space: Space, upstream: str, size: int, expected: int = 0) -> Promise:
    promise = Promise(size=size, upstream=upstream, expected=expected)
    space.add(promise)
    return promise


def test_unproved_bytes_of_one_upstream_displace_no_more_than_a_half() -> None:
    space = Space(Limits(max_size=100, min_free=0))
    one, other = _on_its_way(space, "evil", 30), _on_its_way(space, "evil", 10)
    full = {"stored": 60, "free": 1000}
    assert space.may_displace(other, 20, **full)
    assert not space.may_displace(other, 21, **full)
    other.is_proved = True
    assert space.may_displace(other, 70, **full)
    assert space.may_displace(one, 50, **full)
    one.rest()
    assert space.may_displace(_on_its_way(space, "evil", 0), 50, **full)


def test_unproved_bytes_of_all_upstreams_displace_no_more_than_three_quarters() -> None:
    space = Space(Limits(max_size=100, min_free=0))
    _on_its_way(space, "evil", 40)
    honest = _on_its_way(space, "hub", 10)
    full = {"stored": 50, "free": 1000}
    assert space.may_displace(honest, 35, **full)
    assert not space.may_displace(honest, 36, **full)


def test_a_size_that_is_only_told_keeps_out_the_same_upstreams_blobs_alone() -> None:
    space = Space(Limits(max_size=100, min_free=0))
    _on_its_way(space, "evil", 1, expected=99)
    room = {"stored": 0, "free": 1000, "evictable": 0}
    assert not space.admits(_on_its_way(space, "evil", 0), 2, **room)
    assert space.admits(_on_its_way(space, "hub", 0), 99, **room)


def test_a_size_is_admitted_for_which_enough_may_go_up_to_a_half_unless_it_is_proved() -> None:
    space = Space(Limits(max_size=100, min_free=0))
    promise = _on_its_way(space, "hub", 0)
    full = {"stored": 100, "free": 1000}
    assert space.admits(promise, 50, **full, evictable=50)
    assert not space.admits(promise, 50, **full, evictable=49)
    assert not space.admits(promise, 51, **full, evictable=100)
    promise.is_proved = True
    assert space.admits(promise, 100, **full, evictable=100)


def test_what_was_promised_meanwhile_is_not_promised_again() -> None:
    space = Space(Limits(max_size=100, min_free=0))
    asking = _Asking(space, 60)
    asking.promise.size = 70
    assert _grant(space, stored=90)
    assert asking.promise.size == 70


def test_keeping_the_limits_takes_as_much_as_they_are_exceeded_by() -> None:
    space = Space(Limits(max_size=100, min_free=0))
    request = Request(lambda _: None)
    space.ask(request)
    assert space.excess(request, stored=130, free=1000) == 30
    assert space.excess(request, stored=100, free=1000) == 0


def test_where_more_is_here_than_the_limits_allow_what_goes_for_a_request_is_enough() -> None:
    space = Space(Limits(max_size=100, min_free=0))
    promise = Promise()
    space.add(promise)
    settled: list[Exception | None] = []
    request = Request(settled.append, promise, 10, 5)
    space.ask(request)
    assert space.excess(request, stored=1_000, free=10**6) == 15
    request.freed = 12
    assert space.excess(request, stored=988, free=10**6) == 3
    request.freed = 15
    assert space.excess(request, stored=985, free=10**6) == 0
    space.grant(request, stored=985, free=10**6)
    assert settled == [None]
    assert promise.size == 10


def test_who_lets_the_others_go_first_is_the_last_in_turn() -> None:
    space = Space(Limits(max_size=100, min_free=0))
    settled: list[str] = []
    for name in ("limits", "one", "two"):
        space.ask(Request(lambda _, name=name: settled.append(name)))  # type: ignore[misc]  # its default is a str
    first = space.first()
    assert first is not None
    space.defer(first)
    while (request := space.first()) is not None:
        space.settle(request, None)
    assert settled == ["one", "two", "limits"]

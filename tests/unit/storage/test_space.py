from mirror.storage.space import Limits, Promise, Request, Space


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

    def __init__(self, space: Space, size: int, *, spare: int = 0) -> None:
        self.answers: list[Exception | None] = []
        self.promise = Promise()
        self.request = Request(self.answers.append, self.promise, size, spare)
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


def test_more_than_was_asked_for_is_given_only_where_it_is_to_spare() -> None:
    space = Space(Limits(max_size=100, min_free=0))
    assert _Asking(space, 10, spare=50).promise.size == 0
    assert _grant(space)
    assert space.promised == 60
    _Asking(space, 30, spare=50)
    assert _grant(space)
    assert space.promised == 100


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

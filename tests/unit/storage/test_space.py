from mirror.oci.digest import digest_of
from mirror.storage.space import Limits, Promise, Space, Stored, choose

FIRST, SECOND, THIRD = (Stored(digest_of(name), 10) for name in (b"1", b"2", b"3"))


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


def test_as_little_goes_as_will_do_and_the_first_goes_first() -> None:
    assert choose([FIRST, SECOND, THIRD], 1) == [FIRST]
    assert choose([FIRST, SECOND, THIRD], 11) == [FIRST, SECOND]
    assert choose([FIRST, SECOND, THIRD], 30) == [FIRST, SECOND, THIRD]


def test_nothing_goes_in_vain() -> None:
    assert choose([FIRST, SECOND, THIRD], 31) == []

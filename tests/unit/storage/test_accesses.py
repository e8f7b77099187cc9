from mirror.oci.digest import digest_of
from mirror.storage.accesses import Accesses
from tests.support.clock import FakeClock

ONE, TWO = digest_of(b"1"), digest_of(b"2")


def test_a_use_is_noted_at_its_time_and_once() -> None:
    clock = FakeClock(1_000.0)
    accesses = Accesses(clock, latest=0.0)
    accesses.note(ONE)
    clock.advance(5)
    accesses.note(ONE)
    assert accesses.take() == {ONE: 1_005.0}
    assert accesses.take() == {}


def test_a_clock_that_is_set_back_makes_nothing_older() -> None:
    clock = FakeClock(1_000.0)
    accesses = Accesses(clock, latest=0.0)
    accesses.note(ONE)
    clock.advance(-500)
    accesses.note(TWO)
    noted = accesses.take()
    assert noted[ONE] < noted[TWO] < 1_001.0


def test_what_was_used_before_a_restart_is_older_whatever_the_clock_says() -> None:
    for latest in (5_000.0, 1e300):
        accesses = Accesses(FakeClock(1_000.0), latest=latest)
        assert latest < accesses.now() < accesses.now()


def test_what_could_not_be_written_down_is_kept_unless_there_is_something_newer() -> None:
    clock = FakeClock(1_000.0)
    accesses = Accesses(clock, latest=0.0)
    accesses.note(ONE)
    accesses.note(TWO)
    noted = accesses.take()
    clock.advance(5)
    accesses.note(ONE)
    accesses.put_back(noted)
    assert accesses.take() == {ONE: 1_005.0, TWO: noted[TWO]}


def test_what_was_noted_by_a_clock_that_was_ahead_counts_from_when_that_is_known() -> None:
    clock = FakeClock(1_000.0)
    accesses = Accesses(clock, latest=9_000.0)
    assert accesses.ahead == 8_000.0
    accesses.note(ONE)
    accesses.settle(clock())
    assert accesses.take() == {ONE: 1_000.0}
    assert 1_000.0 < accesses.now() < 1_001.0

from mirror.aio.allowance import Allowances
from tests.support.clock import FakeClock


def test_so_many_times_at_once_and_then_as_time_passes() -> None:
    clock = FakeClock()
    allowances: Allowances[str] = Allowances(3, 30.0, clock)
    assert [allowances.take("a") for _ in range(5)] == [True, True, True, False, False]
    assert round(allowances.wait("a"), 3) == 10
    assert allowances.take("b")
    clock.advance(10.1)
    assert [allowances.take("a") for _ in range(2)] == [True, False]
    clock.advance(1000)
    assert [allowances.take("a") for _ in range(4)] == [True, True, True, False]


def test_what_is_done_without_leave_does_not_pile_up() -> None:
    clock = FakeClock()
    allowances: Allowances[str] = Allowances(3, 30.0, clock)
    for _ in range(100):
        allowances.use("a")
    clock.advance(10.1)
    assert allowances.take("a")

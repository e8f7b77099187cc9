from contextlib import ExitStack

from mirror.sources.registry.arrival import Arrival, Line


def _arrivals(line: Line, number: int, stack: ExitStack) -> list[Arrival]:
    return [stack.enter_context(line.arriving(0.0)) for _ in range(number)]


def test_a_body_that_brings_less_than_the_least_rate_drips_after_a_window() -> None:
    line = Line(least=100, window=10)
    with line.arriving(0.0) as body:
        verdicts = [body.drips(90, 1.0, float(second)) for second in range(1, 21)]
    assert verdicts == [False] * 9 + [True] + [False] * 9 + [True]


def test_one_that_brings_the_least_does_not_drip() -> None:
    line = Line(least=100, window=10)
    with line.arriving(0.0) as body:
        assert not any(body.drips(100, 1.0, float(second)) for second in range(1, 100))


def test_time_in_which_nobody_waits_for_it_is_not_upstreams() -> None:
    line = Line(least=100, window=10)
    with line.arriving(0.0) as body:
        assert not any(body.drips(100, 0.5, 100.0 * second) for second in range(1, 100))


def test_without_a_least_rate_nothing_drips() -> None:
    line = Line(least=0, window=10)
    with line.arriving(0.0) as body:
        assert not any(body.drips(1, 10.0, 10.0 * second) for second in range(1, 10))


def test_a_line_that_is_full_of_our_own_is_no_drip() -> None:
    """A modem of 3,000 bytes a second, and ten downloads: one of them comes off badly."""
    line = Line(least=100, window=10)
    with ExitStack() as stack:
        slow, *others = _arrivals(line, 10, stack)
        for second in range(1, 10):
            for other in others:
                assert not other.drips(300, 1.0, float(second))
            assert not slow.drips(50, 1.0, float(second))
        assert not slow.drips(50, 1.0, 10.0)


def test_a_body_that_drips_beside_fast_ones_is_not_excused_by_them() -> None:
    line = Line(least=100, window=10)
    with ExitStack() as stack:
        slow, *others = _arrivals(line, 3, stack)
        for second in range(1, 10):
            for other in others:
                other.drips(1_000_000, 1.0, float(second))
            slow.drips(50, 1.0, float(second))
        assert slow.drips(50, 1.0, 10.0)


def test_bodies_that_all_drip_do_not_excuse_each_other() -> None:
    line = Line(least=100, window=10)
    with ExitStack() as stack:
        bodies = _arrivals(line, 24, stack)
        verdicts = [body.drips(99, 10.0, 10.0) for body in bodies]
    assert all(verdicts)

import pytest

from mirror.aio.backoff import Backoff
from mirror.pull.fill.retries import Failure, RetryPolicy, Streak

POLICY = RetryPolicy(attempts=3, backoff=Backoff(first=1.0, most=8.0), longest_wait=60.0)


def _decide(
    failures: int, *, failure: Failure = Failure.BROKEN, has_begun: bool = True, wait: float = 0
) -> float | None:
    return POLICY.decide(failure, failures, has_begun=has_begun, wait=wait, roll=1.0)


def test_before_any_body_somebody_waits_for_an_answer_and_is_told() -> None:
    assert _decide(1, failure=Failure.REFUSED, has_begun=False) is None


def test_a_body_of_another_size_is_left_for_others_at_once() -> None:
    assert _decide(1, failure=Failure.ODD, has_begun=False) == 0


@pytest.mark.parametrize("failure", list(Failure))
def test_what_has_begun_is_tried_again_later_each_time_and_then_given_up(failure: Failure) -> None:
    assert [_decide(n, failure=failure) for n in (1, 2, 3)] == [1.0, 2.0, None]


def test_a_wait_that_upstream_asks_for_is_kept_up_to_what_readers_bear() -> None:
    assert _decide(1, wait=5) == 5
    assert _decide(1, wait=59) == 8
    assert _decide(1, wait=61) is None


def test_a_byte_ends_the_streak() -> None:
    streak = Streak(received=100)
    assert [streak.add(received) for received in (100, 100, 101, 101)] == [1, 2, 0, 1]


def test_less_than_enough_does_not_end_the_streak_of_what_drips() -> None:
    streak = Streak(received=100)
    assert [streak.add(received, enough=50) for received in (149, 198, 248, 297)] == [1, 2, 0, 1]

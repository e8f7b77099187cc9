from mirror.aio.backoff import Backoff
from mirror.sources.registry.health import Health

NOW = 1000.0


def _down(now: float = NOW) -> Health:
    """Down for a second from `now` on."""
    health = Health(Backoff(first=1, most=8))
    health.failed(now, roll=1, grave=True)
    return health


def test_one_answer_of_503_is_no_outage_but_three_in_a_row_are() -> None:
    health = Health()
    for _ in range(2):
        health.failed(NOW, roll=0, grave=False)
        assert health.is_up
        assert health.may_ask(NOW)
    health.failed(NOW, roll=0, grave=False)
    assert not health.is_up
    assert not health.may_ask(NOW)


def test_a_success_in_between_forgets_the_failures() -> None:
    health = Health()
    for _ in range(5):
        health.failed(NOW, roll=0, grave=False)
        health.failed(NOW, roll=0, grave=False)
        health.succeeded()
    assert health.may_ask(NOW)


def test_an_endpoint_that_cannot_be_reached_is_down_at_once() -> None:
    assert not _down().may_ask(NOW)
    assert _down().wait(NOW) == 1


def test_after_its_time_one_request_probes_and_the_others_are_spared() -> None:
    health = _down()
    assert health.wait(NOW + 1) == 0
    assert health.may_ask(NOW + 1)
    assert not health.may_ask(NOW + 1)
    health.succeeded()
    assert health.is_up
    assert health.may_ask(NOW + 1)


def test_nobody_needs_to_wait_longer_than_a_probe_takes_to_report() -> None:
    health = _down()
    assert health.may_ask(NOW + 1)
    assert health.wait(NOW + 1) == 0


def test_a_probe_that_never_reports_is_followed_by_another() -> None:
    health = _down()
    assert health.may_ask(NOW + 1)
    assert not health.may_ask(NOW + 5)
    assert health.may_ask(NOW + 60)


def test_each_probe_that_fails_doubles_the_wait_up_to_a_bound() -> None:
    health = _down()
    now, waits = NOW + 1, []
    for _ in range(5):
        assert health.may_ask(now)
        health.failed(now, roll=1, grave=True)
        waits.append(health.wait(now))
        now += waits[-1]
    assert waits == [2, 4, 8, 8, 8]


def test_a_pause_is_kept_though_the_endpoint_is_well() -> None:
    health = Health()
    health.pause(NOW + 30)
    health.pause(NOW + 10)
    health.succeeded()
    assert health.is_up
    assert not health.may_ask(NOW + 29)
    assert health.wait(NOW + 29) == 1
    assert health.may_ask(NOW + 30)


def test_waits_are_jittered_but_never_shorter_than_half() -> None:
    backoff = Backoff(first=4, most=30)
    assert [backoff.delay(1, roll=roll) for roll in (0, 0.5, 1)] == [2, 3, 4]
    assert backoff.delay(10_000, roll=1) == 30


def test_requests_that_fail_together_are_one_outage() -> None:
    """Ten were under way when the line broke: that is no reason to stay away ten times as long."""
    one, ten = Health(), Health()
    one.failed(0.0, roll=0.5, grave=True)
    for _ in range(10):
        ten.failed(0.0, roll=0.5, grave=True)
    assert ten.wait(0.0) == one.wait(0.0)
    assert ten.may_ask(ten.wait(0.0))
    ten.failed(1.0, roll=0.5, grave=True)  # the probe's counts
    assert ten.wait(1.0) > one.wait(0.0)

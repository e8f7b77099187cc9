from mirror.aio.backoff import Backoff
from mirror.sources.registry.health import Breaker, Health, Question, Quota, Trouble

NOW = 1000.0
PULL = Question(Quota.MANIFESTS, "app")
CHECK = Question(Quota.CHECKS, "app")
LAYER = Question(Quota.BLOBS, "app", "blobs/1")
OTHER_LAYER = Question(Quota.BLOBS, "app", "blobs/2")
TOKEN = Question(Quota.TOKENS, "app")
ELSEWHERE = Question(Quota.MANIFESTS, "other")


def _down(now: float = NOW) -> Breaker:
    """Down for a second from `now` on."""
    breaker = Breaker(Backoff(first=1, most=8))
    breaker.failed(now, roll=1, grave=True)
    return breaker


def _fail(health: Health, question: Question, *, times: int = 3) -> None:
    for _ in range(times):
        health.failed(question, Trouble.ERROR, NOW, roll=1)


def test_a_connection_that_breaks_tells_of_what_was_asked_and_not_of_the_endpoint() -> None:
    health = Health()
    for number in range(8):
        health.failed(PULL, Trouble.BROKEN, NOW, roll=1)
        assert health.may_ask(PULL, NOW) == (number < 2)
        assert health.may_ask(ELSEWHERE, NOW)
        assert health.may_ask(LAYER, NOW)
    assert health.is_up


# A breaker


def test_one_answer_of_503_is_no_outage_but_three_in_a_row_are() -> None:
    breaker = Breaker()
    for _ in range(2):
        breaker.failed(NOW, roll=0, grave=False)
        assert breaker.is_up
        assert breaker.lets_in(NOW)
    breaker.failed(NOW, roll=0, grave=False)
    assert not breaker.is_up
    assert not breaker.lets_in(NOW)


def test_a_success_in_between_forgets_the_failures() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(NOW, roll=0, grave=False)
        breaker.failed(NOW, roll=0, grave=False)
        assert breaker.is_up
        breaker.succeeded()
    assert breaker.lets_in(NOW)


def test_after_its_time_one_request_probes_and_the_others_are_spared() -> None:
    breaker = _down()
    assert breaker.wait(NOW) == 1
    assert breaker.wait(NOW + 1) == 0
    assert breaker.lets_in(NOW + 1)
    breaker.enter(NOW + 1)
    assert not breaker.lets_in(NOW + 1)
    assert breaker.wait(NOW + 1) == 0  # nobody needs to wait longer than it takes to report
    breaker.succeeded()
    assert breaker.is_up
    assert breaker.lets_in(NOW + 1)


def test_a_probe_that_never_reports_is_followed_by_another() -> None:
    breaker = _down()
    breaker.enter(NOW + 1)
    assert not breaker.lets_in(NOW + 5)
    assert breaker.lets_in(NOW + 60)


def test_each_probe_that_fails_doubles_the_wait_up_to_a_bound() -> None:
    breaker = _down()
    now, waits = NOW + 1, []
    for _ in range(5):
        assert breaker.lets_in(now)
        breaker.enter(now)
        breaker.failed(now, roll=1, grave=True)
        waits.append(breaker.wait(now))
        now += waits[-1]
    assert waits == [2, 4, 8, 8, 8]


def test_waits_are_jittered_but_never_shorter_than_half() -> None:
    backoff = Backoff(first=4, most=30)
    assert [backoff.delay(1, roll=roll) for roll in (0, 0.5, 1)] == [2, 3, 4]
    assert backoff.delay(10_000, roll=1) == 30


def test_requests_that_fail_together_are_one_outage() -> None:
    """Ten were under way when the line broke: that is no reason to stay away ten times as long."""
    one, ten = Breaker(), Breaker()
    one.failed(0.0, roll=0.5, grave=True)
    for _ in range(10):
        ten.failed(0.0, roll=0.5, grave=True)
    assert ten.wait(0.0) == one.wait(0.0)
    assert ten.lets_in(ten.wait(0.0))
    ten.enter(1.0)
    ten.failed(1.0, roll=0.5, grave=True)  # the probe's counts
    assert ten.wait(1.0) > one.wait(0.0)


# An endpoint


def test_a_quota_closes_what_it_counts_and_nothing_else() -> None:
    health = Health()
    health.pause(Quota.MANIFESTS, NOW + 30)
    health.pause(Quota.MANIFESTS, NOW + 10)
    health.succeeded(CHECK)
    assert not health.may_ask(PULL, NOW + 29)
    assert not health.may_ask(ELSEWHERE, NOW + 29)
    assert health.wait(PULL, NOW + 29) == 1
    assert all(health.may_ask(it, NOW) for it in (CHECK, LAYER, TOKEN))
    assert health.is_up
    assert health.may_ask(PULL, NOW + 30)


def test_storage_in_trouble_closes_the_one_thing_that_it_has() -> None:
    health = Health()
    health.pause_thing(LAYER, NOW + 30)
    assert not health.may_ask(LAYER, NOW)
    assert health.may_ask(OTHER_LAYER, NOW)
    assert health.may_ask(LAYER, NOW + 30)


def test_a_repository_that_always_fails_closes_itself_alone() -> None:
    health = Health()
    _fail(health, PULL, times=50)
    assert not health.may_ask(PULL, NOW)
    assert all(health.may_ask(it, NOW) for it in (CHECK, LAYER, TOKEN, ELSEWHERE))
    assert health.is_up


def test_errors_in_three_repositories_without_an_answer_are_the_endpoints() -> None:
    health = Health()
    for repository in ("a", "b", "c"):
        _fail(health, Question(Quota.BLOBS, repository), times=1)
    assert not health.is_up
    assert not health.may_ask(ELSEWHERE, NOW)


def test_errors_in_three_repositories_among_answers_to_others_are_not() -> None:
    health = Health()
    for repository in ("a", "b", "c") * 3:
        _fail(health, Question(Quota.BLOBS, repository), times=1)
        health.succeeded(ELSEWHERE)
    assert health.is_up
    assert not health.may_ask(Question(Quota.BLOBS, "a"), NOW)


def test_an_endpoint_that_cannot_be_reached_is_down_at_once() -> None:
    health = Health()
    health.failed(PULL, Trouble.UNREACHABLE, NOW, roll=1)
    assert not health.is_up
    assert not any(health.may_ask(it, NOW) for it in (PULL, CHECK, LAYER, ELSEWHERE))
    assert health.wait(PULL, NOW) == 1


def test_a_slow_answer_while_others_come_closes_that_kind_in_that_repository() -> None:
    health = Health()
    health.failed(PULL, Trouble.SLOW, NOW, roll=1)
    assert not health.may_ask(PULL, NOW)
    assert health.may_ask(ELSEWHERE, NOW)


def test_a_token_server_that_is_gone_closes_tokens_alone() -> None:
    health = Health()
    health.failed(TOKEN, Trouble.UNREACHABLE, NOW, roll=1)
    assert not health.may_ask(Question(Quota.TOKENS, "other"), NOW)
    assert health.may_ask(PULL, NOW)
    assert health.is_up


def test_an_error_from_v2_is_the_endpoints() -> None:
    health = Health()
    health.failed(None, Trouble.ERROR, NOW, roll=1)
    assert not health.may_ask(PULL, NOW)


def test_a_probe_that_meets_a_repository_in_trouble_lets_another_one_follow() -> None:
    health = Health()
    health.failed(PULL, Trouble.UNREACHABLE, NOW, roll=1)
    assert health.may_ask(PULL, NOW + 1)
    _fail(health, PULL, times=1)
    assert health.may_ask(ELSEWHERE, NOW + 1)


def test_what_is_remembered_of_repositories_is_bounded() -> None:
    health = Health()
    for number in range(10_000):
        _fail(health, Question(Quota.BLOBS, f"app{number}"))
        health.succeeded(ELSEWHERE)
    assert health.may_ask(Question(Quota.BLOBS, "app0"), NOW)  # forgotten
    assert not health.may_ask(Question(Quota.BLOBS, "app9999"), NOW)


def test_repositories_that_fail_with_answers_in_between_are_no_outage_of_the_registry() -> None:
    health = Health()
    for name in "abcdef":
        health.failed(Question(Quota.MANIFESTS, name), Trouble.ERROR, NOW, roll=1)
        assert health.is_up
        health.succeeded(ELSEWHERE)

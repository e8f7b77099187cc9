"""Rates of what grows."""

from mirror.control.rates import Rates


def test_a_rate_is_that_of_the_latest_samples() -> None:
    rates = Rates()
    for second, value in enumerate([0, 0, 0, 100, 200, 300, 400, 500]):
        rates.sample(second, {"a": value})
    assert rates.of("a") == 100


def test_who_has_just_come_or_gone_has_none() -> None:
    rates = Rates()
    rates.sample(0, {"old": 1})
    rates.sample(1, {"old": 2, "new": 7})
    assert rates.of("new") == 0
    assert rates.of("never") == 0


def test_what_is_counted_anew_is_not_negative() -> None:
    rates = Rates()
    rates.sample(0, {"a": 100})
    rates.sample(1, {"a": 0})
    assert rates.of("a") == 0

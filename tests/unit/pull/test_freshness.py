"""How long a tag's meaning is believed."""

import pytest

from mirror.pull.freshness import Freshness, Policy

POLICY = Policy(fresh_for=60, stale_for=3600)
CHECKED = 1000.0


@pytest.mark.parametrize(
    ("age", "worth"),
    [
        (0, Freshness.FRESH),
        (59.9, Freshness.FRESH),
        (60, Freshness.EXPIRED),
        (3599.9, Freshness.EXPIRED),
        (3600, Freshness.DEAD),
        (1e9, Freshness.DEAD),
        (-0.1, Freshness.EXPIRED),  # the clock was set back: ask, and fall back on it
        (-1e9, Freshness.EXPIRED),
    ],
)
def test_an_answer_ages(age: float, worth: Freshness) -> None:
    assert POLICY.decide(CHECKED, now=CHECKED + age) is worth


def test_tags_that_are_never_fresh_are_always_asked_for() -> None:
    assert Policy(0, 3600).decide(CHECKED, now=CHECKED) is Freshness.EXPIRED


def test_tags_that_are_never_stale_are_never_fallen_back_on() -> None:
    assert Policy(0, 0).decide(CHECKED, now=CHECKED) is Freshness.DEAD


def test_tags_that_are_fresh_for_longer_than_stale_are_fresh_all_the_same() -> None:
    assert Policy(3600, 60).decide(CHECKED, now=CHECKED + 100) is Freshness.FRESH


@pytest.mark.parametrize(
    ("age", "worth"), [(59, Freshness.FRESH), (60, Freshness.EXPIRED), (1e9, Freshness.EXPIRED)]
)
def test_what_was_imported_can_always_be_fallen_back_on(age: float, worth: Freshness) -> None:
    assert POLICY.decide(CHECKED, now=CHECKED + age, is_imported=True) is worth

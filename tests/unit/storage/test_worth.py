from itertools import pairwise

import pytest

from mirror.oci.digest import Digest, digest_of
from mirror.storage.worth import HALF_LIFE, asked, forgotten, rank, short_name

NOW = 1_800_000_000.0
DAY = 86_400.0
MIB = 2**20


def _score(*times: float) -> float:
    score = None
    for at in times:
        score = asked(score, at)
    assert score is not None
    return score


def test_what_was_asked_for_later_or_more_often_is_worth_more() -> None:
    once = _score(NOW)
    assert once < _score(NOW + 1) < _score(NOW, NOW) < _score(NOW, NOW + DAY)
    assert _score(NOW, NOW) == pytest.approx(once + 1)
    assert _score(*[NOW] * 8) == pytest.approx(once + 3)


def test_times_that_come_in_another_order_make_no_difference() -> None:
    assert _score(NOW, NOW - 9 * DAY, NOW + DAY) == pytest.approx(
        _score(NOW + DAY, NOW, NOW - 9 * DAY), abs=1e-9
    )


def test_what_was_asked_for_a_second_apart_keeps_its_order_though_often_asked_for() -> None:
    scores = [_score(*[NOW - DAY] * 100, NOW + second) for second in range(100)]
    assert all(one < other for one, other in pairwise(scores))


def test_what_was_popular_long_ago_goes_before_what_is_asked_for_now() -> None:
    popular = _score(*[NOW] * 16)
    assert _score(NOW + 3.9 * HALF_LIFE) < popular < _score(NOW + 4.1 * HALF_LIFE)


def test_manifests_go_last_but_not_for_ever() -> None:
    manifest = rank(_score(NOW), 2_000)
    assert rank(_score(NOW + 10 * HALF_LIFE), 100 * MIB) < manifest
    assert rank(_score(NOW + 13 * HALF_LIFE), 100 * MIB) > manifest


def test_of_what_was_asked_for_alike_the_largest_goes_first() -> None:
    ranks = [rank(_score(NOW), size) for size in (0, 1, 4096, MIB, 100 * MIB, 2**40)]
    assert all(one >= other for one, other in pairwise(ranks))


def test_what_is_large_and_slow_to_fetch_is_worth_more() -> None:
    score = _score(NOW)
    assert rank(score, 100 * MIB, 0, 0, 4.0) > rank(score, 100 * MIB) + 1.5
    assert rank(score, 1_000, 0, 0, 4.0) == pytest.approx(rank(score, 1_000), abs=0.01)


def test_what_is_superseded_or_broken_counts_less() -> None:
    score = _score(NOW)
    whole = rank(score, MIB)
    broken, superseded, both = rank(score, MIB, 0, 1), rank(score, MIB, 1), rank(score, MIB, 1, 1)
    assert both < superseded < broken < whole
    assert superseded > rank(_score(NOW - 5 * HALF_LIFE), MIB)  # and goes after what is older


def test_a_score_is_forgotten_when_it_would_hardly_count() -> None:
    before = _score(NOW)
    later = NOW + 6.1 * HALF_LIFE
    assert before < forgotten(later)
    assert asked(before, later) - asked(None, later) < 0.03


@pytest.mark.parametrize("digest", [digest_of(b"1"), Digest("sha512", "f" * 128)])
def test_a_short_name_fits_into_a_row(digest: Digest) -> None:
    assert -(2**63) <= short_name(digest) < 2**63

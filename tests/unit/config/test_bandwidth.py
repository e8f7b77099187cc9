"""`max_bandwidth` by the time of day."""

from datetime import datetime
from typing import Any

import pytest

from mirror.config import ConfigError, parse
from mirror.config.bandwidth import Bandwidth, parse_bandwidth

WORK = {"from": "08:00", "to": "20:00", "limit": "2 MB"}
NIGHT = {"from": "23:00", "to": "05:30", "limit": "10 MB"}


def at(bandwidth: Bandwidth, hour: int, minute: int = 0) -> int | None:
    now = datetime(2026, 11, 27, hour, minute)  # noqa: DTZ001 - local time is what is meant
    return bandwidth.at(now.timestamp())


def document(value: Any) -> dict[str, Any]:
    return {"upstream": {"ghcr.io": {"endpoints": [{"url": "https://a", "max_bandwidth": value}]}}}


def test_one_size_is_for_all_day() -> None:
    assert [at(parse_bandwidth("10 MB"), hour) for hour in (0, 12)] == [10_000_000, 10_000_000]


def test_a_span_begins_with_its_minute_and_ends_before_the_last() -> None:
    work = parse_bandwidth([WORK])
    assert [at(work, 7, 59), at(work, 8), at(work, 19, 59)] == [None, 2_000_000, 2_000_000]
    assert at(work, 20) is None, "where nothing is said there is no limit"


def test_a_span_may_go_on_after_midnight() -> None:
    both = parse_bandwidth([WORK, NIGHT])
    assert [at(both, 22, 59), at(both, 23), at(both, 0)] == [None, 10_000_000, 10_000_000]
    assert [at(both, 5, 29), at(both, 5, 30), at(both, 8)] == [10_000_000, None, 2_000_000]


def test_a_whole_day_has_24_hours() -> None:
    day = parse_bandwidth([{"from": "00:00", "to": "24:00", "limit": "1 MB"}])
    assert {at(day, hour, 59) for hour in range(24)} == {1_000_000}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "max_bandwidth: is empty"),
        ("0 B", "max_bandwidth: must be more than zero"),
        (10, "max_bandwidth: not a size"),
        ([WORK | {"limit": "0 B"}], "max_bandwidth: [0].limit: must be more than zero"),
        ([WORK | {"limit": 3}], "[0].limit: not a size"),
        ([WORK, {"from": "21:00", "limit": "1 MB"}], "[1] has from, to and limit"),
        ([WORK | {"days": "mon"}], "[0] has from, to and limit, and nothing else"),
        ([WORK | {"to": "8pm"}], "[0] has a time that is none"),
        ([WORK | {"from": "24:00"}], "[0] has a time that is none"),
        ([WORK | {"to": "08:00"}], "[0] is no time at all"),
        ([WORK, NIGHT | {"to": "08:01"}], "[0] and [1] both hold at 08:00"),
        (["2 MB"], "[0] has from, to and limit"),
    ],
)
def test_what_cannot_be_meant_is_told(value: Any, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(document(value))
    assert words in str(error.value)


@pytest.mark.parametrize("value", ["10 MB", [WORK, NIGHT]])
def test_it_is_shown_as_it_was_written(value: Any) -> None:
    shown = parse(document(value)).redacted()
    assert shown["upstream"]["ghcr.io"]["endpoints"][0]["max_bandwidth"] == value
    assert parse(shown) == parse(document(value))

"""When things are done by the clock on the wall."""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from mirror.config.cron import parse_times

BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"  # summer time: the last Sundays of March and October


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", BERLIN)
        time.tzset()
        yield
    time.tzset()


def local(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("times", "after", "wanted"),
    [
        ("30 3 * * *", "2026-11-26 03:29:59", "2026-11-26 03:30"),
        ("30 3 * * *", "2026-11-26 03:30:00", "2026-11-27 03:30"),
        ("*/15 8-18 * * *", "2026-11-26 18:45:00", "2026-11-27 08:00"),
        ("5/20 * * * *", "2026-11-26 00:06", "2026-11-26 00:25"),
        ("0 0 * * mon-FRI", "2026-11-27 00:00", "2026-11-30 00:00"),
        ("0 0 * * 7", "2026-11-26 00:00", "2026-11-29 00:00"),
        ("0 0 1,15 * *", "2026-11-26 00:00", "2026-12-01 00:00"),
        ("0 0 13 * fri", "2026-11-26 00:00", "2026-11-27 00:00"),  # either of them
        ("0 0 29 2 *", "2026-11-26 00:00", "2028-02-29 00:00"),
        ("0 0 1 jan *", "2026-11-26 00:00", "2027-01-01 00:00"),
        ("@daily", "2026-11-26 00:00", "2026-11-27 00:00"),
        ("59 23 31 12 *", "2026-12-31 23:59", "2027-12-31 23:59"),
    ],
)
def test_the_next_time_is_the_first_after(times: str, after: str, wanted: str) -> None:
    assert parse_times(times).next_after(local(after)) == local(wanted)


def test_a_time_that_summer_time_skips_is_done_by_as_much_later() -> None:
    at = parse_times("30 2 * * *").next_after(local("2026-03-28 12:00"))
    assert at == local("2026-03-29 03:30")
    assert parse_times("30 2 * * *").next_after(at) == local("2026-03-30 02:30")


def test_of_an_hour_that_comes_twice_the_first_counts() -> None:
    times = parse_times("30 2 * * *")
    first = times.next_after(local("2026-10-24 12:00"))
    assert first == datetime.fromisoformat("2026-10-25T02:30+02:00").timestamp()
    assert times.next_after(first) == local("2026-10-26 02:30")


@pytest.mark.parametrize(
    "text",
    ["", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *",
     "* * * * 8", "5-1 * * * *", "*/0 * * * *", "a * * * *", "1,, * * * *", "-1 * * * *",
     "*-5 * * * *", "0 0 30 2 *", "0 0 31 4,6 *", "@never", 5],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_times(text)


@given(
    st.integers(0, 59), st.integers(0, 23), st.integers(0, 4),
    st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)),  # noqa: DTZ001
)  # fmt: skip
def test_the_next_time_is_one_that_is_named_and_no_earlier_one_is_left_out(
    minute: int, hour: int, weekday: int, after: datetime
) -> None:
    at = parse_times(f"{minute} {hour} * * {weekday}").next_after(after.timestamp())
    found = datetime.fromtimestamp(at)  # noqa: DTZ006
    assert at > after.timestamp()
    assert found - after <= timedelta(days=7, hours=2)
    assert found.minute == minute
    assert found.hour in {hour, hour + 1}  # where summer time skips it
    assert found.isoweekday() % 7 == weekday

import pytest

from mirror.sources.registry.headers import parse_retry_after

DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("header", "date", "seconds"),
    [
        ("120", None, 120),
        (" 0 ", None, 0),
        ("Wed, 21 Oct 2026 07:30:00 GMT", DATE, 120),
        ("Wed, 21 Oct 2026 07:00:00 GMT", DATE, 0),
        ("Wed, 21 Oct 2026 07:30:00 GMT", None, None),
        ("Wed, 21 Oct 2026 07:30:00 -0000", DATE, None),
        ("985.86µs", DATE, None),
        ("-5", DATE, None),
        ("", DATE, None),
        (None, DATE, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_by_the_servers_own_clock(
    header: str | None, date: str | None, seconds: float | None
) -> None:
    assert parse_retry_after(header, date=date) == seconds

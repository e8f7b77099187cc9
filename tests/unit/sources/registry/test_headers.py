from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from mirror.sources.registry.headers import (
    field_value,
    parse_next_query,
    parse_quota,
    parse_retry_after,
    parse_window,
)

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


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("9" * 5000, 7 * 86400),
        ("Wed, 21 Oct 9999 07:30:00 GMT", 7 * 86400),
        ("Mon, 01 Jan 100000000000000000000 00:00:00 GMT", None),
        ("1e999", None),
        ("\udcff", None),
    ],
)
def test_a_wait_that_nobody_can_mean_is_bounded_or_none(header: str, seconds: float | None) -> None:
    assert parse_retry_after(header, date=DATE) == seconds


@pytest.mark.parametrize(
    ("header", "number"),
    [
        ("76;w=21600", 76),
        (" 76 ", 76),
        ("0", 0),
        (None, None),
        ("", None),
        ("-1", None),
        ("\u00b2", None),
        ("9" * 400, None),
        ("9" * 5000, None),
    ],
)
def test_a_quota_is_a_number_or_nothing(header: str | None, number: int | None) -> None:
    assert parse_quota(header) == number


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("76;w=21600", 21600), ("76; W=60 ;x=1", 60), ("76", None), ("76;w=", None),
        ("76;w=-1", None), (None, None), ("76;w=999999999999", 7 * 86400),
    ],
)  # fmt: skip
def test_a_window_is_seconds_or_nothing(header: str | None, seconds: float | None) -> None:
    assert parse_window(header) == seconds


@pytest.mark.parametrize(
    ("header", "query"),
    [
        ('</v2/a/tags/list?n=2&last=b>; rel="next"', {"n": "2", "last": "b"}),
        ("<http://h/x?last=b%2Bc>;rel=next", {"last": "b+c"}),
        ('<a?p=1>; rel="prev", <a?p=3>; REL = "last NEXT"', {"p": "3"}),
        ('<a?p=1>; title="a, <b>; rel=next"; rel=prev', None),
        ("</x>; rel=next", {}),
        ("<a?p=1>", None),
        ("<a?p=1; rel=next", None),
        ("", None),
        (None, None),
        ("<>;" * 3000, None),
        ("<" * 9000, None),
        ('<a>;"' * 2000, None),
    ],
)
def test_the_next_page_is_where_the_link_says(
    header: str | None, query: dict[str, str] | None
) -> None:
    assert parse_next_query(header) == query


@pytest.mark.parametrize("target", ["http://[", "http://a\udcff/?n=1"])
def test_a_next_page_at_no_address_is_an_error(target: str) -> None:
    with pytest.raises(ValueError, match=r"URL|address"):
        parse_next_query(f"<{target}>; rel=next")


@pytest.mark.parametrize("text", ["", None, "a\nb", "a\x00", "\x7f", "caf\u00e9", "\udcff"])
def test_only_what_may_stand_in_a_header_is_handed_on(text: str | None) -> None:
    assert field_value(text) is None
    assert field_value('Bearer realm="a b"') == 'Bearer realm="a b"'


@given(st.text(max_size=300), st.text(max_size=60))
def test_whatever_a_header_holds_reading_it_ends_well(header: str, date: str) -> None:
    wait = parse_retry_after(header, date=date)
    assert wait is None or 0 <= wait <= 7 * 86400
    assert (parse_quota(header) or 0) >= 0
    with suppress(ValueError):
        parse_next_query(header)

import pytest

from mirror.oci.errors import RangeNotSatisfiable
from mirror.oci.ranges import ByteRange, ContentRange, parse_content_range, parse_range


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-499", (0, 500)),
        ("bytes=500-999", (500, 1000)),
        ("bytes=9500-", (9500, 10000)),
        ("bytes=0-", (0, 10000)),
        ("bytes=-500", (9500, 10000)),
        ("bytes=-10000", (0, 10000)),
        ("bytes=-10001", (0, 10000)),
        ("bytes=9999-9999", (9999, 10000)),
        ("bytes=0-10000", (0, 10000)),
        ("bytes=5000-9999999999999999999", (5000, 10000)),
        ("Bytes=0-1", (0, 2)),
        ("bytes= 0-1 ", (0, 2)),
        ("bytes=007-008", (7, 9)),
    ],
)
def test_each_single_range_of_rfc_9110_is_resolved(header: str, span: tuple[int, int]) -> None:
    requested = parse_range(header)
    assert requested is not None
    assert requested.resolve(10000) == span


@pytest.mark.parametrize("header", ["bytes=10000-", "bytes=10000-10001", "bytes=-0"])
def test_a_range_outside_the_content_is_not_satisfiable_and_tells_the_size(header: str) -> None:
    requested = parse_range(header)
    assert requested is not None
    with pytest.raises(RangeNotSatisfiable) as caught:
        requested.resolve(10000)
    assert caught.value.size == 10000


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1"])
def test_nothing_can_be_a_range_of_empty_content(header: str) -> None:
    requested = parse_range(header)
    assert requested is not None
    with pytest.raises(RangeNotSatisfiable):
        requested.resolve(0)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=1",
        "bytes=2-1",
        "bytes=0-1,3-4",
        "bytes=0-1, -1",
        "bytes=--1",
        "bytes=+1-2",
        "bytes=1.0-2",
        "bytes=0x1-0x2",
        "bytes =0-1",
        "bytes=0 - 1",
        "bytes=\u0660-\u0661",
        "byte\u017f=0-1",
        "items=0-1",
        "0-1",
        "bytes=0-1\r\nX: y",
        "bytes=" + "9" * 5000 + "-",
    ],
)
def test_any_other_range_is_ignored_and_the_whole_content_sent(header: str | None) -> None:
    assert parse_range(header) is None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes 0-0/1", ContentRange(0, 1, 1)),
        ("bytes 0-499/1234", ContentRange(0, 500, 1234)),
        ("bytes 734-1233/1234", ContentRange(734, 1234, 1234)),
        ("bytes 42-1233/*", ContentRange(42, 1234, None)),
        (" Bytes 42-1233/1234 ", ContentRange(42, 1234, 1234)),
    ],
)
def test_what_a_206_carries_is_read(header: str, expected: ContentRange) -> None:
    assert parse_content_range(header) == expected


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes */1234",
        "bytes 1-0/10",
        "bytes 0-10/10",
        "bytes 0-9",
        "bytes=0-9/10",
        "bytes 0-9/",
        "bytes 0-9/10 11",
        "bytes -9/10",
        "items 0-9/10",
        "bytes \u0660-\u0669/10",
    ],
)
def test_a_206_that_makes_no_sense_carries_nothing_usable(header: str | None) -> None:
    assert parse_content_range(header) is None


def test_an_empty_byte_range_means_everything() -> None:
    assert ByteRange().resolve(10) == (0, 10)

import pytest
from hypothesis import example, given, strategies as st

from mirror.config.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0 B", 0),
        ("1 B", 1),
        ("1KB", 1000),
        ("64 KiB", 65536),
        ("1.5 GiB", 3 * 2**29),
        (" 100 GB ", 10**11),
        ("2 TiB", 2**41),
        ("1 TB", 10**12),
        ("1 MB", 10**6),
    ],
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "GiB",
        "-1 B",
        "1 gib",
        "1 G",
        "1,5 GB",
        "1e3 B",
        "\u0663 B",
        "9" * 400 + " B",
        7,
        None,
    ],
)
def test_anything_else_is_not_a_size(text: object) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("500ms", 0.5),
        ("30s", 30),
        ("1.5m", 90),
        ("1m30s", 90),
        ("12h", 43200),
        (" 30d ", 2592000),
    ],
)
def test_a_duration_is_numbers_with_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "1", "s", "-1s", "1 m", "1m 30s", "1S", "1y", "\u0663s", 7, 1.5]
)
def test_anything_else_is_not_a_duration(text: object) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@given(st.integers(0, 2**59))
@example(2**59 - 1)
def test_a_size_is_written_so_that_it_is_read_again(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**11))
def test_a_duration_is_written_so_that_it_is_read_again(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000

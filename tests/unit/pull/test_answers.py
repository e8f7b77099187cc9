"""How much of a blob on its way may be sent, and to whom."""

import pytest

from mirror.pull.answers import Progress


@pytest.mark.parametrize(
    ("written", "size", "stop", "limit"),
    [
        (60, 100, 100, 60),
        (100, 100, 100, 99),  # the last byte of the blob waits for the proof
        (100, 100, 50, 50),  # ... and not that of a range
        (40, 100, 50, 40),
        (60, None, None, 60),  # nobody knows where it ends
        (60, 100, None, 60),
        (100, 100, None, 99),
    ],
)
def test_so_much_may_be_sent_before_the_proof(
    written: int, size: int | None, stop: int | None, limit: int
) -> None:
    assert Progress(written, size, is_proved=False).limit(stop) == limit


@pytest.mark.parametrize(("stop", "limit"), [(50, 49), (100, 99), (None, 99)])
def test_where_wrong_bytes_came_before_the_last_byte_of_any_range_waits_too(
    stop: int | None, limit: int
) -> None:
    assert Progress(100, 100, is_proved=False, is_doubted=True).limit(stop) == limit


def test_what_is_proved_may_be_sent_to_its_end() -> None:
    assert Progress(100, 100, is_proved=True, is_doubted=True).limit(100) == 100
    assert Progress(100, 100, is_proved=True).limit(None) == 100

import asyncio

import pytest

from mirror.oci.errors import (
    Denied,
    DigestMismatch,
    ErrorCode,
    Missing,
    RegistryError,
    StoreError,
    Unavailable,
)
from mirror.pull.fill.crew import Rested
from mirror.pull.fill.ends import is_continued, outcome_of
from mirror.storage.errors import NoRoom, TooLarge
from mirror.telemetry.metrics import FillOutcome

DENIED = Denied(ErrorCode.DENIED, "no")
MISSING = Missing(ErrorCode.BLOB_UNKNOWN, "no such blob")


@pytest.mark.parametrize(
    ("error", "outcome", "is_kept"),
    [
        (Unavailable("no answer"), FillOutcome.UNAVAILABLE, True),
        (Rested(), FillOutcome.RESTED, True),
        (MISSING, FillOutcome.MISSING, True),
        (DENIED, FillOutcome.DENIED, True),
        (DigestMismatch("another blob"), FillOutcome.MISMATCH, False),
        (NoRoom("full"), FillOutcome.NO_ROOM, False),
        (TooLarge("ever"), FillOutcome.NO_ROOM, False),
        (StoreError("read-only"), FillOutcome.FAILED, False),
    ],
)
def test_what_ends_a_fill_says_what_it_counts_as_and_whether_it_is_continued(
    error: RegistryError, outcome: FillOutcome, *, is_kept: bool
) -> None:
    assert outcome_of(error) is outcome
    assert is_continued(error, has_received=True) is is_kept


def test_a_fill_that_found_no_room_leaves_what_others_have_left() -> None:
    assert is_continued(NoRoom("full"), has_received=False)


def test_who_is_stopped_is_continued_and_a_fault_is_not() -> None:
    assert is_continued(asyncio.CancelledError(), has_received=True)
    assert not is_continued(ValueError("a fault"), has_received=True)

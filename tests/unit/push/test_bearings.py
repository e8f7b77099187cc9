"""Where a course stands with a registry, and what is tried where it gets no further."""

import pytest

from mirror.oci.errors import ErrorCode, Refused
from mirror.pull.fill.retries import RetryPolicy
from mirror.push.bearings import Bearings
from mirror.push.caution import Caution
from mirror.sources.targets import Standing

MIB = 2**20
SIZE = 12 * MIB
TOO_LARGE = Refused(413, "too large", [{"code": "SIZE_INVALID", "message": "too large"}])
WRONG = Refused(400, "wrong", [{"code": ErrorCode.DIGEST_INVALID, "message": "wrong"}])
NO_PART = Refused(400, "no", [{"code": "UNSUPPORTED", "message": "no"}])


def bearings(offset: int | None = 0, *, attempts: int = 3) -> tuple[Bearings, Caution]:
    caution = Caution()
    at = None if offset is None else Standing("https://hub.example/upload", offset)
    return Bearings(caution, RetryPolicy(attempts), at, must_ask=False), caution


def test_what_was_forgotten_begins_anew_with_less_at_once() -> None:
    course, caution = bearings()
    course.sent, course.must_ask = 8 * MIB, True
    assert course.begin_anew(now=0)
    assert (course.standing, course.sent, course.must_ask) == (None, 0, False)
    assert caution.at(1) == 4 * MIB


def test_what_is_forgotten_again_and_again_is_given_up() -> None:
    course, _ = bearings(attempts=2)
    for _ in range(2):
        assert course.begin_anew(now=0)
        course.found(Standing("https://hub.example/next", 0))
    assert not course.begin_anew(now=0)


def test_where_a_request_is_too_large_less_is_sent_from_where_it_was() -> None:
    course, caution = bearings(2 * MIB)
    course.sent = 10 * MIB
    assert course.refused(TOO_LARGE, size=SIZE, now=0)
    assert (course.offset, caution.at(1)) == (2 * MIB, 4 * MIB)


def test_where_less_helps_no_more_it_is_refused() -> None:
    course, caution = bearings(2 * MIB, attempts=100)
    course.sent = 2 * MIB + 1
    assert course.refused(TOO_LARGE, size=SIZE, now=0)
    assert not course.refused(TOO_LARGE, size=SIZE, now=0)
    assert caution.at(1) == 2**16


@pytest.mark.parametrize("error", [WRONG, NO_PART])
def test_what_takes_no_part_of_a_blob_is_sent_all_of_it(error: Refused) -> None:
    course, caution = bearings()
    course.resumed(Standing("https://hub.example/upload", 4 * MIB))
    assert course.refused(error, size=SIZE, now=0)
    assert (course.standing, course.sent) == (None, 0)
    assert caution.takes_no_parts


def test_what_was_sent_at_once_and_is_refused_is_the_clients_own_fault() -> None:
    course, _ = bearings(SIZE)
    assert not course.refused(WRONG, size=SIZE, now=0)
    course, _ = bearings(0)
    assert not course.refused(NO_PART, size=SIZE, now=0)


def test_a_refusal_of_what_has_not_begun_is_a_refusal() -> None:
    course, _ = bearings(None)
    assert not course.refused(NO_PART, size=SIZE, now=0)
    assert not course.begin_anew(now=0)


def test_what_breaks_without_getting_further_is_given_up_for_now() -> None:
    course, _ = bearings(attempts=3)
    waits = [course.broke(retry_after=0, roll=0.5) for _ in range(5)]
    assert waits[0] is not None
    assert None in waits
    assert course.must_ask


def test_what_gets_further_each_time_is_never_given_up() -> None:
    course, _ = bearings(attempts=3)
    for number in range(50):
        assert course.broke(retry_after=0, roll=0.5) is not None
        course.resumed(Standing("https://hub.example/upload", (number + 1) * MIB))

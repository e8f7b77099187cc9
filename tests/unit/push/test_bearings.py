"""Where a course stands with a registry, and what is tried where it gets no further."""

from collections.abc import Iterator

import pytest

from mirror.oci.errors import ErrorCode, Refused, RegistryError
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
        course.found(Standing("https://hub.example/next", 0), now=0)
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
    course.resumed(Standing("https://hub.example/upload", 4 * MIB), now=0)
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
        course.resumed(Standing("https://hub.example/upload", (number + 1) * MIB), now=0)


def push(course: Bearings, caution: Caution, size: int, *, kept: int, cut: bool) -> Iterator[int]:
    """Send a blob to whoever keeps so many bytes of each request; gives what each has cost."""
    while course.offset < size:
        stands = Standing("https://hub.example/upload", course.offset)
        course.sending(stands)
        course.sent = min(size, stands.offset + (caution.at(0) or size))
        yield course.sent - stands.offset
        there = Standing(stands.location, min(course.sent, stands.offset + kept))
        if cut:
            assert course.broke(retry_after=0, roll=0.5) is not None
            course.resumed(there, now=0)
        else:
            course.found(there, now=0)


@pytest.mark.parametrize(("size", "kept"), [(20_000, 1), (300_000, 100), (SIZE, 1), (SIZE, 8000)])
@pytest.mark.parametrize("cut", [True, False])
def test_what_gets_a_few_bytes_further_each_time_ends(size: int, kept: int, *, cut: bool) -> None:
    sent = list[int]()
    with pytest.raises(RegistryError, match="keeps too little"):
        sent.extend(push(*bearings(), size, kept=kept, cut=cut))
    assert sum(sent) <= max(2 * MIB, 6 * size)


@pytest.mark.parametrize("kept", [2**15, 2**16 - 300, 2**20, 2**23])
@pytest.mark.parametrize("cut", [True, False])
def test_a_line_that_is_cut_again_and_again_costs_a_few_times_the_blob(
    kept: int, *, cut: bool
) -> None:
    assert sum(push(*bearings(), 5 * SIZE, kept=kept, cut=cut)) <= 5 * 5 * SIZE


def test_an_outage_before_it_gets_a_little_further_does_not_end_it() -> None:
    course, _ = bearings(attempts=8)
    at = Standing("https://hub.example/upload")
    for _ in range(7):
        course.sending(at)
        course.sent = SIZE
        assert course.broke(retry_after=0, roll=0.5) is not None
        course.resumed(at, now=0)
    course.sent = SIZE
    course.resumed(Standing(at.location, MIB), now=0)
    assert course.offset == MIB


def test_who_has_left_says_nothing_of_the_line_but_what_is_cut_after_that_does() -> None:
    course, caution = bearings()
    course.sending(Standing("https://hub.example/upload", 0))
    course.sent = 8 * MIB
    course.left()
    assert course.begin_anew(now=0)
    assert caution.at(0) == 0
    assert course.was_left
    course.found(Standing("https://hub.example/next", 0), now=0)
    course.sending(Standing("https://hub.example/next", 0))
    course.sent = 8 * MIB
    assert course.begin_anew(now=0)
    assert caution.at(0) == 4 * MIB

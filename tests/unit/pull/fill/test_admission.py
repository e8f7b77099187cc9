from collections.abc import AsyncGenerator

import pytest

from mirror.oci.digest import Chunk
from mirror.pull.fill.admission import SMALL, Admission
from mirror.pull.fill.sizes import Sizes
from mirror.sources.ports import Body
from tests.support.memory_source import MemorySender

LITTLE = 2**16  # bytes that somebody may send in a blob's place


async def _unread() -> AsyncGenerator[Chunk, None]:
    for _ in range(0):
        yield b""


def _admits(
    admission: Admission,
    told: int | None,
    *,
    promised: int | None = None,
    written: int = 0,
    is_from_elsewhere: bool = False,
) -> bool:
    """Take a body, whatever others have sent before it."""
    sizes = Sizes(promised)
    sizes.begin(told)
    body = Body(
        0, told, told, _unread(), MemorySender("a"),
        is_range=False, is_from_elsewhere=is_from_elsewhere,
    )  # fmt: skip
    return admission.admits(body, sizes, written=written)


@pytest.mark.parametrize(
    ("promised", "told"), [(None, 5), (5, 5), (None, None), (5, None), (SMALL, SMALL + 1)]
)
def test_readers_are_let_in_with_the_first_body(promised: int | None, told: int | None) -> None:
    admission = Admission(was_given_up=False)
    assert _admits(admission, told, promised=promised)
    assert not admission.is_pending


@pytest.mark.parametrize(("promised", "told"), [(5, 7), (SMALL + 1, SMALL), (None, 0)])
def test_what_may_be_a_login_page_or_is_nothing_waits_for_its_proof(
    promised: int | None, told: int
) -> None:
    admission = Admission(was_given_up=False)
    assert not _admits(admission, told, promised=promised)
    assert not admission.is_pending, "more bytes prove nothing"


def test_very_little_from_elsewhere_waits_for_more_or_its_proof() -> None:
    admission = Admission(was_given_up=False)
    assert not _admits(admission, None, is_from_elsewhere=True)
    assert not admission.admits_after(LITTLE)
    assert admission.is_pending
    assert admission.admits_after(LITTLE + 1)
    assert _admits(admission, None, written=LITTLE, is_from_elsewhere=True), "they are in"
    assert not admission.is_pending


def test_much_from_elsewhere_is_as_good_as_from_anywhere() -> None:
    assert _admits(Admission(was_given_up=False), LITTLE + 1, is_from_elsewhere=True)
    assert not _admits(Admission(was_given_up=False), LITTLE, is_from_elsewhere=True)
    admission = Admission(was_given_up=False)
    assert _admits(admission, None, written=LITTLE + 1, is_from_elsewhere=True)


def test_what_elsewhere_has_begun_is_no_better_for_who_goes_on_with_it() -> None:
    admission = Admission(was_given_up=False)
    assert not _admits(admission, None, is_from_elsewhere=True)
    assert not _admits(admission, None, written=5)
    assert admission.admits_after(LITTLE + 1)


def test_after_a_fill_that_was_given_up_readers_wait_for_the_first_new_byte() -> None:
    admission = Admission(was_given_up=True)
    assert not _admits(admission, 5)
    assert not _admits(admission, 5), "it may break as the one before"
    assert admission.is_pending
    assert admission.admits_after(1)
    assert _admits(admission, 5)
    assert not admission.is_pending


def test_news_after_a_fill_that_was_given_up_is_no_proof_of_what_comes_from_elsewhere() -> None:
    admission = Admission(was_given_up=True)
    assert not _admits(admission, None)
    assert not _admits(admission, None, is_from_elsewhere=True)
    assert not admission.admits_after(1)
    assert admission.admits_after(LITTLE + 1)


def test_what_turns_out_to_be_more_waits_after_a_fill_that_was_given_up_for_news_alone() -> None:
    admission = Admission(was_given_up=True)
    assert not _admits(admission, None, is_from_elsewhere=True)
    assert not _admits(admission, LITTLE + 1)
    assert admission.admits_after(1)

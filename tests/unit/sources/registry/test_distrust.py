"""When a digest is given up for which something else was sent."""

import pytest

from mirror.oci.digest import Digest, digest_of
from mirror.oci.errors import ErrorCode, Missing
from mirror.sources.registry.blobs import Distrust
from tests.support.clock import FakeClock

ONE, OTHER = digest_of(b"one"), digest_of(b"other")


def has_hope(distrust: Distrust, *names: str) -> bool:
    try:
        distrust.require_hope(ONE, names, unknown=ErrorCode.BLOB_UNKNOWN)
    except Missing:
        return False
    return True


@pytest.mark.parametrize(
    ("lies", "hope"),
    [
        ([], True),
        ([(ONE, "a")], True),  # a bit may have flipped on its way
        ([(OTHER, "a"), (OTHER, "a")], True),
        ([(ONE, "a"), (ONE, "a")], False),
        ([(ONE, "a"), (OTHER, "a")], False),  # not under two digests
        ([(ONE, "a"), (OTHER, "b")], True),
    ],
)
def test_two_lies_of_one_endpoint_are_believed_under_whatever_digests(
    lies: list[tuple[Digest, str]], *, hope: bool
) -> None:
    distrust = Distrust(FakeClock())
    for digest, name in lies:
        distrust.note(digest, [name], is_disproved=True)
    assert has_hope(distrust, "a") == hope


def test_there_is_hope_while_one_endpoint_has_not_lied() -> None:
    distrust = Distrust(FakeClock())
    for digest in (ONE, OTHER):
        distrust.note(digest, ["a"], is_disproved=True)
    assert has_hope(distrust, "a", "b")
    assert not has_hope(distrust, "a")


def test_a_length_that_was_not_expected_is_no_proof_of_a_lie() -> None:
    distrust = Distrust(FakeClock())
    for digest in (ONE, OTHER):
        distrust.note(digest, ["a"], is_disproved=False)
    assert has_hope(distrust, "a")

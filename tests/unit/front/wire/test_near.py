"""What a worker tells again without asking: only what it may, only for so long, only so much."""

import math
from dataclasses import replace

import pytest

from mirror.front.wire.near import Near
from mirror.oci.digest import digest_of
from mirror.oci.manifest import OCI_MANIFEST, Manifest
from mirror.oci.reference import Reference, Repository, Tag
from mirror.pull.answers import HIT, STALE, STORED, ManifestAnswer, Outcome
from mirror.pull.routing import Route
from tests.support.clock import FakeClock

ALPINE = Route(Repository("docker.io", "library/alpine"), "mirror")
OTHER = Route(Repository("ghcr.io", "library/alpine"), "mirror")
PERSONAL = Route(Repository("docker.io", "library/alpine"), "client")
TAG = Tag("3.20")
CONTENT = b"content"
DIGEST = digest_of(CONTENT)


@pytest.fixture
def near(clock: FakeClock) -> Near:
    return Near(100_000, clock=clock)


def answer(content: bytes = CONTENT, *, good_until: float = math.inf) -> ManifestAnswer:
    manifest = Manifest(digest_of(content), OCI_MANIFEST, content)
    return ManifestAnswer(manifest, STORED, good_until)


def found(near: Near, reference: Reference = TAG, route: Route = ALPINE) -> bytes | None:
    kept = near.find_manifest(route, reference)
    return None if kept is None else kept.manifest.content


def test_a_tag_is_told_again_until_its_time_is_over_and_not_a_moment_longer(
    near: Near, clock: FakeClock
) -> None:
    near.keep_manifest(ALPINE, TAG, answer(good_until=clock() + 60))
    assert found(near) == CONTENT
    clock.advance(59.5)
    assert found(near) == CONTENT
    clock.advance(0.5)
    assert found(near) is None


def test_what_has_been_asked_for_again_is_good_for_as_long_as_the_new_answer_says(
    near: Near, clock: FakeClock
) -> None:
    near.keep_manifest(ALPINE, TAG, answer(good_until=clock() + 60))
    clock.advance(60)
    near.keep_manifest(ALPINE, TAG, answer(b"moved", good_until=clock() + 60))
    clock.advance(59)
    assert found(near) == b"moved"


def test_when_the_clock_was_set_back_the_mirror_is_asked(near: Near, clock: FakeClock) -> None:
    near.keep_manifest(ALPINE, TAG, answer(good_until=clock() + 60))
    clock.advance(-3600)
    assert found(near) is None
    near.keep_manifest(ALPINE, TAG, answer(good_until=clock() + 60))
    clock.advance(61)
    assert found(near) is None


def test_a_digest_is_good_for_ever(near: Near, clock: FakeClock) -> None:
    near.keep_manifest(ALPINE, DIGEST, answer())
    clock.advance(10 * 365 * 86400)
    assert found(near, DIGEST) == CONTENT


@pytest.mark.parametrize("outcome", [STORED, STALE])
def test_what_is_told_again_is_a_hit_however_it_was_had(
    near: Near, clock: FakeClock, outcome: Outcome
) -> None:
    near.keep_manifest(ALPINE, TAG, replace(answer(), outcome=outcome))
    kept = near.find_manifest(ALPINE, TAG)
    assert kept is not None
    assert kept.outcome is HIT


def test_an_answer_that_is_good_for_now_only_is_not_kept(near: Near, clock: FakeClock) -> None:
    """As every answer is that a client's own authorization has opened."""
    good_for_now = ManifestAnswer(answer().manifest, STORED)
    for route in (ALPINE, PERSONAL):
        for reference in (TAG, DIGEST):
            near.keep_manifest(route, reference, good_for_now)
            near.keep_manifest(route, reference, replace(good_for_now, good_until=clock()))
            assert found(near, reference, route) is None


def test_a_blob_is_kept_unless_each_clients_own_authorization_decides(near: Near) -> None:
    near.keep_blob(ALPINE, DIGEST, CONTENT)
    near.keep_blob(PERSONAL, DIGEST, CONTENT)
    assert near.find_blob(ALPINE, DIGEST) == CONTENT
    assert near.find_blob(PERSONAL, DIGEST) is None


def test_what_one_repository_has_another_does_not(near: Near) -> None:
    near.keep_manifest(ALPINE, TAG, answer())
    near.keep_blob(ALPINE, DIGEST, CONTENT)
    assert found(near, TAG, OTHER) is None
    assert near.find_blob(OTHER, DIGEST) is None


def test_a_manifest_is_no_blob_of_the_same_digest_nor_the_other_way_round(near: Near) -> None:
    near.keep_manifest(ALPINE, DIGEST, answer())
    assert near.find_blob(ALPINE, DIGEST) is None
    other = digest_of(b"other")
    near.keep_blob(ALPINE, other, b"other")
    assert found(near, other) is None
    near.keep_blob(ALPINE, DIGEST, CONTENT)
    assert (found(near, DIGEST), near.find_blob(ALPINE, DIGEST)) == (CONTENT, CONTENT)


def test_an_empty_blob_is_a_blob(near: Near) -> None:
    near.keep_blob(ALPINE, digest_of(b""), b"")
    assert near.find_blob(ALPINE, digest_of(b"")) == b""


def test_it_takes_no_more_than_its_size_and_the_least_recently_used_goes(
    clock: FakeClock,
) -> None:
    near = Near(30_000, clock=clock)
    contents = [bytes([number]) * 9_000 for number in range(3)]
    first, second, third = (digest_of(content) for content in contents)
    near.keep_blob(ALPINE, first, contents[0])
    near.keep_manifest(ALPINE, second, answer(contents[1]))
    assert near.find_blob(ALPINE, first) is not None  # used
    near.keep_blob(ALPINE, third, contents[2])
    assert near.find_blob(ALPINE, first) == contents[0]
    assert found(near, second) is None
    assert near.find_blob(ALPINE, third) == contents[2]


def test_small_things_count_for_more_than_their_content(clock: FakeClock) -> None:
    near = Near(10_000, clock=clock)
    digests = [digest_of(b"%d" % number) for number in range(1000)]
    for digest in digests:
        near.keep_blob(ALPINE, digest, b"")
    assert 0 < sum(near.find_blob(ALPINE, digest) is not None for digest in digests) < 20


def test_what_is_larger_than_everything_pushes_nothing_out(near: Near) -> None:
    near.keep_blob(ALPINE, DIGEST, CONTENT)
    large = bytes(100_000)
    near.keep_blob(ALPINE, digest_of(large), large)
    near.keep_manifest(ALPINE, TAG, answer(large))
    assert near.find_blob(ALPINE, digest_of(large)) is None
    assert found(near) is None
    assert near.find_blob(ALPINE, DIGEST) == CONTENT


def test_what_is_not_kept_pushes_nothing_out(clock: FakeClock) -> None:
    near = Near(10_000, clock=clock)
    near.keep_blob(ALPINE, DIGEST, CONTENT)
    for number in range(10):
        near.keep_manifest(ALPINE, Tag(f"{number}"), answer(bytes(5000), good_until=clock()))
    assert near.find_blob(ALPINE, DIGEST) == CONTENT


def test_nothing_is_at_hand_where_there_is_no_room(clock: FakeClock) -> None:
    near = Near(0, clock=clock)
    near.keep_blob(ALPINE, DIGEST, CONTENT)
    near.keep_manifest(ALPINE, TAG, answer())
    assert (near.find_blob(ALPINE, DIGEST), found(near)) == (None, None)


def test_what_was_served_from_here_is_told_once(near: Near, clock: FakeClock) -> None:
    expired, unused = digest_of(b"expired"), digest_of(b"unused")
    near.keep_manifest(ALPINE, TAG, answer())
    near.keep_manifest(ALPINE, Tag("old"), answer(b"expired", good_until=clock() + 1))
    near.keep_blob(ALPINE, digest_of(b"blob"), b"blob")
    near.keep_blob(ALPINE, unused, b"unused")
    assert near.take_used() == set()
    clock.advance(1)
    for _ in range(3):
        assert found(near) == CONTENT
        assert found(near, Tag("old")) is None
        assert near.find_blob(ALPINE, digest_of(b"blob")) == b"blob"
    used = near.take_used()
    assert used == {DIGEST, digest_of(b"blob")}
    assert not used & {expired, unused}
    assert near.take_used() == set()

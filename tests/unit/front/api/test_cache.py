"""What a worker tells again without asking: only what it may, only for so long, only so much."""

import math
from dataclasses import replace

import pytest

from mirror.front.api.cache import Cache
from mirror.oci.digest import Digest, digest_of
from mirror.oci.manifest import OCI_MANIFEST, Manifest
from mirror.oci.reference import Reference, Repository, Tag
from mirror.pull.answers import HIT, STALE, STORED, ManifestAnswer, Outcome
from mirror.pull.forget import Forgettable, Moved, TagOf
from tests.support.clock import FakeClock

ALPINE = Repository("docker.io", "library/alpine")
OTHER = Repository("ghcr.io", "library/alpine")
TAG = Tag("3.20")
CONTENT = b"content"
DIGEST = digest_of(CONTENT)


@pytest.fixture
def cache(clock: FakeClock) -> Cache:
    return Cache(100_000, clock=clock)


def answer(content: bytes = CONTENT, *, good_until: float = math.inf) -> ManifestAnswer:
    manifest = Manifest(digest_of(content), OCI_MANIFEST, content)
    return ManifestAnswer(manifest, STORED, good_until)


def keep_manifest(
    cache: Cache, repository: Repository, reference: Reference, answer: ManifestAnswer
) -> None:
    cache.keep_manifest(repository, reference, answer, cache.generation)


def keep_blob(cache: Cache, repository: Repository, digest: Digest, content: bytes) -> None:
    cache.keep_blob(repository, digest, content, cache.generation)


def found(
    cache: Cache, reference: Reference = TAG, repository: Repository = ALPINE
) -> bytes | None:
    kept = cache.find_manifest(repository, reference)
    return None if kept is None else kept.manifest.content


def test_a_tag_is_told_again_until_its_time_is_over_and_not_a_moment_longer(
    cache: Cache, clock: FakeClock
) -> None:
    keep_manifest(cache, ALPINE, TAG, answer(good_until=clock() + 60))
    assert found(cache) == CONTENT
    clock.advance(59.5)
    assert found(cache) == CONTENT
    clock.advance(0.5)
    assert found(cache) is None


def test_what_has_been_asked_for_again_is_good_for_as_long_as_the_new_answer_says(
    cache: Cache, clock: FakeClock
) -> None:
    keep_manifest(cache, ALPINE, TAG, answer(good_until=clock() + 60))
    clock.advance(60)
    keep_manifest(cache, ALPINE, TAG, answer(b"moved", good_until=clock() + 60))
    clock.advance(59)
    assert found(cache) == b"moved"


def test_when_the_clock_was_set_back_the_mirror_is_asked(cache: Cache, clock: FakeClock) -> None:
    keep_manifest(cache, ALPINE, TAG, answer(good_until=clock() + 60))
    clock.advance(-3600)
    assert found(cache) is None
    keep_manifest(cache, ALPINE, TAG, answer(good_until=clock() + 60))
    clock.advance(61)
    assert found(cache) is None


def test_a_digest_is_good_for_ever(cache: Cache, clock: FakeClock) -> None:
    keep_manifest(cache, ALPINE, DIGEST, answer())
    clock.advance(10 * 365 * 86400)
    assert found(cache, DIGEST) == CONTENT


@pytest.mark.parametrize("outcome", [STORED, STALE])
def test_what_is_told_again_is_a_hit_however_it_was_had(
    cache: Cache, clock: FakeClock, outcome: Outcome
) -> None:
    keep_manifest(cache, ALPINE, TAG, replace(answer(), outcome=outcome))
    kept = cache.find_manifest(ALPINE, TAG)
    assert kept is not None
    assert kept.outcome is HIT


def test_an_answer_that_is_good_for_now_only_is_not_kept(cache: Cache, clock: FakeClock) -> None:
    """As every answer is that a client's own authorization has opened."""
    good_for_now = ManifestAnswer(answer().manifest, STORED)
    for reference in (TAG, DIGEST):
        keep_manifest(cache, ALPINE, reference, good_for_now)
        keep_manifest(cache, ALPINE, reference, replace(good_for_now, good_until=clock()))
        assert found(cache, reference) is None


def test_a_blob_is_kept(cache: Cache) -> None:
    keep_blob(cache, ALPINE, DIGEST, CONTENT)
    assert cache.find_blob(ALPINE, DIGEST) == CONTENT


def test_what_one_repository_has_another_does_not(cache: Cache) -> None:
    keep_manifest(cache, ALPINE, TAG, answer())
    keep_blob(cache, ALPINE, DIGEST, CONTENT)
    assert found(cache, TAG, OTHER) is None
    assert cache.find_blob(OTHER, DIGEST) is None


def test_a_manifest_is_no_blob_of_the_same_digest_nor_the_other_way_round(cache: Cache) -> None:
    keep_manifest(cache, ALPINE, DIGEST, answer())
    assert cache.find_blob(ALPINE, DIGEST) is None
    other = digest_of(b"other")
    keep_blob(cache, ALPINE, other, b"other")
    assert found(cache, other) is None
    keep_blob(cache, ALPINE, DIGEST, CONTENT)
    assert (found(cache, DIGEST), cache.find_blob(ALPINE, DIGEST)) == (CONTENT, CONTENT)


def test_an_empty_blob_is_a_blob(cache: Cache) -> None:
    keep_blob(cache, ALPINE, digest_of(b""), b"")
    assert cache.find_blob(ALPINE, digest_of(b"")) == b""


def test_it_takes_no_more_than_its_size_and_the_least_recently_used_goes(
    clock: FakeClock,
) -> None:
    cache = Cache(30_000, clock=clock)
    contents = [bytes([number]) * 9_000 for number in range(3)]
    first, second, third = (digest_of(content) for content in contents)
    keep_blob(cache, ALPINE, first, contents[0])
    keep_manifest(cache, ALPINE, second, answer(contents[1]))
    assert cache.find_blob(ALPINE, first) is not None  # used
    keep_blob(cache, ALPINE, third, contents[2])
    assert cache.find_blob(ALPINE, first) == contents[0]
    assert found(cache, second) is None
    assert cache.find_blob(ALPINE, third) == contents[2]


def test_small_things_count_for_more_than_their_content(clock: FakeClock) -> None:
    cache = Cache(10_000, clock=clock)
    digests = [digest_of(b"%d" % number) for number in range(1000)]
    for digest in digests:
        keep_blob(cache, ALPINE, digest, b"")
    assert 0 < sum(cache.find_blob(ALPINE, digest) is not None for digest in digests) < 20


def test_what_is_larger_than_everything_pushes_nothing_out(cache: Cache) -> None:
    keep_blob(cache, ALPINE, DIGEST, CONTENT)
    large = bytes(100_000)
    keep_blob(cache, ALPINE, digest_of(large), large)
    keep_manifest(cache, ALPINE, TAG, answer(large))
    assert cache.find_blob(ALPINE, digest_of(large)) is None
    assert found(cache) is None
    assert cache.find_blob(ALPINE, DIGEST) == CONTENT


def test_what_is_not_kept_pushes_nothing_out(clock: FakeClock) -> None:
    cache = Cache(10_000, clock=clock)
    keep_blob(cache, ALPINE, DIGEST, CONTENT)
    for number in range(10):
        keep_manifest(cache, ALPINE, Tag(f"{number}"), answer(bytes(5000), good_until=clock()))
    assert cache.find_blob(ALPINE, DIGEST) == CONTENT


def test_nothing_is_at_hand_where_there_is_no_room(clock: FakeClock) -> None:
    cache = Cache(0, clock=clock)
    keep_blob(cache, ALPINE, DIGEST, CONTENT)
    keep_manifest(cache, ALPINE, TAG, answer())
    assert (cache.find_blob(ALPINE, DIGEST), found(cache)) == (None, None)


def test_what_was_served_from_here_is_told_once(cache: Cache, clock: FakeClock) -> None:
    expired, unused = digest_of(b"expired"), digest_of(b"unused")
    keep_manifest(cache, ALPINE, TAG, answer())
    keep_manifest(cache, ALPINE, Tag("old"), answer(b"expired", good_until=clock() + 1))
    keep_blob(cache, ALPINE, digest_of(b"blob"), b"blob")
    keep_blob(cache, ALPINE, unused, b"unused")
    assert cache.take_used() == set()
    clock.advance(1)
    for _ in range(3):
        assert found(cache) == CONTENT
        assert found(cache, Tag("old")) is None
        assert cache.find_blob(ALPINE, digest_of(b"blob")) == b"blob"
    used = cache.take_used()
    assert used == {DIGEST, digest_of(b"blob")}
    assert not used & {expired, unused}
    assert cache.take_used() == set()


# Forgetting


@pytest.mark.parametrize(
    ("what", "left"),
    [
        (DIGEST, {"other tag"}),
        (TagOf(ALPINE, TAG), {"digest", "blob", "other tag"}),
        (Moved(ALPINE, TAG), {"digest", "blob", "other tag"}),
        (TagOf(OTHER, TAG), {"tag", "digest", "blob", "other tag"}),
        (ALPINE, set()),
        (OTHER, {"tag", "digest", "blob", "other tag"}),
    ],
)
def test_what_is_forgotten_is_not_told_again_and_the_rest_is(
    cache: Cache, what: Forgettable, left: set[str]
) -> None:
    keep_manifest(cache, ALPINE, TAG, answer())
    keep_manifest(cache, ALPINE, DIGEST, answer())
    keep_manifest(cache, ALPINE, Tag("3.19"), answer(b"other"))
    keep_blob(cache, ALPINE, DIGEST, CONTENT)
    cache.forget(what)
    kept = {
        "tag": found(cache),
        "digest": found(cache, DIGEST),
        "other tag": found(cache, Tag("3.19")),
        "blob": cache.find_blob(ALPINE, DIGEST),
    }
    assert {name for name, content in kept.items() if content is not None} == left


def test_an_answer_that_was_asked_for_before_something_was_forgotten_is_not_kept(
    cache: Cache,
) -> None:
    generation = cache.generation
    cache.forget(DIGEST)
    cache.keep_manifest(ALPINE, TAG, answer(), generation)
    cache.keep_blob(ALPINE, DIGEST, CONTENT, generation)
    assert (found(cache), cache.find_blob(ALPINE, DIGEST)) == (None, None)
    keep_manifest(cache, ALPINE, TAG, answer())
    assert found(cache) == CONTENT

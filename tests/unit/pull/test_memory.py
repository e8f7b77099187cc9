"""What is kept in memory, within bounds."""

import pytest

from mirror.oci.digest import digest_of
from mirror.oci.errors import Denied, ErrorCode, Missing, Unavailable
from mirror.oci.manifest import OCI_MANIFEST, Manifest
from mirror.oci.reference import Repository, Tag
from mirror.pull.forget import Forgettable, Moved, TagOf
from mirror.pull.memory import Memory
from mirror.records.ports import Link, TagRecord
from mirror.sources.registry.endpoint import Scope
from tests.support.clock import FakeClock

ALPINE = Repository("docker.io", "library/alpine")
OTHER = Repository("ghcr.io", "library/alpine")
DIGEST = digest_of(b"x")
CONFIRMED = Link(1, is_confirmed=True, is_sent=False)


def memory(clock: FakeClock, size: int = 10_000) -> Memory:
    return Memory(size, missing_for=10, clock=clock.monotonic)


def test_a_manifest_is_a_blob_too_but_a_blob_is_no_manifest(clock: FakeClock) -> None:
    kept = memory(clock)
    manifest = Manifest(DIGEST, OCI_MANIFEST, b"manifest")
    kept.keep_manifest("docker.io", manifest)
    other = digest_of(b"y")
    kept.keep_blob(other, b"blob")
    assert kept.find_manifest("docker.io", DIGEST) == manifest
    assert kept.find_blob(DIGEST) == b"manifest"
    assert kept.find_blob(other) == b"blob"
    assert kept.find_manifest("docker.io", other) is None


def test_what_one_upstream_calls_a_manifest_is_not_what_another_does(clock: FakeClock) -> None:
    kept = memory(clock)
    kept.keep_manifest("evil.example", Manifest(DIGEST, "text/html", b"manifest"))
    assert kept.find_manifest("docker.io", DIGEST) is None
    kept.keep_manifest("docker.io", Manifest(DIGEST, OCI_MANIFEST, b"manifest"))
    for upstream, media_type in (("docker.io", OCI_MANIFEST), ("evil.example", "text/html")):
        found = kept.find_manifest(upstream, DIGEST)
        assert found is not None
        assert found.media_type == media_type


def test_content_takes_no_more_than_its_size_and_the_least_recently_used_goes(
    clock: FakeClock,
) -> None:
    kept = memory(clock, size=5000)
    digests = [digest_of(bytes([number])) for number in range(10)]
    for digest in digests[:3]:
        kept.keep_blob(digest, bytes(1000))
    assert kept.find_blob(digests[0]) is not None  # used
    kept.keep_blob(digests[3], bytes(1000))
    assert [kept.find_blob(digest) is not None for digest in digests[:4]] == [
        True,
        False,
        True,
        True,
    ]


def test_what_is_larger_than_everything_pushes_nothing_out(clock: FakeClock) -> None:
    kept = memory(clock, size=2000)
    kept.keep_blob(DIGEST, b"small")
    kept.keep_blob(digest_of(b"y"), bytes(2000))
    assert kept.find_blob(DIGEST) == b"small"


def test_a_cache_of_nothing_keeps_nothing(clock: FakeClock) -> None:
    kept = memory(clock, size=0)
    kept.keep_blob(DIGEST, b"")
    assert kept.find_blob(DIGEST) is None


def test_links_and_tags_belong_to_one_repository(clock: FakeClock) -> None:
    kept = memory(clock)
    link = Link(0, is_confirmed=True, is_sent=False)
    kept.keep_link(ALPINE, DIGEST, link)
    kept.keep_tag(ALPINE, "1", TagRecord(DIGEST, 5.0))
    assert kept.find_link(ALPINE, DIGEST) == link
    assert kept.find_link(OTHER, DIGEST) is None
    assert kept.find_tag(ALPINE, "1") == TagRecord(DIGEST, 5.0)
    assert kept.find_tag(OTHER, "1") is None


def test_who_has_sent_something_while_the_others_were_read_is_not_lost(clock: FakeClock) -> None:
    kept = memory(clock)
    kept.add_senders(DIGEST, frozenset({"docker.io"}))
    assert kept.add_senders(DIGEST, frozenset()) == {"docker.io"}
    assert kept.find_senders(DIGEST) == frozenset({"docker.io"})


def ask(kept: Memory, what: str = "manifest 1", error: Exception | None = None) -> None:
    with kept.remembering_missing(Scope(ALPINE), what):
        if error is not None:
            raise error


def missing() -> Missing:
    return Missing(ErrorCode.MANIFEST_UNKNOWN, "not there")


def test_what_is_missing_is_not_asked_for_again_until_its_time_is_over(clock: FakeClock) -> None:
    kept = memory(clock)
    with pytest.raises(Missing) as first:
        ask(kept, error=missing())
    assert not first.value.is_remembered
    clock.advance(9.9)
    with pytest.raises(Missing) as second:
        ask(kept)
    assert second.value.is_remembered
    assert second.value.code is ErrorCode.MANIFEST_UNKNOWN
    clock.advance(0.2)
    ask(kept)


def test_what_is_missing_is_not_missing_for_longer_when_the_clock_is_set_back(
    clock: FakeClock,
) -> None:
    kept = memory(clock)
    with pytest.raises(Missing):
        ask(kept, error=missing())
    clock.set_back(3600)
    clock.advance(10.1)
    ask(kept)


def test_what_is_missing_is_missing_for_its_kind_repository_and_client(
    clock: FakeClock,
) -> None:
    kept = memory(clock)
    with pytest.raises(Missing):
        ask(kept, f"manifest {DIGEST}", missing())
    ask(kept, f"blob {DIGEST}")
    with kept.remembering_missing(Scope(OTHER), f"manifest {DIGEST}"):
        pass
    with kept.remembering_missing(Scope(ALPINE, "Bearer anna"), f"manifest {DIGEST}"):
        pass  # what one client may not see, another may


def test_an_outage_is_not_remembered(clock: FakeClock) -> None:
    kept = memory(clock)
    with pytest.raises(Unavailable):
        ask(kept, error=Unavailable("down"))
    ask(kept)


def test_a_denial_of_the_mirror_is_remembered_until_its_credentials_change(
    clock: FakeClock,
) -> None:
    version = "old"
    kept = Memory(10_000, missing_for=10, clock=clock.monotonic, credentials=lambda _: version)
    what = f"manifest {DIGEST}"
    with pytest.raises(Denied), kept.remembering_missing(Scope(ALPINE), what):
        raise Denied(ErrorCode.DENIED, "no")
    with pytest.raises(Denied), kept.remembering_missing(Scope(ALPINE), what):
        pytest.fail("upstream is asked again")
    version = "new"
    with kept.remembering_missing(Scope(ALPINE), what):
        pass


def test_a_denial_of_one_client_is_not_remembered(clock: FakeClock) -> None:
    kept, scope = memory(clock), Scope(ALPINE, "Bearer anna")
    with pytest.raises(Denied), kept.remembering_missing(scope, "tag"):
        raise Denied(ErrorCode.DENIED, "no")
    with kept.remembering_missing(scope, "tag"):
        pass


@pytest.mark.parametrize(
    ("what", "left"),
    [
        (DIGEST, {"other link", "other tag", "missing"}),
        (TagOf(ALPINE, Tag("1")), {"content", "link", "other link", "other tag"}),
        (Moved(ALPINE, Tag("1")), {"content", "link", "other link", "other tag"}),
        (ALPINE, {"content", "other link", "other tag"}),
        (OTHER, {"content", "link", "tag", "missing"}),
    ],
)
def test_what_is_forgotten_is_gone_and_the_rest_stays(
    clock: FakeClock, what: Forgettable, left: set[str]
) -> None:
    kept = memory(clock)
    other = digest_of(b"y")
    kept.keep_blob(DIGEST, b"x")
    kept.keep_link(ALPINE, DIGEST, CONFIRMED)
    kept.keep_link(OTHER, other, CONFIRMED)
    kept.keep_tag(ALPINE, "1", TagRecord(DIGEST, 5.0))
    kept.keep_tag(OTHER, "1", TagRecord(other, 5.0))
    asking = Scope(ALPINE)

    def is_missing() -> bool:
        try:
            with kept.remembering_missing(asking, "manifest 1"):
                return False
        except Missing:
            return True

    with pytest.raises(Missing), kept.remembering_missing(asking, "manifest 1"):
        raise Missing(ErrorCode.MANIFEST_UNKNOWN, "not yet")
    kept.forget(what)
    there = {
        "content": kept.find_blob(DIGEST) is not None,
        "link": kept.find_link(ALPINE, DIGEST) is not None,
        "other link": kept.find_link(OTHER, other) is not None,
        "tag": kept.find_tag(ALPINE, "1") is not None,
        "other tag": kept.find_tag(OTHER, "1") is not None,
        "missing": is_missing(),
    }
    assert {name for name, is_there in there.items() if is_there} == left


def test_what_is_under_way_when_another_mirror_learns_of_a_tag_is_kept(clock: FakeClock) -> None:
    memory = Memory(1000, missing_for=1.0, clock=clock)
    before = memory.generation
    memory.forget(Moved(ALPINE, Tag("1")))
    assert memory.generation == before
    memory.forget(TagOf(ALPINE, Tag("1")))
    assert memory.generation != before

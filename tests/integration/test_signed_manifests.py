"""Signed manifests (schema 1): what old Quay, Artifactory and Nexus still hold."""

import pytest

from tests.conftest import StartMirror
from tests.support.clock import FakeClock
from tests.support.images import digest_of
from tests.support.signed import Signed, signed
from tests.support.upstream import Repository, ScriptedRegistry

SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
LAYER = b"a layer of 2016"


@pytest.fixture
def old(upstream: ScriptedRegistry) -> Signed:
    """What upstream answers to every GET of a manifest."""
    made = signed(digest_of(LAYER))
    upstream.repositories["library/old"] = Repository(blobs={digest_of(LAYER): LAYER})
    answer(upstream, made.content, made.digest)
    return made


def answer(upstream: ScriptedRegistry, content: bytes, digest: str, said: str = SIGNED) -> None:
    headers = {"Content-Type": said, "Docker-Content-Digest": digest}
    for kind in ("tag", "manifest"):
        upstream.fault(kind=kind, status=200, body=content, headers=headers)


@pytest.mark.parametrize("said", [SIGNED, "application/json", "text/plain; charset=utf-8"])
async def test_a_signed_manifest_is_passed_on_under_the_digest_of_its_payload(
    upstream: ScriptedRegistry, start_mirror: StartMirror, old: Signed, clock: FakeClock, said: str
) -> None:
    upstream.faults.clear()
    answer(upstream, old.content, old.digest, said)
    mirror = await start_mirror()
    for reference in ("1", old.digest, "1", old.digest):
        got = await mirror.client.manifest("old", reference)
        assert (got.status, got.body) == (200, old.content)
        assert got.headers["Docker-Content-Digest"] == old.digest
        assert got.headers["Content-Type"] == SIGNED
        clock.advance(61)
    assert (await mirror.client.blob("old", digest_of(LAYER))).body == LAYER


async def test_a_signed_manifest_whose_digest_upstream_does_not_name_is_known_by_its_payload(
    upstream: ScriptedRegistry, start_mirror: StartMirror, old: Signed
) -> None:
    upstream.faults.clear()
    upstream.fault(kind="tag", status=200, body=old.content)
    mirror = await start_mirror()
    got = await mirror.client.manifest("old", "1")
    assert (got.body, got.headers["Docker-Content-Digest"]) == (old.content, old.digest)


async def test_bytes_that_their_digest_does_not_hash_are_not_kept_as_a_blob(
    upstream: ScriptedRegistry, start_mirror: StartMirror, old: Signed
) -> None:
    mirror = await start_mirror()
    assert (await mirror.client.manifest("old", "1")).headers["Cache-Status"] == "mirror; fwd=miss"
    assert await mirror.metric("mirror_store_blobs") == 0
    assert (await mirror.client.blob("old", old.digest)).status == 404


async def test_a_payload_of_another_digest_is_a_mismatch(
    upstream: ScriptedRegistry, start_mirror: StartMirror, old: Signed
) -> None:
    upstream.faults.clear()
    answer(upstream, old.content.replace(b"library/old", b"library/new"), old.digest)
    mirror = await start_mirror()
    for reference in ("1", old.digest):
        assert (await mirror.client.manifest("old", reference)).status == 502

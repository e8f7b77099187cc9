"""What clients that are in no package here send, one request after another, as they were seen to.

containerd 2.x: core/remotes/docker/fetcher.go and referrers.go, and the traffic in its issues 12291
and 12476. Docker 29 with containerd's image store: daemon/containerd (image_pull.go, resolver.go).
"""

import asyncio
import json

import pytest

from tests.conftest import StartMirror
from tests.support.client import Answer
from tests.support.images import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Image,
    artifact,
    image,
    index,
    random_layer,
)
from tests.support.mirror import InnerMirror
from tests.support.upstream import ScriptedRegistry

CONTAINERD = "containerd/v2.1.4"
DOCKER = "docker/29.0.0 go/go1.25.4 git-commit/d105562 kernel/6.12 os/linux arch/amd64"

RESOLVES = {
    "Accept": "application/vnd.docker.distribution.manifest.v2+json,"
    " application/vnd.docker.distribution.manifest.list.v2+json,"
    " application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*"
}
DECODES = {"Accept-Encoding": "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"}

CHUNK = 300_000  # concurrent_layer_fetch_buffer
PARALLEL = 4  # max_concurrent_downloads
BIG = image(random_layer(8 * CHUNK + 1234, seed=301), random_layer(50, seed=302), docker=True)
ATTESTED = image(random_layer(1000, seed=303))
PROVENANCE = artifact(b"provenance", subject=ATTESTED)
SIGNATURE = artifact(b"bundle", subject=PROVENANCE)
REPOSITORY = "library/app"


async def resolved(mirror: InnerMirror, agent: str, reference: str) -> Answer:
    target = f"/v2/{REPOSITORY}/manifests/{reference}?ns=docker.io"
    return await mirror.client.head(target, headers=RESOLVES | {"User-Agent": agent})


async def fetched(
    mirror: InnerMirror, agent: str, kind: str, digest: str, media_type: str, *, ranged: bool
) -> Answer:
    """As containerd's fetcher; with parallel downloads, it asks for a range of everything."""
    headers = DECODES | {"Accept": f"{media_type}, */*", "User-Agent": agent}
    if ranged:
        headers["Range"] = "bytes=0-"
    return await mirror.client.get(
        f"/v2/{REPOSITORY}/{kind}/{digest}?ns=docker.io", headers=headers
    )


async def in_parallel(mirror: InnerMirror, digest: str, size: int) -> bytes:
    """The first request asks for all; others begin at each chunk. None is read beyond its chunk.

    Chunks are read in turn: the later ones wait with their head read, and are closed early.
    """
    starts = list(range(0, size, CHUNK))
    turns = [asyncio.Event() for _ in [*starts, size]]
    turns[0].set()
    places = asyncio.Semaphore(PARALLEL)

    async def chunk(number: int, start: int) -> bytes:
        headers = DECODES | {"User-Agent": CONTAINERD, "Range": f"bytes={start}-"}
        target = f"/v2/{REPOSITORY}/blobs/{digest}?ns=docker.io"
        wanted = min(CHUNK, size - start)
        async with places, mirror.client.open(target, headers=headers) as response:
            assert response.status == 206
            assert response.headers["Content-Range"] == f"bytes {start}-{size - 1}/{size}"
            assert "Content-Encoding" not in response.headers
            await turns[number].wait()
            content = await response.content.readexactly(wanted)
            turns[number + 1].set()
            if start + wanted < size:
                response.close()
            return content

    return b"".join(await asyncio.gather(*(chunk(i, start) for i, start in enumerate(starts))))


async def pulled_in_parallel(mirror: InnerMirror, wanted: Image) -> None:
    head = await resolved(mirror, CONTAINERD, "1")
    assert head.status == 200
    assert head.headers["Docker-Content-Digest"] == wanted.digest
    assert int(head.headers["Content-Length"]) == len(wanted.manifest)
    assert head.headers["Content-Type"] == DOCKER_MANIFEST
    manifest = await fetched(
        mirror, CONTAINERD, "manifests", wanted.digest, DOCKER_MANIFEST, ranged=True
    )
    # Without a Content-Range it must be all of it: containerd goes by Content-Length then.
    assert "Content-Range" not in manifest.headers or manifest.status == 206
    assert int(manifest.headers["Content-Length"]) == len(wanted.manifest)
    assert manifest.body == wanted.manifest
    config = await fetched(mirror, CONTAINERD, "blobs", wanted.config, "x/y", ranged=True)
    assert config.body == wanted.blobs[wanted.config]
    for layer in wanted.layers:
        content = wanted.blobs[layer]
        assert await in_parallel(mirror, layer, len(content)) == content


async def test_containerd_2_in_parallel_closes_open_ended_ranges_early_and_upstream_sends_it_once(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    upstream.add(BIG, REPOSITORY, "1")
    mirror = await start_mirror()
    await pulled_in_parallel(mirror, BIG)
    await mirror.until_metric("mirror_fills_active", 0)
    for digest, content in BIG.blobs.items():
        assert upstream.bytes_sent(digest) == len(content)
    upstream.forget()
    await pulled_in_parallel(mirror, BIG)
    assert not upstream.asked("blob")


async def test_containerd_2_goes_on_where_a_body_of_ours_was_cut(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    upstream.add(BIG, REPOSITORY, "1")
    mirror = await start_mirror()
    layer = BIG.layers[0]
    target, size = f"/v2/{REPOSITORY}/blobs/{layer}?ns=docker.io", len(BIG.blobs[layer])
    agent = DECODES | {"User-Agent": CONTAINERD}
    async with mirror.client.open(target, headers=agent) as response:
        got = await response.content.readexactly(100_000)
        response.close()
    rest = await mirror.client.get(target, headers=agent | {"Range": "bytes=100000-"})
    assert rest.headers["Content-Range"].startswith("bytes 100000-")
    assert got + rest.body == BIG.blobs[layer]
    assert int(rest.headers["Content-Length"]) == size - 100_000


async def test_containerd_looks_for_a_digest_among_blobs_and_then_among_manifests(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    upstream.add(BIG, REPOSITORY, "1")
    mirror = await start_mirror()
    found = []
    for kind in ("blobs", "manifests"):
        target = f"/v2/{REPOSITORY}/{kind}/{BIG.digest}?ns=docker.io"
        found.append(await mirror.client.head(target, headers={"Accept": "*/*"}))
    assert [answer.status for answer in found] == [404, 200]
    assert int(found[1].headers["Content-Length"]) == len(BIG.manifest)


@pytest.mark.parametrize("has_referrers", [True, False])
async def test_docker_29_pulls_an_image_with_what_attests_and_signs_it(
    upstream: ScriptedRegistry, start_mirror: StartMirror, *, has_referrers: bool
) -> None:
    whole = index(ATTESTED, PROVENANCE)
    upstream.add(whole, REPOSITORY, "1")
    upstream.add(SIGNATURE, REPOSITORY)
    upstream.has_referrers = has_referrers
    mirror = await start_mirror()
    head = await resolved(mirror, DOCKER, "1")
    assert (head.status, head.headers["Docker-Content-Digest"]) == (200, whole.digest)
    for part, media_type in (
        (whole, OCI_INDEX),
        (ATTESTED, OCI_MANIFEST),
        (PROVENANCE, OCI_MANIFEST),
    ):
        answer = await fetched(mirror, DOCKER, "manifests", part.digest, media_type, ranged=False)
        assert answer.body == part.manifest
        assert answer.headers["Content-Type"] == media_type
        for digest, content in part.blobs.items():
            blob = await fetched(mirror, DOCKER, "blobs", digest, "x/y", ranged=False)
            assert blob.body == content
    wanted = json.loads(SIGNATURE.manifest)["artifactType"]
    target = f"/v2/{REPOSITORY}/referrers/{PROVENANCE.digest}"
    query = f"?artifactType=another%2Ftype&artifactType={wanted.replace('/', '%2F')}&ns=docker.io"
    headers = DECODES | {"Accept": f"{OCI_INDEX}, */*", "User-Agent": DOCKER}
    answer = await mirror.client.get(target + query, headers=headers)
    if not has_referrers:
        assert answer.status == 404  # it looks for the tag then, also by way of the mirror
        tag = await resolved(mirror, DOCKER, PROVENANCE.digest.replace(":", "-"))
        assert tag.status == 404
        return
    assert answer.status == 200
    assert int(answer.headers["Content-Length"]) == len(answer.body)  # it reads no farther
    told = json.loads(answer.body)["manifests"]
    assert SIGNATURE.digest in [entry["digest"] for entry in told]


@pytest.mark.parametrize("types", [("a/b", "c/d"), ("c/d", "a/b"), ("a/b", "a/b")])
async def test_of_several_artifact_types_in_one_question_none_is_filtered_away(
    upstream: ScriptedRegistry, start_mirror: StartMirror, types: tuple[str, str]
) -> None:
    first = artifact(b"one", subject=ATTESTED, artifact_type="a/b")
    second = artifact(b"two", subject=ATTESTED, artifact_type="c/d")
    upstream.add(ATTESTED, REPOSITORY, "1")
    for made in (first, second):
        upstream.add(made, REPOSITORY)
    mirror = await start_mirror()
    query = "&".join(f"artifactType={it}" for it in types)
    answer = await mirror.client.get(f"/v2/{REPOSITORY}/referrers/{ATTESTED.digest}?{query}")
    told = {entry["digest"] for entry in json.loads(answer.body)["manifests"]}
    expected = {it.digest for it, kind in ((first, "a/b"), (second, "c/d")) if kind in types}
    assert told >= expected

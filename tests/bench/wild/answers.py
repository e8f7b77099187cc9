"""What registries say in ways of their own, and what a cache makes of it."""

import asyncio
import gzip
import json

from tests.bench.wild.kinds import kind
from tests.bench.wild.registries import AT_ONCE, an_image
from tests.bench.wild.seat import Scene
from tests.support.evil import Ask, says, tells
from tests.support.images import Image, artifact, digest_of, index
from tests.support.tls import Authority
from tests.support.upstream import RateLimit

_MIB = 2**20
_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"


@kind("a proxy strips all digests from answers (distribution#3848), and the tag moves: it is seen")
async def digests_stripped(scene: Scene) -> None:
    registry = await scene.registry()
    old = registry.add(an_image(120), "library/app", "1")
    registry.fault(omit=("Docker-Content-Digest", "ETag"))
    seat = await scene.seat(registry.url, tags=AT_ONCE)
    await seat.manifest("library/app", "1", old.manifest)
    new = registry.add(an_image(121), "library/app", "1")
    await asyncio.sleep(1.2)
    answer = await seat.manifest("library/app", "1", new.manifest)
    assert answer.headers.get("Docker-Content-Digest") == new.digest, "no digest is told"


@kind("a registry tells no lengths at all (Trow, containerd#5124): the image comes, with lengths")
async def no_lengths(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(122), "library/app", "1")
    registry.fault(chunked=True)
    seat = await scene.seat(registry.url)
    await seat.manifest("library/app", "1", held.manifest)
    for digest, content in held.blobs.items():
        await seat.blob("library/app", digest, content)
        answer = await seat.blob("library/app", digest, content)
        assert answer.headers.get("Content-Length") == str(len(content)), "no length is told"


@kind("an accelerator answers with a web page for a while (talos#5195): it is no manifest, ever")
async def page_for_a_manifest(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(123), "library/app", "1")
    page = b"<!DOCTYPE html><title>We moved</title>"
    fault = registry.fault(
        where=lambda asked: asked.kind in {"tag", "manifest", "blob"},
        body=page,
        headers={"Content-Type": "text/html", "Docker-Content-Digest": digest_of(page)},
        omit=("ETag",),
    )
    seat = await scene.seat(registry.url, tags=AT_ONCE)
    for _ in range(3):
        answer = await seat.client.manifest("library/app", "1")
        assert answer.status != 200, f"a page as {answer.headers.get('Content-Type')}"
    registry.faults.remove(fault)
    await asyncio.sleep(1.2)
    await seat.manifest("library/app", "1", held.manifest)
    for digest, content in held.blobs.items():
        await seat.blob("library/app", digest, content)


@kind("upstream limits manifests, HEADs too, and a tag is no longer fresh (harbor#19257): it comes")
async def limited_and_stale(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(124), "library/app", "1")
    seat = await scene.seat(registry.url, tags=AT_ONCE)
    await seat.manifest("library/app", "1", held.manifest)
    registry.rate_limit = RateLimit(remaining=0, retry_after="600")
    registry.fault(kind="tag", status=429, headers={"Retry-After": "600"})
    await asyncio.sleep(1.2)
    for _ in range(3):
        await seat.manifest("library/app", "1", held.manifest)


@kind("upstream's certificate cannot be trusted (zot#4352): the client is told so, and not 404")
async def untrusted_certificate(scene: Scene) -> None:
    authority = Authority(scene.directory / "tls")
    registry = await scene.registry(server_context=authority.server_context())
    registry.add(an_image(125), "library/app", "1")
    seat = await scene.seat(registry.url)
    answer = await seat.client.manifest("library/app", "1")
    assert answer.status >= 500, f"{answer.status}, as if there were no such image"
    assert b"certificate" in answer.body, f"told {answer.body.decode(errors='replace')[:60]}"


@kind("fifty clients pull the same new image at once (distribution#1334): upstream sends it once")
async def fifty_at_once(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(126, size=2 * _MIB), "library/app", "1")
    seat = await scene.seat(registry.url)

    async def pull() -> None:
        await seat.manifest("library/app", "1", held.manifest)
        for digest, content in held.blobs.items():
            await seat.blob("library/app", digest, content)

    await asyncio.gather(*(pull() for _ in range(50)))
    times = registry.bytes_sent(held.layers[0]) / (2 * _MIB)
    assert times < 1.5, f"upstream sent the layer {times:.0f} times"
    asked = len(registry.asked("tag"))
    assert asked <= 3, f"upstream was asked for the tag {asked} times"


@kind("the cache is killed in the middle of a layer (oci-registry#13): afterwards the layer comes")
async def killed_in_the_middle(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(127, size=4 * _MIB), "library/app", "1")
    digest = held.layers[0]
    seat = await scene.seat(registry.url)
    gate = registry.hold(digest, after=2 * _MIB)
    pull = asyncio.get_running_loop().create_task(seat.client.blob("library/app", digest))
    await gate.reached()
    await seat.process.kill()
    gate.open()
    await asyncio.wait({pull})
    assert pull.exception() is not None or pull.result().status != 200, "it had all of it"
    await seat.process.start()
    await seat.manifest("library/app", "1", held.manifest)
    await seat.blob("library/app", digest, held.blobs[digest])


@kind("an artifact of 2022, whose manifest has a type of its own (ORAS 0.15): it comes")
async def old_artifact(scene: Scene) -> None:
    content = b"a list of what is in it"
    described = {
        "mediaType": "application/spdx+json", "digest": digest_of(content), "size": len(content)
    }  # fmt: skip
    document = {"mediaType": _ARTIFACT, "artifactType": "example/sbom", "blobs": [described]}
    held = Image(json.dumps(document).encode(), _ARTIFACT, {digest_of(content): content})
    registry = await scene.registry()
    registry.add(held, "library/app", "sbom")
    seat = await scene.seat(registry.url)
    answer = await seat.client.get(
        "/v2/library/app/manifests/sbom", headers={"Accept": f"{_ARTIFACT}, */*"}
    )
    assert answer.status == 200, f"{answer.status} for it"
    assert answer.body == held.manifest, "another manifest"
    assert answer.headers["Content-Type"] == _ARTIFACT, f"as {answer.headers['Content-Type']}"
    await seat.blob("library/app", digest_of(content), content)


@kind("docker goes on with the layers alone, having kept the manifest (docker/cli#3505): they come")
async def layers_alone(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(128), "library/app", "1")
    seat = await scene.seat(registry.url)
    for digest, content in held.blobs.items():
        await seat.blob("library/app", digest, content)


@kind("a registry compresses configurations unless it is asked not to (quay#1310): they come")
async def compressed_unless_asked(scene: Scene) -> None:
    held = an_image(129)
    evil = await scene.evil()
    config = held.blobs[held.config]

    async def answer(ask: Ask) -> None:
        wanted = next(
            (
                line
                for line in ask.head.lower().split("\r\n")
                if line.startswith("accept-encoding:")
            ),
            "",
        )
        if "identity" in wanted:
            await tells(config)(ask)
            return
        zipped = gzip.compress(config)
        await tells(zipped, b"Content-Encoding: gzip")(ask)

    typed = f"Content-Type: {held.media_type}".encode()
    named = f"Docker-Content-Digest: {held.digest}".encode()
    evil.on("/manifests/", tells(held.manifest, typed, named))
    evil.on(f"/blobs/{held.config}", answer)
    seat = await scene.seat(evil.url)
    await seat.manifest("library/app", "1", held.manifest)
    await seat.blob("library/app", held.config, config)


@kind("a registry knows no referrers, and then is away: clients still hear 404, and read the tag")
async def no_referrers_in_an_outage(scene: Scene) -> None:
    registry = await scene.registry()
    registry.has_referrers = False
    held = registry.add(an_image(130), "library/app", "1")
    listed = index(artifact(b"signed", subject=held))
    tag = held.digest.replace(":", "-")
    registry.add(listed, "library/app", tag)
    seat = await scene.seat(registry.url, tags=AT_ONCE)
    path = f"/v2/library/app/referrers/{held.digest}"
    for _ in range(2):
        answer = await seat.client.get(path)
        assert answer.status == 404, f"{answer.status} for referrers"
        await seat.manifest("library/app", tag, listed.manifest)
        await registry.stop()
        await asyncio.sleep(1.2)


@kind("Harbor leads from http to another scheme's port, by a relative address first: it comes")
async def redirected_api(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(131), "library/app", "1")
    evil = await scene.evil()

    async def lead(ask: Ask) -> None:
        path = ask.line.partition(" ")[2]
        to = f"{registry.url}{path}" if "hop=1" in path else f"{path}?hop=1"
        status = b"HTTP/1.1 308 Permanent Redirect"
        await says(status, f"Location: {to}".encode(), b"Content-Length: 0")(ask)

    evil.on("/v2/library/", lead)
    seat = await scene.seat(evil.url)
    await seat.manifest("library/app", "1", held.manifest)
    for digest, content in held.blobs.items():
        await seat.blob("library/app", digest, content)

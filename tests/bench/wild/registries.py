"""What registries and networks do."""

import asyncio
import gzip
import json
from contextlib import suppress
from dataclasses import replace

import aiohttp

from tests.bench.wild.kinds import kind
from tests.bench.wild.seat import Scene
from tests.support.auth import BearerAuth
from tests.support.evil import Behaviour, says, tells
from tests.support.images import OCI_INDEX, OCI_MANIFEST, Image, digest_of, image, random_layer
from tests.support.relay import Relay
from tests.support.signed import signed
from tests.support.upstream import Cdn, RateLimit

_MIB = 2**20
AT_ONCE = {"fresh_for": "0s"}  # every pull by tag asks again


def an_image(seed: int, *, size: int = 4096) -> Image:
    """An image of one layer."""
    return image(random_layer(size, seed=seed))


@kind("manifests are rate-limited (429, Retry-After 600): layers of images already named come")
async def quota_of_manifests(scene: Scene) -> None:
    registry = await scene.registry()
    one = registry.add(an_image(1), "library/one", "1")
    registry.add(an_image(2), "library/two", "1")
    seat = await scene.seat(registry.url)
    await seat.manifest("library/one", "1", one.manifest)
    registry.rate_limit = RateLimit(remaining=0, retry_after="600")
    await seat.client.manifest("library/two", "1")
    for digest, content in one.blobs.items():
        await seat.blob("library/one", digest, content)


@kind("the storage that one blob redirects to answers 503: other images come")
async def storage_of_one_blob(scene: Scene) -> None:
    registry = await scene.registry()
    registry.cdn = Cdn()
    ill, well = (
        registry.add(an_image(3), "library/ill", "1"),
        registry.add(an_image(4), "library/well", "1"),
    )
    busy = {"Retry-After": "3600"}
    registry.fault(kind="cdn", reference=ill.layers[0], status=503, headers=busy)
    seat = await scene.seat(registry.url)
    await seat.manifest("library/ill", "1", ill.manifest)
    assert (await seat.client.blob("library/ill", ill.layers[0])).status != 200
    await seat.manifest("library/well", "1", well.manifest)
    for digest, content in well.blobs.items():
        await seat.blob("library/well", digest, content)


@kind("one repository always answers 500 and is retried by eight clients: others come")
async def one_broken_repository(scene: Scene) -> None:
    registry = await scene.registry()
    registry.add(an_image(5), "library/broken", "1")
    registry.fault(repository="library/broken", status=500)
    others = [
        registry.add(an_image(10 + number), f"library/other-{number}", "1") for number in range(12)
    ]
    seat = await scene.seat(registry.url)

    async def retries() -> None:
        for _ in range(12):
            await seat.client.manifest("library/broken", "1")

    async def pulls() -> None:
        for number, other in enumerate(others):
            await seat.manifest(f"library/other-{number}", "1", other.manifest)
            await seat.blob(
                f"library/other-{number}", other.layers[0], other.blobs[other.layers[0]]
            )

    await asyncio.gather(pulls(), *(retries() for _ in range(8)))


@kind("tags/list?n=10000 answers 400: the client is told so")
async def too_many_tags_wanted(scene: Scene) -> None:
    registry = await scene.registry()
    registry.add(an_image(6), "library/app", "1")
    seat = await scene.seat(registry.url)
    assert (await seat.client.get("/v2/library/app/tags/list")).status == 200
    registry.fault(kind="tags", status=400)
    answer = await seat.client.get("/v2/library/app/tags/list?n=10000")
    assert answer.status == 400, f"{answer.status} for it"


@kind("HEAD of a manifest answers 403, GET is fine, and the tag moves: the new image comes")
async def head_is_refused(scene: Scene) -> None:
    registry = await scene.registry()
    old = registry.add(an_image(7), "library/app", "1")
    seat = await scene.seat(registry.url, tags=AT_ONCE)
    await seat.manifest("library/app", "1", old.manifest)
    registry.fault(kind="tag", method="HEAD", status=403)
    new = registry.add(an_image(8), "library/app", "1")
    await asyncio.sleep(1.2)
    await seat.manifest("library/app", "1", new.manifest)


@kind("HEAD of a blob says Content-Length 0: the blob comes")
async def head_without_length(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(9), "library/app", "1")
    registry.fault(kind="blob", method="HEAD", headers={"Content-Length": "0"})
    seat = await scene.seat(registry.url)
    digest = held.layers[0]
    await seat.client.head(f"/v2/library/app/blobs/{digest}")
    for _ in range(3):
        answer = await seat.client.blob("library/app", digest)
        assert answer.status != 200 or answer.body == held.blobs[digest], "a wrong, complete 200"
    await seat.blob("library/app", digest, held.blobs[digest])


@kind("a manifest tells wrong sizes of its layers: they come")
async def sizes_that_lie(scene: Scene) -> None:
    for number, wrong in enumerate((1, 0, 10_000_000, None)):
        registry = await scene.registry()
        held = _with_size(an_image(20 + number), wrong)
        registry.add(held, "library/app", "1")
        seat = await scene.seat(registry.url)
        await seat.manifest("library/app", "1", held.manifest)
        for digest, content in held.blobs.items():
            await seat.blob("library/app", digest, content)


def _with_size(held: Image, size: int | None) -> Image:
    document = json.loads(held.manifest)
    for described in (document["config"], *document["layers"]):
        del described["size"]
        if size is not None:
            described["size"] = size
    return replace(held, manifest=json.dumps(document).encode())


@kind("a manifest is labelled application/octet-stream: its own type is told")
async def type_without_meaning(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(30), "library/app", "1")
    registry.fault(kind="tag", headers={"Content-Type": "application/octet-stream"})
    registry.fault(kind="manifest", headers={"Content-Type": "application/octet-stream"})
    seat = await scene.seat(registry.url)
    answer = await seat.manifest("library/app", "1", held.manifest)
    told = answer.headers.get("Content-Type")
    assert told == OCI_MANIFEST, f"told as {told}"


@kind("an index names a child under blake3: it is passed on")
async def unknown_algorithm(scene: Scene) -> None:
    described = {"mediaType": OCI_MANIFEST, "digest": "blake3:" + "ab" * 32, "size": 7}
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [described]}
    held = Image(manifest=json.dumps(document).encode(), media_type=OCI_INDEX)
    registry = await scene.registry()
    registry.add(held, "library/app", "1")
    seat = await scene.seat(registry.url)
    await seat.manifest("library/app", "1", held.manifest)


async def _pull_from_evil(scene: Scene, held: Image, *fields: bytes, length: bytes = b"") -> None:
    """Pull a manifest and a layer of a registry that writes its heads in a way of its own.

    `length`: how it writes a body's length; `%d` stands for it.
    """
    evil = await scene.evil()
    layer = held.layers[0]
    named = (
        f"Docker-Content-Digest: {held.digest}".encode(),
        f"Content-Type: {held.media_type}".encode(),
    )
    length = length or b"Content-Length: %d"
    evil.on("/manifests/", _spoken(held.manifest, length, *named, *fields))
    evil.on(f"/blobs/{layer}", _spoken(held.blobs[layer], length, *fields))
    seat = await scene.seat(evil.url)
    await seat.manifest("library/app", "1", held.manifest)
    await seat.blob("library/app", layer, held.blobs[layer])


def _spoken(body: bytes, length: bytes, *fields: bytes) -> Behaviour:
    written = length.replace(b"%d", b"%d" % len(body))
    return says(b"HTTP/1.1 200 OK", *fields, written, body=body)


@kind("200 header fields (21 KB of them at Artifact Registry): the image comes")
async def many_header_fields(scene: Scene) -> None:
    fields = [b"X-Field-%d: %s" % (number, b"v" * 100) for number in range(200)]
    await _pull_from_evil(scene, an_image(31), *fields)


@kind("a header field of 16 KiB: the image comes")
async def long_header_field(scene: Scene) -> None:
    await _pull_from_evil(scene, an_image(32), b"X-Long: " + b"v" * 16_384)


@kind("the same Content-Length twice: the image comes")
async def length_told_twice(scene: Scene) -> None:
    await _pull_from_evil(scene, an_image(33), length=b"Content-Length: %d\r\nContent-Length: %d")


@kind("Content-Length beside chunked: the image comes")
async def length_beside_chunks(scene: Scene) -> None:
    held = an_image(35)
    evil = await scene.evil()
    layer = held.layers[0]
    for part, body in (("/manifests/", held.manifest), (f"/blobs/{layer}", held.blobs[layer])):
        fields = (
            f"Content-Type: {held.media_type}".encode(),
            f"Docker-Content-Digest: {held.digest if part == '/manifests/' else layer}".encode(),
            b"Content-Length: %d" % len(body),
            b"Transfer-Encoding: chunked",
        )
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        evil.on(part, says(b"HTTP/1.1 200 OK", *fields, body=chunks))
    seat = await scene.seat(evil.url)
    await seat.manifest("library/app", "1", held.manifest)
    await seat.blob("library/app", layer, held.blobs[layer])


@kind("a space before the colon of a header field: the image comes")
async def space_before_colon(scene: Scene) -> None:
    await _pull_from_evil(scene, an_image(34), b"X-Served-By : cache-1")


@kind("tags are sent in gzip though identity was asked: they can be read")
async def gzip_unasked(scene: Scene) -> None:
    evil = await scene.evil()
    tags = {"name": "library/app", "tags": ["1", "2"]}
    zipped = gzip.compress(json.dumps(tags).encode())
    evil.on(
        "/tags/list", tells(zipped, b"Content-Type: application/json", b"Content-Encoding: gzip")
    )
    seat = await scene.seat(evil.url)
    answer = await seat.client.get("/v2/library/app/tags/list")
    body = gzip.decompress(answer.body) if "Content-Encoding" in answer.headers else answer.body
    assert json.loads(body)["tags"] == ["1", "2"], "not readable"


@kind("an image of 2016, whose manifest is signed (schema 1): it is passed on")
async def signed_manifest(scene: Scene) -> None:
    evil = await scene.evil()
    layer = b"a layer of 2016"
    old = signed(digest_of(layer))
    named = f"Docker-Content-Digest: {old.digest}".encode()
    typed = b"Content-Type: application/vnd.docker.distribution.manifest.v1+prettyjws"
    evil.on("/manifests/", tells(old.content, typed, named))
    evil.on("/blobs/", tells(layer))
    seat = await scene.seat(evil.url)
    await seat.manifest("library/old", "1", old.content)
    await seat.manifest("library/old", old.digest, old.content)
    await seat.blob("library/old", digest_of(layer), layer)


@kind("referrers come in several pages: all are to be had")
async def referrers_in_pages(scene: Scene) -> None:
    evil = await scene.evil()
    subject = "sha256:" + "cd" * 32
    first, second = (
        {"mediaType": OCI_MANIFEST, "digest": f"sha256:{name * 32}", "size": 7}
        for name in ("aa", "bb")
    )
    path = f"/v2/library/app/referrers/{subject}"

    def page(*found: object) -> bytes:
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}
        return json.dumps(document).encode()

    typed = f"Content-Type: {OCI_INDEX}".encode()
    evil.on(path, tells(page(first), typed, f'Link: <{path}?page=2>; rel="next"'.encode()))
    evil.on("page=2", tells(page(second), typed))
    seat = await scene.seat(evil.url)
    found, target = [], path
    for _ in range(3):
        answer = await seat.client.get(target)
        assert answer.status == 200, f"{answer.status} for referrers"
        found += [described["digest"] for described in json.loads(answer.body)["manifests"]]
        link = answer.headers.get("Link")
        if link is None:
            break
        target = link.partition("<")[2].partition(">")[0].removeprefix(seat.url)
    assert found == [first["digest"], second["digest"]], f"{len(found)} of 2"


@kind("a registry answers 401 to every HEAD of a blob (ECR Public): the blob comes")
async def head_of_blob_is_refused(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(36), "library/app", "1")
    registry.fault(kind="blob", method="HEAD", status=401)
    seat = await scene.seat(registry.url)
    digest = held.layers[0]
    await seat.client.head(f"/v2/library/app/blobs/{digest}")
    await seat.blob("library/app", digest, held.blobs[digest])


@kind("one endpoint sends wrong bytes of a layer: clients are sent to the origin, not kept busy")
async def wrong_bytes(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(37), "library/app", "1")
    registry.fault(kind="blob", reference=held.layers[0], corrupt_at=100)
    seat = await scene.seat(registry.url)
    await seat.manifest("library/app", "1", held.manifest)
    told = []
    for _ in range(3):
        with suppress(aiohttp.ClientError):
            answer = await seat.client.blob("library/app", held.layers[0])
            assert answer.status != 200 or answer.digest == held.layers[0], "wrong bytes, complete"
            told.append(answer.status)
    assert told[-1:] == [404], f"told {told}"


@kind(
    "a private repository, and no credentials: the denial is remembered, not asked for each layer"
)
async def denials(scene: Scene) -> None:
    registry = await scene.registry()
    registry.add(an_image(38), "library/private", "1")
    registry.auth = BearerAuth(private={"library/private": {"somebody"}})
    registry.auth.realm = f"{registry.url}/token"
    seat = await scene.seat(registry.url)
    for _ in range(9):
        answer = await seat.client.manifest("library/private", "1")
        assert answer.status in {401, 403, 404}, f"{answer.status} for it"
    asked = len(registry.asked("tag")) + len(registry.asked("token"))
    assert asked <= 6, f"upstream was asked {asked} times"


@kind("bytes far into a cold layer (eStargz, SOCI): they come before what is between")
async def lazy_pulling(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(39, size=64 * _MIB), "library/app", "1")
    relay = await scene.enter(Relay(registry.port))
    seat = await scene.seat(relay.url)
    await seat.manifest("library/app", "1", held.manifest)
    relay.bandwidth = 4 * _MIB
    digest = held.layers[0]
    wanted = held.blobs[digest][-51:]
    tail = {"Range": f"bytes={64 * _MIB - 51}-"}
    answer = await seat.client.get(f"/v2/library/app/blobs/{digest}", headers=tail)
    assert answer.body == wanted, f"{answer.status}, {len(answer.body)} bytes"
    between = relay.bytes_to_client
    assert between < 24 * _MIB, f"{between // _MIB} MiB came before them"


@kind("the line is cut in the middle of a layer: the client does not notice")
async def line_is_cut(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(40, size=4 * _MIB), "library/app", "1")
    registry.fault(kind="blob", reset_at=_MIB, times=2)
    seat = await scene.seat(registry.url)
    await seat.manifest("library/app", "1", held.manifest)
    await seat.blob("library/app", held.layers[0], held.blobs[held.layers[0]])


@kind("upstream is away: an image that is cached comes, by a tag that is no longer fresh")
async def upstream_is_away(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(41), "library/app", "1")
    seat = await scene.seat(registry.url, tags=AT_ONCE)
    await seat.manifest("library/app", "1", held.manifest)
    for digest, content in held.blobs.items():
        await seat.blob("library/app", digest, content)
    await registry.stop()
    await asyncio.sleep(1.2)
    await seat.manifest("library/app", "1", held.manifest)
    for digest, content in held.blobs.items():
        await seat.blob("library/app", digest, content)

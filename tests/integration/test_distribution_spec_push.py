"""OCI distribution-spec 1.1, what it says of pushing, section by section, before a real registry.

Each test's name begins with the section's. Behind the mirror is distribution's registry; what is
asked of it is in its own log.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import StartMirror
from tests.support.client import client
from tests.support.images import (
    Image,
    artifact,
    digest_of,
    image,
    index,
    random_bytes,
    random_layer,
)
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.pusher import Pusher, codes
from tests.support.registry import Registry, running_registry

pytestmark = pytest.mark.daemons

NAME = "org/app"
APP = image(random_layer(5_000, seed=11), random_layer(60, seed=12))
OTHER = image(random_layer(70, seed=13), docker=True)
BLOB = random_bytes(300_000, seed=14)
DIGEST = digest_of(BLOB)


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with running_registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
async def mirror(registry: Registry, start_mirror: StartMirror) -> InnerMirror:
    return await start_mirror({"docker.io": upstream_at(registry.url) | {"push": "client"}})


@pytest.fixture
def pusher(mirror: InnerMirror) -> Pusher:
    return Pusher(mirror.client, NAME)


@pytest.fixture
async def direct(registry: Registry) -> AsyncIterator[Pusher]:
    async with client(registry.url) as connected:
        yield Pusher(connected, NAME)


async def _has(direct: Pusher, digest: str, content: bytes) -> bool:
    answer = await direct.ask("GET", f"/v2/{NAME}/blobs/{digest}")
    return answer.status == 200 and answer.body == content


async def test_pushing_a_blob_monolithically_by_post_then_put(
    pusher: Pusher, direct: Pusher
) -> None:
    begun = await pusher.post()
    assert begun.status == 202
    location = begun.headers["Location"]
    assert location.startswith(f"/v2/{NAME}/blobs/uploads/")
    answer = await pusher.ask(
        "PUT", f"{location}?digest={DIGEST}", BLOB, {"Content-Type": "application/octet-stream"}
    )
    assert answer.status == 201
    assert answer.headers["Location"] == f"/v2/{NAME}/blobs/{DIGEST}"
    assert await _has(direct, DIGEST, BLOB)


async def test_pushing_a_blob_monolithically_by_a_single_post(
    pusher: Pusher, direct: Pusher
) -> None:
    answer = await pusher.post(f"?digest={DIGEST}", BLOB)
    assert answer.status == 201
    assert answer.headers["Location"] == f"/v2/{NAME}/blobs/{DIGEST}"
    assert await _has(direct, DIGEST, BLOB)


async def test_pushing_a_blob_in_chunks_tells_the_range_after_each_and_ends_with_a_put(
    pusher: Pusher, direct: Pusher
) -> None:
    upload = await pusher.begin()
    for start in range(0, 200_000, 100_000):
        answer = await upload.patch(BLOB[start : start + 100_000], span=f"{start}-{start + 99_999}")
        assert answer.status == 202
        assert answer.headers["Range"] == f"0-{start + 99_999}"
        assert "Location" in answer.headers
    answer = await upload.put(BLOB[200_000:], DIGEST, span="200000-299999")
    assert answer.status == 201
    assert await _has(direct, DIGEST, BLOB)


async def test_pushing_a_blob_in_chunks_the_last_of_which_is_a_patch(
    pusher: Pusher, direct: Pusher
) -> None:
    upload = await pusher.begin()
    await upload.patch(BLOB, span="0-299999")
    assert (await upload.put(b"", DIGEST)).status == 201
    assert await _has(direct, DIGEST, BLOB)


async def test_pushing_a_blob_in_chunks_out_of_order_is_416_and_changes_nothing(
    pusher: Pusher, direct: Pusher
) -> None:
    upload = await pusher.begin()
    await upload.patch(BLOB[:100_000], span="0-99999")
    for span in ("0-99999", "100001-200000", "99999-199998"):
        answer = await upload.patch(BLOB[:100_000], span=span)
        assert answer.status == 416
        assert answer.headers["Range"] == "0-99999"
    assert (await upload.put(BLOB[100_000:], DIGEST, span="100001-300000")).status == 416
    assert (await upload.put(BLOB[100_000:], DIGEST, span="100000-299999")).status == 201
    assert await _has(direct, DIGEST, BLOB)


@pytest.mark.parametrize("span", ["x", "5-3", "-5", "0-"])
async def test_pushing_a_blob_in_chunks_by_what_is_no_range_is_400(
    pusher: Pusher, span: str
) -> None:
    answer = await (await pusher.begin()).patch(b"abc", span=span)
    assert (answer.status, codes(answer)) == (400, ["BLOB_UPLOAD_INVALID"])


@pytest.mark.parametrize("span", ["0-1", "0-9"])
async def test_pushing_a_blob_in_chunks_of_another_length_than_is_said_is_400(
    pusher: Pusher, span: str
) -> None:
    answer = await (await pusher.begin()).patch(b"abc", span=span)
    assert (answer.status, codes(answer)) == (400, ["SIZE_INVALID"])


async def test_pushing_a_blob_in_chunks_its_status_is_204_with_location_and_range(
    pusher: Pusher,
) -> None:
    upload = await pusher.begin()
    await upload.patch(BLOB[:100_000])
    answer = await upload.status()
    assert answer.status == 204
    assert answer.headers["Range"] == "0-99999"
    assert answer.headers["Location"].endswith(answer.headers["Docker-Upload-UUID"])


async def test_cancel_a_blob_upload_is_204_and_it_is_unknown_then(pusher: Pusher) -> None:
    upload = await pusher.begin()
    await upload.patch(BLOB[:100_000])
    assert (await upload.cancel()).status == 204
    for answer in (await upload.status(), await upload.cancel(), await upload.patch(b"x")):
        assert answer.status == 404
    assert codes(await upload.put(b"", DIGEST)) == ["BLOB_UPLOAD_UNKNOWN"]


async def test_mounting_a_blob_from_another_repository_is_201(
    pusher: Pusher, direct: Pusher, registry: Registry
) -> None:
    await registry.push(APP, "org/base", "1")
    digest = APP.layers[0]
    answer = await pusher.post(f"?mount={digest}&from=org/base")
    assert answer.status == 201
    assert answer.headers["Location"] == f"/v2/{NAME}/blobs/{digest}"
    assert await _has(direct, digest, APP.blobs[digest])


@pytest.mark.parametrize("source", ["&from=org/nowhere", ""])
async def test_mounting_what_cannot_be_mounted_begins_an_upload(
    pusher: Pusher, source: str
) -> None:
    answer = await pusher.post(f"?mount={DIGEST}{source}")
    assert answer.status == 202
    assert "Location" in answer.headers


@pytest.mark.parametrize("held", [APP, OTHER, index(APP, OTHER)], ids=["OCI", "Docker", "index"])
@pytest.mark.parametrize("by", ["tag", "digest"])
async def test_pushing_manifests_gives_their_location_and_digest_and_keeps_their_bytes(
    pusher: Pusher, direct: Pusher, mirror: InnerMirror, held: Image, by: str
) -> None:
    reference = "1" if by == "tag" else held.digest
    for one in (held, *held.members):
        for content in one.blobs.values():
            await pusher.blob(content)
    for member in held.members:
        assert (await pusher.manifest(member, member.digest)).status == 201
    answer = await pusher.manifest(held, reference)
    assert answer.status == 201
    assert answer.headers["Docker-Content-Digest"] == held.digest
    assert answer.headers["Location"] == f"/v2/{NAME}/manifests/{reference}"
    for either in (direct.client, mirror.client):
        got = await either.manifest(NAME, reference)
        assert (got.body, got.headers["Content-Type"]) == (held.manifest, held.media_type)


async def test_pushing_manifests_with_a_subject_passes_on_what_the_registry_makes_of_it(
    pusher: Pusher, direct: Pusher
) -> None:
    await pusher.image(APP, "1")
    signature = artifact(b"signed", subject=APP)
    for content in signature.blobs.values():
        await pusher.blob(content)
    answer = await pusher.manifest(signature, signature.digest)
    assert answer.status == 201
    again = await direct.manifest(signature, signature.digest)
    assert answer.headers.get("OCI-Subject") == again.headers.get("OCI-Subject")


async def test_pushing_manifests_whose_blobs_are_not_there_is_refused(pusher: Pusher) -> None:
    answer = await pusher.manifest(APP, "1")
    assert answer.status in {400, 404}
    assert {"MANIFEST_BLOB_UNKNOWN"} <= set(codes(answer))


async def test_pushing_manifests_under_a_digest_that_is_not_theirs_is_400(pusher: Pusher) -> None:
    await pusher.image(APP, "1")
    answer = await pusher.manifest(APP, digest_of(b"another"))
    assert (answer.status, codes(answer)) == (400, ["DIGEST_INVALID"])


@pytest.mark.parametrize("digest", [digest_of(b"another"), "sha256:short", "md5:x", ""])
async def test_pushing_a_blob_under_a_digest_that_is_not_its_own_is_400(
    pusher: Pusher, digest: str
) -> None:
    answer = await (await pusher.begin()).put(BLOB, digest)
    assert (answer.status, codes(answer)) == (400, ["DIGEST_INVALID"])


@pytest.mark.parametrize("name", ["Upper", "a//b", "a_-b", "-a"])
async def test_pushing_to_a_name_outside_the_grammar_is_400_or_404(
    mirror: InnerMirror, name: str
) -> None:
    pusher = Pusher(mirror.client, name)
    assert (await pusher.post()).status in {400, 404}
    assert (await pusher.manifest(APP, "1")).status in {400, 404}


async def test_pushing_an_empty_blob(pusher: Pusher, direct: Pusher) -> None:
    digest = await pusher.blob(b"")
    assert await _has(direct, digest, b"")


async def test_pushing_a_blob_under_sha512_is_what_the_registry_makes_of_it(
    pusher: Pusher, direct: Pusher, registry: Registry
) -> None:
    digest = digest_of(BLOB, "sha512")
    upload = await direct.begin()
    upload.location = upload.location.removeprefix(registry.url)
    own = await upload.put(BLOB, digest)
    answer = await (await pusher.begin()).put(BLOB, digest)
    assert answer.status == own.status


async def test_checking_for_a_blob_before_pushing_is_the_registrys_word(
    pusher: Pusher,
) -> None:
    assert (await pusher.head(DIGEST)).status == 404
    await pusher.blob(BLOB)
    answer = await pusher.head(DIGEST)
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(BLOB)))

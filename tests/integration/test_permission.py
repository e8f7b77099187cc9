"""Knowing a digest is no permission: who may have what is at hand, and who must be asked first.

`upstream` is the default registry, open to all; `private` lets in each client by its own password;
whoever runs `evil` writes what manifests and what lies they like.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from mirror.oci.errors import StoreError
from mirror.records.sqlite import SqliteRecords
from tests.conftest import StartMirror
from tests.support.auth import BasicAuth
from tests.support.client import Answer
from tests.support.clock import FakeClock
from tests.support.images import OCI_INDEX, OCI_MANIFEST, Image, digest_of, image, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

SIZE = 600_000
ANNA = {"Authorization": "Basic " + base64.b64encode(b"anna:secret").decode()}


@pytest.fixture
async def private() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as registry:
        registry.auth = BasicAuth(users={"anna": "secret"})
        yield registry


@pytest.fixture
async def evil() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as registry:
        yield registry


@pytest.fixture
def secret(private: ScriptedRegistry) -> Image:
    return private.add(image(random_layer(SIZE, seed=1)), "org/secret", "1")


@pytest.fixture
async def start(
    start_mirror: StartMirror,
    upstream: ScriptedRegistry,
    private: ScriptedRegistry,
    evil: ScriptedRegistry,
) -> StartMirror:
    async def start() -> InnerMirror:
        return await start_mirror(
            {
                "docker.io": {**upstream_at(upstream.url), "default": True},
                "private.example": {**upstream_at(private.url), "access": "client"},
                "evil.example": upstream_at(evil.url),
            },
            fill={"prefetch": "off"},
        )

    return start


@pytest.fixture
async def mirror(start: StartMirror, secret: Image) -> InnerMirror:
    """A mirror through which Anna has pulled what is hers."""
    mirror = await start()
    for target in ("manifests/1", *(f"blobs/{digest}" for digest in secret.blobs)):
        answer = await mirror.client.get(f"/v2/private.example/org/secret/{target}", headers=ANNA)
        assert answer.status == 200
    await mirror.until_metric("mirror_fills_active", 0)
    return mirror


def lure(evil: ScriptedRegistry, wanted: Image, repository: str = "lure", **layer: object) -> Image:
    """A manifest of evil's that names what somebody else has."""
    described = json.loads(wanted.manifest)
    document = described | {"layers": [entry | layer for entry in described["layers"]]}
    return evil.add(Image(json.dumps(document).encode(), OCI_MANIFEST), repository, "1")


def lure_index(evil: ScriptedRegistry, wanted: Image) -> Image:
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [wanted.descriptor]}
    return evil.add(Image(json.dumps(document).encode(), OCI_INDEX), "lure", "1")


def say_yes(evil: ScriptedRegistry, kind: str) -> None:
    """Evil has everything that it is asked about, as long as it need not send it."""
    evil.fault(kind=kind, method="HEAD", status=200)


async def ask_evil(mirror: InnerMirror, what: str, reference: str) -> Answer | None:
    """What is had through evil's upstream; None where the response is broken off."""
    try:
        return await mirror.client.get(f"/v2/evil.example/lure/{what}/{reference}")
    except aiohttp.ClientError:
        return None


# Another registry's manifest


@pytest.mark.parametrize("manner", ["honest", "says yes to every HEAD"])
async def test_a_manifest_that_names_a_private_blob_does_not_unlock_it(
    mirror: InnerMirror, evil: ScriptedRegistry, secret: Image, manner: str
) -> None:
    lure(evil, secret)
    if manner != "honest":
        say_yes(evil, "blob")
    assert (await mirror.client.manifest("evil.example/lure", "1")).status == 200
    for digest in secret.blobs:
        for _ in range(2):
            answer = await ask_evil(mirror, "blobs", digest)
            assert answer is not None
            assert answer.status == 404
        assert evil.asked("blob", reference=digest)


async def test_who_sends_other_bytes_gets_nothing_private_for_it(
    mirror: InnerMirror, evil: ScriptedRegistry, secret: Image
) -> None:
    lure(evil, secret)
    evil.fault(kind="blob", status=200, body=b"junk")
    await mirror.client.manifest("evil.example/lure", "1")
    for _ in range(3):
        for digest in secret.blobs:
            answer = await ask_evil(mirror, "blobs", digest)
            assert answer is None or secret.blobs[digest] != answer.body


@pytest.mark.parametrize("manner", ["honest", "says yes to every HEAD"])
async def test_an_index_that_names_a_private_manifest_does_not_unlock_it(
    mirror: InnerMirror, evil: ScriptedRegistry, secret: Image, manner: str
) -> None:
    lure_index(evil, secret)
    if manner != "honest":
        say_yes(evil, "manifest")
    assert (await mirror.client.manifest("evil.example/lure", "1")).status == 200
    answer = await ask_evil(mirror, "manifests", secret.digest)
    assert answer is not None
    assert answer.status == 404


async def test_a_tag_that_is_said_to_mean_a_private_manifest_does_not_unlock_it(
    mirror: InnerMirror, evil: ScriptedRegistry, secret: Image, clock: FakeClock
) -> None:
    lure_index(evil, secret)
    await mirror.client.manifest("evil.example/lure", "1")
    clock.advance(61)  # the tag is no longer fresh
    headers = {"Docker-Content-Digest": secret.digest}
    evil.fault(kind="tag", method="HEAD", status=200, headers=headers)
    say_yes(evil, "manifest")
    answer = await ask_evil(mirror, "manifests", "1")
    assert answer is not None
    assert answer.body != secret.manifest


async def test_a_manifest_that_names_what_is_still_coming_does_not_unlock_it(
    start: StartMirror, private: ScriptedRegistry, evil: ScriptedRegistry, secret: Image
) -> None:
    layer = secret.layers[0]
    mirror = await start()
    lure(evil, secret)
    await mirror.client.manifest("evil.example/lure", "1")
    gate = private.hold(layer, after=SIZE // 2)
    async with asyncio.TaskGroup() as tasks:
        target = f"/v2/private.example/org/secret/blobs/{layer}"
        anna = tasks.create_task(mirror.client.get(target, headers=ANNA))
        await gate.reached()
        answer = await ask_evil(mirror, "blobs", layer)
        gate.open()
    assert answer is not None
    assert answer.status == 404
    assert anna.result().body == secret.blobs[layer]


async def test_what_stays_private_stays_so_over_a_restart(
    start: StartMirror, mirror: InnerMirror, evil: ScriptedRegistry, secret: Image
) -> None:
    lure(evil, secret)
    say_yes(evil, "blob")
    await mirror.client.manifest("evil.example/lure", "1")
    await mirror.stop()
    mirror = await start()
    answer = await ask_evil(mirror, "blobs", secret.layers[0])
    assert answer is not None
    assert answer.status == 404


async def test_what_stays_private_stays_so_however_long_nobody_asks_for_it(
    start: StartMirror,
    mirror: InnerMirror,
    evil: ScriptedRegistry,
    secret: Image,
    clock: FakeClock,
) -> None:
    lure(evil, secret)
    say_yes(evil, "blob")
    await mirror.stop()
    clock.advance(1000 * 86400.0)
    mirror = await start()

    async def is_swept() -> bool:
        return await mirror.metric("mirror_catalog_bytes", database="records") > 0

    await until(is_swept)
    await mirror.client.manifest("evil.example/lure", "1")
    answer = await ask_evil(mirror, "blobs", secret.layers[0])
    assert answer is not None
    assert answer.status == 404


async def test_what_is_private_is_not_kept_where_that_cannot_be_put_on_record(
    start: StartMirror, evil: ScriptedRegistry, secret: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise StoreError("the disk is full")

    say_yes(evil, "blob")
    say_yes(evil, "manifest")
    mirror = await start()
    with monkeypatch.context() as patches:
        patches.setattr(SqliteRecords, "record_sent", refuse)
        patches.setattr(SqliteRecords, "record_manifest", refuse)
        for target in (f"manifests/{secret.digest}", f"blobs/{secret.layers[0]}"):
            path = f"/v2/private.example/org/secret/{target}"
            assert (await mirror.client.get(path, headers=ANNA)).status == 200
        await mirror.until_metric("mirror_fills_active", 0)
        await mirror.stop()
    mirror = await start()
    for what, digest in (("manifests", secret.digest), ("blobs", secret.layers[0])):
        answer = await ask_evil(mirror, what, digest)
        assert answer is not None
        assert answer.status == 404


async def test_another_upstream_that_sends_the_same_bytes_itself_may_be_served_them_then(
    mirror: InnerMirror, upstream: ScriptedRegistry, secret: Image
) -> None:
    upstream.add(secret, "library/open", "1")
    layer = secret.layers[0]
    await mirror.client.manifest("open", "1")
    stored = await mirror.metric("mirror_store_bytes")
    for status in ("mirror; fwd=miss; stored", "mirror; hit"):
        answer = await mirror.client.blob("open", layer)
        assert answer.body == secret.blobs[layer]
        assert answer.headers["Cache-Status"] == status
        await mirror.until_metric("mirror_fills_active", 0)
    asked = [(it.method, it.sent) for it in upstream.asked("blob", reference=layer)]
    assert [method for method, _ in asked] == ["GET"]
    assert await mirror.metric("mirror_store_bytes") == stored


async def test_an_open_blob_of_another_registry_is_confirmed_by_one_head(
    start: StartMirror, upstream: ScriptedRegistry, evil: ScriptedRegistry
) -> None:
    open_image = upstream.add(image(random_layer(SIZE, seed=2)), "library/open", "1")
    evil.add(open_image, "lure", "1")
    layer = open_image.layers[0]
    mirror = await start()
    await mirror.client.blob("open", layer)
    await mirror.until_metric("mirror_fills_active", 0)
    await mirror.client.manifest("evil.example/lure", "1")
    for status in ("mirror; fwd=miss; detail=linked", "mirror; hit"):
        answer = await mirror.client.blob("evil.example/lure", layer)
        assert answer.body == open_image.blobs[layer]
        assert answer.headers["Cache-Status"] == status
    assert evil.questions() == [("tag", "GET", "1"), ("blob", "HEAD", layer)]


@pytest.mark.parametrize(
    "layer",
    [
        {"urls": ["https://example.com/layer"]},
        {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"},
    ],
)
async def test_a_foreign_layer_is_no_link_even_within_one_upstream(
    start: StartMirror, upstream: ScriptedRegistry, layer: dict[str, object]
) -> None:
    base = upstream.add(image(random_layer(SIZE, seed=2)), "library/base", "1")
    lure(upstream, base, "library/lure", **layer)
    mirror = await start()
    await mirror.client.blob("library/base", base.layers[0])
    await mirror.until_metric("mirror_fills_active", 0)
    assert (await mirror.client.manifest("library/lure", "1")).status == 200
    answer = await mirror.client.blob("library/lure", base.layers[0])
    assert answer.status == 404


# Another repository's manifest, of the same registry

BERT = {"Authorization": "Basic " + base64.b64encode(b"bert:hidden").decode()}


@pytest.fixture
def theirs(private: ScriptedRegistry) -> ScriptedRegistry:
    """Anna's and Bert's registry. It takes a manifest that names what the repository has not.

    Distribution does: in `blobs` of an image, and where keys differ in their case.
    """
    private.auth = BasicAuth(users={"anna": "secret", "bert": "hidden"})
    return private


async def ask_as_bert(mirror: InnerMirror, target: str) -> Answer:
    return await mirror.client.get(f"/v2/private.example/bert/lure/{target}", headers=BERT)


async def test_a_manifest_of_the_same_registry_does_not_unlock_what_another_client_may_have(
    theirs: ScriptedRegistry, mirror: InnerMirror, secret: Image
) -> None:
    lure(theirs, secret, "bert/lure")
    assert (await ask_as_bert(mirror, "manifests/1")).status == 200
    for digest in secret.blobs:
        for _ in range(2):
            assert (await ask_as_bert(mirror, f"blobs/{digest}")).status == 404


async def test_an_index_of_the_same_registry_does_not_unlock_what_another_client_may_have(
    theirs: ScriptedRegistry, mirror: InnerMirror, secret: Image
) -> None:
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [secret.descriptor]}
    theirs.add(Image(json.dumps(document).encode(), OCI_INDEX), "bert/lure", "1")
    assert (await ask_as_bert(mirror, "manifests/1")).status == 200
    assert (await ask_as_bert(mirror, f"manifests/{secret.digest}")).status == 404


async def test_a_manifest_of_the_same_registry_does_not_unlock_what_is_still_coming(
    start: StartMirror, theirs: ScriptedRegistry, secret: Image
) -> None:
    lure(theirs, secret, "bert/lure")
    layer = secret.layers[0]
    mirror = await start()
    gate = theirs.hold(layer, after=SIZE // 2)
    async with asyncio.TaskGroup() as tasks:
        target = f"/v2/private.example/org/secret/blobs/{layer}"
        anna = tasks.create_task(mirror.client.get(target, headers=ANNA))
        await gate.reached()
        assert (await ask_as_bert(mirror, "manifests/1")).status == 200
        answer = await ask_as_bert(mirror, f"blobs/{layer}")
        gate.open()
    assert answer.status == 404
    assert anna.result().body == secret.blobs[layer]


async def test_what_was_sent_to_a_repository_of_such_a_registry_is_asked_about_no_more(
    theirs: ScriptedRegistry, mirror: InnerMirror, secret: Image
) -> None:
    theirs.forget()
    for digest in secret.blobs:
        target = f"/v2/private.example/org/secret/blobs/{digest}"
        assert (await mirror.client.get(target, headers=ANNA)).status == 200
    assert theirs.asked("blob") == []


# What a manifest is called


async def test_what_another_upstream_calls_a_manifest_is_not_what_mine_does(
    start: StartMirror, upstream: ScriptedRegistry, evil: ScriptedRegistry
) -> None:
    """Where the manifest does not name its own type; else that counts, for everyone."""
    named = image(random_layer(1000, seed=2))
    document = {name: it for name, it in json.loads(named.manifest).items() if name != "mediaType"}
    found = replace(named, manifest=json.dumps(document).encode())
    for registry in (upstream, evil):
        registry.add(found, "library/app", "1")
    evil.fault(headers={"Content-Type": "text/html"}, method="GET")
    mirror = await start()
    for _ in range(2):
        answer = await mirror.client.manifest("evil.example/library/app", "1")
        assert answer.headers["Content-Type"] == "text/html"
        answer = await mirror.client.manifest("library/app", found.digest)
        assert (answer.status, answer.headers["Content-Type"]) == (200, found.media_type)
        await mirror.stop()
        mirror = await start()


async def test_what_is_no_media_type_is_not_handed_on(
    start: StartMirror, upstream: ScriptedRegistry
) -> None:
    found = upstream.add(image(random_layer(1000, seed=2)), "library/app", "1")
    upstream.fault(headers={"Content-Type": "a manifest"}, method="GET")
    mirror = await start()
    answer = await mirror.client.manifest("library/app", "1")
    assert (answer.status, answer.headers["Content-Type"]) == (200, found.media_type)


async def test_of_a_manifest_with_very_many_layers_each_is_confirmed_when_asked_for(
    start: StartMirror, upstream: ScriptedRegistry
) -> None:
    base = upstream.add(image(random_layer(1000, seed=2)), "library/base", "1")
    described = json.loads(base.manifest)
    document = described | {"layers": described["layers"] * 5000}
    upstream.add(Image(json.dumps(document).encode(), OCI_MANIFEST, base.blobs), "library/app", "1")
    mirror = await start()
    assert (await mirror.client.manifest("library/app", "1")).status == 200
    await mirror.client.blob("library/base", base.layers[0])
    await mirror.until_metric("mirror_fills_active", 0)
    upstream.forget()
    answer = await mirror.client.blob("library/app", base.layers[0])
    assert answer.status == 200
    assert upstream.questions() == [("blob", "HEAD", base.layers[0])]


# What is damaged


async def test_what_has_rotted_on_disk_is_fetched_again(
    start: StartMirror, upstream: ScriptedRegistry
) -> None:
    found = upstream.add(image(random_layer(1000, seed=2)), "library/app", "1")
    targets = {found.digest: f"manifests/{found.digest}"} | {
        digest: f"blobs/{digest}" for digest in found.blobs
    }
    contents = {found.digest: found.manifest, **found.blobs}
    mirror = await start()
    for target in targets.values():
        await mirror.client.get(f"/v2/library/app/{target}")
    await mirror.until_metric("mirror_fills_active", 0)
    await mirror.stop()
    for digest in targets:
        _rot(mirror.store_root, digest)
    mirror = await start()
    for _ in range(2):
        for digest, target in targets.items():
            answer = await mirror.client.get(f"/v2/library/app/{target}")
            assert (answer.status, answer.body) == (200, contents[digest])
        await mirror.until_metric("mirror_fills_active", 0)
    for digest in targets:
        assert len(upstream.asked(reference=digest, method="GET")) == 2


def _rot(root: Path, digest: str) -> None:
    for file in root.rglob(digest.removeprefix("sha256:")):
        if not file.is_file():
            continue
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        assert digest_of(bytes(content)) != digest


# A client's own authorization


async def test_however_many_requests_a_client_begins_with_it_is_let_in_once(
    mirror: InnerMirror, private: ScriptedRegistry, secret: Image
) -> None:
    assert private.auth is not None
    bert = {"Authorization": "Basic " + base64.b64encode(b"bert:other").decode()}
    private.auth = BasicAuth(users={"bert": "other"})
    private.forget()
    layer = secret.layers[0]
    gate = private.hold(layer)
    async with asyncio.TaskGroup() as tasks:
        target = f"/v2/private.example/org/secret/blobs/{layer}"
        pulls = [tasks.create_task(mirror.client.get(target, headers=bert)) for _ in range(10)]
        await gate.reached()
        gate.open()
    assert all(pull.result().body == secret.blobs[layer] for pull in pulls)
    assert private.questions() == [("blob", "HEAD", layer)]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("kind", ["blobs", "manifests"])
async def test_nobody_is_told_that_another_client_has_pulled_a_digest(
    mirror: InnerMirror, private: ScriptedRegistry, secret: Image, method: str, kind: str
) -> None:
    """Who may pull the same from another repository is answered as if it were not here."""
    private.auth = BasicAuth(users={"anna": "secret", "bert": "hidden"})
    private.add(secret, "org/another", "1")
    bert = {"Authorization": "Basic " + base64.b64encode(b"bert:hidden").decode()}
    digest = secret.layers[0] if kind == "blobs" else secret.digest
    target = f"/v2/private.example/org/another/{kind}/{digest}"
    async with mirror.client.open(target, method=method, headers=bert) as response:
        assert response.status == 200
        assert response.headers["Cache-Status"] == "mirror; fwd=miss"
        await response.read()

"""podman, Buildah, skopeo and CRI-O take all of an image from where its manifest came from."""

import json
from dataclasses import replace

import aiohttp
import pytest

from tests.conftest import StartMirror
from tests.support.client import Answer
from tests.support.clock import FakeClock
from tests.support.images import OCI_INDEX, Image, artifact, image, index, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.upstream import RateLimit, ScriptedRegistry

PODMAN = "containers/5.30 (github.com/containers/image)"
AGENTS = [PODMAN, "skopeo/1.18.0", "Buildah/1.39.3", "cri-o/1.31.0 go/go1.23", "podman/4.3.1"]

APP = image(random_layer(1_000, seed=91), random_layer(400_000, seed=92))
ARM = image(random_layer(1_000, seed=93), architecture="arm64")
BOTH = index(APP, ARM)


@pytest.fixture
async def app(upstream: ScriptedRegistry) -> Image:
    upstream.add(BOTH, "library/both", "1")
    return upstream.add(APP, "library/app", "1")


async def asked(
    mirror: InnerMirror, repository: str, reference: str, agent: str = PODMAN, method: str = "GET"
) -> Answer:
    target = f"/v2/{repository}/manifests/{reference}"
    headers = {"User-Agent": agent}
    async with mirror.client.open(target, method=method, headers=headers) as response:
        return Answer(response.status, response.headers, await response.read())


@pytest.mark.parametrize("agent", AGENTS)
async def test_a_manifest_whose_layers_cannot_be_had_is_404_so_that_the_origin_is_asked(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, clock: FakeClock, agent: str
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("app", "1")
    await upstream.stop()
    clock.advance(61)
    for reference in ("1", APP.digest):
        answer = await asked(mirror, "app", reference, agent)
        assert answer.status == 404
        [error] = json.loads(answer.body)["errors"]
        assert error["code"] == "MANIFEST_UNKNOWN"
        assert "not all that this manifest names" in error["message"]
        other = await asked(mirror, "app", reference, "containerd/2.0.0")  # asks elsewhere itself
        assert other.status == 200


async def test_a_tag_that_is_fresh_is_not_enough_either(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("app", "1")
    await upstream.stop()
    assert (await asked(mirror, "app", "1")).status == 404


async def test_what_is_wholly_here_is_served_in_an_outage_and_nobody_is_asked(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, clock: FakeClock
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("app", "1")
    for digest in APP.blobs:
        await mirror.client.blob("app", digest)
    await mirror.until_metric("mirror_fills_active", 0)
    upstream.forget()
    assert (await asked(mirror, "app", "1")).status == 200
    assert upstream.requests == []
    await upstream.stop()
    clock.advance(61)
    for reference in ("1", APP.digest):
        assert (await asked(mirror, "app", reference)).body == APP.manifest
        assert (await asked(mirror, "app", reference, method="HEAD")).status == 200


@pytest.mark.parametrize("outage", [{"status": 429}, {"status": 503}, {"drop": True}])
async def test_layers_alone_that_cannot_be_had_are_enough_for_a_404(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, outage: dict[str, object]
) -> None:
    mirror = await start_mirror()
    upstream.fault(kind="blob", **outage)
    assert (await asked(mirror, "app", "1")).status == 404
    upstream.faults.clear()


async def test_a_layer_that_upstream_does_not_have_is_the_same(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    del upstream.repositories["library/app"].blobs[APP.config]
    assert (await asked(mirror, "app", "1")).status == 404


async def test_a_limit_on_manifests_does_not_keep_layers_from_coming(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, clock: FakeClock
) -> None:
    """Docker Hub counts GETs of manifests alone."""
    mirror = await start_mirror()
    await mirror.client.manifest("app", "1")
    upstream.rate_limit = RateLimit(remaining=0)
    clock.advance(61)
    assert (await asked(mirror, "app", "1")).status == 200
    for digest, content in APP.blobs.items():
        assert (await mirror.client.blob("app", digest)).body == content


async def test_one_question_confirms_the_rest_of_an_image_and_holds_for_all_who_ask(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    for _ in range(5):
        assert (await asked(mirror, "app", "1")).status == 200
    assert upstream.questions() == [("tag", "GET", "1"), ("blob", "HEAD", APP.config)]


async def test_an_index_is_served_while_one_platform_of_it_is_wholly_here(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, clock: FakeClock
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("both", "1")
    await mirror.client.manifest("both", ARM.digest)
    for digest in ARM.blobs:
        await mirror.client.blob("both", digest)
    await mirror.until_metric("mirror_fills_active", 0)
    await upstream.stop()
    clock.advance(61)
    assert (await asked(mirror, "both", "1")).body == BOTH.manifest
    assert (await asked(mirror, "both", ARM.digest)).status == 200
    assert (await asked(mirror, "both", APP.digest)).status == 502  # not even the manifest


@pytest.mark.parametrize("has_child", [False, True])
async def test_an_index_of_which_no_platform_can_be_had_is_404(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    app: Image,
    clock: FakeClock,
    *,
    has_child: bool,
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("both", "1")
    if has_child:
        await mirror.client.manifest("both", ARM.digest)
    assert (await asked(mirror, "both", "1")).status == 200
    await upstream.stop()
    clock.advance(61)
    assert (await asked(mirror, "both", "1")).status == 404


async def test_an_index_whose_children_are_behind_a_limit_is_404_though_head_is_answered(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("both", "1")
    upstream.rate_limit = RateLimit(remaining=0, retry_after="600")
    await mirror.client.manifest("app", "1")  # so it is known
    assert (await asked(mirror, "both", "1")).status == 404


async def test_what_is_private_elsewhere_is_not_at_hand(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, clock: FakeClock
) -> None:
    mirror = await start_mirror(
        {
            "docker.io": upstream_at(upstream.url),
            "ghcr.io": {**upstream_at(upstream.url), "access": "client"},
        }
    )
    for digest in APP.blobs:
        assert (await mirror.client.blob("ghcr.io/library/app", digest)).status == 200
    assert (await asked(mirror, "ghcr.io/library/app", "1")).status == 200
    await mirror.client.manifest("app", "1")
    await upstream.stop()
    clock.advance(61)
    assert (await asked(mirror, "app", "1")).status == 404


async def test_an_artifact_without_platform_is_served_like_an_image(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    signature = upstream.add(artifact(b"signature", subject=APP), "library/app", "sig")
    mirror = await start_mirror()
    assert (await asked(mirror, "app", "sig", "skopeo/1.18.0")).body == signature.manifest


@pytest.mark.parametrize("agent", ["skopeo/1.18.0", PODMAN])
async def test_a_layer_that_a_client_was_just_told_is_not_there_is_enough_for_a_404(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, agent: str
) -> None:
    """The first thing that is lacking would be confirmed: skopeo does not come so far."""
    del upstream.repositories["library/app"].blobs[app.layers[1]]
    mirror = await start_mirror()
    assert (await mirror.client.blob("library/app", app.layers[1])).status == 404
    assert (await asked(mirror, "library/app", "1", agent)).status == 404
    assert (await asked(mirror, "library/app", app.digest, "containerd/2.1.4")).status == 200


async def test_a_layer_that_was_given_up_a_moment_ago_is_enough_for_a_404(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill={"attempts": 1})
    cut = upstream.fault(reference=app.layers[1], method="GET", truncate_at=100, ignore_range=True)
    with pytest.raises(aiohttp.ClientError):
        await mirror.client.blob("library/app", app.layers[1])
    await mirror.until_metric("mirror_fills_active", 0)
    assert (await asked(mirror, "library/app", "1")).status == 404
    upstream.faults.remove(cut)
    answer = await mirror.client.blob("library/app", app.layers[1])
    assert answer.body == app.blobs[app.layers[1]]
    await mirror.until_metric("mirror_fills_active", 0)
    assert (await asked(mirror, "library/app", "1")).status == 200


async def test_who_asks_again_for_a_layer_that_broke_off_is_told_so_before_any_of_it(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    """containerd turns to the next host with an answer, and with a body that breaks it does not."""
    mirror = await start_mirror(fill={"attempts": 1})
    upstream.fault(reference=app.layers[1], method="GET", truncate_at=100, ignore_range=True)
    with pytest.raises(aiohttp.ClientError):
        await mirror.client.blob("library/app", app.layers[1])
    await mirror.until_metric("mirror_fills_active", 0)
    target = f"/v2/library/app/blobs/{app.layers[1]}"
    for headers in ({}, {"Range": "bytes=100-"}):
        answer = await mirror.client.get(target, headers=headers)
        assert answer.status == 502
        await mirror.until_metric("mirror_fills_active", 0)


@pytest.mark.parametrize("declared", [True, False])
async def test_an_index_that_names_nothing_is_404_for_who_would_take_nothing_from_it(
    upstream: ScriptedRegistry, start_mirror: StartMirror, *, declared: bool
) -> None:
    document: dict[str, object] = {"schemaVersion": 2, "manifests": []}
    if declared:
        document["mediaType"] = OCI_INDEX
    empty = replace(index(), manifest=json.dumps(document).encode())
    upstream.add(empty, "library/app", "1")
    mirror = await start_mirror()
    assert (await asked(mirror, "library/app", "1")).status == 404
    assert (await asked(mirror, "library/app", "1", "crane/0.20")).body == empty.manifest

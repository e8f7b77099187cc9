"""What a client is about to ask for is begun at once; nothing else is."""

import json
from dataclasses import replace

import pytest

from tests.conftest import StartMirror
from tests.support.clock import FakeClock
from tests.support.images import Image, digest_of, image, index, random_layer
from tests.support.upstream import ScriptedRegistry

ON = {"prefetch": "platform"}
LAYERS = [random_layer(size, seed=size) for size in (5_000, 6_000, 7_000)]


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(*LAYERS), "library/app", "1")


@pytest.fixture
def many(upstream: ScriptedRegistry) -> Image:
    """An index with an image for amd64 and another for arm64."""
    members = [
        image(random_layer(4_000, seed=number), architecture=architecture)
        for number, architecture in enumerate(("amd64", "arm64"))
    ]
    return upstream.add(index(*members), "library/many", "1")


async def test_the_layers_of_a_served_manifest_are_fetched_before_anyone_asks(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill=ON)
    await mirror.client.manifest("app", "1")
    await mirror.until_metric("mirror_fills_total", len(app.blobs), outcome="committed")
    upstream.forget()
    for digest in app.blobs:
        blob = await mirror.client.blob("app", digest)
        assert (blob.headers["Cache-Status"], blob.body) == ("mirror; hit", app.blobs[digest])
    assert upstream.requests == []


async def test_a_client_that_asks_meanwhile_joins_and_costs_no_second_transfer(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill=ON)
    layer = next(digest for digest in app.blobs if len(app.blobs[digest]) > 5_000)
    gate = upstream.hold(layer, after=100)
    await mirror.client.manifest("app", "1")
    await gate.reached()
    async with mirror.client.open(f"/v2/app/blobs/{layer}") as blob:
        assert blob.headers["Cache-Status"] == "mirror; fwd=miss; collapsed"
        gate.open()
        assert await blob.read() == app.blobs[layer]
    assert len(upstream.asked("blob", reference=layer)) == 1


async def test_a_head_announces_nothing(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill=ON)
    await mirror.client.head("/v2/app/manifests/1")
    assert {asked.kind for asked in upstream.requests} == {"tag"}


async def test_it_is_off_unless_asked_for(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("app", "1")
    assert upstream.asked("blob") == []


async def test_of_an_index_only_platforms_that_clients_have_pulled_are_fetched(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, many: Image
) -> None:
    mirror = await start_mirror(fill=ON)
    amd64, arm64 = many.members
    await mirror.client.manifest("many", "1")
    assert upstream.asked("manifest") == [], "nobody has pulled any platform yet"
    await mirror.client.manifest("many", amd64.digest)
    await mirror.until_metric("mirror_fills_total", len(amd64.blobs), outcome="committed")

    other = upstream.add(
        index(
            *(
                image(random_layer(3_000, seed=10 + number), architecture=architecture)
                for number, architecture in enumerate(("amd64", "arm64"))
            )
        ),
        "library/other",
        "1",
    )
    upstream.forget()
    await mirror.client.manifest("other", "1")
    wanted, unwanted = other.members
    fetched = len(amd64.blobs) + len(wanted.blobs)
    await mirror.until_metric("mirror_fills_total", fetched, outcome="committed")
    assert [asked.reference for asked in upstream.asked("manifest")] == [wanted.digest]
    assert {asked.reference for asked in upstream.asked("blob")} == set(wanted.blobs)
    assert not set(unwanted.blobs) & {asked.reference for asked in upstream.requests}
    assert not upstream.asked("manifest", reference=arm64.digest)


async def test_what_a_client_waits_for_goes_before_what_is_only_expected(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    """The one place for fills is taken by a prefetch that hangs, others queue: it gives way."""
    wanted = upstream.add(image(random_layer(9_000, seed=9)), "library/wanted", "1")
    layer = max(wanted.blobs, key=lambda digest: len(wanted.blobs[digest]))
    mirror = await start_mirror(fill=ON | {"max_active": 1})
    gate = upstream.hold(next(iter(app.blobs)), after=10)
    await mirror.client.manifest("app", "1")
    await gate.reached()
    upstream.forget()
    assert (await mirror.client.blob("wanted", layer)).body == wanted.blobs[layer]
    gate.open()
    assert upstream.asked("blob")[0].reference == layer


async def test_what_could_not_be_fetched_is_tried_again_also_when_the_clock_was_set_back(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock, app: Image
) -> None:
    mirror = await start_mirror(fill=ON)
    missing = upstream.fault(kind="blob", status=404)
    await mirror.client.manifest("app", "1")
    for digest in app.blobs:
        await upstream.was_asked("blob", reference=digest)
    await mirror.until_metric("mirror_fills_total", len(app.blobs), outcome="missing")
    await mirror.until_metric("mirror_fills_active", 0)
    upstream.faults.remove(missing)
    clock.set_back(3600)
    clock.advance(30)
    await mirror.client.manifest("app", "1")
    await mirror.until_metric("mirror_fills_total", len(app.blobs), outcome="committed")


@pytest.mark.parametrize("layers", [1_000, 4_000, 30_000])
async def test_of_a_manifest_that_names_thousands_of_layers_a_few_are_fetched(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, layers: int
) -> None:
    """Nobody has them: each would be a request that a hostile manifest has the mirror make."""
    document = json.loads(app.manifest)
    entry = document["layers"][0]
    document["layers"] = [entry | {"digest": digest_of(b"%d" % number)} for number in range(layers)]
    upstream.add(replace(app, manifest=json.dumps(document).encode()), "library/app", "2")
    mirror = await start_mirror(fill=ON)
    assert (await mirror.client.manifest("app", "2")).status in {200, 502}
    assert (await mirror.client.manifest("app", "1")).status == 200
    await mirror.until_metric("mirror_fills_total", len(app.blobs), outcome="committed")
    await mirror.until_metric("mirror_fills_active", 0)
    assert len(upstream.asked("blob")) <= 256 + len(app.blobs)

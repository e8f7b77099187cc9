"""`max_connections` and `max_bandwidth` hold, endpoint by endpoint."""

import asyncio
from datetime import datetime, timedelta

from tests.conftest import StartMirror
from tests.support.clock import FakeClock
from tests.support.images import image, random_bytes, random_layer
from tests.support.mirror import upstream_at
from tests.support.operators import ask
from tests.support.upstream import ScriptedRegistry

SIZE = 16 * 2**20  # more than the kernel and aiohttp take in for one connection


async def test_no_more_connections_are_made_than_allowed_and_a_question_still_finds_one(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    digests = [upstream.add_blob(random_bytes(2_000, seed=n), "library/app") for n in range(6)]
    gates = [upstream.hold(digest, after=10) for digest in digests]
    hub = upstream_at(upstream.url)
    hub["endpoints"][0]["max_connections"] = 3
    mirror = await start_mirror({"docker.io": hub})
    async with asyncio.TaskGroup() as clients:
        pulls = [clients.create_task(mirror.client.blob("app", digest)) for digest in digests]
        await upstream.was_asked("blob", count=2)
        await mirror.until_metric("mirror_fills_active", len(digests))
        assert (await mirror.client.get("/v2/app/tags/list")).status == 200
        for gate in gates:
            gate.open()
    assert [pull.result().digest for pull in pulls] == digests
    assert upstream.peaks["blob"] == 2


async def test_upstream_is_read_no_faster_than_its_bandwidth(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """Where nothing holds them back, three come through while this one cannot get on."""
    content = random_bytes(SIZE, seed=1)
    slow, *fast = (upstream.add_blob(content + bytes([n]), "library/app") for n in range(4))
    limited = upstream_at(upstream.url, max_bandwidth="1 KB")
    mirror = await start_mirror(
        {"docker.io": upstream_at(upstream.url), "quay.io": limited}, fill={"connections": 1}
    )
    async with mirror.client.open(f"/v2/quay.io/library/app/blobs/{slow}"):
        for digest in fast:
            assert (await mirror.client.blob("app", digest)).digest == digest
        [asked] = upstream.asked(reference=slow)
        assert not asked.ended
        assert asked.sent < SIZE  # what is not read is not sent either


async def test_a_limit_of_bandwidth_delays_bytes_and_loses_none(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """They arrive in larger pieces than may be taken at a time."""
    content = random_bytes(150_000, seed=1)
    digest = upstream.add_blob(content, "library/app")
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url, max_bandwidth="200 KB")})
    assert (await mirror.client.blob("app", digest)).body == content


async def test_a_prefetch_leaves_the_bandwidth_to_clients(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """The layer began first and is smaller; at equal shares it would be there first."""
    app = upstream.add(image(random_layer(200_000, seed=1)), "library/app", "1")
    [layer] = app.layers
    wanted = upstream.add_blob(random_bytes(400_000, seed=2), "library/wanted")
    hub = upstream_at(upstream.url)
    hub["endpoints"][0]["max_bandwidth"] = "400 KB"
    mirror = await start_mirror({"docker.io": hub}, fill={"prefetch": "platform"})
    await mirror.client.manifest("app", "1")
    await upstream.was_asked("blob", reference=layer)
    assert (await mirror.client.blob("wanted", wanted)).digest == wanted
    blob = await mirror.client.blob("app", layer)
    assert blob.headers["Cache-Status"] == "mirror; fwd=miss; collapsed"
    assert blob.body == app.blobs[layer]


async def test_a_limit_of_this_hour_ends_with_it_and_the_rest_comes_at_once(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    content = random_bytes(SIZE, seed=1)
    digest = upstream.add_blob(content, "library/app")
    now = datetime.fromtimestamp(clock())  # noqa: DTZ006 - as the mirror has it
    spans = [
        {"from": f"{now:%H:%M}", "to": f"{now + timedelta(hours=1):%H:%M}", "limit": "1 KB"},
    ]
    mirror = await start_mirror(
        {"docker.io": upstream_at(upstream.url, max_bandwidth=spans)}, fill={"connections": 1}
    )
    [endpoint] = (await ask(mirror, "/endpoints"))["endpoints"]
    assert endpoint["max_rate"] == 1000
    async with mirror.client.open(f"/v2/library/app/blobs/{digest}") as slow:
        [asked] = upstream.asked(reference=digest)
        assert not asked.ended
        clock.advance(3600)
        [endpoint] = (await ask(mirror, "/endpoints"))["endpoints"]
        assert endpoint["max_rate"] is None
        assert len(await slow.read()) == SIZE

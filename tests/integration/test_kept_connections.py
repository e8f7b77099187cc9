"""Connections to a registry that are kept for the next request, and lead nowhere by then."""

import asyncio
from collections.abc import Callable

import pytest

from tests.conftest import StartMirror, StartRelay
from tests.support.evil import Evil, drops, tells
from tests.support.images import image, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.relay import Relay
from tests.support.upstream import ScriptedRegistry

POOLED = 8
APPS = [image(random_layer(1_000, seed=seed)) for seed in range(3 * POOLED)]
FILL = {"connect_timeout": "10s"}


@pytest.fixture
async def relay(upstream: ScriptedRegistry, start_relay: StartRelay) -> Relay:
    for number, app in enumerate(APPS):
        upstream.add(app, f"library/app{number}", "1")
    return await start_relay(upstream.port)


async def _pull(mirror: InnerMirror, numbers: range) -> list[int]:
    """All at once; the statuses."""
    return [
        answer.status
        for answer in await asyncio.gather(
            *(mirror.client.manifest(f"app{number}", "1") for number in numbers)
        )
    ]


NODE_IS_GONE: dict[str, Callable[[Relay], None]] = {
    "reset": lambda relay: relay.cut(),
    "without a word": lambda relay: relay.silence(),
}


@pytest.mark.parametrize("way", NODE_IS_GONE)
async def test_no_request_fails_that_a_fresh_connection_would_serve(
    start_mirror: StartMirror, relay: Relay, way: str
) -> None:
    """A load balancer's node is replaced while connections to it are kept."""
    mirror = await start_mirror({"docker.io": upstream_at(relay.url)}, fill=FILL)
    assert set(await _pull(mirror, range(POOLED))) == {200}
    NODE_IS_GONE[way](relay)
    assert set(await _pull(mirror, range(POOLED, 2 * POOLED))) == {200}
    assert set(await _pull(mirror, range(2 * POOLED, 3 * POOLED))) == {200}
    assert await mirror.metric("mirror_upstream_up") == 1


@pytest.mark.parametrize("way", NODE_IS_GONE)
async def test_a_layer_comes_though_the_kept_connections_are_dead(
    start_mirror: StartMirror, relay: Relay, way: str
) -> None:
    mirror = await start_mirror({"docker.io": upstream_at(relay.url)}, fill=FILL | {"attempts": 1})
    assert set(await _pull(mirror, range(POOLED))) == {200}
    NODE_IS_GONE[way](relay)
    [layer] = APPS[0].layers
    assert (await mirror.client.blob("app0", layer)).digest == layer


async def test_a_kept_connection_that_is_slow_may_still_answer(
    start_mirror: StartMirror, relay: Relay
) -> None:
    """A registry that fetches first itself takes its time, over whichever connection."""
    mirror = await start_mirror({"docker.io": upstream_at(relay.url)}, fill=FILL)
    assert await _pull(mirror, range(1)) == [200]
    relay.latency = 1.0
    assert await _pull(mirror, range(1, 2)) == [200]


async def test_what_is_asked_again_over_another_connection_is_counted_too(
    start_mirror: StartMirror, relay: Relay, upstream: ScriptedRegistry
) -> None:
    """A registry with a quota counts both."""
    mirror = await start_mirror({"docker.io": upstream_at(relay.url)}, fill=FILL)
    assert await _pull(mirror, range(1)) == [200]
    relay.latency = 1.0
    assert await _pull(mirror, range(1, 2)) == [200]
    asked = {"kind": "tag", "method": "GET"}
    assert await mirror.metric("mirror_upstream_requests_total", **asked, status="200") == 2
    assert await mirror.metric("mirror_upstream_requests_total", **asked, status="again") == 1


async def test_where_every_fresh_connection_dies_the_endpoint_is_down_after_one_request(
    start_mirror: StartMirror,
) -> None:
    """It is not tried again and again: `/v2/` is asked for once, and dies too."""
    async with Evil() as evil:
        evil.on("/v2/", drops)
        mirror = await start_mirror({"docker.io": upstream_at(evil.url)}, fill=FILL)
        assert (await mirror.client.manifest("app", "1")).status == 502
        await mirror.until_metric("mirror_upstream_up", 0)
        assert evil.asked.count("GET /v2/library/app/manifests/1") <= 2


async def test_a_registry_that_closes_after_each_answer_serves(
    start_mirror: StartMirror, upstream: ScriptedRegistry
) -> None:
    """It says nothing of it beforehand: the next request over that connection is reset."""
    [app] = APPS[:1]
    async with Evil() as evil:
        size = b"Docker-Content-Digest: " + str(app.digest).encode()
        evil.on("manifests/", tells(app.manifest, size))
        mirror = await start_mirror({"docker.io": upstream_at(evil.url)}, fill=FILL)
        for number in range(4):
            assert (await mirror.client.manifest(f"app{number}", "1")).status == 200
            evil.hang_up()

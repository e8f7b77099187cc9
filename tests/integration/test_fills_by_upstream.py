"""What an upstream sends, or says of a blob, is neither joined nor hindered by a neighbour's."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.conftest import StartMirror
from tests.support.images import Image, image, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.upstream import ScriptedRegistry

SIZE = 400_000
APP = image(random_layer(SIZE, seed=71))
[LAYER] = APP.layers


@pytest.fixture
async def other() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as registry:
        registry.add(APP, "org/app", "1")
        yield registry


@pytest.fixture
async def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(APP, "library/app", "1")


async def _two(
    start_mirror: StartMirror, one: ScriptedRegistry, other: ScriptedRegistry, **settings: object
) -> InnerMirror:
    upstreams = {"docker.io": upstream_at(one.url), "ghcr.io": upstream_at(other.url)}
    return await start_mirror(upstreams, **settings)


async def test_a_neighbour_that_hangs_in_the_middle_holds_up_nobody_else(
    upstream: ScriptedRegistry, other: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await _two(start_mirror, upstream, other)
    gate = upstream.hold(LAYER, after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        pull = clients.create_task(mirror.client.blob("app", LAYER))
        await gate.reached()
        answer = await mirror.client.blob("ghcr.io/org/app", LAYER)
        assert (answer.status, answer.digest) == (200, LAYER)
        assert other.bytes_sent(LAYER) == SIZE
        gate.open()
    assert pull.result().digest == LAYER  # whoever commits second finds it stored, and is fine
    await mirror.until_metric("mirror_fills_total", 2, outcome="committed")


async def test_a_neighbours_wrong_bytes_are_nobody_elses(
    upstream: ScriptedRegistry, other: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await _two(start_mirror, upstream, other)
    upstream.fault(kind="blob", corrupt_at=SIZE - 1)
    gate = upstream.hold(LAYER, after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        pull = clients.create_task(mirror.client.get(f"/v2/app/blobs/{LAYER}"))
        await gate.reached()
        assert (await mirror.client.blob("ghcr.io/org/app", LAYER)).digest == LAYER
        pull.cancel()
        gate.open()
    assert (await mirror.client.blob("ghcr.io/org/app", LAYER)).digest == LAYER


async def test_what_is_too_large_by_a_neighbours_word_is_not_for_others(
    upstream: ScriptedRegistry, other: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await _two(start_mirror, upstream, other, store={"max_size": "10 MB"})
    lie = upstream.fault(
        kind="blob", headers={"Content-Length": str(10**15)}, ignore_range=True, truncate_at=1000
    )
    with pytest.raises(Exception, match="payload"):
        await mirror.client.blob("app", LAYER)
    assert lie.struck
    for status in ("mirror; fwd=miss; stored", "mirror; hit"):
        answer = await mirror.client.blob("ghcr.io/org/app", LAYER)
        assert (answer.digest, answer.headers["Cache-Status"]) == (LAYER, status)
        await mirror.until_metric("mirror_fills_active", 0)

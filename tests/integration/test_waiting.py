"""Nobody waits for long for what others hold, and nothing is fetched for nobody."""

import asyncio
from typing import Any

import pytest

from tests.conftest import StartMirror
from tests.support.images import Image, image, random_bytes, random_layer
from tests.support.mirror import upstream_at
from tests.support.upstream import ScriptedRegistry

SIZE = 400_000
APP = image(random_layer(SIZE, seed=41))
[LAYER] = APP.layers
TINY = b"tiny!"
SOON = {"connect_timeout": "300ms"}


@pytest.fixture
async def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(APP, "library/app", "1")


@pytest.fixture
def tiny(upstream: ScriptedRegistry) -> str:
    return upstream.add_blob(TINY, "library/app")


def _hub(upstream: ScriptedRegistry, **settings: Any) -> dict[str, Any]:
    return {"docker.io": upstream_at(upstream.url, **settings)}


async def test_a_head_of_a_blob_does_not_wait_until_layers_are_through(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, tiny: str
) -> None:
    mirror = await start_mirror(_hub(upstream, max_connections=2))
    gate = upstream.hold(LAYER, after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        pull = clients.create_task(mirror.client.blob("app", LAYER))
        await gate.reached()
        async with asyncio.timeout(30):
            head = await mirror.client.head(f"/v2/app/blobs/{tiny}")
        gate.open()
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(TINY)))
    assert pull.result().digest == LAYER


async def test_a_question_is_given_up_in_time_where_the_only_connection_is_a_layers(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, tiny: str
) -> None:
    mirror = await start_mirror(_hub(upstream, max_connections=1), fill=SOON)
    gate = upstream.hold(LAYER, after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        pull = clients.create_task(mirror.client.blob("app", LAYER))
        await gate.reached()
        async with asyncio.timeout(30):
            assert (await mirror.client.head(f"/v2/app/blobs/{tiny}")).status == 504
            assert (await mirror.client.manifest("app", "1")).status == 504
        assert await mirror.metric("mirror_upstream_up") == 1
        gate.open()
    assert pull.result().digest == LAYER


@pytest.mark.parametrize(("agent", "status"), [("docker/28.0", 404), ("containerd/2.1", 504)])
async def test_a_blob_behind_max_active_is_given_up_in_time(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    app: Image,
    tiny: str,
    *,
    agent: str,
    status: int,
) -> None:
    mirror = await start_mirror(fill=SOON | {"max_active": 1})
    gate = upstream.hold(LAYER, after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        pull = clients.create_task(mirror.client.blob("app", LAYER))
        await gate.reached()
        async with asyncio.timeout(30):
            answer = await mirror.client.get(f"/v2/app/blobs/{tiny}", headers={"User-Agent": agent})
        assert answer.status == status
        gate.open()
    assert pull.result().digest == LAYER


async def test_a_blob_whose_clients_have_left_while_it_waited_is_not_fetched(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, tiny: str
) -> None:
    mirror = await start_mirror(fill={"max_active": 1})
    gate = upstream.hold(LAYER, after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        pull = clients.create_task(mirror.client.blob("app", LAYER))
        await gate.reached()
        leaving = clients.create_task(mirror.client.blob("app", tiny))
        await mirror.until_metric("mirror_fill_readers", 2)
        leaving.cancel()
        await mirror.until_metric("mirror_fill_readers", 1)
        gate.open()
    assert pull.result().digest == LAYER
    await mirror.until_metric("mirror_fills_active", 0)
    assert upstream.asked(reference=tiny) == []
    assert (await mirror.client.blob("app", tiny)).body == TINY


async def test_a_blob_that_waited_is_fetched_for_those_who_are_still_there(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, tiny: str
) -> None:
    mirror = await start_mirror(fill={"max_active": 1, "connect_timeout": "30s"})
    gate = upstream.hold(LAYER, after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        clients.create_task(mirror.client.blob("app", LAYER))
        await gate.reached()
        leaving, staying = (clients.create_task(mirror.client.blob("app", tiny)) for _ in "ab")
        await mirror.until_metric("mirror_fill_readers", 3)
        leaving.cancel()
        await mirror.until_metric("mirror_fill_readers", 2)
        gate.open()
    assert staying.result().body == TINY


async def test_what_is_passed_through_does_not_wait_for_long_either(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    big = upstream.add(image(random_layer(2 * SIZE, seed=42)), "library/big", "1")
    mirror = await start_mirror(
        _hub(upstream, max_connections=2), fill=SOON, store={"max_size": f"{SIZE * 3 // 2} B"}
    )
    await mirror.client.manifest("big", "1")
    gate = upstream.hold(LAYER, after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        pull = clients.create_task(mirror.client.blob("app", LAYER))
        await gate.reached()
        async with asyncio.timeout(30):
            assert (await mirror.client.blob("big", big.layers[0])).status == 504
        gate.open()
    assert pull.result().digest == LAYER


async def test_a_layer_that_is_under_way_waits_for_a_connection_as_long_as_it_takes(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    """Its reader has a part of it: what breaks is continued, once another layer is through."""
    other = upstream.add_blob(random_bytes(SIZE, seed=43), "library/app")
    tiny = upstream.add_blob(TINY, "library/app")
    mirror = await start_mirror(_hub(upstream, max_connections=1), fill=SOON | {"attempts": 1})
    first, second = upstream.hold(LAYER, after=SIZE // 2), upstream.hold(other, after=100)
    async with mirror.client.open(f"/v2/app/blobs/{LAYER}") as response:
        begun = await response.content.readexactly(SIZE // 4)
        async with asyncio.TaskGroup() as clients:
            # It waits for the only connection, and gets it when the first one breaks.
            pull = clients.create_task(mirror.client.blob("app", other))
            await mirror.until_metric("mirror_fills_active", 2)
            first.cut()
            await second.reached()
            head = await mirror.client.head(f"/v2/app/blobs/{tiny}")
            assert head.status == 504  # so long would a question wait
            second.open()
            body = begun + await response.read()
        assert body == APP.blobs[LAYER]
    assert pull.result().status in {200, 504}

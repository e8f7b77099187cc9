"""Two mirrors of one name, as a disk and its clone have it: each is another to the other."""

import asyncio

import pytest

from tests.integration.shared.conftest import StartFleet
from tests.support.fleet import Fleet
from tests.support.images import Image, image, random_layer
from tests.support.operators import ask
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

SIZE = 40 * 2**20
APP = image(random_layer(SIZE, seed=1411))
[LAYER] = APP.layers

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(APP, "org/app", "1")


@pytest.fixture
async def twins(start_fleet: StartFleet, app: Image) -> Fleet:
    fleet = await start_fleet(2, tags={"fresh_for": "1h"})
    await fleet.mirrors[1].process.kill()
    (fleet.mirrors[1].store_root / "mirror-id").write_text(fleet.name(0))
    await fleet.mirrors[1].process.start()
    for mirror in fleet.mirrors:
        await mirror.until_metric("mirror_shared_database_up", 1)
    return fleet


async def test_twins_fetch_a_blob_once(upstream: ScriptedRegistry, twins: Fleet) -> None:
    gate = upstream.hold(LAYER, after=2**20)
    async with asyncio.TaskGroup() as clients:
        pulls = [
            clients.create_task(mirror.client.blob("org/app", LAYER)) for mirror in twins.mirrors
        ]
        await gate.reached()
        gate.open()
    assert [(pull.result().status, pull.result().digest) for pull in pulls] == [(200, LAYER)] * 2

    async def is_proved() -> bool:
        return await twins.is_proved(LAYER)

    await until(is_proved)
    assert upstream.bytes_sent(LAYER) < 1.1 * SIZE


async def test_twins_hear_each_other(upstream: ScriptedRegistry, twins: Fleet, app: Image) -> None:
    first, second = twins.mirrors
    for mirror in twins.mirrors:
        assert (await mirror.client.manifest("org/app", "1")).digest == app.digest
        await mirror.until_metric("mirror_shared_untold", 0)
    moved = upstream.add(image(random_layer(1000, seed=1412)), "org/app", "1")
    assert (await second.client.manifest("org/app", "1")).digest == app.digest
    await ask(first, "/tags/forget", {"image": "docker.io/org/app:1"})

    async def has_moved() -> bool:
        return (await second.client.manifest("org/app", "1")).digest == moved.digest

    await until(has_moved)

"""Several mirrors fetch a blob once: who asks another mirror reads while it arrives."""

import asyncio

import pytest

from tests.integration.shared.conftest import StartFleet
from tests.support.images import Image, image, random_layer
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

SIZE = 40 * 2**20
APP = image(random_layer(SIZE, seed=1401))
[LAYER] = APP.layers

pytestmark = pytest.mark.chaos


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(APP, "org/app", "1")


@pytest.mark.parametrize("count", [2, 3])
async def test_a_cold_blob_that_all_are_asked_for_at_once_is_fetched_once(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image, count: int
) -> None:
    fleet = await start_fleet(count)
    answers = await asyncio.gather(
        *(mirror.client.blob("org/app", LAYER) for mirror in fleet.mirrors)
    )
    assert [answer.digest for answer in answers] == [LAYER] * count
    assert upstream.bytes_sent(LAYER) == SIZE

    async def is_proved() -> bool:
        return await fleet.is_proved(LAYER)

    await until(is_proved)


async def test_what_all_have_is_for_no_repository_that_upstream_does_not_let_have_it(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    upstream.add(image(random_layer(1000, seed=1403)), "org/other", "1")
    fleet = await start_fleet(2)
    first, second = fleet.mirrors
    assert (await first.client.blob("org/app", LAYER)).digest == LAYER
    upstream.forget()
    assert (await second.client.blob("org/other", LAYER)).status == 404
    assert {asked.status for asked in upstream.asked("blob")} == {404}
    assert (await second.client.blob("org/app", LAYER)).digest == LAYER
    assert sum(asked.sent for asked in upstream.asked("blob", repository="org/app")) == 0

"""`redirect = "large"`: clients get large blobs from the bucket itself, if they may have them."""

import obstore
import pytest

from tests.integration.shared.conftest import StartFleet
from tests.support.client import get
from tests.support.images import image, random_layer
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

SIZE = 33 * 2**20
APP = image(random_layer(SIZE, seed=1406), random_layer(1000, seed=1407))
LARGE, SMALL = APP.layers

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


async def test_what_is_large_comes_from_the_bucket_for_those_who_may_have_it(
    upstream: ScriptedRegistry, start_fleet: StartFleet
) -> None:
    upstream.add(APP, "org/app", "1")
    fleet = await start_fleet(2, shared={"redirect": "large"})
    first, second = fleet.mirrors
    for layer in (LARGE, SMALL):
        assert (await first.client.blob("org/app", layer)).digest == layer

    async def is_sent_elsewhere() -> bool:
        return (await second.client.blob("org/app", LARGE)).status == 307

    await until(is_sent_elsewhere)
    answer = await second.client.blob("org/app", LARGE)
    assert answer.headers["Docker-Content-Digest"] == LARGE
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await get(answer.headers["Location"])).digest == LARGE
    part = await get(answer.headers["Location"], headers={"Range": "bytes=5-9"})
    assert (part.status, len(part.body)) == (206, 5)
    assert (await second.client.blob("org/app", SMALL)).digest == SMALL
    assert (await second.client.head(f"/v2/org/app/blobs/{LARGE}")).status == 200
    assert (await second.client.blob("org/other", LARGE)).status == 404
    sent = upstream.asked("blob", repository="org/app", reference=LARGE)
    assert sum(asked.sent for asked in sent) == SIZE


@pytest.mark.parametrize("what", ["the object", "the bucket"])
async def test_nobody_is_sent_to_what_is_not_there(
    upstream: ScriptedRegistry, start_fleet: StartFleet, what: str
) -> None:
    """A client that is sent there has no way back, and the next one has none either."""
    upstream.add(APP, "org/app", "1")
    fleet = await start_fleet(2, shared={"redirect": "large"})
    first, second = fleet.mirrors
    assert (await first.client.blob("org/app", LARGE)).digest == LARGE

    async def is_joined() -> bool:
        rows = await fleet.rows("SELECT key FROM mirror.pieces")
        return await fleet.is_proved(LARGE) and len(rows) == 1

    await until(is_joined)
    if what == "the object":
        for key in await fleet.keys():
            await obstore.delete_async(fleet.store, key)
    else:
        await fleet.lines[1].bucket.stop()
    answer = await second.client.blob("org/app", LARGE)
    assert (answer.status, answer.digest) == (200, LARGE)

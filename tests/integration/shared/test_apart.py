"""Mirrors whose database or bucket is away go on by themselves, and share later what they have."""

import asyncio
import shutil

import aiohttp
import obstore
import pytest

from tests.integration.shared.conftest import StartFleet
from tests.support.fleet import Fleet
from tests.support.images import Image, image, random_layer
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

SIZE = 3 * 2**20
APP = image(random_layer(SIZE, seed=1404), random_layer(SIZE, seed=1405))
LAYER, OTHER_LAYER = APP.layers

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(APP, "org/app", "1")


async def is_back(fleet: Fleet, what: str) -> None:
    for lines in fleet.lines:
        await getattr(lines, what).start()


async def is_published(fleet: Fleet, *digests: str) -> None:
    async def are_proved() -> bool:
        return all([await fleet.is_proved(digest) for digest in digests])

    await until(are_proved)


@pytest.mark.parametrize("what", ["database", "bucket"])
async def test_what_was_filled_while_one_was_away_is_published_when_it_is_back(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image, what: str
) -> None:
    fleet = await start_fleet(2, away=[what])
    first, second = fleet.mirrors
    assert (await first.client.blob("org/app", LAYER)).digest == LAYER
    await is_back(fleet, what)
    await is_published(fleet, LAYER)
    for one in ("database", "bucket"):  # each looks for them by itself
        await second.until_metric(f"mirror_shared_{one}_up", 1)
    assert (await second.client.blob("org/app", LAYER)).digest == LAYER
    assert upstream.bytes_sent(LAYER) == SIZE


async def test_what_a_mirror_has_left_unpublished_is_published_when_it_is_started_again(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    fleet = await start_fleet(2, away=["bucket"])
    first, second = fleet.mirrors

    async def is_kept() -> bool:
        answer = await first.client.blob("org/app", LAYER)
        assert answer.digest == LAYER
        return answer.headers["Cache-Status"] == "mirror; hit"

    await until(is_kept)
    await first.process.kill()
    await is_back(fleet, "bucket")
    await first.process.start()
    await is_published(fleet, LAYER)
    assert (await second.client.blob("org/app", LAYER)).digest == LAYER
    assert upstream.bytes_sent(LAYER) == SIZE


async def test_a_mirror_that_is_started_again_goes_on_at_once_where_it_was(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    """Its own turn, of before, keeps nobody at it waiting for a lease."""
    fleet = await start_fleet(1, shared={"lease": "5m"})
    [mirror] = fleet.mirrors
    gate = upstream.hold(LAYER, after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        pull = clients.create_task(_try(fleet, LAYER))
        await gate.reached()
        await mirror.process.kill()
        await pull
    gate.open()
    await mirror.process.start()
    assert (await mirror.client.blob("org/app", LAYER)).digest == LAYER
    await is_published(fleet, LAYER)


async def test_a_mirror_that_has_lost_its_disk_has_what_it_had_from_the_bucket(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    fleet = await start_fleet(1)
    [mirror] = fleet.mirrors
    for layer in (LAYER, OTHER_LAYER):
        assert (await mirror.client.blob("org/app", layer)).digest == layer
    await is_published(fleet, LAYER, OTHER_LAYER)
    await mirror.process.kill()
    await asyncio.to_thread(shutil.rmtree, mirror.store_root)
    await mirror.process.start()
    for layer in (LAYER, OTHER_LAYER):
        assert (await mirror.client.blob("org/app", layer)).digest == layer
    assert upstream.bytes_sent(LAYER) == upstream.bytes_sent(OTHER_LAYER) == SIZE


async def test_a_copy_that_is_not_what_it_should_be_is_found_out_and_fetched_anew(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    """Whoever reads it hashes it: wrong bytes leave to nobody, and the copy goes."""
    fleet = await start_fleet(2)
    first, second = fleet.mirrors
    assert (await first.client.blob("org/app", LAYER)).digest == LAYER
    await is_published(fleet, LAYER)
    for key in await fleet.keys():
        content = bytes(await (await obstore.get_async(fleet.store, key)).bytes_async())
        await obstore.put_async(fleet.store, key, content[:-1] + b"?", use_multipart=False)
    assert await _try(Fleet(fleet.url, fleet.prefix, fleet.bucket_server, [second]), LAYER) != 200

    async def is_gone() -> bool:
        return not await fleet.is_proved(LAYER)

    await until(is_gone)
    assert (await second.client.blob("org/app", LAYER)).digest == LAYER
    await is_published(fleet, LAYER)


@pytest.mark.parametrize("what", ["gone", "short", "empty"])
async def test_objects_that_are_lost_are_fetched_and_put_anew(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image, what: str
) -> None:
    fleet = await start_fleet(2)
    first, second = fleet.mirrors
    assert (await first.client.blob("org/app", LAYER)).digest == LAYER
    await is_published(fleet, LAYER)
    before = await fleet.keys()
    for key in before:
        if what == "gone":
            await obstore.delete_async(fleet.store, key)
        else:
            content = b"" if what == "empty" else b"short"
            await obstore.put_async(fleet.store, key, content, use_multipart=False)
    assert (await second.client.blob("org/app", LAYER)).digest == LAYER

    async def are_there_again() -> bool:
        rows = await fleet.rows("SELECT key FROM mirror.pieces")
        there = {row["key"] for row in rows}
        return await fleet.is_proved(LAYER) and bool(there) and not there & {*before}

    await until(are_there_again)


async def _try(fleet: Fleet, digest: str) -> int:
    """The status of an answer that came whole; 0 where none did."""
    try:
        return (await fleet.mirrors[0].client.blob("org/app", digest)).status
    except aiohttp.ClientError:
        return 0

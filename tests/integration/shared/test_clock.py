"""The database's clock is set back by hours: what was written before is from the future then."""

import asyncio
from collections.abc import Awaitable

import aiohttp
import pytest

from tests.integration.shared.conftest import StartFleet
from tests.support.client import Answer
from tests.support.fleet import Fleet
from tests.support.images import Image, image, random_layer
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

SIZE = 3 * 2**20
APP, OTHER = (image(random_layer(SIZE, seed=seed)) for seed in (1407, 1408))
[LAYER] = APP.layers

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(APP, "org/app", "1")


async def set_back(fleet: Fleet) -> None:
    """By three hours: so much later is all that is on record."""

    async def is_looked_at() -> bool:
        return bool(await fleet.rows("SELECT 1 FROM mirror.chores WHERE chore = 'clock'"))

    await until(is_looked_at)
    for table, *columns in (
        ("blobs", "until", "moved_at", "used_at", "leaving_at"),
        ("events", "at"),
        ("checks", "until"),
        ("pauses", "until"),
        ("mirrors", "seen_at"),
        ("chores", "begun_at"),
    ):
        later = ", ".join(f"{column} = {column} + interval '3 hours'" for column in columns)
        await fleet.rows(f"UPDATE mirror.{table} SET {later}")  # noqa: S608
    for table in ("tags", "referrers"):
        await fleet.rows(f"UPDATE mirror.{table} SET checked_at = checked_at + 10800")  # noqa: S608


async def test_the_turn_of_a_mirror_that_died_is_anothers(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    fleet = await start_fleet(2)
    first, second = fleet.mirrors
    gate = upstream.hold(LAYER, after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        pull = clients.create_task(_try(first.client.blob("org/app", LAYER)))
        await gate.reached()
        await first.process.kill()
        await pull
    gate.open()
    await set_back(fleet)

    async def is_whole() -> bool:
        return await _try(second.client.blob("org/app", LAYER)) == 200

    await until(is_whole)

    async def is_proved() -> bool:
        return await fleet.is_proved(LAYER)

    await until(is_proved)  # not alone: the turn was taken
    assert upstream.bytes_sent(LAYER) <= 2 * SIZE


async def test_what_a_tag_means_now_is_known_to_all(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    fleet = await start_fleet(2, tags={"fresh_for": "1s"})
    first, second = fleet.mirrors
    assert (await first.client.manifest("org/app", "1")).digest == APP.digest
    assert (await second.client.manifest("org/app", "1")).digest == APP.digest
    await set_back(fleet)
    upstream.add(OTHER, "org/app", "1")

    async def is_told() -> bool:
        await first.client.manifest("org/app", "1")
        rows = await fleet.rows(
            "SELECT 1 FROM mirror.tags AS t JOIN mirror.digests AS d ON d.id = t.digest"
            " WHERE t.name = '1' AND encode(d.digest, 'hex') LIKE '%' || $1",
            OTHER.digest.partition(":")[2],
        )
        return bool(rows)

    await until(is_told)

    async def is_known() -> bool:
        return (await second.client.manifest("org/app", "1")).digest == OTHER.digest

    await until(is_known)


async def _try(pull: Awaitable[Answer]) -> int:
    """The status of an answer that came whole; 0 where none did."""
    try:
        return (await pull).status
    except (aiohttp.ClientError, TimeoutError):
        return 0

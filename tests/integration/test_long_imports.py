"""Imports that take longer than what nothing names is left alone."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from mirror.control.bundles import Arrived, Depot
from mirror.oci.digest import parse_digest
from mirror.operate.bundles.remote import RemoteDepot
from tests.conformance.depot import APP, NAME, write
from tests.conftest import StartMirror
from tests.support.clock import FakeClock
from tests.support.images import Image, image, random_layer
from tests.support.mirror import InnerMirror
from tests.support.operators import ask, names_of, pull
from tests.unit.storage.opening import on_disk

DAY = 86400.0
OTHER = image(random_layer(5000, seed=2))


@pytest.fixture
async def mirror(start_mirror: StartMirror) -> InnerMirror:
    return await start_mirror({"docker.io": {"sealed": True, "default": True}})


@pytest.fixture
async def depot(mirror: InnerMirror) -> AsyncIterator[Depot]:
    key = {"Mirror-Key": (mirror.store_root / "operator-key").read_text()}
    async with aiohttp.ClientSession(headers=key) as session:
        yield RemoteDepot(session, mirror.admin_host)


async def bring(depot: Depot, name: str, app: Image) -> None:
    for digest, content in {app.digest: app.manifest, **app.blobs}.items():
        await write(depot, parse_digest(digest), len(content), [content])
    recorded = await depot.record(Arrived(name, app.digest, app.media_type, 1.0))
    assert (recorded.outcome, recorded.missing) == ("imported", [])


async def test_collecting_leaves_alone_what_an_import_of_hours_has_brought_so_far(
    mirror: InnerMirror, depot: Depot, clock: FakeClock
) -> None:
    await bring(depot, NAME, APP)
    root, size = parse_digest(OTHER.digest), len(OTHER.manifest)
    assert await depot.find_missing([root]) == {root}
    for digest, content in OTHER.blobs.items():
        await write(depot, parse_digest(digest), len(content), [content])
        clock.advance(DAY / 4)
        assert (await ask(mirror, "/gc", {"dry_run": True}))["blobs"] == 0
        assert (await ask(mirror, "/gc", {}))["blobs"] == 0
    await write(depot, root, size, [OTHER.manifest], is_manifest=True)
    arrived = Arrived("docker.io/library/other:1", OTHER.digest, OTHER.media_type, clock())
    assert (await depot.record(arrived)).outcome == "imported"
    await pull(mirror.client, "other", OTHER)


async def test_what_an_import_has_left_behind_that_broke_off_is_collected_in_the_end(
    mirror: InnerMirror, depot: Depot, clock: FakeClock
) -> None:
    await bring(depot, NAME, APP)
    for digest, content in OTHER.blobs.items():
        await write(depot, parse_digest(digest), len(content), [content])
    clock.advance(2 * DAY)
    assert (await ask(mirror, "/gc", {}))["blobs"] == len(OTHER.blobs)
    assert on_disk(mirror.store_root) == names_of(APP)

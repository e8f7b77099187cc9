"""What a bundle has brought to one mirror of a fleet is there for all of them."""

import tarfile
from pathlib import Path

import pytest

from tests.integration.shared.conftest import StartFleet
from tests.support.images import image, random_layer
from tests.support.mirror import running_mirror, upstream_at
from tests.support.operators import command
from tests.support.upstream import ScriptedRegistry

APP = image(random_layer(3 * 2**20, seed=1518), random_layer(2**16, seed=1519))

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


async def test_what_was_imported_at_one_mirror_the_others_serve_while_upstream_is_away(
    upstream: ScriptedRegistry, start_fleet: StartFleet, tmp_path: Path
) -> None:
    upstream.add(APP, "org/app", "1")
    bundle = tmp_path / "bundle.tar"
    async with running_mirror(
        tmp_path / "elsewhere", {"docker.io": upstream_at(upstream.url)}
    ) as elsewhere:
        assert (await elsewhere.client.manifest("org/app", "1")).digest == APP.digest
        for digest in APP.blobs:
            assert (await elsewhere.client.blob("org/app", digest)).digest == digest
        await elsewhere.until_metric("mirror_store_blobs", 1 + len(APP.blobs))
        assert (await command(elsewhere, "export", "org/app:1", "-o", bundle))[0] == 0
    await upstream.stop()
    first, second = (await start_fleet(2)).mirrors
    assert (await command(first, "import", bundle))[0] == 0
    await first.until_metric("mirror_shared_unpublished", 0)
    await first.until_metric("mirror_shared_untold", 0)
    assert (await second.client.manifest("org/app", "1")).digest == APP.digest
    for digest in APP.blobs:
        assert (await second.client.blob("org/app", digest)).digest == digest


async def test_nothing_is_imported_at_a_mirror_that_can_tell_nobody(
    start_fleet: StartFleet, tmp_path: Path
) -> None:
    [mirror] = (await start_fleet(1)).mirrors
    await mirror.process.stop()
    bundle = tmp_path / "bundle.tar"
    with tarfile.open(bundle, "w"):
        pass
    assert "start it" in (await command(mirror, "import", bundle))[2]

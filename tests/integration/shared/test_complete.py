"""podman, skopeo and the like take all of an image from the mirror: the bucket counts, too."""

import pytest

from tests.integration.shared.conftest import StartFleet
from tests.support.client import Answer, Client
from tests.support.images import Image, image, index, random_layer
from tests.support.operators import pull
from tests.support.upstream import ScriptedRegistry

APP = image(random_layer(2**16, seed=1421), random_layer(1000, seed=1422))
ARM = image(random_layer(1000, seed=1423), architecture="arm64")
BOTH = index(APP, ARM)
LEAST_ANSWER = 24  # bytes, of PostgreSQL to one who asks for what is not there

pytestmark = pytest.mark.chaos


async def asked(client: Client, reference: str) -> Answer:
    headers = {"User-Agent": "skopeo/1.18.0"}
    async with client.open(f"/v2/org/app/manifests/{reference}", headers=headers) as response:
        return Answer(response.status, response.headers, await response.read())


@pytest.mark.parametrize("known", [APP, BOTH], ids=["image", "index"])
async def test_a_mirror_with_an_empty_disk_gives_what_the_bucket_has_in_an_outage(
    upstream: ScriptedRegistry, start_fleet: StartFleet, known: Image
) -> None:
    upstream.add(known, "org/app", "1")
    first, second = (await start_fleet()).mirrors
    await first.client.manifest("org/app", "1")
    await pull(first.client, "org/app", APP, APP.digest)
    for name in ("mirror_shared_untold", "mirror_shared_unpublished"):
        await first.until_metric(name, 0)
    await upstream.stop()
    for reference in ("1", APP.digest):
        assert (await asked(second.client, reference)).status == 200
    for digest in APP.blobs:
        assert (await second.client.blob("org/app", digest)).digest == digest


async def test_what_the_bucket_has_not_is_not_all_there(
    upstream: ScriptedRegistry, start_fleet: StartFleet
) -> None:
    upstream.add(APP, "org/app", "1")
    first, second = (await start_fleet()).mirrors
    await first.client.manifest("org/app", "1")
    await first.client.blob("org/app", APP.layers[0])
    for name in ("mirror_shared_untold", "mirror_shared_unpublished"):
        await first.until_metric(name, 0)
    await upstream.stop()
    assert (await asked(second.client, "1")).status == 404


async def test_of_all_that_an_index_names_the_database_is_asked_at_once(
    upstream: ScriptedRegistry, start_fleet: StartFleet
) -> None:
    """Anybody may have a registry hold one that names thousands."""
    many = [image(random_layer(8, seed=seed)) for seed in range(500)]
    upstream.add(index(*many), "org/app", "1")
    fleet = await start_fleet()
    client, line = fleet.mirrors[1].client, fleet.lines[1].database
    await client.manifest("org/app", "1")
    await upstream.stop()
    assert (await asked(client, "1")).status == 404
    before = line.bytes_to_client
    assert (await asked(client, "1")).status == 404
    assert 0 < line.bytes_to_client - before < len(many) * LEAST_ANSWER

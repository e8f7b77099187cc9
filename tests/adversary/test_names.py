"""Who asks for ever new repositories, at an upstream that has whatever it is asked for."""

import pytest

from tests.conftest import StartMirror
from tests.support.images import image, random_layer
from tests.support.upstream import ScriptedRegistry

NUMBER = 6


@pytest.mark.parametrize(
    "agent", ["docker/29.0.0", "containers/5.36 (github.com/containers/image)"]
)
async def test_repositories_beyond_the_limit_are_served_and_not_put_on_record(
    upstream: ScriptedRegistry, start_mirror: StartMirror, agent: str
) -> None:
    app = image(random_layer(300_000, seed=1))
    for number in range(NUMBER):
        upstream.add(app, f"org/app-{number}", "1")
    mirror = await start_mirror(store={"new_repositories_per_hour": 4})  # one client: two
    for _ in range(2):
        for number in range(NUMBER):
            target = f"/v2/org/app-{number}"
            headers = {"User-Agent": agent}
            told = await mirror.client.get(f"{target}/manifests/1", headers=headers)
            assert (told.status, told.digest) == (200, app.digest)
            [layer] = app.layers
            blob = await mirror.client.get(f"{target}/blobs/{layer}", headers=headers)
            assert blob.body == app.blobs[layer]
    catalog = await mirror.client.get("/v2/_catalog")
    assert catalog.body == b'{"repositories":["docker.io/org/app-0","docker.io/org/app-1"]}'
    assert await mirror.metric("mirror_repositories_unrecorded_total", upstream="docker.io") > 0
    await mirror.stop()
    again = await start_mirror()
    assert (await again.client.manifest("org/app-5", "1")).digest == app.digest

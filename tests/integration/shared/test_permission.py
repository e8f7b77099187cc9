"""What another registry has sent is for no repository that does not have it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.bucket import BucketServer
from tests.support.fleet import Fleet, running_fleet
from tests.support.images import image, random_layer
from tests.support.mirror import upstream_at
from tests.support.postgres import Postgres
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

SIZE = 3 * 2**20
APP = image(random_layer(SIZE, seed=1410))
[LAYER] = APP.layers

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


@pytest.fixture
async def evil() -> AsyncIterator[ScriptedRegistry]:
    """It has a manifest that names what it does not have."""
    async with ScriptedRegistry() as registry:
        registry.add(APP, "org/evil", "1")
        del registry.repositories["org/evil"].blobs[LAYER]
        yield registry


@pytest.fixture
async def fleet(
    tmp_path: Path,
    upstream: ScriptedRegistry,
    evil: ScriptedRegistry,
    postgres: Postgres,
    bucket_server: BucketServer,
) -> AsyncIterator[Fleet]:
    upstreams = {
        "docker.io": {**upstream_at(upstream.url), "default": True},
        "evil.example": upstream_at(evil.url),
    }
    async with running_fleet(
        tmp_path, upstreams, postgres=postgres, bucket_server=bucket_server
    ) as fleet:
        yield fleet


async def test_what_a_dead_mirror_has_copied_and_not_kept_is_nobodys_word(
    upstream: ScriptedRegistry, fleet: Fleet
) -> None:
    upstream.add(APP, "org/app", "1")
    first, second = fleet.mirrors
    assert (await first.client.blob("org/app", LAYER)).digest == LAYER

    async def is_published() -> bool:
        return await fleet.is_proved(LAYER)

    await until(is_published)
    assert (await second.client.get("/v2/evil.example/org/evil/manifests/1")).status == 200
    await second.process.kill()
    # As it has read another's copy to its end, and was killed before it knew what that was worth.
    partial = second.store_root / "partial" / "evil.example" / LAYER.replace(":", "-")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(APP.blobs[LAYER])
    await second.process.start()
    for _ in range(2):
        assert (await second.client.get(f"/v2/evil.example/org/evil/blobs/{LAYER}")).status == 404
    for mirror in fleet.mirrors:
        answer = await mirror.client.get(f"/v2/evil.example/org/evil/blobs/{LAYER}")
        assert answer.status == 404
    sent = await fleet.rows(
        "SELECT u.name FROM mirror.sent AS s JOIN mirror.upstreams AS u ON u.id = s.upstream"
        " JOIN mirror.digests AS d ON d.id = s.digest WHERE encode(d.digest, 'hex') LIKE $1",
        "01" + LAYER.partition(":")[2],
    )
    assert [row["name"] for row in sent] == ["docker.io"]
    assert (await second.client.blob("org/app", LAYER)).digest == LAYER

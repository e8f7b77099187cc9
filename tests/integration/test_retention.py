"""What the mirror forgets of what nobody has pulled for long, and what it never does."""

import json
import shutil

from tests.conftest import StartMirror
from tests.support.clock import FakeClock
from tests.support.images import Image, image, random_layer
from tests.support.mirror import InnerMirror
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

DAY = 86400.0


async def pull(mirror: InnerMirror, name: str, reference: str, content: Image) -> list[int]:
    answers = [await mirror.client.manifest(name, reference)]
    answers += [await mirror.client.blob(name, digest) for digest in content.blobs]
    return [answer.status for answer in answers]


async def test_an_image_that_left_long_ago_is_forgotten_and_can_be_pulled_as_ever(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    content = upstream.add(image(random_layer(1000, seed=1)), "library/app", "1")
    mirror = await start_mirror()
    assert set(await pull(mirror, "library/app", "1", content)) == {200}
    await mirror.stop()
    shutil.rmtree(mirror.store_root / "blobs")  # as eviction does, sooner or later
    for path in mirror.store_root.glob("index.sqlite3*"):
        path.unlink()
    clock.advance(89 * DAY)
    mirror = await start_mirror()
    await upstream.stop()
    assert json.loads((await mirror.client.get("/v2/library/app/tags/list")).body)["tags"] == ["1"]
    await mirror.stop()
    clock.advance(2 * DAY)
    mirror = await start_mirror()
    await mirror.until_metric("mirror_forgotten_digests_total", 3)
    assert (await mirror.client.get("/v2/library/app/tags/list")).status >= 400
    await upstream.start()

    async def is_served() -> bool:
        return set(await pull(mirror, "library/app", "1", content)) == {200}

    await until(is_served)  # upstream is thought to be down for a moment


async def test_an_image_that_is_here_is_served_years_later_while_upstream_is_down(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    content = upstream.add(image(random_layer(1000, seed=1)), "library/app", "1")
    mirror = await start_mirror(store={"forget_after": "0s"})
    await pull(mirror, "library/app", "1", content)
    await mirror.stop()
    await upstream.stop()
    for _ in range(3):
        clock.advance(1000 * DAY)
        mirror = await start_mirror(store={"forget_after": "0s"})

        async def is_swept(mirror: InnerMirror = mirror) -> bool:
            return await mirror.metric("mirror_catalog_bytes", database="records") > 0

        await until(is_swept)
        assert set(await pull(mirror, "library/app", content.digest, content)) == {200}
        listed = json.loads((await mirror.client.get("/v2/_catalog")).body)
        assert listed == {"repositories": ["docker.io/library/app"]}
        await mirror.stop()

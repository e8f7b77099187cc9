"""A sealed upstream is never asked: what is here is what there is."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from mirror.config import ConfigError, parse
from mirror.doctor.examine import examine
from tests.conftest import StartMirror
from tests.support.client import Client, client
from tests.support.clock import FakeClock
from tests.support.images import Image, artifact, image, random_layer
from tests.support.mirror import InnerMirror, Settings, document, upstream_at
from tests.support.upstream import ScriptedRegistry

SIZE = 700_000  # more than is answered from memory
YEARS = 3 * 365 * 86400.0


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=1)), "library/app", "1")


async def _pull(mirror: Client, app: Image) -> None:
    assert (await mirror.manifest("app", "1")).digest == app.digest
    for digest in app.blobs:
        assert (await mirror.blob("app", digest)).digest == digest


async def _seal(
    start_mirror: StartMirror, upstream: ScriptedRegistry, mirror: InnerMirror
) -> InnerMirror:
    """The same mirror with its upstream sealed, years later; nothing was asked so far."""
    await mirror.stop()
    upstream.forget()
    return await start_mirror({"docker.io": upstream_at(upstream.url) | {"sealed": True}})


async def test_what_is_here_is_served_for_ever_and_nobody_is_asked(
    start_mirror: StartMirror, upstream: ScriptedRegistry, clock: FakeClock, app: Image
) -> None:
    mirror = await start_mirror()
    await _pull(mirror.client, app)
    clock.advance(YEARS)
    mirror = await _seal(start_mirror, upstream, mirror)
    await _pull(mirror.client, app)
    for _ in range(2):
        answer = await mirror.client.manifest("app", "1")
        assert "Warning" not in answer.headers
        clock.advance(YEARS)
    listed = await mirror.client.get("/v2/library/app/tags/list")
    assert (listed.status, json.loads(listed.body)["tags"]) == (200, ["1"])
    assert upstream.asked() == []


async def test_what_is_not_here_is_missing_and_the_answer_says_why(
    start_mirror: StartMirror, upstream: ScriptedRegistry, app: Image
) -> None:
    other = upstream.add_blob(b"other", "library/app")
    mirror = await start_mirror()
    await _pull(mirror.client, app)
    mirror = await _seal(start_mirror, upstream, mirror)
    here = f"/v2/library/app/blobs/{app.config}"
    assert (await mirror.client.get(here)).status == 200
    for path in (
        "app/manifests/2", f"app/manifests/{other}", f"app/blobs/{other}", "nothing/tags/list",
        f"app/referrers/{app.digest}",
        f"other/blobs/{app.config}",  # which is here, and is no other repository's for that
        f"other/manifests/{app.digest}",
    ):  # fmt: skip
        for _ in range(2):
            answer = await mirror.client.get(f"/v2/library/{path}")
            assert answer.status == 404, path
            [error] = json.loads(answer.body)["errors"]
            assert "never asks this registry" in error["message"], path
        assert (await mirror.client.head(f"/v2/library/{path}")).status in {404, 405}
    assert upstream.asked() == []
    assert not list(mirror.store_root.glob("partial/*/*"))


async def test_what_referred_to_an_image_when_it_was_sealed_still_does(
    start_mirror: StartMirror, upstream: ScriptedRegistry, clock: FakeClock, app: Image
) -> None:
    upstream.add(artifact(b"signed", subject=app), "library/app", "signature")
    mirror = await start_mirror()
    await _pull(mirror.client, app)  # of what is not here, nothing is known for long
    await mirror.until_metric("mirror_store_blobs", 3)
    path = f"/v2/library/app/referrers/{app.digest}"
    before = await mirror.client.get(path)
    assert (before.status, len(json.loads(before.body)["manifests"])) == (200, 1)
    clock.advance(YEARS)
    mirror = await _seal(start_mirror, upstream, mirror)
    assert (await mirror.client.get(path)).body == before.body
    assert upstream.asked() == []


async def test_what_a_tag_means_is_not_forgotten_where_nobody_can_be_asked(
    start_mirror: StartMirror, upstream: ScriptedRegistry, app: Image
) -> None:
    mirror = await start_mirror()
    await _pull(mirror.client, app)
    mirror = await _seal(start_mirror, upstream, mirror)
    async with client(mirror.admin_url) as admin, admin.open(
        "/api/v1/tags/forget", method="POST", data=b'{"image": "app:1"}',
        headers={"Content-Type": "application/json"},
    ) as answer:  # fmt: skip
        assert (answer.status, "is sealed" in await answer.text()) == (409, True)
    await _pull(mirror.client, app)


async def test_what_workers_have_cached_of_a_sealed_registry_goes_when_it_is_asked_again(
    start_mirror: StartMirror, upstream: ScriptedRegistry, clock: FakeClock, tmp_path: Path
) -> None:
    def settings(*, sealed: bool) -> Settings:
        hub = upstream_at(upstream.url) | {"sealed": sealed}
        return document({"docker.io": hub}, store_root=tmp_path / "store")

    old = upstream.add(image(random_layer(1000, seed=1)), "library/app", "1")
    mirror = await start_mirror()
    assert (await mirror.client.manifest("app", "1")).digest == old.digest
    new = upstream.add(image(random_layer(1000, seed=2)), "library/app", "1")
    clock.advance(3600)
    await mirror.reload(settings(sealed=True))
    assert (await mirror.client.manifest("app", "1")).digest == old.digest
    await mirror.reload(settings(sealed=False))
    assert (await mirror.client.manifest("app", "1")).digest == new.digest


async def test_status_and_doctor_say_that_it_is_sealed(
    start_mirror: StartMirror, upstream: ScriptedRegistry
) -> None:
    sealed = {"docker.io": upstream_at(upstream.url), "quay.io": {"sealed": True}}
    mirror = await start_mirror(sealed)
    async with client(mirror.admin_url) as admin:
        told = json.loads((await admin.get("/api/v1/status")).body)
        assert told["sealed"] == ["quay.io"]
        assert [it["upstream"] for it in told["endpoints"]] == ["docker.io"]
    settings = document({"docker.io": {"sealed": True}}, store_root=mirror.store_root)
    config = await asyncio.to_thread(parse, settings)
    said = [it async for it in examine(config, [])]
    [finding] = [it for it in said if it.where == 'upstream."docker.io".sealed']
    assert finding.level == "ok"
    assert not [it for it in said if "endpoints" in it.where]
    assert upstream.asked() == []


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"sealed": True, "access": "client"}, "nobody would be"),
        ({"sealed": False}, "endpoints is empty"),
    ],
)
def test_what_nobody_could_be_served_by_is_no_configuration(
    tmp_path: Any, settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse(document({"quay.io": settings}, store_root=tmp_path))

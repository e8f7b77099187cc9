"""A real registry (docker-registry) behind htpasswd, as the mirror's own account sees it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import Image
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.process import until
from tests.support.registry import Registry, running_registry

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(120)]

NAME, PASSWORD = "anna", "s3cr:t/ü &%"
FAILURES = "mirror_upstream_credential_failures_total"


@pytest.fixture
async def registry(tmp_path: Path, hello: Image) -> AsyncIterator[Registry]:
    async with running_registry(tmp_path / "registry", user=(NAME, PASSWORD)) as running:
        await running.push(hello, "team/hello", "1")
        yield running


async def _pull(mirror: MirrorProcess, image: Image) -> None:
    assert (await mirror.client.manifest("team/hello", "1")).body == image.manifest
    for digest, content in image.blobs.items():
        assert (await mirror.client.blob("team/hello", digest)).body == content


async def test_a_wrong_password_is_told_as_one_and_once_it_is_right_the_image_comes_and_stays(
    tmp_path: Path, registry: Registry, hello: Image
) -> None:
    password = tmp_path / "password"
    await asyncio.to_thread(password.write_text, "an old one", encoding="utf-8")
    endpoint: dict[str, Any] = {"username": NAME, "password_file": str(password)}
    upstreams = {"docker.io": upstream_at(registry.url, **endpoint)}
    async with running_mirror(tmp_path / "mirror", upstreams, tags={"fresh_for": "0s"}) as mirror:
        denied = await mirror.client.manifest("team/hello", "1")
        assert denied.status == 403
        assert await mirror.metric(FAILURES) >= 1

        async def is_logged() -> bool:
            return "refuses the mirror's credentials" in mirror.process.log()

        await until(is_logged)

        await asyncio.to_thread(password.write_text, PASSWORD, encoding="utf-8")

        async def is_there() -> bool:
            return (await mirror.client.manifest("team/hello", "1")).status == 200

        await until(is_there, within=30)
        await _pull(mirror, hello)
        missing = await mirror.client.manifest("team/hello", "missing")
        assert missing.status == 404
        referrers = await mirror.client.get(f"/v2/team/hello/referrers/{hello.digest}")
        assert referrers.status == 404

        await registry.process.stop()
        await _pull(mirror, hello)
        referrers = await mirror.client.get(f"/v2/team/hello/referrers/{hello.digest}")
        assert referrers.status == 404

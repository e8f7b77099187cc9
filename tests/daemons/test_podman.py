"""A real Podman, whose `registries.conf` has the mirror with the registry's name in its path."""

import pytest

from tests.support.daemons import Containers
from tests.support.images import Image, files, image
from tests.support.mirror import MirrorProcess
from tests.support.registry import Registry

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(120)]

HUB_NAME = "docker.io/library/hello:1"
GHCR_NAME = "ghcr.io/library/hello:1"


async def test_images_of_two_registries_are_pulled_removed_and_pulled_again_without_them(
    hub: Registry, ghcr: Registry, mirror: MirrorProcess, tools: Containers, hello: Image
) -> None:
    other = image(files({"hello": b"Hello from GHCR!\n"}))
    await hub.push(hello, "library/hello", "1")
    await ghcr.push(other, "library/hello", "1")
    await _pull(tools, HUB_NAME, hello)
    await _pull(tools, GHCR_NAME, other)
    await tools.podman("rmi", HUB_NAME, GHCR_NAME)
    assert (await tools.podman("images", "--all", "--quiet")).stdout == ""
    await hub.process.stop()
    await ghcr.process.stop()
    asked = await mirror.metric("mirror_upstream_requests_total")
    await _pull(tools, HUB_NAME, hello)
    await _pull(tools, GHCR_NAME, other)
    assert await mirror.metric("mirror_upstream_requests_total") == asked


async def test_podman_turns_to_the_origin_when_there_is_no_such_image(
    mirror: MirrorProcess, tools: Containers
) -> None:
    assert "registry-1.docker.io" in await _why_not(tools, "docker.io/library/unknown:1")
    assert await mirror.metric("mirror_requests_total", kind="tag", status="404") > 0


async def test_podman_turns_to_the_origin_when_upstream_is_down_and_nothing_is_cached(
    hub: Registry, mirror: MirrorProcess, tools: Containers, hello: Image
) -> None:
    await hub.push(hello, "library/hello", "1")
    await hub.process.stop()
    assert "registry-1.docker.io" in await _why_not(tools, HUB_NAME)
    assert await mirror.metric("mirror_requests_total", kind="tag", status="502") > 0


async def test_podman_turns_to_the_origin_when_upstream_is_down_and_only_a_manifest_is_cached(
    hub: Registry, mirror: MirrorProcess, tools: Containers, hello: Image
) -> None:
    await hub.push(hello, "library/hello", "1")
    await mirror.client.manifest("docker.io/library/hello", "1")
    await hub.process.stop()
    assert "registry-1.docker.io" in await _why_not(tools, HUB_NAME)
    assert await mirror.metric("mirror_requests_total", kind="tag", status="404") > 0


async def _pull(tools: Containers, name: str, wanted: Image) -> None:
    await tools.podman("pull", name)
    told = await tools.podman("image", "inspect", "--format={{.Digest}} sha256:{{.Id}}", name)
    assert told.stdout.split() == [wanted.digest, wanted.config]


async def _why_not(tools: Containers, name: str) -> str:
    """What podman says when it cannot pull, from the mirror or otherwise."""
    pulled = await tools.podman("pull", name, check=False)
    assert pulled.returncode != 0
    return pulled.stderr

"""A mirror between real clients and two real registries: Docker Hub's part and GHCR's."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.daemons import (
    Containerd,
    Containers,
    Docker,
    containers,
    running_containerd,
    running_docker,
)
from tests.support.images import Image, busybox, files, image, random_bytes
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.registry import Registry, running_registry
from tests.support.require import require


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Registry]:
    async with running_registry(tmp_path / "hub") as registry:
        yield registry


@pytest.fixture
async def ghcr(tmp_path: Path) -> AsyncIterator[Registry]:
    async with running_registry(tmp_path / "ghcr") as registry:
        yield registry


@pytest.fixture
async def mirror(
    tmp_path: Path, hub: Registry, ghcr: Registry, request: pytest.FixtureRequest
) -> AsyncIterator[MirrorProcess]:
    """Tags stay fresh for a day, or as long as an indirect parameter of the test says."""
    upstreams = {"docker.io": upstream_at(hub.url), "ghcr.io": upstream_at(ghcr.url)}
    fresh_for = getattr(request, "param", "1d")
    async with running_mirror(
        tmp_path / "mirror", upstreams, tags={"fresh_for": fresh_for}
    ) as running:
        yield running


@pytest.fixture
def hello() -> Image:
    """Three layers that a daemon can run, in Docker's media types; it says hello."""
    require("busybox")
    data = files({"data": random_bytes(1 << 20, seed=1)})
    greeting = files({"hello": b"Hello!\n"})
    return image(busybox(), data, greeting, command=("/bin/cat", "/hello"), docker=True)


@pytest.fixture
async def docker(mirror: MirrorProcess) -> AsyncIterator[Docker]:
    async with running_docker(mirror.url) as running:
        yield running


@pytest.fixture
async def containerd() -> AsyncIterator[Containerd]:
    async with running_containerd() as running:
        yield running


@pytest.fixture
async def tools(mirror: MirrorProcess) -> AsyncIterator[Containers]:
    async with containers(mirror.host, "docker.io", "ghcr.io") as configured:
        yield configured

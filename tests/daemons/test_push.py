"""A real `docker push` by way of the mirror to a real registry."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.daemons import Docker, running_docker
from tests.support.images import Image
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.registry import Registry, running_registry

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(180)]

USER = ("someone", "secret")


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with running_registry(tmp_path / "registry", user=USER) as running:
        yield running


@pytest.fixture
async def mirror(tmp_path: Path, registry: Registry) -> AsyncIterator[MirrorProcess]:
    """Its own credentials may read what is pushed; pushers show theirs."""
    password = tmp_path / "password"
    password.write_text(USER[1])
    upstream = upstream_at(registry.url, username=USER[0], password_file=str(password))
    upstream |= {"push": "client", "hosts": ["127.0.0.1"]}
    async with running_mirror(
        tmp_path / "mirror", {"docker.io": upstream}, tags={"fresh_for": "1d"}
    ) as running:
        yield running


@pytest.fixture
async def docker() -> AsyncIterator[Docker]:
    async with running_docker() as running:
        yield running


async def test_what_docker_pushes_is_at_the_registry_and_at_hand_for_everyone(
    registry: Registry, mirror: MirrorProcess, docker: Docker, tmp_path: Path, hello: Image
) -> None:
    name = f"{mirror.host}/someone/hello:1"
    await docker("login", "-u", USER[0], "-p", USER[1], mirror.host)
    await registry.push(hello, "base/hello", "1")
    await docker("pull", f"{mirror.host}/base/hello:1")
    await docker("create", "--name", "changed", f"{mirror.host}/base/hello:1")
    (tmp_path / "new").write_bytes(b"new" * 1000)
    await docker("cp", tmp_path / "new", "changed:/new")
    await docker("commit", "changed", name)
    await docker("push", name)
    assert "PUT /v2/someone/hello/manifests/1" in registry.asked()
    known = len(registry.asked())
    await docker("rm", "changed")
    await docker("rmi", name, f"{mirror.host}/base/hello:1")
    await docker("pull", name)
    assert (await docker("run", "--rm", "--network=none", name)).stdout == "Hello!\n"
    # Of the registry nothing but who is let in was asked.
    assert set(registry.asked()[known:]) <= {"GET /v2/"}

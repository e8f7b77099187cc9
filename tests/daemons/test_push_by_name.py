"""Real clients push on a shared address, where the first part of the path says which registry."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import bcrypt
import oras.client
import pytest

from tests.support.daemons import Containers, Docker, containers, running_docker
from tests.support.images import Image
from tests.support.mirror import running_mirror, upstream_at
from tests.support.registry import Registry, running_registry

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(300)]

ACCOUNT, SECRET = "mirror", "of-the-mirror"
NAME, PASSWORD = "anna", "of-the-team"
REGISTRY = "registry.example"


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with running_registry(tmp_path / "registry", user=(ACCOUNT, SECRET)) as running:
        yield running


@pytest.fixture
def endpoint(tmp_path: Path, registry: Registry) -> dict[str, Any]:
    """The registry, and the mirror's own account there."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    return upstream_at(registry.url, username=ACCOUNT, password_file=str(file))


async def test_users_of_the_mirror_push_with_its_account_and_know_nothing_of_it(
    tmp_path: Path, registry: Registry, endpoint: dict[str, Any], hello: Image
) -> None:
    users = tmp_path / "htpasswd"
    users.write_text(f"{NAME}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n")
    upstreams = {"docker.io": endpoint, REGISTRY: endpoint | {"push": "mirror"}}
    await registry.push(hello, "team/hello", "1")
    async with (
        running_mirror(
            tmp_path / "mirror", upstreams, server={"htpasswd_file": str(users)}
        ) as mirror,
        running_docker() as docker,
        containers() as tools,
    ):
        address = f"127.0.0.1:{mirror.host.rpartition(':')[2]}"
        hello_there = f"{address}/{REGISTRY}/team/hello:1"
        await _refuses(docker, tools, address, hello_there)
        await docker("login", "-u", NAME, "-p", PASSWORD, address)
        await docker("pull", hello_there)
        await docker("tag", hello_there, f"{address}/{REGISTRY}/team/docker:1")
        await docker("push", f"{address}/{REGISTRY}/team/docker:1")
        elsewhere = f"{address}/docker.io/team/docker:1"  # where pushes are off
        await docker("tag", hello_there, elsewhere)
        assert (await docker("push", elsewhere, check=False)).returncode != 0
        insecure = "--tls-verify=false"
        await tools.podman("login", insecure, "-u", NAME, "-p", PASSWORD, address)
        await tools.podman("pull", insecure, hello_there)
        await tools.podman("push", insecure, hello_there, f"{address}/{REGISTRY}/team/podman:1")
        both = ("--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests")
        there = f"docker://{address}/{REGISTRY}/team"
        await tools.skopeo("copy", *both, f"{there}/hello:1", f"{there}/skopeo:1")
        await registry.process.stop()
        for name in ("docker", "podman", "skopeo"):
            assert f"PUT /v2/team/{name}/manifests/1" in registry.asked()
            await tools.podman("pull", insecure, f"{address}/{REGISTRY}/team/{name}:1")


async def _refuses(docker: Docker, tools: Containers, address: str, name: str) -> None:
    """Who shows nothing, or the mirror's own password, is nobody."""
    wrong = await docker("login", "-u", ACCOUNT, "-p", SECRET, address, check=False)
    assert wrong.returncode != 0
    refused = await tools.skopeo(
        "copy", "--src-tls-verify=false", "--dest-tls-verify=false",
        f"docker://{name}", f"docker://{name}-copy", check=False,
    )  # fmt: skip
    assert refused.returncode != 0


async def test_oras_pushes_by_path_where_the_address_itself_asks_nobody_who_they_are(
    tmp_path: Path, registry: Registry, endpoint: dict[str, Any]
) -> None:
    upstreams = {"docker.io": endpoint, REGISTRY: endpoint | {"push": "client"}}
    file = tmp_path / "artifact.bin"
    file.write_bytes(b"pushed by path" * 1000)
    async with running_mirror(tmp_path / "mirror", upstreams) as mirror:
        assert (await mirror.client.get("/v2/")).status == 200
        address = f"127.0.0.1:{mirror.host.rpartition(':')[2]}"
        target = f"{address}/{REGISTRY}/team/oras:1"

        def push() -> None:
            client = oras.client.OrasClient(hostname=address, insecure=True, auth_backend="basic")
            client.auth.set_basic_auth(ACCOUNT, SECRET)
            client.push(target=target, files=[str(file)], disable_path_validation=True)

        def pull() -> list[bytes]:
            client = oras.client.OrasClient(hostname=address, insecure=True)
            pulled = client.pull(target=target, outdir=str(tmp_path / "pulled"))
            return [Path(it).read_bytes() for it in pulled]

        await asyncio.to_thread(push)
        assert "PUT /v2/team/oras/manifests/1" in registry.asked()
        await registry.process.stop()
        assert await asyncio.to_thread(pull) == [file.read_bytes()]

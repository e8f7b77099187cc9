"""Where the mirror cannot help, each client turns to Docker Hub itself: no pull fails for it.

Docker Hub is played by a registry of the test's, to which a proxy leads; the mirror's own upstream
is another one, that is not well. Clients are set up as `mirror setup` says.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.host import Host
from tests.support.images import files, image, index
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.process import free_port
from tests.support.proxy import ForwardProxy
from tests.support.pulls import GUIDES, Pull, pulling
from tests.support.require import require_root
from tests.support.tls import Authority
from tests.support.upstream import ScriptedRegistry

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(180)]

HUB = "registry-1.docker.io"
_SOON = 30.0  # seconds, for what may fail at first
APP = image(files({"hello": b"Hello!\n"}), files({"more": b"m" * 300_000}), docker=True)


@dataclass
class Stage:
    """Who plays."""

    upstream: ScriptedRegistry
    origin: ScriptedRegistry
    mirror: MirrorProcess
    pull: Pull

    async def gets_it(self, reference: str, *, may_fail: bool = False) -> None:
        """It is pulled; at once, or by one of the tries of the next seconds."""
        last = asyncio.get_running_loop().time() + (_SOON if may_fail else 0)
        while (pulled := await self.pull(reference)).returncode:
            said = pulled.stderr.strip()
            assert said, "it says nothing"
            is_over = asyncio.get_running_loop().time() > last
            assert not is_over, said + self.mirror.process.log()[-6000:]


def faulty(**what: Any) -> Callable[[ScriptedRegistry], object]:
    return lambda upstream: upstream.fault(**what)


def is_empty(upstream: ScriptedRegistry) -> None:
    upstream.repositories.clear()


def lacks_a_layer(upstream: ScriptedRegistry) -> None:
    del upstream.repositories["library/app"].blobs[APP.layers[1]]


SITUATIONS: dict[str, Callable[[ScriptedRegistry], object]] = {
    "not-there": is_empty,
    "bad-request": faulty(status=400),
    "unauthorized": faulty(status=401),
    "denied": faulty(status=403),
    "rate-limited": faulty(status=429, headers={"Retry-After": "600"}),
    "broken": faulty(status=500),
    "overloaded": faulty(status=503, headers={"Retry-After": "600"}),
    "black-hole": faulty(hang=True),
    "dropped": faulty(drop=True),
    "login-page": faulty(body=b"<html>", headers={"Content-Type": "text/html"}, ignore_range=True),
    "layer-not-there": lacks_a_layer,
    "layers-rate-limited": faulty(kind="blob", status=429, headers={"Retry-After": "600"}),
    "layers-broken": faulty(kind="blob", status=500),
    "layers-in-a-black-hole": faulty(kind="blob", hang=True),
    "layers-corrupt": faulty(kind="blob", corrupt_at=20),
    "layers-truncated": faulty(kind="blob", truncate_at=100, ignore_range=True),
}

# What has been handed on cannot be taken back, and podman and skopeo turn nowhere with a blob. So
# pulls fail at first, and say so; the mirror finds out, for each of the blobs, and then it comes.
_WITH_A_BLOB = {"layer-not-there", "layers-corrupt", "layers-truncated"}
MAY_FAIL = {
    "containerd": {"login-page", "layers-corrupt", "layers-truncated"},
    "podman": _WITH_A_BLOB,
    "skopeo": _WITH_A_BLOB,
}


@asynccontextmanager
async def staged(
    client: str, tmp_path: Path, *, url: str | None = None, is_secret: bool = False
) -> AsyncIterator[Stage]:
    """`url`: the mirror's upstream, if it is none of ours; `is_secret`: who signs for ours."""
    require_root()
    authority = Authority(tmp_path / "tls")
    context = Authority(tmp_path / "unknown").server_context() if is_secret else None
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(
            ScriptedRegistry(server_context=authority.server_context(HUB))
        )
        upstream = await stack.enter_async_context(ScriptedRegistry(server_context=context))
        proxy = await stack.enter_async_context(ForwardProxy())
        proxy.leads[HUB, 443] = origin.port
        for registry in (origin, upstream):
            registry.add(APP, "library/app", "1")
        mirror = await stack.enter_async_context(
            running_mirror(
                tmp_path / "mirror",
                {"docker.io": upstream_at(url or upstream.url)},
                fill={"connect_timeout": "1s", "stall_timeout": "2s", "attempts": 2},
            )
        )
        host = Host(tmp_path / "host")
        host.environment["HTTPS_PROXY"] = f"http://{proxy.host}"
        host.environment["SSL_CERT_FILE"] = str(authority.ca_file)
        await host.set_up(GUIDES[client], tmp_path / "mirror" / "mirror.toml")
        pull = await stack.enter_async_context(pulling(client, host))
        yield Stage(upstream, origin, mirror, pull)


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("client", GUIDES)
async def test_an_image_comes_from_docker_hub_where_the_mirrors_upstream_is_not_well(
    tmp_path: Path, client: str, situation: str
) -> None:
    async with staged(client, tmp_path) as stage:
        SITUATIONS[situation](stage.upstream)
        may_fail = situation in MAY_FAIL.get(client, ())
        await stage.gets_it("app:1", may_fail=may_fail)
        await stage.gets_it(f"app@{APP.digest}", may_fail=may_fail)
        assert stage.upstream.requests, "the mirror was not asked"
        assert stage.origin.requests


@pytest.mark.parametrize("client", ["podman", "skopeo"])
async def test_an_image_comes_from_docker_hub_where_an_accelerator_has_an_empty_index_for_it(
    tmp_path: Path, client: str
) -> None:
    async with staged(client, tmp_path) as stage:
        stage.upstream.add(index(docker=True), "library/app", "1")
        await stage.gets_it("app:1")


@pytest.mark.parametrize("client", GUIDES)
async def test_an_image_comes_from_docker_hub_where_nobody_answers_the_mirror(
    tmp_path: Path, client: str
) -> None:
    async with staged(client, tmp_path, url=f"http://127.0.0.1:{free_port()}") as stage:
        await stage.gets_it("app:1")
        await stage.gets_it(f"app@{APP.digest}")
        assert await stage.mirror.metric("mirror_requests_total") > 0


@pytest.mark.parametrize("client", GUIDES)
async def test_an_image_comes_from_docker_hub_where_the_mirror_cannot_trust_its_upstream(
    tmp_path: Path, client: str
) -> None:
    async with staged(client, tmp_path, is_secret=True) as stage:
        await stage.gets_it("app:1")
        await stage.gets_it(f"app@{APP.digest}")
        assert await stage.mirror.metric("mirror_requests_total") > 0


@pytest.mark.parametrize("client", GUIDES)
async def test_an_image_comes_from_docker_hub_where_the_mirror_is_gone(
    tmp_path: Path, client: str
) -> None:
    async with staged(client, tmp_path) as stage:
        await stage.mirror.process.stop()
        await stage.gets_it("app:1")
        await stage.gets_it(f"app@{APP.digest}")


@pytest.mark.parametrize("client", GUIDES)
async def test_an_image_that_nobody_has_is_said_not_to_be_there(
    tmp_path: Path, client: str
) -> None:
    async with staged(client, tmp_path) as stage:
        is_empty(stage.upstream)
        is_empty(stage.origin)
        pulled = await stage.pull("app:1")
        assert pulled.returncode != 0
        said = pulled.stderr.lower()
        assert "not found" in said or "unknown" in said or "does not exist" in said

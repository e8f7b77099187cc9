"""podman and buildah push while the mirror is killed, or either line is cut, in the middle.

What their next try brings is what is lacking, and what is at the registry then, and in the cache,
is what was pushed.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import aiohttp
import pytest

from mirror.oci.digest import digest_of
from tests.support.daemons import Containers, Result, containers
from tests.support.images import OCI_MANIFEST, Image, busybox, files, image, random_bytes
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.process import until
from tests.support.registry import running_registry
from tests.support.relay import Relay
from tests.support.require import require
from tests.support.uploads import Pushes
from tests.support.upstream import ScriptedRegistry

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(300)]

MIB = 1 << 20
NAME = "team/app"
SIZES = (29 * MIB, MIB)  # of layers, that no program can make smaller
SIZE = sum(SIZES)
SLOW = 1_900_000  # bytes a second: time enough to be killed on the way
IN_BUFFERS = MIB // 2  # of sockets, and of the line: lost with it
_TRIES = 30
KILLS = 3

Push = Callable[[Containers, str], Awaitable[Result]]


@pytest.fixture
def app() -> Image:
    require("busybox")
    layers = [files({f"data{n}": random_bytes(n, seed=n)}) for n in SIZES]
    return image(busybox(), *layers, files({"hello": b"Hello!\n"}), command=("/bin/cat", "/hello"))


@pytest.fixture
async def tools(app: Image, tmp_path: Path) -> AsyncIterator[Containers]:
    """With the image, under the name "app"."""
    source = tmp_path / "app"
    source.mkdir()
    (source / "version").write_text("Directory Transport Version: 1.1\n")
    (source / "manifest.json").write_bytes(app.manifest)
    for digest, blob in app.blobs.items():
        (source / digest.partition(":")[2]).write_bytes(blob)
    async with containers() as running:
        await running.podman("pull", f"dir:{source}")
        await running.podman("tag", app.config, "app")
        yield running


@dataclass(frozen=True, slots=True)
class Target:
    """A registry. `forgets` what was cut: distribution 2.8 does."""

    url: str
    stop: Callable[[], Awaitable[None]]
    forgets: bool


@pytest.fixture(params=["distribution 2.8", "one that keeps what came"])
async def registry(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Target]:
    if request.param == "distribution 2.8":
        async with running_registry(tmp_path / "registry") as real:
            yield Target(real.url, real.process.stop, forgets=True)
    else:
        async with ScriptedRegistry() as scripted:
            scripted.push = Pushes(style="3", location="relative")
            yield Target(scripted.url, scripted.stop, forgets=False)


@pytest.fixture
async def line(registry: Target) -> AsyncIterator[Relay]:
    """Between the mirror and the registry."""
    async with Relay(int(registry.url.rpartition(":")[2])) as relay:
        yield relay


@pytest.fixture
async def mirror(tmp_path: Path, line: Relay) -> AsyncIterator[MirrorProcess]:
    upstream = upstream_at(line.url) | {"push": "client", "hosts": ["127.0.0.1"]}
    async with running_mirror(
        tmp_path / "mirror", {"docker.io": upstream}, tags={"fresh_for": "1d"}
    ) as running:
        yield running


async def podman(tools: Containers, name: str) -> Result:
    return await _push(tools.podman, name)


async def buildah(tools: Containers, name: str) -> Result:
    return await _push(tools.buildah, name)


async def _push(tool: Callable[..., Awaitable[Result]], name: str) -> Result:
    pushing = ("push", "--tls-verify=false", "--format=oci", "app")
    return await tool(*pushing, f"docker://{name}", check=False, within=150)


CLIENTS = pytest.mark.parametrize("push", [podman, buildah], ids=["podman", "buildah"])


@CLIENTS
async def test_killed_again_and_again_the_mirror_sends_the_registry_what_it_lacks(
    mirror: MirrorProcess,
    registry: Target,
    line: Relay,
    tools: Containers,
    push: Push,
) -> None:
    line.bandwidth = SLOW
    name, dice = f"{mirror.host}/{NAME}:1", Random(push.__name__)  # noqa: S311 - to kill at
    trying = asyncio.get_running_loop().create_task(_try(push, tools, name))
    for _ in range(KILLS):
        await _until_sent(line, line.bytes_to_server + dice.randrange(MIB, 8 * MIB), trying)
        os.kill(mirror.process.pid, signal.SIGKILL)
        await mirror.process.kill()
        await mirror.process.start()
    line.bandwidth = None
    await trying
    if not registry.forgets:
        assert line.bytes_to_server <= 1.05 * SIZE + KILLS * IN_BUFFERS
    await _is_everywhere(mirror, registry, tools)


@CLIENTS
async def test_where_the_line_to_the_registry_is_cut_nobody_tries_again(
    mirror: MirrorProcess,
    registry: Target,
    line: Relay,
    tools: Containers,
    push: Push,
) -> None:
    line.cut_up_after = 4 * MIB
    pushed = await push(tools, f"{mirror.host}/{NAME}:1")
    assert pushed.returncode == 0, pushed.stderr
    assert "retry" not in pushed.stderr.lower()
    line.cut_up_after = None
    await _is_everywhere(mirror, registry, tools)


@CLIENTS
async def test_where_the_line_to_the_mirror_is_cut_the_registry_is_sent_nothing_twice(
    mirror: MirrorProcess,
    registry: Target,
    line: Relay,
    tools: Containers,
    push: Push,
) -> None:
    async with Relay(int(mirror.host.partition(":")[2])) as near:
        near.cut_up_after, near.cuts = 5 * MIB, 3
        await _try(push, tools, f"{near.host}/{NAME}:1")
        assert near.cuts == 0
    assert line.bytes_to_server <= 1.05 * SIZE + MIB
    await _is_everywhere(mirror, registry, tools)


async def _try(push: Push, tools: Containers, name: str) -> None:
    """Until it is there; they try a few times by themselves, and then whoever pushes does."""
    pushed = await push(tools, name)
    for _ in range(_TRIES):
        if pushed.returncode != 0:
            await asyncio.sleep(1)  # a mirror that was killed takes that long to be there again
            pushed = await push(tools, name)
    assert pushed.returncode == 0, pushed.stderr


async def _until_sent(line: Relay, size: int, trying: asyncio.Task[None]) -> None:
    async def is_sent() -> bool:
        assert not trying.done()
        return line.bytes_to_server >= size

    await until(is_sent)


async def _is_everywhere(mirror: MirrorProcess, registry: Target, tools: Containers) -> None:
    """At the registry all that the manifest names, byte for byte; and it can be pulled without."""
    async with aiohttp.ClientSession(raise_for_status=True) as session:

        async def get(url: str, what: str) -> bytes:
            headers = {"Accept": OCI_MANIFEST}
            async with session.get(f"{url}/v2/{NAME}/{what}", headers=headers) as answer:
                return await answer.read()

        manifest = await get(registry.url, "manifests/1")
        document = json.loads(manifest)
        parts = [it["digest"] for it in (document["config"], *document["layers"])]
        for digest in parts:
            assert str(digest_of(await get(registry.url, f"blobs/{digest}"))) == digest
        await registry.stop()
        assert await get(mirror.url, "manifests/1") == manifest
        for digest in parts:
            assert str(digest_of(await get(mirror.url, f"blobs/{digest}"))) == digest
    await tools.podman("rmi", "--all", "--force")
    await tools.podman("pull", "--tls-verify=false", f"{mirror.host}/{NAME}:1")

"""A real registry at the end of a bad line, and a mirror that dies: skopeo gets its image."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import StartRelay
from tests.support.daemons import Containers
from tests.support.images import Image, image, random_layer
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.process import until
from tests.support.registry import Registry
from tests.support.relay import Relay

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(120)]

NAME = "docker.io/library/app:1"
SIZE = 6 * 2**20  # bytes of the layer
CUT_AFTER = 700_000  # bytes
BANDWIDTH = 1_500_000  # bytes per second and connection: slow enough to be killed on the way
MOST = 1.05  # times the image's size, headers included: what upstream may have to send

one_or_four_connections = pytest.mark.parametrize(
    "mirror", ["8 MiB", "1 MiB"], ids=["whole", "segments"], indirect=True
)


@pytest.fixture
async def relay(hub: Registry, start_relay: StartRelay) -> Relay:
    return await start_relay(int(hub.host.rpartition(":")[2]))


@pytest.fixture
async def mirror(
    tmp_path: Path, relay: Relay, request: pytest.FixtureRequest
) -> AsyncIterator[MirrorProcess]:
    """With a `segment_size` that makes the layer one piece, or several."""
    async with running_mirror(
        tmp_path / "mirror",
        {"docker.io": upstream_at(relay.url)},
        fill={"segment_size": request.param},
    ) as running:
        yield running


@pytest.fixture
async def app(hub: Registry) -> Image:
    return await hub.push(image(random_layer(SIZE, seed=1)), "library/app", "1")


@one_or_four_connections
async def test_a_line_that_is_cut_again_and_again_goes_unnoticed_and_costs_no_byte_twice(
    relay: Relay, mirror: MirrorProcess, tools: Containers, app: Image, tmp_path: Path
) -> None:
    relay.bandwidth, relay.cut_after = BANDWIDTH, CUT_AFTER
    await _copy(tools, tmp_path / "copy")
    assert _copied(tmp_path / "copy", app)
    requests = await mirror.metric("mirror_requests_total", kind="blob", method="GET")
    assert requests == len(app.blobs)  # nothing was tried again
    assert await mirror.metric("mirror_fill_resumes_total") > 0
    assert relay.bytes_to_client <= MOST * _size(app)


@one_or_four_connections
async def test_a_mirror_that_is_killed_in_the_middle_of_a_layer_continues_it_after_its_restart(
    relay: Relay, mirror: MirrorProcess, tools: Containers, app: Image, tmp_path: Path
) -> None:
    relay.bandwidth = BANDWIDTH
    async with asyncio.TaskGroup() as pulls:
        first = pulls.create_task(_copy(tools, tmp_path / "first", check=False))
        await until(partial(_has_sent, relay, SIZE * 6 // 10), within=30)
        await mirror.process.kill()
    assert first.result() != 0
    assert relay.bytes_to_client < 0.9 * SIZE
    await mirror.process.start()
    await _copy(tools, tmp_path / "copy")
    assert _copied(tmp_path / "copy", app)
    assert relay.bytes_to_client <= MOST * _size(app)


async def _copy(tools: Containers, directory: Path, *, check: bool = True) -> int:
    """skopeo's exit status. It tries once; its other way, to Docker Hub, leads nowhere."""
    copied = await tools.skopeo("copy", f"docker://{NAME}", f"dir:{directory}", check=check)
    return copied.returncode


def _copied(directory: Path, wanted: Image) -> bool:
    """Whether every byte is there."""
    content = {"manifest.json": wanted.manifest} | {
        digest.removeprefix("sha256:"): blob for digest, blob in wanted.blobs.items()
    }
    return all((directory / name).read_bytes() == data for name, data in content.items())


def _size(pulled: Image) -> int:
    return len(pulled.manifest) + sum(map(len, pulled.blobs.values()))


async def _has_sent(relay: Relay, size: int) -> bool:
    return relay.bytes_to_client >= size

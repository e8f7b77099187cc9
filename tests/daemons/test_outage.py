"""Upstream goes away; real daemons pull thirty images that the mirror holds, all of them expired.

The mirror finds out once, from a few requests, and answers all the others without asking.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import StartRelay
from tests.support.daemons import Containerd, Docker
from tests.support.images import Image, files, image
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.process import until
from tests.support.registry import Registry
from tests.support.relay import Relay

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(120)]

COUNT = 30
AT_ONCE = 5
MOST_ASKED = 2 * AT_ONCE  # by the first batch, which finds out, and by the probes since
LONGEST_BACKOFF = 30  # seconds between the probes that find upstream back


@pytest.fixture
async def relay(hub: Registry, start_relay: StartRelay) -> Relay:
    return await start_relay(int(hub.host.rpartition(":")[2]))


@pytest.fixture
async def mirror(tmp_path: Path, relay: Relay) -> AsyncIterator[MirrorProcess]:
    """Tags expire at once, so every pull is one that would ask upstream."""
    async with running_mirror(
        tmp_path / "mirror",
        {"docker.io": upstream_at(relay.url)},
        tags={"fresh_for": "0s"},
        fill={"connect_timeout": "1s"},
    ) as running:
        yield running


@pytest.fixture
async def cached(hub: Registry, mirror: MirrorProcess) -> Mapping[str, Image]:
    """Images by repository; the mirror holds all of them."""
    images = {
        f"app-{number}": image(files({"number": b"%d" % number}), docker=True)
        for number in range(COUNT)
    }
    for name, pushed in images.items():
        await hub.push(pushed, f"library/{name}", "1")
        assert (await mirror.client.manifest(name, "1")).digest == pushed.digest
        for digest in pushed.blobs:
            assert (await mirror.client.blob(name, digest)).digest == digest
    return images


@pytest.mark.parametrize("black_hole", [False, True], ids=["refused", "black-hole"])
async def test_thirty_expired_images_are_pulled_by_docker_and_containerd_without_upstream(
    hub: Registry,
    relay: Relay,
    mirror: MirrorProcess,
    docker: Docker,
    containerd: Containerd,
    *,
    cached: Mapping[str, Image],
    black_hole: bool,
) -> None:
    hosts = containerd.hosts_dir({"docker.io": mirror.url})
    if black_hole:
        relay.black_hole = True
    else:
        await hub.process.stop()
        await relay.stop()

    by_ctr = partial(containerd.ctr, "images", "pull", "--hosts-dir", hosts)
    pulls = [partial(docker, "pull", f"{name}:1") for name in cached]
    pulls += [partial(by_ctr, f"docker.io/library/{name}:1") for name in cached]

    asked, looked_up = await _asked(mirror), await _tags_looked_up(mirror)
    await _in_batches(pulls)
    asked = await _asked(mirror) - asked
    looked_up = await _tags_looked_up(mirror) - looked_up

    await _all_are_there(docker, containerd, cached)
    assert looked_up >= 2 * COUNT
    assert await _tags_looked_up(mirror, result="stale") == looked_up
    assert 1 <= asked <= MOST_ASKED
    assert await mirror.metric("mirror_upstream_up") == 0

    if black_hole:
        relay.black_hole = False
    else:
        await hub.process.start()
        await relay.start()
    await until(partial(_is_up, mirror), within=LONGEST_BACKOFF + 5)
    await docker("pull", "app-0:1")
    assert await _tags_looked_up(mirror, result="revalidated") >= 1
    assert await _tags_looked_up(mirror, result="stale") == looked_up
    assert await mirror.metric("mirror_upstream_up") == 1


async def _in_batches(pulls: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """Make all the pulls, a few at once; one that fails raises."""
    places = asyncio.Semaphore(AT_ONCE)

    async def in_turn(pull: Callable[[], Awaitable[object]]) -> None:
        async with places:
            await pull()

    async with asyncio.TaskGroup() as turns:
        for pull in pulls:
            turns.create_task(in_turn(pull))


async def _all_are_there(
    docker: Docker, containerd: Containerd, images: Mapping[str, Image]
) -> None:
    names = [f"{name}:1" for name in images]
    told = await docker("image", "inspect", "--format={{.Id}}", *names)
    assert told.stdout.split() == [wanted.config for wanted in images.values()]
    told = await containerd.ctr("content", "ls", "--quiet")
    wanted = {digest for each in images.values() for digest in (each.digest, *each.blobs)}
    assert set(told.stdout.split()) >= wanted


async def _asked(mirror: MirrorProcess) -> float:
    return await mirror.metric("mirror_upstream_requests_total")


async def _tags_looked_up(mirror: MirrorProcess, **labels: str) -> float:
    return await mirror.metric("mirror_lookups_total", kind="tag", **labels)


async def _is_up(mirror: MirrorProcess, *, value: int = 1) -> bool:
    return await mirror.metric("mirror_upstream_up") == value

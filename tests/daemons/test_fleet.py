"""Real daemons that pull from three mirrors behind HAProxy, one of which is killed meanwhile.

HAProxy has the files of `deploy/shared`: for mirrors that are one cache, and for plain ones.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import StartRelay
from tests.support.bucket import RunBucket, begin_obstore
from tests.support.daemons import Containerd, Docker, running_docker
from tests.support.fleet import Fleet, running_fleet
from tests.support.haproxy import running_haproxy
from tests.support.images import Image, busybox, files, image, random_bytes
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.postgres import Postgres
from tests.support.process import until
from tests.support.registry import Registry
from tests.support.relay import Relay
from tests.support.require import require

pytestmark = [pytest.mark.daemons, pytest.mark.chaos, pytest.mark.timeout(300)]

MIB = 2**20
LAYERS = 3
SIZE = 10 * MIB  # of each
PACE = 3 * MIB  # bytes a second, of each of a mirror's connections to upstream
WITHIN = 200.0  # seconds for a pull
SAYS = "Hello!\n"


@pytest.fixture(scope="session", autouse=True)
def obstore_has_begun() -> None:
    begin_obstore()


@pytest.fixture
async def app(hub: Registry) -> Image:
    """Layers that take a while over a slow line, in an image that says hello."""
    require("busybox")
    layers = [files({f"data-{seed}": random_bytes(SIZE, seed=seed)}) for seed in range(LAYERS)]
    greeting = files({"hello": SAYS.encode()})
    made = image(busybox(), *layers, greeting, command=("/bin/cat", "/hello"), docker=True)
    await hub.push(made, "library/app", "1")
    return made


@pytest.fixture
async def line(hub: Registry, start_relay: StartRelay) -> Relay:
    """The slow way to the registry."""
    line = await start_relay(int(hub.url.rpartition(":")[2]))
    line.bandwidth = PACE
    return line


@dataclass(frozen=True)
class Site:
    """Mirrors, and the one address that clients know."""

    url: str
    mirrors: Sequence[MirrorProcess]
    fleet: Fleet | None = None

    async def fetching(self, made: Image) -> MirrorProcess:
        """One that is fetching one of the large layers."""
        found = list[MirrorProcess]()

        async def is_one() -> bool:
            for layer in made.layers[1 : 1 + LAYERS]:
                number = None if self.fleet is None else await self.fleet.leader(layer)
                found.extend([] if number is None else [self.mirrors[number]])
            if self.fleet is None:
                for mirror in self.mirrors:
                    if await mirror.metric("mirror_fills_active"):
                        found.append(mirror)
            return bool(found)

        await until(is_one)
        return found[0]


@pytest.fixture
async def together(
    tmp_path: Path, app: Image, line: Relay, run_bucket: RunBucket
) -> AsyncIterator[Site]:
    """Three mirrors that are one cache."""
    require("haproxy")
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(Postgres.running())
        bucket_server = await stack.enter_async_context(run_bucket(tmp_path / "bucket"))
        fleet = await stack.enter_async_context(
            running_fleet(
                tmp_path, {"docker.io": upstream_at(line.url)},
                postgres=postgres, bucket_server=bucket_server, count=3,
            )
        )  # fmt: skip
        url = await stack.enter_async_context(
            running_haproxy(tmp_path, "haproxy.cfg", fleet.mirrors)
        )
        yield Site(url, fleet.mirrors, fleet)


@pytest.fixture
async def plain(tmp_path: Path, app: Image, line: Relay) -> AsyncIterator[Site]:
    """Three mirrors that know nothing of each other."""
    require("haproxy")
    async with AsyncExitStack() as stack:
        starts = [
            stack.enter_async_context(
                running_mirror(tmp_path / f"mirror-{number}", {"docker.io": upstream_at(line.url)})
            )
            for number in range(3)
        ]
        mirrors = await asyncio.gather(*starts)
        url = await stack.enter_async_context(
            running_haproxy(tmp_path, "haproxy-by-digest.cfg", mirrors)
        )
        yield Site(url, mirrors)


@pytest.fixture(params=["together", "plain"])
def site(request: pytest.FixtureRequest) -> Site:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Site)
    return found


async def _while_one_is_killed(
    site: Site, line: Relay, app: Image, pull: Callable[[], Awaitable[object]]
) -> None:
    """Pull, and kill a mirror that fetches once a third of all has come from the registry."""
    line.bytes_to_client = 0
    async with asyncio.TaskGroup() as tasks:
        pulling = tasks.create_task(_do(pull))

        async def has_begun() -> bool:
            return line.bytes_to_client >= LAYERS * SIZE // 3

        await until(has_begun)
        mirror = await site.fetching(app)
        assert not pulling.done()
        await mirror.process.kill()
    # What is lost is what was under way at one mirror, at most.
    assert line.bytes_to_client < 2 * LAYERS * SIZE


async def _do(pull: Callable[[], Awaitable[object]]) -> None:
    await pull()


async def test_docker_pulls_and_runs_an_image_while_a_mirror_is_killed(
    site: Site, line: Relay, app: Image
) -> None:
    async with running_docker(site.url) as docker:
        await _while_one_is_killed(site, line, app, lambda: docker("pull", "app:1", within=WITHIN))
        await _runs(docker, app)


async def test_containerd_pulls_and_runs_an_image_while_a_mirror_is_killed(
    site: Site, line: Relay, app: Image, containerd: Containerd
) -> None:
    hosts, name = containerd.hosts_dir({"docker.io": site.url}), "docker.io/library/app:1"
    await _while_one_is_killed(
        site, line, app,
        lambda: containerd.ctr("images", "pull", "--hosts-dir", hosts, name, within=WITHIN),
    )  # fmt: skip
    content = containerd.directory / "root/io.containerd.content.v1.content/blobs/sha256"
    for digest, blob in app.blobs.items():
        assert (content / digest.removeprefix("sha256:")).read_bytes() == blob
    assert (await containerd.ctr("run", "--rm", name, "one")).stdout == SAYS


async def test_each_digest_has_one_of_the_plain_mirrors_whoever_asks(
    plain: Site, line: Relay, app: Image, containerd: Containerd
) -> None:
    hosts, name = containerd.hosts_dir({"docker.io": plain.url}), "docker.io/library/app:1"
    line.bandwidth, line.bytes_to_client = None, 0
    for _ in range(3):
        await containerd.ctr("images", "pull", "--hosts-dir", hosts, name, within=WITHIN)
        await containerd.ctr("images", "rm", "--sync", name)
    assert line.bytes_to_client < 1.1 * sum(len(blob) for blob in app.blobs.values())
    at_work = [await mirror.metric("mirror_store_blobs") for mirror in plain.mirrors]
    assert sum(1 for blobs in at_work if blobs) > 1


async def _runs(docker: Docker, app: Image) -> None:
    [found] = (await docker("images", "--no-trunc", "--quiet", "app:1")).stdout.split()
    assert found == app.config
    ran = await docker("run", "--rm", "--network=none", "app:1")
    assert ran.stdout == SAYS

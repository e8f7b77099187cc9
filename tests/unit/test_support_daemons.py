"""Real clients take the scripted registry for a real one, and leave nothing behind."""

import asyncio
import os
import re
from pathlib import Path

import pytest

from tests.support.bucket import begin_obstore
from tests.support.client import client
from tests.support.daemons import containers, running_containerd, running_docker
from tests.support.images import Image, busybox, files, image, index, random_layer
from tests.support.registry import running_registry
from tests.support.seaweed import running_seaweed
from tests.support.upstream import ScriptedRegistry

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(120)]

SHOW = ("/bin/cat", "/hello")


@pytest.fixture
def hello(upstream: ScriptedRegistry) -> Image:
    """An image that a daemon can run, as `hello:1` on Docker Hub."""
    made = image(busybox(), files({"hello": b"Hello!\n"}), command=SHOW, docker=True)
    return upstream.add(made, "library/hello", "1")


async def test_docker_pulls_runs_and_removes(upstream: ScriptedRegistry, hello: Image) -> None:
    async with running_docker(upstream.url) as docker:
        directory = docker.directory
        await docker("pull", "hello:1")
        assert (await docker("run", "--network=none", "hello:1")).stdout == "Hello!\n"
        await docker("rmi", "--force", "hello:1")
        assert {asked.reference for asked in upstream.asked("blob")} == set(hello.blobs)
        unknown = await docker("pull", "unknown:1", check=False)
        assert "registry-1.docker.io" in unknown.stderr  # where it turns to
    _assert_nothing_is_left(directory)


async def test_what_a_killed_daemon_left_running_ends_too(
    upstream: ScriptedRegistry, hello: Image
) -> None:
    async with running_docker(upstream.url) as docker:
        directory = docker.directory
        await docker("pull", "hello:1")
        await docker("run", "--name=one", "--detach", "--network=none", "hello:1", "sleep", "600")
        state = await docker("inspect", "--format={{.State.Pid}}", "one")
        await docker.process.kill()
    _assert_nothing_is_left(directory)
    assert _command(Path("/proc") / state.stdout.strip()) == ""


async def test_containerd_pulls_and_runs(upstream: ScriptedRegistry, hello: Image) -> None:
    async with running_containerd() as containerd:
        directory = containerd.directory
        hosts = containerd.hosts_dir({"docker.io": upstream.url})
        name = "docker.io/library/hello:1"
        await containerd.ctr("images", "pull", "--hosts-dir", hosts, name)
        assert (await containerd.ctr("run", "--rm", name, "one")).stdout == "Hello!\n"
    assert all("ns=docker.io" in asked.query for asked in upstream.requests)
    _assert_nothing_is_left(directory)


async def test_podman_and_skopeo_pull(upstream: ScriptedRegistry, tmp_path: Path) -> None:
    made = upstream.add(image(files({"hello": b"Hello!\n"})), "docker.io/library/hello", "1")
    async with containers(upstream.host) as tools:
        directory = tools.directory
        await tools.podman("pull", "docker.io/library/hello:1")
        listed = await tools.podman("images", "--digests", "--format", "{{.Digest}}")
        assert listed.stdout.split() == [made.digest]
        await tools.skopeo("copy", "docker://docker.io/library/hello:1", f"dir:{tmp_path}/copy")
    for digest, blob in made.blobs.items():
        assert (tmp_path / "copy" / digest.removeprefix("sha256:")).read_bytes() == blob
    _assert_nothing_is_left(directory)


async def test_a_real_registry_takes_images_and_gives_them_back(tmp_path: Path) -> None:
    many = index(image(random_layer(100_000, seed=1)), image(random_layer(10, seed=2), docker=True))
    async with (
        running_registry(tmp_path / "origin") as origin,
        running_registry(tmp_path / "cache", cache_of=origin.url) as cache,
        client(cache.url) as pull,
    ):
        await origin.push(many, "library/many", "1")
        assert (await pull.manifest("library/many", "1")).body == many.manifest
        for member in many.members:
            assert (await pull.manifest("library/many", member.digest)).body == member.manifest
            for digest, blob in member.blobs.items():
                assert (await pull.blob("library/many", digest)).body == blob
        assert f"GET /v2/library/many/blobs/{many.members[0].layers[0]}" in origin.asked()


@pytest.fixture(scope="module")
def obstore_has_begun() -> None:
    begin_obstore()


@pytest.mark.usefixtures("obstore_has_begun")
async def test_a_bucket_leaves_nothing_outside_of_its_directory(tmp_path: Path) -> None:
    async with running_seaweed(tmp_path) as bucket:
        pid = bucket.process.pid
        command = await asyncio.to_thread(Path(f"/proc/{pid}/cmdline").read_text)
    ports = [int(it) for it in re.findall(r"port=(\d+)", command)]
    assert len(ports) >= 4
    sockets = {f"-{port}.sock" for its in ports for port in (its, its + 10_000)}
    left = {
        name
        for name in await asyncio.to_thread(os.listdir, "/tmp")  # noqa: S108 - where it would be
        if name.endswith((*sockets, f".{pid}")) and name.startswith(("seaweedfs-", "weed."))
    }
    assert left == set()


def _assert_nothing_is_left(directory: Path) -> None:
    assert not directory.exists()
    assert str(directory) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    commands = [_command(process) for process in Path("/proc").glob("[0-9]*")]
    assert [command for command in commands if str(directory) in command] == []


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

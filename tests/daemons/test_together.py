"""Docker, containerd, Podman and skopeo want the same image at the same moment."""

import asyncio
from pathlib import Path

import pytest

from tests.support.daemons import containers, running_containerd, running_docker
from tests.support.images import Image
from tests.support.mirror import running_mirror, upstream_at
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(120)]

NAME = "docker.io/library/hello:1"


async def test_four_clients_at_once_cost_upstream_each_byte_once(
    upstream: ScriptedRegistry, hello: Image, tmp_path: Path
) -> None:
    upstream.add(hello, "library/hello", "1")
    copy = tmp_path / "copy"
    async with (
        running_mirror(tmp_path / "mirror", {"docker.io": upstream_at(upstream.url)}) as mirror,
        running_docker(mirror.url) as docker,
        running_containerd() as containerd,
        containers(mirror.host) as tools,
    ):

        async def everyone_reads_the_held_layer() -> bool:
            return (
                await mirror.metric("mirror_fills_active") == 1
                and await mirror.metric("mirror_fill_readers") == 4
            )

        hosts = containerd.hosts_dir({"docker.io": mirror.url})
        gate = upstream.hold(hello.layers[1], after=1000)
        async with asyncio.TaskGroup() as pulls:
            pulls.create_task(docker("pull", "hello:1"))
            pulls.create_task(containerd.ctr("images", "pull", "--hosts-dir", hosts, NAME))
            pulls.create_task(tools.podman("pull", NAME))
            pulls.create_task(tools.skopeo("copy", f"docker://{NAME}", f"dir:{copy}"))
            await until(everyone_reads_the_held_layer, within=60)
            gate.open()

        by_docker = await docker("image", "inspect", "--format={{.Id}} {{.RepoDigests}}", "hello:1")
        assert by_docker.stdout.split() == [hello.config, f"[hello@{hello.digest}]"]
        by_containerd = await containerd.ctr("content", "ls", "--quiet")
        assert set(by_containerd.stdout.split()) == {hello.digest, *hello.blobs}
        by_podman = await tools.podman("image", "inspect", "--format={{.Digest}} {{.Id}}", NAME)
        assert by_podman.stdout.split() == [hello.digest, hello.config.removeprefix("sha256:")]
    assert (copy / "manifest.json").read_bytes() == hello.manifest
    for digest, blob in hello.blobs.items():
        assert (copy / digest.removeprefix("sha256:")).read_bytes() == blob
        assert len(upstream.asked("blob", method="GET", reference=digest)) == 1
        assert upstream.bytes_sent(digest) == len(blob)
    assert len(upstream.asked("tag")) == 1
    assert upstream.asked("manifest") == []

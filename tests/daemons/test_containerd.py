"""A real containerd, which is told of the mirror by `hosts.toml` and asks it with `?ns=`."""

from pathlib import Path

import pytest
import tomli_w

from tests.support.daemons import Containerd
from tests.support.images import Image, files, image
from tests.support.mirror import MirrorProcess
from tests.support.registry import Registry

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(120)]

HUB_NAME = "docker.io/library/hello:1"
GHCR_NAME = "ghcr.io/library/hello:1"


async def test_images_of_two_registries_are_pulled_removed_and_pulled_again_without_them(
    hub: Registry, ghcr: Registry, mirror: MirrorProcess, containerd: Containerd, hello: Image
) -> None:
    other = image(files({"hello": b"Hello from GHCR!\n"}))
    await hub.push(hello, "library/hello", "1")
    await ghcr.push(other, "library/hello", "1")
    images = {HUB_NAME: hello, GHCR_NAME: other}
    hosts = containerd.hosts_dir({"docker.io": mirror.url, "ghcr.io": mirror.url})
    await _pull_all(containerd, hosts, images)
    assert (await containerd.ctr("run", "--rm", HUB_NAME, "one")).stdout == "Hello!\n"
    await containerd.ctr("images", "rm", "--sync", *images)
    assert (await containerd.ctr("content", "ls", "--quiet")).stdout == ""
    await hub.process.stop()
    await ghcr.process.stop()
    asked = await mirror.metric("mirror_upstream_requests_total")
    await _pull_all(containerd, hosts, images)
    assert await mirror.metric("mirror_upstream_requests_total") == asked
    for upstream, pulled in {"docker.io": hello, "ghcr.io": other}.items():
        for result in ("miss", "hit"):
            labels = {"upstream": upstream, "kind": "blob", "result": result}
            assert await mirror.metric("mirror_lookups_total", **labels) == len(pulled.blobs)


async def test_containerd_turns_to_the_next_host_when_the_mirror_is_down(
    hub: Registry, mirror: MirrorProcess, containerd: Containerd, hello: Image
) -> None:
    await hub.push(hello, "library/hello", "1")
    await mirror.process.stop()
    await _pull_all(containerd, _mirror_then(hub, containerd, mirror), {HUB_NAME: hello})


async def test_containerd_turns_to_the_next_host_when_the_mirror_cannot_reach_its_upstream(
    hub: Registry, ghcr: Registry, mirror: MirrorProcess, containerd: Containerd, hello: Image
) -> None:
    await ghcr.push(hello, "library/hello", "1")
    await hub.process.stop()
    await _pull_all(containerd, _mirror_then(ghcr, containerd, mirror), {HUB_NAME: hello})
    assert await mirror.metric("mirror_lookups_total", kind="tag", result="error") > 0


async def test_containerd_turns_to_the_next_host_for_layers_that_the_mirror_cannot_have(
    hub: Registry, ghcr: Registry, mirror: MirrorProcess, containerd: Containerd, hello: Image
) -> None:
    await hub.push(hello, "library/hello", "1")
    await ghcr.push(hello, "library/hello", "1")
    assert (await mirror.client.manifest("library/hello", "1")).digest == hello.digest
    await hub.process.stop()
    await _pull_all(containerd, _mirror_then(ghcr, containerd, mirror), {HUB_NAME: hello})
    assert await mirror.metric("mirror_lookups_total", kind="manifest", result="hit") > 0
    assert await mirror.metric("mirror_lookups_total", kind="blob", result="error") > 0


def _mirror_then(following: Registry, containerd: Containerd, mirror: MirrorProcess) -> Path:
    """A directory for `--hosts-dir`: Docker Hub is the mirror, and `following` after it."""
    hosts = containerd.hosts_dir({"docker.io": mirror.url})
    settings = {
        "server": following.url,
        "host": {mirror.url: {"capabilities": ["pull", "resolve"]}},
    }
    (hosts / "docker.io" / "hosts.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")
    return hosts


async def _pull_all(containerd: Containerd, hosts: Path, images: dict[str, Image]) -> None:
    content = containerd.directory / "root/io.containerd.content.v1.content/blobs/sha256"
    for name, wanted in images.items():
        await containerd.ctr("images", "pull", "--hosts-dir", hosts, name)
        for digest, blob in {wanted.digest: wanted.manifest, **wanted.blobs}.items():
            assert (content / digest.removeprefix("sha256:")).read_bytes() == blob

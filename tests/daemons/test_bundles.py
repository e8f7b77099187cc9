"""Bundles between mirrors and real tools; real daemons pull what was imported, without upstream."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.daemons import Containerd, Containers, Docker, containers, running_docker
from tests.support.images import ARCHITECTURE, Image, artifact, files, image, index, random_layer
from tests.support.mirror import MirrorProcess, running_mirror
from tests.support.process import run
from tests.support.registry import Registry

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(180)]

HELLO = "docker.io/library/hello:1"
OTHER = "ghcr.io/org/other:2"


@pytest.fixture
async def sealed(tmp_path: Path) -> AsyncIterator[MirrorProcess]:
    """A mirror that never asks anybody."""
    upstreams = {"docker.io": {"sealed": True}, "ghcr.io": {"sealed": True}}
    async with running_mirror(tmp_path / "sealed", upstreams) as running:
        yield running


@pytest.fixture
async def offline_tools(sealed: MirrorProcess) -> AsyncIterator[Containers]:
    """podman and skopeo that pull through that one."""
    async with containers(sealed.host, "docker.io", "ghcr.io") as configured:
        yield configured


async def _mirror(directory: Path, *arguments: str | Path) -> str:
    command = (sys.executable, "-m", "mirror", arguments[0], "--config", directory / "mirror.toml")
    return (await run(*command, *arguments[1:])).stdout


async def _pull(mirror: MirrorProcess, name: str, reference: str, wanted: Image) -> None:
    assert (await mirror.client.manifest(name, reference)).digest == wanted.digest
    for part in (wanted, *wanted.members):
        assert (await mirror.client.manifest(name, part.digest)).digest == part.digest
        for digest in part.blobs:
            assert (await mirror.client.blob(name, digest)).digest == digest


def _content(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.name != "version"}


def _expected(pushed: Image) -> dict[str, bytes]:
    content = {"manifest.json": pushed.manifest}
    for member in pushed.members:
        content[f"{member.digest[7:]}.manifest.json"] = member.manifest
    for part in (pushed, *pushed.members):
        content |= {digest[7:]: blob for digest, blob in part.blobs.items()}
    return content


@pytest.mark.parametrize("docker", [True, False], ids=["docker", "oci"])
async def test_skopeo_copies_an_image_of_a_bundle_byte_for_byte(
    hub: Registry, ghcr: Registry, mirror: MirrorProcess, tools: Containers, tmp_path: Path,
    *, docker: bool,
) -> None:  # fmt: skip
    members = [
        image(random_layer(100_000, seed=seed), docker=docker, architecture=architecture)
        for seed, architecture in enumerate(("amd64", "arm64"))
    ]
    hello = await hub.push(index(*members, docker=docker), "library/hello", "1")
    other = await ghcr.push(image(random_layer(1000, seed=7), docker=docker), "org/other", "2")
    tag = f"sha256-{hello.digest[7:]}.sig"  # what refers to an image is beside it
    signature = await hub.push(artifact(b"signed", subject=hello), "library/hello", tag)
    await _pull(mirror, "library/hello", "1", hello)
    await _pull(mirror, "library/hello", tag, signature)
    await _pull(mirror, "ghcr.io/org/other", "2", other)
    one, both = tmp_path / "one.tar", tmp_path / "both.tar"
    said = await _mirror(tmp_path / "mirror", "export", HELLO, OTHER, "-o", both)
    assert f"{HELLO}: linux/amd64, linux/arm64; 1 that refer to it" in said
    await _mirror(tmp_path / "mirror", "export", HELLO, "-o", one)
    copies = [(f"oci-archive:{one}", hello)]
    if not docker:  # it finds none of Docker's types by name
        copies += [(f"oci-archive:{both}:{HELLO}", hello), (f"oci-archive:{both}:{OTHER}", other)]
    for number, (source, pushed) in enumerate(copies):
        copy = tmp_path / f"copy-{number}"
        await tools.skopeo("copy", "--all", source, f"dir:{copy}")
        assert await asyncio.to_thread(_content, copy) == _expected(pushed)
    told = await tools.skopeo("inspect", "--config", "--raw", f"docker-archive:{both}:{OTHER}")
    assert told.stdout.encode() == other.blobs[other.config]


async def test_podman_and_docker_load_a_bundle_and_call_its_images_by_their_names(
    hub: Registry, ghcr: Registry, mirror: MirrorProcess, tools: Containers,
    *, hello: Image, docker: Docker, tmp_path: Path,
) -> None:  # fmt: skip
    other = await ghcr.push(image(files({"other": b"Hello!\n"})), "org/other", "2")
    await hub.push(hello, "library/hello", "1")
    await _pull(mirror, "library/hello", "1", hello)
    await _pull(mirror, "ghcr.io/org/other", "2", other)
    both = tmp_path / "both.tar"
    for name, wanted in ((HELLO, hello), (OTHER, other)):
        one = tmp_path / "one.tar"
        await _mirror(tmp_path / "mirror", "export", name, "-o", one)
        await tools.podman("load", "-i", one)
        await _podman_has(tools, name, wanted)
    await tools.podman("rmi", "--all", "--force")
    await _mirror(tmp_path / "mirror", "export", HELLO, OTHER, "-o", both)
    await tools.podman("pull", f"oci-archive:{both}:{OTHER}")
    await _podman_has(tools, OTHER, other)
    await tools.podman("rmi", "--all", "--force")
    await tools.podman("load", "-i", both)
    await docker("load", "-i", both)
    for name, wanted in ((HELLO, hello), (OTHER, other)):
        await _podman_has(tools, name, wanted)
        told = await docker("image", "inspect", "--format={{.Id}}", name)
        assert told.stdout.strip() == wanted.config


async def _podman_has(tools: Containers, name: str, wanted: Image) -> None:
    told = await tools.podman("image", "inspect", "--format=sha256:{{.Id}}", name)
    assert told.stdout.strip() == wanted.config


async def test_what_was_imported_docker_containerd_and_podman_pull_where_nobody_else_can_be_asked(
    hub: Registry, ghcr: Registry, mirror: MirrorProcess, containerd: Containerd,
    *, hello: Image, sealed: MirrorProcess, offline_tools: Containers, tmp_path: Path,
) -> None:  # fmt: skip
    members = image(*map(files, [{"x": b"arm"}]), architecture="s390x"), image(files({"x": b"1"}))
    both = await ghcr.push(index(*members), "org/other", "2")
    await hub.push(hello, "library/hello", "1")
    await _pull(mirror, "library/hello", "1", hello)
    await _pull(mirror, "ghcr.io/org/other", "2", both)
    bundle = tmp_path / "bundle.tar"
    platform = f"linux/{ARCHITECTURE}"
    await _mirror(tmp_path / "mirror", "export", HELLO, "-o", bundle)
    await _mirror(tmp_path / "sealed", "import", bundle)
    await _mirror(tmp_path / "mirror", "export", OTHER, "--platform", platform, "-o", bundle)
    await _mirror(tmp_path / "sealed", "import", bundle)
    for process in (hub.process, ghcr.process, mirror.process):
        await process.stop()
    async with running_docker(sealed.url) as docker:
        await docker("pull", "hello:1")
        told = await docker("image", "inspect", "--format={{.Id}}", "hello:1")
        assert told.stdout.strip() == hello.config
    hosts = containerd.hosts_dir({"docker.io": sealed.url, "ghcr.io": sealed.url})
    await containerd.ctr("images", "pull", "--hosts-dir", hosts, HELLO)
    await containerd.ctr("images", "pull", "--hosts-dir", hosts, "--platform", platform, OTHER)
    listed = (await containerd.ctr("images", "ls")).stdout
    assert hello.digest in listed
    assert both.digest in listed
    for name, wanted in ((HELLO, hello), (OTHER, members[1])):
        await offline_tools.podman("pull", name)
        await _podman_has(offline_tools, name, wanted)
    assert await sealed.metric("mirror_upstream_requests_total") == 0


async def test_what_skopeo_and_containerd_have_put_into_an_archive_is_imported(
    hub: Registry, mirror: MirrorProcess, tools: Containers,
    *, containerd: Containerd, hello: Image, sealed: MirrorProcess, offline_tools: Containers,
    tmp_path: Path,
) -> None:  # fmt: skip
    await hub.push(hello, "library/hello", "1")
    await tools.skopeo(
        "copy", "--preserve-digests", f"docker://{HELLO}",
        f"oci-archive:{tmp_path}/skopeo.tar:docker.io/library/skopeo:1",
    )  # fmt: skip
    hosts = containerd.hosts_dir({"docker.io": mirror.url})
    await containerd.ctr("images", "pull", "--hosts-dir", hosts, HELLO)
    await containerd.ctr("images", "export", tmp_path / "ctr.tar", HELLO)
    for archive, name in (("skopeo.tar", "docker.io/library/skopeo:1"), ("ctr.tar", HELLO)):
        said = await _mirror(tmp_path / "sealed", "import", "--json", tmp_path / archive)
        steps = [json.loads(line) for line in said.splitlines()]
        assert {"step": "imported", "image": name, "outcome": "imported"}.items() <= steps[
            -2
        ].items()
    await offline_tools.podman("pull", HELLO)
    await _podman_has(offline_tools, HELLO, hello)


async def test_containerd_imports_a_bundle(
    hub: Registry, mirror: MirrorProcess, containerd: Containerd, hello: Image, tmp_path: Path
) -> None:
    await hub.push(hello, "library/hello", "1")
    await _pull(mirror, "library/hello", "1", hello)
    bundle = tmp_path / "bundle.tar"
    await _mirror(tmp_path / "mirror", "export", HELLO, "-o", bundle)
    await containerd.ctr("images", "import", bundle)
    [line] = [
        it for it in (await containerd.ctr("images", "ls")).stdout.splitlines() if HELLO in it
    ]
    assert hello.digest in line

"""A real skopeo, which writes what it gets to a directory: every byte can be compared."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.daemons import Containers
from tests.support.images import Image, artifact, files, image, index, random_layer
from tests.support.mirror import MirrorProcess
from tests.support.registry import Registry

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(120)]

NAME = "docker.io/library/hello"


@pytest.mark.parametrize("docker", [True, False], ids=["docker", "oci"])
async def test_an_image_arrives_byte_for_byte_also_without_the_registry(
    hub: Registry, tools: Containers, tmp_path: Path, *, docker: bool
) -> None:
    layers = files({"hello": b"Hello!\n"}), random_layer(300_000, seed=1)
    pushed = await hub.push(image(*layers, docker=docker), "library/hello", "1")
    assert await _copy(tools, f"{NAME}:1", tmp_path / "cold") == _expected(pushed)
    await hub.process.stop()
    assert await _copy(tools, f"{NAME}:1", tmp_path / "cached") == _expected(pushed)


@pytest.mark.parametrize("docker", [True, False], ids=["docker", "oci"])
async def test_every_platform_of_an_index_arrives_byte_for_byte_also_without_the_registry(
    hub: Registry, tools: Containers, tmp_path: Path, *, docker: bool
) -> None:
    members = [
        image(random_layer(100_000, seed=seed), docker=docker, architecture=architecture)
        for seed, architecture in enumerate(("amd64", "arm64", "s390x"))
    ]
    pushed = await hub.push(index(*members, docker=docker), "library/hello", "1")
    assert await _copy(tools, f"{NAME}:1", tmp_path / "cold", "--all") == _expected(pushed)
    await hub.process.stop()
    assert await _copy(tools, f"{NAME}:1", tmp_path / "cached", "--all") == _expected(pushed)


async def test_a_signature_arrives_by_its_digest_also_without_the_registry(
    hub: Registry, tools: Containers, tmp_path: Path
) -> None:
    subject = await hub.push(image(random_layer(1000, seed=1)), "library/hello", "1")
    signature = await hub.push(artifact(b"signed", subject=subject), "library/hello", "signature")
    name = f"{NAME}@{signature.digest}"
    assert await _copy(tools, name, tmp_path / "cold") == _expected(signature)
    await hub.process.stop()
    assert await _copy(tools, name, tmp_path / "cached") == _expected(signature)


async def test_tags_are_listed_also_without_the_registry(
    hub: Registry, mirror: MirrorProcess, tools: Containers
) -> None:
    pushed = image(random_layer(1000, seed=1))
    for tag in ("1", "2"):
        await hub.push(pushed, "library/hello", tag)
        assert (await mirror.client.manifest("library/hello", tag)).digest == pushed.digest
    assert await _tags(tools, mirror) == {"1", "2"}
    await hub.process.stop()
    assert await _tags(tools, mirror) == {"1", "2"}


async def test_skopeo_turns_to_the_origin_at_once_when_upstream_is_down_and_nothing_is_cached(
    hub: Registry, mirror: MirrorProcess, tools: Containers, tmp_path: Path
) -> None:
    await hub.push(image(random_layer(1000, seed=1)), "library/hello", "1")
    await hub.process.stop()
    copied = await tools.skopeo("copy", f"docker://{NAME}:1", f"dir:{tmp_path}/copy", check=False)
    assert copied.returncode != 0
    assert "registry-1.docker.io" in copied.stderr
    assert await mirror.metric("mirror_requests_total", kind="tag", status="502") == 1


async def _copy(
    tools: Containers, name: str, directory: Path, *options: str
) -> Mapping[str, bytes]:
    """What the image's directory holds in the end; skopeo's mark of its version is left out."""
    await tools.skopeo("copy", *options, f"docker://{name}", f"dir:{directory}")
    return await asyncio.to_thread(_content, directory)


def _content(directory: Path) -> Mapping[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.name != "version"}


def _expected(pushed: Image) -> Mapping[str, bytes]:
    """The same, for what was pushed."""
    content = {"manifest.json": pushed.manifest}
    for member in pushed.members:
        content[f"{_hex(member.digest)}.manifest.json"] = member.manifest
    for part in (pushed, *pushed.members):
        content |= {_hex(digest): blob for digest, blob in part.blobs.items()}
    return content


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


async def _tags(tools: Containers, mirror: MirrorProcess) -> set[str]:
    # To list, it asks no mirror by itself.
    listed = await tools.skopeo("list-tags", "--tls-verify=false", f"docker://{mirror.host}/{NAME}")
    return set(json.loads(listed.stdout)["Tags"])

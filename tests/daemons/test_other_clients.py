"""Clients that share no code with Docker's, containerd's and Podman's: oras, python-dxf."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import dxf
import oras.client
import pytest

from tests.support.images import artifact, image, random_layer
from tests.support.mirror import MirrorProcess
from tests.support.registry import Registry

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(120)]

APP = image(random_layer(300_000, seed=90), random_layer(10, seed=91))


async def test_python_dxf_pulls_an_image_by_tag_and_every_layer_also_without_the_registry(
    hub: Registry, mirror: MirrorProcess
) -> None:
    await hub.push(APP, "library/app", "1")

    def pull() -> tuple[bytes, dict[str, bytes]]:
        client = dxf.DXF(mirror.host, "library/app", insecure=True)
        assert client.list_aliases() == ["1"]
        layers = cast("list[str]", client.get_alias("1"))
        manifest = cast("str", client.get_manifest("1"))
        return manifest.encode(), {it: b"".join(_content(client, it)) for it in layers}

    expected = APP.manifest, {digest: APP.blobs[digest] for digest in APP.layers}
    assert await asyncio.to_thread(pull) == expected
    await hub.process.stop()
    assert await asyncio.to_thread(pull) == expected


async def test_oras_pulls_a_signature_also_without_the_registry(
    hub: Registry, mirror: MirrorProcess, tmp_path: Path
) -> None:
    await hub.push(APP, "library/app", "1")
    await hub.push(artifact(b"a signature", subject=APP), "library/app", "signature")

    def pull(directory: Path) -> list[bytes]:
        client = oras.client.OrasClient(hostname=mirror.host, insecure=True)
        target = f"{mirror.host}/library/app:signature"
        return [Path(it).read_bytes() for it in client.pull(target=target, outdir=str(directory))]

    assert await asyncio.to_thread(pull, tmp_path / "cold") == [b"a signature"]
    await hub.process.stop()
    assert await asyncio.to_thread(pull, tmp_path / "cached") == [b"a signature"]


def _content(client: dxf.DXF, digest: str) -> Iterable[bytes]:
    return cast("Iterable[bytes]", client.pull_blob(digest))

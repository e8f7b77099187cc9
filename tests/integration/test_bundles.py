"""`mirror export` and `mirror import`: by mirrors that run, and on stores where none does."""

import io
import json
import sys
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.images import Image, image, random_layer
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.process import run
from tests.support.upstream import ScriptedRegistry

SIZE = 700_000  # more than is answered from memory
APP = "docker.io/library/app:1"
SEALED = {"docker.io": {"sealed": True}, "ghcr.io": {"sealed": True}}


async def mirror(directory: Path, verb: str, *arguments: str | Path) -> tuple[int, str, str]:
    config = directory / "mirror.toml"
    ended = await run(
        sys.executable, "-m", "mirror", verb, "--config", config, *arguments, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr


async def steps(directory: Path, verb: str, *arguments: str | Path) -> list[dict[str, Any]]:
    _, said, error = await mirror(directory, verb, "--json", *arguments)
    assert not error, error
    return [json.loads(line) for line in said.splitlines()]


async def pull(client: Client, name: str, reference: str, app: Image) -> None:
    assert (await client.manifest(name, reference)).digest == app.digest
    for digest in app.blobs:
        assert (await client.blob(name, digest)).digest == digest


@asynccontextmanager
async def online(tmp_path: Path, upstream: ScriptedRegistry) -> AsyncIterator[MirrorProcess]:
    """A mirror that has been pulled through."""
    upstreams = {"docker.io": upstream_at(upstream.url), "ghcr.io": upstream_at(upstream.url)}
    async with running_mirror(tmp_path / "online", upstreams) as running:
        yield running


@asynccontextmanager
async def offline(
    tmp_path: Path, upstreams: Mapping[str, Any] = SEALED, **settings: Any
) -> AsyncIterator[MirrorProcess]:
    """A mirror that has no upstream; it stops with the block."""
    async with running_mirror(tmp_path / "offline", upstreams, **settings) as running:
        yield running


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=1)), "library/app", "1")


def members(bundle: Path) -> dict[str, bytes]:
    with tarfile.open(bundle, "r:") as tar:
        return {it.name: _read(tar, it) for it in tar}


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def write(bundle: Path, content: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(bundle, "w") as tar:
        for name, data in content:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return bundle


@pytest.mark.parametrize("is_running", [True, False])
async def test_what_one_mirror_has_exported_another_one_serves_without_any_upstream(
    upstream: ScriptedRegistry, tmp_path: Path, app: Image, *, is_running: bool
) -> None:
    bundle = tmp_path / "bundle.tar"
    async with online(tmp_path, upstream) as first:
        await pull(first.client, "app", "1", app)
        await first.until_metric("mirror_store_blobs", 3)
        if not is_running:
            await first.process.stop()
        status, said, error = await mirror(tmp_path / "online", "export", "app:1", "-o", bundle)
        assert (status, error) == (0, "")
        assert said.splitlines()[0] == APP
        assert bundle.stat().st_mode & 0o077 == 0
    names = {f"blobs/sha256/{digest[7:]}" for digest in (app.digest, *app.blobs)}
    assert members(bundle).keys() == {"oci-layout", "index.json"} | names
    async with offline(tmp_path) as second:
        if not is_running:
            await second.process.stop()
        status, said, error = await mirror(tmp_path / "offline", "import", bundle)
        assert (status, error) == (0, "")
        assert said.splitlines()[0] == APP
        if not is_running:
            await second.process.start()
        await pull(second.client, "app", "1", app)
        listed = await second.client.get("/v2/library/app/tags/list")
        assert json.loads(listed.body)["tags"] == ["1"]
        done = (await steps(tmp_path / "offline", "import", bundle))[-1]
        assert done == {"step": "done", "images": 1, "written": 0, "bytes": 0, "left_out": 3}

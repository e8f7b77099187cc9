"""Rows of pushes: by way of the mirror, and by a client that goes direct."""

import asyncio
import shutil
import tarfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from tests.bench import load
from tests.bench.cases import Case
from tests.bench.figures import DIRECT, MIRROR, Failed, Figures
from tests.bench.line import Line, running_line
from tests.bench.measure import idle
from tests.bench.peers import Server
from tests.bench.stage import MIB, TAG, Stage
from tests.support.daemons import Docker, running_docker
from tests.support.images import Image, random_bytes
from tests.support.mirror import upstream_at
from tests.support.process import run
from tests.support.registry import Registry, running_registry

PUSHES = "Pushes"

_CUT_AFTER = 8 * MIB
_NAME = "127.0.0.1"
_WITHIN = 240.0  # seconds; who is not through by then gives up on such a line


@dataclass(frozen=True, slots=True)
class _Place:
    """Where to push: a server, or the end of the line that leads to the registry."""

    host: str
    line: Line
    server: Server | None


@asynccontextmanager
async def _place(
    stage: Stage, peer: str, registry: Registry | None = None
) -> AsyncIterator[_Place]:
    """A mirror behind a line of its own, or the line itself."""
    target_port = int((registry or stage.registry).url.rpartition(":")[2])
    async with running_line(target_port, stage.new_directory() / "line.log") as line:
        if peer == DIRECT:
            yield _Place(f"{_NAME}:{line.port}", line, None)
            return
        upstream = upstream_at(line.url) | {"push": "client", "hosts": [_NAME], "default": True}
        async with stage.fresh(
            MIRROR, upstream=line.url, mirror={"upstream": {"docker.io": upstream}}
        ) as server:
            await idle(server.pid)  # it has come up
            yield _Place(f"{_NAME}:{server.port}", line, server)


async def _cut(stage: Stage, peer: str) -> Figures:
    """A real `docker push` of one layer, over a line that cuts every connection."""
    docker, size = await stage.once("pusher", lambda: _pusher(stage)), stage.scale.medium
    async with _place(stage, peer) as place:
        name = f"{place.host}/pushed/{_unique(stage)}:{TAG}"
        await docker("tag", "pushed", name)
        await place.line.set(bandwidth=stage.scale.line_bandwidth, cut_up_after=_CUT_AFTER)
        before, began = await place.line.sent(), time.perf_counter()
        await docker("push", name, within=_WITHIN)
        seconds = time.perf_counter() - began
        sent = await place.line.sent() - before
    return {"time": seconds, "throughput": size / seconds / 1e6, "upstream bytes": sent / size}


async def _fast(stage: Stage, peer: str) -> Figures:
    """An image as it is, over a fast line: nobody compresses anything.

    The registry is new each time. skopeo remembers, beyond this process, where it has pushed a
    blob, and mounts it from there: a port may have been another's before.
    """
    directory, size = await _on_disk(stage, "large"), stage.scale.medium + stage.scale.large
    async with _new_registry(stage) as registry, _place(stage, peer, registry) as place:
        began = time.perf_counter()
        await _copy(f"dir:{directory}", f"docker://{place.host}/pushed/{_unique(stage)}:{TAG}")
        seconds = time.perf_counter() - began
    return {"throughput": size / seconds / 1e6, "time": seconds}


@asynccontextmanager
async def _new_registry(stage: Stage) -> AsyncIterator[Registry]:
    directory = stage.new_directory()
    async with running_registry(directory) as registry:
        yield registry
    await asyncio.to_thread(shutil.rmtree, directory)


async def _pulled_after(stage: Stage, peer: str) -> Figures:
    """A pull of what has just been pushed: what it takes of upstream."""
    held, directory = await stage.image("medium"), await _on_disk(stage, "medium")
    async with _place(stage, peer) as place:
        name = f"pushed/{_unique(stage)}"
        await _copy(f"dir:{directory}", f"docker://{place.host}/{name}:{TAG}")
        if place.server is None:
            raise Failed("nobody but the mirror keeps what is pushed")
        before, began = await place.line.carried(), time.perf_counter()
        await load.pull(place.server, _targets(held, name))
        seconds = time.perf_counter() - began
        carried = await place.line.carried() - before
    return {"time": seconds, "upstream bytes": carried / stage.scale.medium}


async def _held(stage: Stage, peer: str) -> Figures:
    """A push of what the mirror has, to another repository: what the client sends."""
    held = await stage.image("medium")
    async with _place(stage, peer) as place:
        port = int(place.host.rpartition(":")[2])
        async with running_line(port, stage.new_directory() / "client.log") as line:
            host = f"{_NAME}:{line.port}"
            await _copy(f"docker://{host}/library/medium:{TAG}", f"dir:{stage.new_directory()}")
            before = await line.sent()
            await _copy(
                f"docker://{host}/library/medium:{TAG}",
                f"docker://{host}/pushed/{_unique(stage)}:{TAG}",
            )
            sent = await line.sent() - before
    return {"client bytes": sent / sum(map(len, held.blobs.values()))}


async def _pusher(stage: Stage) -> Docker:
    """A dockerd with an image to push, whose one layer does not compress."""
    docker = await stage.stack.enter_async_context(running_docker())
    archive = stage.new_directory() / "root.tar"
    await asyncio.to_thread(_write_root, archive, stage.scale.medium)
    await docker("import", archive, "pushed", within=_WITHIN)
    return docker


def _write_root(archive: Path, size: int) -> None:
    with tarfile.open(archive, "w") as tar:
        entry = tarfile.TarInfo("data")
        entry.size = size
        pieces = (random_bytes(MIB, seed=5000 + number) for number in range(size // MIB))
        tar.addfile(entry, BytesIO(b"".join(pieces)))


async def _on_disk(stage: Stage, name: str) -> Path:
    """An image of the stage's as skopeo's `dir:` has it."""
    held = await stage.image(name)

    async def write() -> Path:
        directory = stage.new_directory()
        await asyncio.to_thread(_write_directory, held, directory)
        return directory

    return await stage.once(("dir", name), write)


def _write_directory(held: Image, directory: Path) -> None:
    (directory / "version").write_text("Directory Transport Version: 1.1\n", encoding="utf-8")
    (directory / "manifest.json").write_bytes(held.manifest)
    for digest, content in held.blobs.items():
        (directory / digest.partition(":")[2]).write_bytes(content)


async def _copy(source: str, destination: str) -> None:
    insecure = ("--src-tls-verify=false", "--dest-tls-verify=false")
    as_it_is = ("copy", "--preserve-digests", *insecure)
    command = ("skopeo", "--insecure-policy", *as_it_is, source, destination)
    await run(*command, within=_WITHIN)


def _targets(held: Image, name: str) -> dict[str, int]:
    manifest = {f"/v2/{name}/manifests/{TAG}": len(held.manifest)}
    return manifest | {f"/v2/{name}/blobs/{it}": len(body) for it, body in held.blobs.items()}


def _unique(stage: Stage) -> str:
    """A repository that nobody has pushed to."""
    return stage.new_directory().name


_BOTH = (MIRROR, DIRECT)

CASES: tuple[Case, ...] = (
    Case(
        "push-cut",
        "docker push of a medium layer, throttled, every connection cut after 8 MiB",
        "time", "upstream bytes ≤ 1.05 x", _cut, table=PUSHES,
        peers=_BOTH, most_rounds=1, together=True,
    ),
    Case(
        "push-fast", "skopeo copy of a large image, fast line",
        "throughput", "≥ 0.8 x direct", _fast, table=PUSHES, peers=_BOTH,
    ),
    Case(
        "push-pull", "pull of what has just been pushed",
        "time", "upstream bytes ≤ 0.00 x", _pulled_after, table=PUSHES, peers=(MIRROR,),
    ),
    Case(
        "push-held", "push of an image that the mirror has, to another repository",
        "client bytes", "≤ 0.01 x", _held, table=PUSHES, peers=(MIRROR,), most_rounds=1,
    ),
)  # fmt: skip

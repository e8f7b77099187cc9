"""Rows of real clients: each pulls a real image of several layers, cold and warm."""

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from tests.bench.cases import CLIENTS, Case
from tests.bench.figures import Failed, Figures
from tests.bench.measure import idle, metered
from tests.bench.peers import Server
from tests.bench.stage import TAG, Stage
from tests.support.daemons import Containerd, Docker, running_containerd, running_docker
from tests.support.process import run

_IMAGE = f"docker.io/library/real:{TAG}"


class _Client(Protocol):
    """Clients check every digest themselves."""

    async def pull(self, server: Server) -> None: ...

    async def forget(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Skopeo:
    stage: Stage

    async def pull(self, server: Server) -> None:
        tool = ("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false")
        await run(*tool, f"docker://{server.host}/library/real:{TAG}", f"dir:{self._directory}")

    async def forget(self) -> None:
        await asyncio.to_thread(shutil.rmtree, self._directory)

    @property
    def _directory(self) -> str:
        return f"{self.stage.directory}/skopeo"


@dataclass(frozen=True, slots=True)
class _Ctr:
    containerd: Containerd

    async def pull(self, server: Server) -> None:
        hosts = self.containerd.hosts_dir({"docker.io": server.url})
        await self.containerd.ctr("images", "pull", "--hosts-dir", hosts, _IMAGE)

    async def forget(self) -> None:
        await self.containerd.ctr("images", "rm", "--sync", _IMAGE)


@dataclass(frozen=True, slots=True)
class _Docker:
    docker: Docker

    async def pull(self, _: Server) -> None:
        await self.docker("pull", _IMAGE)

    async def forget(self) -> None:
        await self.docker("image", "rm", _IMAGE)


async def _skopeo(stage: Stage, _: Server) -> _Client:
    return _Skopeo(stage)


async def _ctr(stage: Stage, server: Server) -> _Client:
    return _Ctr(await stage.stack.enter_async_context(running_containerd()))


async def _dockerd(stage: Stage, server: Server) -> _Client:
    return _Docker(await stage.stack.enter_async_context(running_docker(server.url)))


Start = Callable[[Stage, Server], Awaitable[_Client]]


async def _pull(
    stage: Stage, peer: str, *, start: Start, programs: tuple[str, ...], warm: bool
) -> Figures:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing or os.geteuid():
        raise Failed(f"not installed: {', '.join(missing)}" if missing else "needs root")
    await stage.image("real")
    # Always the same port for a peer: a dockerd is told its mirror when it starts.
    async with stage.fresh(peer, port=await stage.port(("client", peer))) as server:
        client = await stage.once((start, peer), partial(start, stage, server))
        if warm:
            await client.pull(server)
            await client.forget()
        await idle(server.pid, stage.registry.process.pid)
        with metered(server.pid) as cost:
            began = time.perf_counter()
            await client.pull(server)
            seconds = time.perf_counter() - began
        await client.forget()
    return {"time": seconds, "peak memory": cost.peak_mib}


_CLIENTS: tuple[tuple[str, Start, tuple[str, ...]], ...] = (
    ("skopeo", _skopeo, ("skopeo",)),
    ("containerd", _ctr, ("containerd", "ctr", "runc")),
    ("dockerd", _dockerd, ("dockerd", "docker", "containerd", "runc")),
)

CASES: tuple[Case, ...] = tuple(
    Case(
        f"{client}-{'warm' if warm else 'cold'}", f"{'warm' if warm else 'cold'} pull by {client}",
        "time", "", partial(_pull, start=start, programs=programs, warm=warm), table=CLIENTS,
    )
    for client, start, programs in _CLIENTS
    for warm in (False, True)
)  # fmt: skip

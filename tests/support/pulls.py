"""Four kinds of clients, each with one way to pull from Docker Hub on a `Host`.

async with pulling("podman", host) as pull:
    result = await pull("hello:1")          # and forgets it again
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.daemons import Result, containers, running_containerd, running_docker
from tests.support.host import Host

Pull = Callable[[str], Awaitable[Result]]
"""`library/` is added to the reference; the exit status says whether the image is there."""

GUIDES = {"docker": "docker", "containerd": "containerd", "podman": "podman", "skopeo": "podman"}
"""The clients, and which of the guides of `mirror setup` is theirs."""

_PATIENCE = 90  # seconds: docker waits 5, 10, 15 ... between its tries


@asynccontextmanager
async def pulling(client: str, host: Host) -> AsyncIterator[Pull]:
    """Run that client, and give what pulls with it."""
    kinds = {"docker": _docker, "containerd": _containerd, "podman": _podman, "skopeo": _skopeo}
    async with kinds[client](host) as pull:
        yield pull


@asynccontextmanager
async def _docker(host: Host) -> AsyncIterator[Pull]:
    async with running_docker(host=host) as docker:

        async def pull(reference: str) -> Result:
            pulled = await docker("pull", reference, check=False, within=_PATIENCE)
            if not pulled.returncode:
                await docker("rmi", "--force", reference)
            return pulled

        yield pull


@asynccontextmanager
async def _containerd(host: Host) -> AsyncIterator[Pull]:
    async with running_containerd() as containerd:

        async def pull(reference: str) -> Result:
            name = f"docker.io/library/{reference}"
            hosts = ("--hosts-dir", "/etc/containerd/certs.d")
            pulled = await containerd.ctr(
                "images", "pull", *hosts, name, check=False, within=_PATIENCE, host=host
            )
            if not pulled.returncode:
                await containerd.ctr("images", "rm", "--sync", name)
            return pulled

        yield pull


@asynccontextmanager
async def _podman(host: Host) -> AsyncIterator[Pull]:
    async with containers(host=host) as tools:

        async def pull(reference: str) -> Result:
            name = f"docker.io/library/{reference}"
            pulled = await tools.podman("pull", name, check=False, within=_PATIENCE)
            await tools.podman("rmi", "--all", "--force")
            return pulled

        yield pull


@asynccontextmanager
async def _skopeo(host: Host) -> AsyncIterator[Pull]:
    async with containers(host=host) as tools:
        count = 0

        async def pull(reference: str) -> Result:
            nonlocal count
            count += 1
            copy: Path = tools.directory / f"copy-{count}"
            source = f"docker://docker.io/library/{reference}"
            return await tools.skopeo("copy", source, f"dir:{copy}", check=False, within=_PATIENCE)

        yield pull

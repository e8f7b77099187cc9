"""Real clients of registries, each in directories of its own, of which nothing survives.

async with running_containerd() as containerd:
    await containerd.ctr("images", "pull", "--hosts-dir", hosts_dir, "docker.io/library/x:1")
async with running_docker(mirror.url) as docker:
    await docker("pull", "x:1")
async with running_docker(host=host) as docker:  # with the host's daemon.json
async with containers(mirror.host) as tools:
    await tools.podman("pull", "docker.io/library/x:1")
    await tools.skopeo("copy", "docker://docker.io/library/x:1", f"dir:{directory}")
"""

import asyncio
import base64
import json
import os
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import tomli_w

from tests.support.host import Host
from tests.support.process import CHILD_ENVIRONMENT, Process, run
from tests.support.require import require, require_root

Result = subprocess.CompletedProcess[str]


class Containerd:
    """containerd with its client, `ctr`; with the service that kubelets ask, where `has_cri`."""

    def __init__(self, directory: Path, *, has_cri: bool = False) -> None:
        self.directory = directory
        self.socket = directory / "containerd.sock"
        settings: dict[str, Any] = {
            "version": 2,
            "root": f"{directory}/root",
            "state": f"{directory}/state",
            "grpc": {"address": str(self.socket)},
        }
        if has_cri:
            registry = {"config_path": str(directory / "hosts")}
            settings["plugins"] = {"io.containerd.grpc.v1.cri": {"registry": registry}}
        else:
            settings["disabled_plugins"] = ["io.containerd.grpc.v1.cri"]
        file = directory / "containerd.toml"
        file.write_text(tomli_w.dumps(settings), encoding="utf-8")
        self.process = Process(
            ("containerd", "--config", file),
            log=directory / "containerd.log",
            ready=self._is_ready,
        )

    async def ctr(
        self,
        *arguments: str | Path,
        check: bool = True,
        within: float = 60,
        host: Host | None = None,
    ) -> Result:
        """Run `ctr` in a namespace of the tests; it reads the hosts' configuration itself."""
        command: tuple[str | Path, ...] = ("ctr", "-a", self.socket, "-n", "test", *arguments)
        if host is None:
            return await run(*command, check=check, within=within)
        command = host.command(*command)
        return await run(*command, environment=host.environment, check=check, within=within)

    def hosts_dir(self, mirrors: Mapping[str, str]) -> Path:
        """A directory for `--hosts-dir` that sends each registry's pulls to a mirror's URL."""
        directory = self.directory / "hosts"
        for registry, url in mirrors.items():
            (directory / registry).mkdir(parents=True, exist_ok=True)
            settings = {
                "server": f"https://{registry}",
                "host": {url: {"capabilities": ["pull", "resolve"]}},
            }
            file = directory / registry / "hosts.toml"
            file.write_text(tomli_w.dumps(settings), encoding="utf-8")
        return directory

    async def _is_ready(self) -> bool:
        return (await self.ctr("version", check=False)).returncode == 0


class Docker:
    """dockerd; call it as its client: `await docker("pull", "alpine")`."""

    def __init__(self, containerd: Containerd, mirror_url: str | None, host: Host | None) -> None:
        self.directory = directory = containerd.directory / "docker"
        directory.mkdir()
        self._client = ("docker", "-H", f"unix://{directory}/docker.sock")
        self._environment = {**CHILD_ENVIRONMENT, "DOCKER_CONFIG": f"{directory}/client"}
        command: tuple[str | Path, ...] = (
            "dockerd",
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            f"--data-root={directory}/data",
            f"--exec-root={directory}/exec",
            f"--host=unix://{directory}/docker.sock",
            f"--pidfile={directory}/pid",
            f"--containerd={containerd.socket}",
        )
        if mirror_url is not None:
            (directory / "daemon.json").write_text("{}", encoding="utf-8")
            command += (f"--config-file={directory}/daemon.json", f"--registry-mirror={mirror_url}")
        if host is not None:
            command = host.command(*command)
        self.process = Process(
            command,
            log=directory / "docker.log",
            ready=self._is_ready,
            environment=CHILD_ENVIRONMENT if host is None else host.environment,
        )

    async def __call__(
        self, *arguments: str | Path, check: bool = True, within: float = 60
    ) -> Result:
        return await run(
            *self._client, *arguments, environment=self._environment, check=check, within=within
        )

    def remember_login(self, registry: str, name: str, password: str) -> None:
        """As `docker login` does once it has succeeded."""
        secret = base64.b64encode(f"{name}:{password}".encode()).decode()
        document = {"auths": {registry: {"auth": secret}}}
        client = self.directory / "client"
        client.mkdir(exist_ok=True)
        (client / "config.json").write_text(json.dumps(document), encoding="utf-8")

    async def _is_ready(self) -> bool:
        return (await self("version", check=False)).returncode == 0


class Containers:
    """podman and skopeo, configured to pull through a mirror."""

    def __init__(
        self,
        directory: Path,
        mirror_host: str | None,
        registries: Sequence[str],
        host: Host | None = None,
        driver: str = "vfs",  # needs no mounts
    ) -> None:
        self.directory = directory
        self._host = host
        mirrored = [
            {
                "location": registry,
                "mirror": [{"location": f"{mirror_host}/{registry}", "insecure": True}],
            }
            for registry in registries
        ]
        storage = {
            "driver": driver,
            "graphroot": f"{directory}/root",
            "runroot": f"{directory}/run",
        }
        documents: dict[str, dict[str, Any]] = {
            "registries.conf": {"registry": mirrored},
            "storage.conf": {"storage": storage},
            "containers.conf": {
                "engine": {"tmp_dir": f"{directory}/engine", "events_logger": "none"},
                # Of its own it sets the largest numbers, which not every machine lets it.
                "containers": {"default_ulimits": _limits(), "http_proxy": False},
            },
        }
        for name, document in documents.items():
            (directory / name).write_text(tomli_w.dumps(document), encoding="utf-8")
        (directory / "auth.json").write_text("{}", encoding="utf-8")  # nobody's credentials
        self._environment = {
            **(CHILD_ENVIRONMENT if host is None else host.environment),
            "CONTAINERS_CONF": f"{directory}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{directory}/storage.conf",
            "REGISTRY_AUTH_FILE": f"{directory}/auth.json",
            "DISABLE_HC_SYSTEMD": "true",  # nobody checks the health of containers by a timer
        }
        if host is None:
            self._environment["CONTAINERS_REGISTRIES_CONF"] = f"{directory}/registries.conf"

    async def podman(
        self, *arguments: str | Path, check: bool = True, within: float = 60
    ) -> Result:
        return await self._run("podman", *arguments, check=check, within=within)

    async def podman_apart(self, *arguments: str | Path, within: float = 60) -> None:
        """As `podman`, where it leaves programs behind, which would not end with an event loop."""
        log = self.directory / "apart.log"
        with log.open("wb") as file:
            done = await asyncio.to_thread(
                subprocess.run, ("podman", *arguments), check=False, stdin=subprocess.DEVNULL,
                stdout=file, stderr=file, env=self._environment, timeout=within,
            )  # fmt: skip
        assert not done.returncode, log.read_text(encoding="utf-8")

    async def buildah(
        self, *arguments: str | Path, check: bool = True, within: float = 60
    ) -> Result:
        return await self._run("buildah", *arguments, check=check, within=within)

    async def skopeo(
        self, *arguments: str | Path, check: bool = True, within: float = 60
    ) -> Result:
        if self._host is None:  # it does not read CONTAINERS_REGISTRIES_CONF
            arguments = ("--registries-conf", self.directory / "registries.conf", *arguments)
        return await self._run("skopeo", *arguments, check=check, within=within)

    async def _run(self, *command: str | Path, check: bool, within: float) -> Result:
        if self._host is not None:
            command = self._host.command(*command)
        return await run(*command, environment=self._environment, check=check, within=within)


@asynccontextmanager
async def running_containerd(*, has_cri: bool = False) -> AsyncIterator[Containerd]:
    """Run containerd."""
    require("containerd", "ctr", "runc")
    require_root()
    async with _workplace() as directory:
        containerd = Containerd(directory, has_cri=has_cri)
        async with containerd.process:
            yield containerd


@asynccontextmanager
async def running_docker(
    mirror_url: str | None = None, *, host: Host | None = None
) -> AsyncIterator[Docker]:
    """Run dockerd, with a containerd of its own, and `mirror_url` as its registry mirror.

    Or on a `host` that has the configuration.
    """
    require("dockerd", "docker")
    async with running_containerd() as containerd:
        docker = Docker(containerd, mirror_url, host)
        async with docker.process:
            yield docker


@asynccontextmanager
async def containers(
    mirror_host: str | None = None, *registries: str, host: Host | None = None
) -> AsyncIterator[Containers]:
    """podman and skopeo that ask a mirror for what is in `registries` (by default docker.io).

    Or on a `host` that has the configuration.
    """
    require("podman", "skopeo")
    require_root()
    async with _workplace() as directory:
        yield Containers(directory, mirror_host, registries or ("docker.io",), host)


def _limits() -> list[str]:
    limits = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    allowed = {name: min(resource.getrlimit(limit)[1], 2**13) for name, limit in limits.items()}
    return [f"{name}={number}:{number}" for name, number in allowed.items()]


@asynccontextmanager
async def _workplace() -> AsyncIterator[Path]:
    """A directory whose name is short enough for sockets; no process, mount or file outlives it."""
    directory = Path(tempfile.mkdtemp(prefix="mirror-test-"))
    try:
        yield directory
    finally:
        await asyncio.to_thread(_sweep, directory)


@contextmanager
def lasting_containers() -> Iterator[Containers]:
    """A podman for several tests, each with an event loop of its own; what it has built lasts."""
    require("podman", "buildah", "skopeo")
    require_root()
    directory = Path(tempfile.mkdtemp(prefix="mirror-test-"))
    try:
        yield Containers(directory, None, (), driver="overlay")
    finally:
        _sweep(directory)


def _sweep(directory: Path) -> None:
    """End and remove what daemons leave: containerd's shims outlive it, containers their shims."""
    for process in _processes(str(directory)):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    for point in _mount_points(directory):
        subprocess.run(("umount", "--lazy", point), check=True)
    shutil.rmtree(directory)


def _processes(mark: str) -> set[int]:
    """The processes with `mark` in their command line, and everything that they started."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            parents[int(entry.name)] = int(_status(entry, "PPid"))
            if mark in (entry / "cmdline").read_text(encoding="utf-8", errors="replace"):
                found.add(int(entry.name))
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _status(entry: Path, name: str) -> str:
    lines = (entry / "status").read_text(encoding="utf-8", errors="replace").splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def _mount_points(directory: Path) -> list[str]:
    """What is mounted below `directory`, innermost first."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    points = [line.split()[4] for line in lines]
    return [point for point in reversed(points) if Path(point).is_relative_to(directory)]

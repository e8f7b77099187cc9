"""The mirror's seat, and who sits in it: what a scene starts between a registry and a client."""

import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w
import yaml

from tests.bench.figures import MIRROR
from tests.support.client import Answer, Client, client, raw_request
from tests.support.evil import Evil, tells
from tests.support.mirror import document, upstream_at
from tests.support.process import Process, answers, free_port
from tests.support.upstream import ScriptedRegistry

Settings = Mapping[str, Any]


class Lacks(AssertionError):
    """Who sits there has no such thing at all; the message says what."""


@dataclass(slots=True)
class Seat:
    """Who sits between registry and client."""

    client: Client
    port: int
    process: Process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def raw(self, request: bytes) -> bytes:
        """Everything that comes back for these bytes."""
        return await raw_request("127.0.0.1", self.port, request)

    async def blob(self, repository: str, digest: str, wanted: bytes) -> Answer:
        """A blob, proved to be the one that was wanted."""
        answer = await self.client.blob(repository, digest)
        assert answer.status == 200, f"{answer.status} for a blob"
        assert answer.body == wanted, f"other bytes ({len(answer.body)} of {len(wanted)})"
        return answer

    async def manifest(self, repository: str, reference: str, wanted: bytes) -> Answer:
        """A manifest, proved to be the one that was wanted."""
        answer = await self.client.manifest(repository, reference)
        assert answer.status == 200, f"{answer.status} for a manifest"
        assert answer.body == wanted, "another manifest"
        return answer


@dataclass(slots=True)
class Scene:
    """A stage for one kind of thing: registries of any sort, and a seat to fill."""

    who: str
    directory: Path
    _stack: AsyncExitStack
    _names: Iterator[int] = field(default_factory=itertools.count)

    async def registry(self, **settings: Any) -> ScriptedRegistry:
        """An honest registry, running."""
        return await self._stack.enter_async_context(ScriptedRegistry(**settings))

    async def evil(self) -> Evil:
        """A registry whose every byte the scene chooses; its `/v2/` answers as any other's."""
        evil = await self._stack.enter_async_context(Evil())
        evil.on("GET /v2/", tells(b"{}"))  # the rules of a scene come before this one
        return evil

    def defer(self, end: Callable[[], Awaitable[object]]) -> None:
        """Await this once the scene is over."""
        self._stack.push_async_callback(end)

    async def enter(self, manager: Any) -> Any:
        """Anything else, until the scene is over."""
        return await self._stack.enter_async_context(manager)

    async def seat(
        self,
        url: str,
        *,
        endpoint: Settings | None = None,
        upstream: Settings | None = None,
        more: Mapping[str, Settings] | None = None,
        **overrides: Settings,
    ) -> Seat:
        """Sit down before the registry at `url`, which plays Docker Hub.

        `endpoint` and `upstream` are settings of the mirror's; `more` are further upstreams.
        Raises Lacks where who sits there has no such settings.
        """
        directory = self.directory / f"seat-{next(self._names)}"
        directory.mkdir()
        port = free_port()
        if self.who == MIRROR:
            settings = document(
                {"docker.io": upstream_at(url, **(endpoint or {})) | dict(upstream or {})}
                | dict(more or {}),
                store_root=directory / "store",
                ports=(port, free_port()),
                **overrides,
            )
            command = _mirror(directory, settings)
            ready = partial(answers, f"http://{settings['server']['admin_listen']}/readyz")
        else:
            _has_no_settings(*(upstream or {}), *(more or {}))
            command = _docker_registry(directory, port, url, endpoint or {})
            ready = partial(answers, f"http://127.0.0.1:{port}/v2/")
        process = Process(command, log=directory / "log", ready=ready)
        await self._stack.enter_async_context(process)
        connected = await self._stack.enter_async_context(client(f"http://127.0.0.1:{port}"))
        return Seat(connected, port, process)


@asynccontextmanager
async def scene(who: str, directory: Path) -> AsyncIterator[Scene]:
    """A stage; everything on it is gone afterwards."""
    async with AsyncExitStack() as stack:
        yield Scene(who, directory, stack)


def _mirror(directory: Path, settings: Settings) -> tuple[str | Path, ...]:
    file = directory / "mirror.toml"
    file.write_text(tomli_w.dumps(settings), encoding="utf-8")
    return (sys.executable, "-m", "mirror", "serve", "--config", file)


def _has_no_settings(*names: str) -> None:
    for name in names:
        raise Lacks(f"has no setting for {name}")


def _docker_registry(
    directory: Path, port: int, url: str, endpoint: Settings
) -> tuple[str | Path, ...]:
    """What it can be told of an upstream is its address, and a name with a password."""
    proxy = {"remoteurl": url}
    for name, value in endpoint.items():
        match name:
            case "username":
                proxy["username"] = value
            case "password_file":
                proxy["password"] = Path(value).read_text(encoding="utf-8").strip()
            case _:
                _has_no_settings(name)
    settings = {
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
        "proxy": proxy,
    }
    file = directory / "registry.yml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return ("docker-registry", "serve", file)

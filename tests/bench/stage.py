"""Where rows are measured: one upstream with content, and servers before it, warm or fresh."""

import asyncio
import hashlib
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, cast

import aiohttp
import pytest

from tests.bench.figures import Failed
from tests.bench.peers import Server, Setting, server
from tests.support.client import MANIFEST_TYPES, client
from tests.support.images import (
    Image,
    Layer,
    busybox,
    digest_of,
    files,
    image,
    random_bytes,
    random_layer,
)
from tests.support.process import ProcessFailed, free_port
from tests.support.registry import Registry, running_registry
from tests.support.tls import Authority

KIB, MIB = 2**10, 2**20
TAG = "1"
SMALL_SIZES = (KIB, 16 * KIB, 256 * KIB)  # the layers of "small"
SOAK_SIZE = 8 * MIB  # of each layer of "soak"

_SOAK_LAYERS = 32
_AT_ONCE = 8  # requests, while something is filled
_SOURCES = ("/usr/lib/python3.11", "/usr/lib/git-core", "/usr/bin", "/usr/share", "/usr/lib")

FAILURES = (
    Failed,
    ProcessFailed,
    OSError,
    TimeoutError,
    ExceptionGroup,
    aiohttp.ClientError,
    pytest.skip.Exception,  # how tests.support says that something cannot run here
    pytest.fail.Exception,
)
"""What a peer or a client may die of without taking the bench with it."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is done."""

    rounds: int = 3
    hit_seconds: int = 2
    large: int = 256 * MIB
    medium: int = 64 * MIB
    slow_seconds: float = 10
    soak_seconds: int = 600
    stored_blobs: int = 1000
    recorded: int = 1_000_000  # blobs
    pulled: int = 500_000  # images
    real_layer: int = 16 * MIB  # of files, before they are compressed
    line_bandwidth: int = 1_000_000  # bytes per second and connection


QUICK = Scale(
    rounds=1,
    hit_seconds=1,
    large=64 * MIB,
    medium=32 * MIB,
    slow_seconds=4,
    soak_seconds=10,
    stored_blobs=200,
    recorded=50_000,
    pulled=10_000,
    real_layer=4 * MIB,
    line_bandwidth=4_000_000,
)


@dataclass(slots=True, kw_only=True)
class Stage:
    """What rows share. What it starts ends with the block of `running_stage`."""

    scale: Scale
    directory: Path
    registry: Registry
    authority: Authority
    stack: AsyncExitStack
    _made: dict[Any, Any] = field(default_factory=dict)
    _locks: dict[Any, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    _numbers: Iterator[int] = field(default_factory=count)

    async def once(self, key: Any, make: Callable[[], Awaitable[T]]) -> T:
        """Make something when it is first asked for, and keep it; a failure is kept as well."""
        async with self._locks[key]:
            if key not in self._made:
                try:
                    self._made[key] = await make()
                except FAILURES as error:
                    self._made[key] = error
        made = self._made[key]
        if isinstance(made, FAILURES):
            raise made
        return cast("T", made)

    async def image(self, name: str) -> Image:
        """One of the images that upstream holds, as `library/<name>:1`."""

        async def push() -> Image:
            made = await asyncio.to_thread(_IMAGES[name], self.scale)
            await self.registry.push(made, f"library/{name}", TAG)
            await asyncio.to_thread(_lay_out, made, self._files / "v2/library" / name)
            return made

        return await self.once(("image", name), push)

    async def warm(self, name: str, *, tls: bool = False) -> Server:
        """A running server that has "small" and "large", each byte of them proved."""

        async def start() -> Server:
            images = {wanted: await self.image(wanted) for wanted in ("small", "large")}
            identity = self.authority.issue("server") if tls else None
            setting = self.setting(identity=identity, ca_file=self.authority.ca_file)
            started = server(name, self.new_directory(), setting if tls else self.setting())
            await self.stack.enter_async_context(started.running())
            for wanted, made in images.items():
                await fill(started, wanted, made)
            return started

        return await self.once(("warm", name, tls), start)

    @asynccontextmanager
    async def fresh(
        self, name: str, *, upstream: str | None = None, port: int | None = None, **setting: Any
    ) -> AsyncIterator[Server]:
        """A server that has nothing, inside the block."""
        directory = self.new_directory()
        settings = self.setting(upstream=upstream or self.registry.url, **setting)
        started = server(name, directory, settings, port=port)
        try:
            async with started.running():
                yield started
        finally:
            await asyncio.to_thread(shutil.rmtree, directory)

    async def port(self, key: Any) -> int:
        """A port that stays the same for `key`."""

        async def pick() -> int:
            return free_port()

        return await self.once(("port", key), pick)

    def setting(self, **wanted: Any) -> Setting:
        """How servers of this stage run."""
        defaults: dict[str, Any] = {"upstream": self.registry.url, "files": self._files}
        return Setting(**defaults | wanted)

    def cold_server(self, name: str, **setting: Any) -> Server:
        """A server with a directory of its own that is yet to be started."""
        return server(name, self.new_directory(), self.setting(**setting))

    @property
    def _files(self) -> Path:
        return self.directory / "files"

    def new_directory(self) -> Path:
        """A directory for one server; it goes with the stage."""
        directory = self.directory / f"server-{next(self._numbers)}"
        directory.mkdir()
        return directory


@asynccontextmanager
async def running_stage(directory: Path, scale: Scale) -> AsyncIterator[Stage]:
    """Run the upstream of all, and what rows start in addition."""
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(running_registry(directory / "upstream"))
        authority = Authority(directory / "tls")
        yield Stage(
            scale=scale, directory=directory, registry=registry, authority=authority, stack=stack
        )


def manifest_path(name: str, reference: str = TAG) -> str:
    """What a client asks for."""
    return f"/v2/library/{name}/manifests/{reference}"


def blob_path(name: str, digest: str) -> str:
    """What a client asks for."""
    return f"/v2/library/{name}/blobs/{digest}"


async def fill(to: Server, name: str, held: Image) -> None:
    """Pull a whole image, and prove every byte. Raises Failed."""
    await prove(to, manifest_path(name), held.digest)
    await prove(to, manifest_path(name, held.digest), held.digest)
    blobs = iter(held.blobs)

    async def work() -> None:
        for digest in blobs:
            await prove(to, blob_path(name, digest), digest)

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(work())


async def prove(at: Server, target: str, digest: str) -> None:
    """GET something and compare it with its digest. Raises Failed."""
    hashed = hashlib.sha256()
    ca_file = str(at.ca_file) if at.ca_file else None
    accept = {"Accept": ", ".join(MANIFEST_TYPES)}
    async with client(at.url, ca_file=ca_file) as one, one.open(target, headers=accept) as response:
        async for chunk in response.content.iter_any():
            hashed.update(chunk)
    if response.status != 200:
        raise Failed(f"status {response.status}: GET {target}")
    if digest != f"sha256:{hashed.hexdigest()}":
        raise Failed(f"wrong bytes: GET {target}")


def _small(_: Scale) -> Image:
    return image(*(random_layer(size, seed=size) for size in SMALL_SIZES))


def _large(scale: Scale) -> Image:
    return image(*(_long_layer(size) for size in (scale.medium, scale.large)))


def _long_layer(size: int) -> Layer:
    """As `random_layer`, in pieces: a number of 256 MiB is more than Python makes at once."""
    pieces = [random_bytes(MIB, seed=size + number) for number in range(size // MIB)]
    content = b"".join(pieces)
    return Layer(content, digest_of(content))


def _medium(scale: Scale) -> Image:
    return image(random_layer(scale.medium, seed=1))


def _soak(_: Scale) -> Image:
    return image(*(random_layer(SOAK_SIZE, seed=100 + number) for number in range(_SOAK_LAYERS)))


def _many(scale: Scale) -> Image:
    return image(*(random_layer(KIB, seed=1000 + number) for number in range(scale.stored_blobs)))


def _real(scale: Scale) -> Image:
    """Real files of this machine, in layers that a daemon unpacks."""
    layers = [files(_gathered(Path(source), scale.real_layer)) for source in _SOURCES]
    return image(busybox(), *layers, docker=True)


def _gathered(source: Path, size: int) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    left = size
    for file in sorted(source.rglob("*")):
        if left <= 0:
            break
        if file.is_file() and not file.is_symlink() and file.stat().st_size <= left:
            content = found[str(file.relative_to("/"))] = file.read_bytes()
            left -= len(content)
    return found


_IMAGES: Mapping[str, Callable[[Scale], Image]] = {
    "small": _small,
    "large": _large,
    "medium": _medium,
    "soak": _soak,
    "many": _many,
    "real": _real,
}


def _lay_out(held: Image, directory: Path) -> None:
    """Write an image as files, for who serves files."""
    contents = {f"manifests/{reference}": held.manifest for reference in (TAG, held.digest)}
    contents |= {f"blobs/{digest}": content for digest, content in held.blobs.items()}
    for name, content in contents.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

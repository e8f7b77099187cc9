"""The mirror under test: a process, as operators run it, or here in our own event loop."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w
from prometheus_client.parser import text_string_to_metric_families

from mirror.app import run
from mirror.config import Config, parse
from mirror.config.units import parse_size
from tests.support.client import Client, client, get
from tests.support.clock import FakeClock
from tests.support.process import PATIENCE, Process, answers, free_port, until

Settings = Mapping[str, Any]

EMPTY_STORE = 14_008_320  # bytes: its databases with their logs, and directories


@dataclass(kw_only=True)
class Mirror:
    """A mirror that serves; `client` talks to it."""

    host: str
    admin_host: str
    store_root: Path
    client: Client

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def admin_url(self) -> str:
        return f"http://{self.admin_host}"

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry `labels`; 0.0 when there are none."""
        answer = await get(f"{self.admin_url}/metrics")
        return sample(answer.body.decode(), name, **labels)

    async def until_metric(self, name: str, value: float, **labels: str) -> None:
        """Return when `metric` gives `value`."""

        async def is_there() -> bool:
            return await self.metric(name, **labels) == value

        await until(is_there)


@dataclass(kw_only=True)
class MirrorProcess(Mirror):
    """`mirror serve`; its process may be stopped, killed and started again."""

    process: Process


@dataclass(kw_only=True)
class InnerMirror(Mirror):
    """The application in this event loop, in a task of its own, so that any task may stop it."""

    _task: asyncio.Task[None]
    _wanted: list[Config]
    _reload: Callable[[], None]
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def reload(self, settings: Settings) -> None:
        """Have it take up other settings, as SIGHUP does; return when it has."""
        done = await self.metric("mirror_reloads_total", outcome="done")
        self._wanted[:] = [await asyncio.to_thread(parse, dict(settings))]
        self._reload()
        await self.until_metric("mirror_reloads_total", done + 1, outcome="done")

    async def stop(self) -> None:
        """Take it down as SIGTERM does; raises what it died of, if it did."""
        self._stop.set()
        await self._task


def upstream_at(*urls: str, **settings: Any) -> dict[str, Any]:
    """An `upstream` table with these endpoints, each with the same `settings`."""
    return {"endpoints": [{"url": url, **settings} for url in urls]}


def document(
    upstreams: Mapping[str, Settings],
    *,
    store_root: Path,
    ports: tuple[int, int] = (0, 0),
    pin: Any = (),
    warm: Any = (),
    notify: Any = (),
    **overrides: Settings,
) -> dict[str, Any]:
    """A configuration on loopback: these upstreams, pins, schedules, then `overrides`.

    The first upstream is the default unless one says itself what it is. `store.max_size` is what
    blobs may take: what an empty store takes is added.
    """
    listen, admin_listen = ports
    upstream = {name: dict(settings) for name, settings in upstreams.items()}
    if not any("default" in settings for settings in upstream.values()):
        next(iter(upstream.values()))["default"] = True
    defaults: dict[str, Any] = {
        "server": {
            "listen": f"127.0.0.1:{listen}",
            "admin_listen": f"127.0.0.1:{admin_listen}",
            "drain_timeout": "5s",
        },
        "store": {"root": str(store_root), "min_free": "0 B"},
        "upstream": upstream,
    }
    sections: dict[str, Any] = {
        section: {**defaults.get(section, {}), **overrides.get(section, {})}
        for section in defaults | overrides
    }
    if "max_size" in overrides.get("store", {}):
        size = parse_size(sections["store"]["max_size"])
        sections["store"]["max_size"] = f"{size + EMPTY_STORE} B"
    lists = {"pin": pin, "warm": warm, "notify": notify}
    return sections | {name: list(its) for name, its in lists.items() if its}


@asynccontextmanager
async def running_mirror(
    directory: Path,
    upstreams: Mapping[str, Settings],
    *,
    pin: Any = (),
    **overrides: Settings,
) -> AsyncIterator[MirrorProcess]:
    """Run `mirror serve` in `directory`, on free ports."""
    ports = (free_port(), free_port())
    settings = document(
        upstreams, store_root=directory / "store", ports=ports, pin=pin, **overrides
    )
    host, admin_host = settings["server"]["listen"], settings["server"]["admin_listen"]
    process = Process(
        (sys.executable, "-m", "mirror", "serve", "--config", _write(directory, settings)),
        log=directory / "mirror.log",
        ready=partial(answers, f"http://{admin_host}/readyz"),
        start_within=PATIENCE,
    )
    async with process, client(f"http://{host}") as connected:
        yield MirrorProcess(
            host=host,
            admin_host=admin_host,
            store_root=Path(settings["store"]["root"]),
            client=connected,
            process=process,
        )


async def start_inner_mirror(settings: Settings, clock: FakeClock) -> InnerMirror:
    """Run the application with these settings until it is told to stop."""
    started: asyncio.Future[InnerMirror] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    task = asyncio.get_running_loop().create_task(_serve(settings, clock, started, stop))
    await asyncio.wait((task, started), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task  # raises what kept it from starting
    return await started


async def _serve(
    settings: Settings,
    clock: FakeClock,
    started: "asyncio.Future[InnerMirror]",
    stop: asyncio.Event,
) -> None:
    config = parse(dict(settings))
    task = asyncio.current_task()
    assert task is not None
    wanted = [config]
    async with run(
        config, clock=clock, monotonic=clock.monotonic, reread=lambda: wanted[0]
    ) as running:
        host, admin_host = (
            f"{name}:{port}" for name, port in (running.listen[0], running.admin[0])
        )
        async with client(f"http://{host}") as connected:
            started.set_result(
                InnerMirror(
                    host=host,
                    admin_host=admin_host,
                    store_root=config.store.root,
                    client=connected,
                    _task=task,
                    _wanted=wanted,
                    _reload=running.reload,
                    _stop=stop,
                )
            )
            await stop.wait()


def _write(directory: Path, settings: Settings) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "mirror.toml"
    file.write_text(tomli_w.dumps(settings), encoding="utf-8")
    return file


def sample(exposition: str, name: str, **labels: str) -> float:
    """The sum of the samples called `name` that carry `labels`, from Prometheus' text format."""
    values = [
        found.value
        for family in text_string_to_metric_families(exposition)
        for found in family.samples
        if found.name == name and labels.items() <= found.labels.items()
    ]
    return sum(values, start=0.0)

"""Rows behind a bad line: each peer, and a client that goes direct, has one of its own."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from tests.bench import load
from tests.bench.cases import CACHES, SLOW, Case
from tests.bench.figures import DIRECT, Failed, Figures
from tests.bench.line import Line, running_line
from tests.bench.peers import Server
from tests.bench.stage import MIB, Stage, blob_path, manifest_path, prove
from tests.support.client import client
from tests.support.process import until

_LATENCY = 0.1  # seconds, one way
_CROWD = 20  # clients
_CUT_AFTER = 8 * MIB
_CRASH_AT = 0.6  # of the blob
_SHORT_PATIENCE = 25.0  # seconds; longer than any peer's own timeouts for a first byte
_STALE_PULLS, _STALE_SECONDS = 20, 10
_FRESH_SECONDS = 1


@dataclass(frozen=True, slots=True)
class _Behind:
    """A server, and its line to upstream; going direct, the line's own end is the server."""

    server: Server
    line: Line


@asynccontextmanager
async def _behind_line(stage: Stage, peer: str, **setting: Any) -> AsyncIterator[_Behind]:
    target_port = int(stage.registry.url.rpartition(":")[2])
    log = stage.new_directory() / "line.log"
    async with running_line(target_port, log) as line:
        if peer == DIRECT:
            # Never stopped here: it is everyone's upstream.
            process = stage.registry.process
            yield _Behind(Server(DIRECT, line.port, log.parent, process, url=line.url), line)
            return
        async with stage.fresh(peer, upstream=line.url, **setting) as server:
            yield _Behind(server, line)


async def _one(stage: Stage, peer: str) -> Figures:
    return await stage.once(("one", peer), partial(_throttled, stage, peer, clients=1))


async def _crowd(stage: Stage, peer: str) -> Figures:
    alone = await _one(stage, peer)
    figures = await _throttled(stage, peer, clients=_CROWD)
    return {**figures, "slowest client": figures["time"] / alone["time"]}


async def _throttled(stage: Stage, peer: str, *, clients: int) -> Figures:
    bandwidth = stage.scale.line_bandwidth
    return await _pulled(stage, peer, clients=clients, latency=_LATENCY, bandwidth=bandwidth)


async def _cut(stage: Stage, peer: str) -> Figures:
    return await _pulled(stage, peer, cut_after=_CUT_AFTER)


async def _pulled(stage: Stage, peer: str, *, clients: int = 1, **line: float) -> Figures:
    """Pull one blob that is cold, over a line that is bad from then on."""
    held, size = await stage.image("medium"), stage.scale.medium
    target = blob_path("medium", held.layers[0])
    async with _behind_line(stage, peer) as behind:
        await prove(behind.server, manifest_path("medium"), held.digest)
        before = await behind.line.set(**line)
        pulls = await load.pull(behind.server, {target: size}, clients=clients)
        carried = await behind.line.carried() - before
        if peer != DIRECT:
            await prove(behind.server, target, held.layers[0])
    seconds = max(pull.seconds for pull in pulls)
    return {
        "throughput": size / seconds / 1e6,
        "time": seconds,
        "upstream bytes": carried / size,
    }


async def _crash(stage: Stage, peer: str) -> Figures:
    """A server that is killed in the middle of a download, and started again."""
    held, size = await stage.image("medium"), stage.scale.medium
    digest = held.layers[0]
    async with _behind_line(stage, peer) as behind:
        server, line = behind.server, behind.line
        await prove(server, manifest_path("medium"), held.digest)
        before = await line.set(bandwidth=8 * MIB)

        async def is_time() -> bool:
            return await line.carried() - before >= _CRASH_AT * size

        async with asyncio.TaskGroup() as group:
            group.create_task(_lose(server, blob_path("medium", digest), size))
            await until(is_time, within=60)
            await server.process.kill()
        began = time.perf_counter()
        await server.process.start()
        await prove(server, blob_path("medium", digest), digest)
        seconds = time.perf_counter() - began
        return {"time": seconds, "upstream bytes": (await line.carried() - before) / size}


async def _lose(server: Server, target: str, size: int) -> None:
    try:
        await load.pull(server, {target: size})
    except Failed:
        return
    raise Failed("done before it could be killed")


async def _black_hole(stage: Stage, peer: str) -> Figures:
    """A whole cached image is pulled again and again while upstream swallows everything."""
    held = await stage.image("small")
    targets = {manifest_path("small"): len(held.manifest)} | {
        blob_path("small", digest): len(content) for digest, content in held.blobs.items()
    }
    async with _behind_line(stage, peer, fresh_for_seconds=_FRESH_SECONDS) as behind:
        pull = partial(_image_seconds, behind.server, targets)
        await pull()
        cached = median([await pull() for _ in range(_STALE_PULLS)])
        await behind.line.set(black_hole=True)
        await asyncio.sleep(_FRESH_SECONDS + 0.5)
        first = await pull()
        later: list[float] = []
        while len(later) < _STALE_PULLS and sum(later) < _STALE_SECONDS:
            await asyncio.sleep(_FRESH_SECONDS / 4)  # so that the tag is over again and again
            later.append(await pull())
    return {"first failure": first, "added latency": (max(later) - cached) * 1e3}


async def _image_seconds(server: Server, targets: Mapping[str, int]) -> float:
    began = time.perf_counter()
    async with asyncio.timeout(_SHORT_PATIENCE), client(server.url) as one:
        for target, size in targets.items():
            answer = await one.get(target, headers=load.ACCEPT)
            if answer.status != 200 or len(answer.body) != size:
                raise Failed(f"status {answer.status}: GET {target}")
    return time.perf_counter() - began


async def _first_byte(stage: Stage, peer: str) -> Figures:
    """Connect, pull a manifest by its tag, and wait for the first byte of its blob."""
    held, size = await stage.image("medium"), stage.scale.medium
    targets = {
        manifest_path("medium"): len(held.manifest),
        blob_path("medium", held.layers[0]): size,
    }
    async with _behind_line(stage, peer) as behind:
        await behind.line.set(latency=_LATENCY)
        *_, last = await load.pull(behind.server, targets, patience=_SHORT_PATIENCE)
    return {"time": last.first, "round trips": round(last.first / (2 * _LATENCY))}


_PEERS = (*CACHES, DIRECT)

CASES: tuple[Case, ...] = (
    Case(
        "throttled", "cold medium blob, throttled per connection, 100 ms latency, one client",
        "throughput", "≥ 3.5 x direct", _one,
        table=SLOW, peers=_PEERS, most_rounds=1, together=True,
    ),
    Case(
        "throttled-20", "the same, 20 clients at once",
        "time", "upstream bytes ≤ 1.02 x, slowest client ≤ 1.1 x", _crowd,
        table=SLOW, peers=_PEERS, most_rounds=1, together=True,
    ),
    Case(
        "cut", "every upstream connection cut after 8 MiB",
        "time", "upstream bytes ≤ 1.02 x", _cut, table=SLOW, peers=_PEERS,
    ),
    Case(
        "crash", "kill -9 at 60 % and restart", "upstream bytes", "≤ 1.05 x", _crash, table=SLOW
    ),
    Case(
        "black-hole", "upstream black-holed, image cached, tag expired",
        "added latency", "≤ 50 ms", _black_hole, table=SLOW, most_rounds=1, together=True,
    ),
    Case(
        "first-byte", "first byte of a cold blob, 100 ms latency",
        "round trips", "≤ 1.0 x direct", _first_byte, table=SLOW, peers=_PEERS, together=True,
    ),
)  # fmt: skip

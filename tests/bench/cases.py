"""The rows: what each does, and what is aimed at (in the words of `figures.parse_aim`)."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from statistics import median

from tests.bench import load
from tests.bench.figures import CACHE, DOCKER, EXTERNAL, MIRROR, STATIC, Figures
from tests.bench.measure import descriptors, have_memory, idle, metered, resident_mib
from tests.bench.peers import EXTERNAL_COMMAND, Server
from tests.bench.stage import (
    KIB,
    MIB,
    SMALL_SIZES,
    SOAK_SIZE,
    Stage,
    blob_path,
    fill,
    manifest_path,
    prove,
)
from tests.support.images import Image
from tests.support.process import answers, until

Sample = Callable[[Stage, str], Awaitable[Figures]]

CACHES = (MIRROR, DOCKER, CACHE, *((EXTERNAL,) if EXTERNAL_COMMAND else ()))
EVERYONE = (*CACHES, STATIC)

HOT, SLOW, CLIENTS = "Hot paths", "Slow link", "Real clients"
CURVE = "Throughput over concurrency"

CONCURRENCY = (1, 4, 16, 64, 128)
"""Connections, for the plot."""

_RANGE = MIB
_RUSH = 100  # clients
_TIMES_OVER = 3  # what a cold blob takes of memory: upstream, here, and some
_SLOW_CLIENTS = 1000
_SLOW_RATE = 64 * KIB  # bytes per second
_STARTS = 3
_TICK_SECONDS = 1.0
_HIT_PAUSE_MS = 5
_FILL_PAUSE_SECONDS = 0.5
_STEADY_CLIENTS, _STEADY_RATE = 4, 8 * MIB  # bytes per second


@dataclass(frozen=True, slots=True)
class Case:
    """A row to be: `sample` does the work once for one peer and gives its figures."""

    name: str
    title: str
    figure: str  # the one that is compared
    aim: str
    sample: Sample
    _: KW_ONLY
    bound: str = ""  # what keeps the mirror from the aim, as far as that is known
    table: str = HOT
    peers: tuple[str, ...] = CACHES
    most_rounds: int | None = None
    together: bool = False  # peers do not disturb each other: the line is the limit


async def _manifest_by_tag(
    stage: Stage, peer: str, *, connections: int = 32, method: str = "GET"
) -> Figures:
    server, held = await stage.warm(peer), await stage.image("small")
    return await _hits(
        stage, server, held, manifest_path("small"), connections=connections, method=method
    )


async def _manifest_by_digest(stage: Stage, peer: str) -> Figures:
    server, held = await stage.warm(peer), await stage.image("small")
    return await _hits(stage, server, held, manifest_path("small", held.digest))


async def _hits(
    stage: Stage,
    server: Server,
    held: Image,
    target: str,
    *,
    connections: int = 32,
    method: str = "GET",
) -> Figures:
    await prove(server, target, held.digest)  # and a tag is fresh now
    await idle(server.pid, stage.registry.process.pid)
    seconds = stage.scale.hit_seconds
    with metered(server.pid) as cost:
        if method == "HEAD":
            hits = await load.heads(server, target, connections=connections, seconds=seconds)
        else:
            size = len(held.manifest)
            hits = await load.hit(
                server, target, size=size, connections=connections, seconds=seconds
            )
    p99 = {"p99": hits.p99_ms} if hits.p99_ms else {}
    return {"requests": hits.per_second, **p99, **cost.per_thousand(hits.requests)}


async def _small_blob(stage: Stage, peer: str, *, size: int) -> Figures:
    server, held = await stage.warm(peer), await stage.image("small")
    digest = held.layers[SMALL_SIZES.index(size)]
    await idle(server.pid)
    with metered(server.pid) as cost:
        hits = await load.hit(
            server,
            blob_path("small", digest),
            size=size,
            connections=32,
            seconds=stage.scale.hit_seconds,
        )
    return {"requests": hits.per_second, "p99": hits.p99_ms, **cost.per_thousand(hits.requests)}


async def _ranges(stage: Stage, peer: str) -> Figures:
    server, held = await stage.warm(peer), await stage.image("large")
    await idle(server.pid)
    with metered(server.pid) as cost:
        hits = await load.hit(
            server,
            blob_path("large", held.layers[1]),
            size=_RANGE,
            of=stage.scale.large,
            connections=16,
            seconds=stage.scale.hit_seconds,
        )
    return {"requests": hits.per_second, **cost.per_gb(hits.requests * _RANGE)}


async def _cached_blob(
    stage: Stage, peer: str, *, clients: int = 1, times: int = 4, tls: bool = False
) -> Figures:
    server, held = await stage.warm(peer, tls=tls), await stage.image("large")
    await idle(server.pid)
    target, size = blob_path("large", held.layers[1]), stage.scale.large
    return await _streamed(server, target, size, clients=clients, times=times)


async def _streamed(
    server: Server, target: str, size: int, *, clients: int = 1, times: int = 1
) -> Figures:
    with metered(server.pid) as cost:
        pulls = await load.pull(server, {target: size}, clients=clients, times=times)
    seconds = max(pull.seconds for pull in pulls)
    length = size * clients * times
    return {"throughput": length / seconds / 1e6, "time": seconds, **cost.per_gb(length)}


async def _cold_blob(stage: Stage, peer: str) -> Figures:
    held = await stage.image("large")
    digest = held.layers[1]
    async with stage.fresh(peer) as server:
        await prove(server, manifest_path("large"), held.digest)
        await idle(server.pid, stage.registry.process.pid)
        await asyncio.to_thread(have_memory, server.directory, _TIMES_OVER * stage.scale.large)
        figures = await _streamed(server, blob_path("large", digest), stage.scale.large)
        await prove(server, blob_path("large", digest), digest)
    return figures


async def _rush(stage: Stage, peer: str) -> Figures:
    held, size = await stage.image("large"), stage.scale.medium
    digest = held.layers[0]
    target = blob_path("large", digest)
    async with stage.fresh(peer) as server:
        await prove(server, manifest_path("large"), held.digest)
        await idle(server.pid, stage.registry.process.pid)
        asked, came = sent(stage, digest)
        await asyncio.to_thread(have_memory, server.directory, _TIMES_OVER * stage.scale.large)
        figures = await _streamed(server, target, size, clients=_RUSH)
        await idle(server.pid, stage.registry.process.pid)
        asked_after, came_after = sent(stage, digest)
        await prove(server, target, digest)
    return {
        **figures,
        "upstream requests": asked_after - asked,
        "upstream bytes": (came_after - came) / size,
    }


def sent(stage: Stage, digest: str) -> tuple[int, int]:
    """How often upstream was asked for a blob so far, and how many bytes it sent of it."""
    marks = f'/blobs/{digest} HTTP/1.1" ', '"GET '
    lines = [line for line in stage.registry.process.log().splitlines() if marks[0] in line]
    gets = [line.partition(marks[0])[2].split() for line in lines if marks[1] in line]
    return len(lines), sum(int(length) for _, length, *_ in gets)


async def _slow_readers(stage: Stage, peer: str) -> Figures:
    held, size = await stage.image("large"), stage.scale.large
    target = blob_path("large", held.layers[1])
    async with stage.fresh(peer) as server:  # one that is used up elsewhere would not be fair
        await prove(server, manifest_path("large"), held.digest)
        await prove(server, target, held.layers[1])
        await idle(server.pid)
        crowd = partial(load.pull, clients=_SLOW_CLIENTS, rate=_SLOW_RATE)
        with metered(server.pid) as cost:
            pulls = await crowd(server, {target: size}, seconds=stage.scale.slow_seconds)
    return cost.per_gb(sum(pull.bytes for pull in pulls))


async def _start(stage: Stage, peer: str) -> Figures:
    """With a full store, against an empty one."""

    async def filled() -> Server:
        server = stage.cold_server(peer)
        async with server.running():
            await fill(server, "many", await stage.image("many"))
        return server

    full = await stage.once(("full", peer), filled)
    with_full = median([await _first_answer(full) for _ in range(_STARTS)])
    with_empty = median([await _first_answer(stage.cold_server(peer)) for _ in range(_STARTS)])
    return {"time": with_full, "start growth": with_full / with_empty}


async def _first_answer(server: Server) -> float:
    began = time.perf_counter()
    async with server.running():
        await until(partial(answers, f"{server.url}/v2/"), within=30)
        return time.perf_counter() - began


async def _mixed(stage: Stage, peer: str) -> Figures:
    """Paced hits all the time; after a tenth of it, fills, evictions and large bodies as well."""
    held, small, large = [await stage.image(name) for name in ("soak", "small", "large")]
    room = stage.scale.medium + len(held.layers) * SOAK_SIZE // 2
    async with stage.fresh(peer, mirror={"store": {"max_size": f"{room // MIB} MiB"}}) as server:
        await prove(server, manifest_path("large"), large.digest)
        hits = partial(
            load.hit,
            server,
            manifest_path("small"),
            size=len(small.manifest),
            connections=8,
            pause_ms=_HIT_PAUSE_MS,
        )
        await prove(server, manifest_path("small"), small.digest)
        seconds = stage.scale.soak_seconds
        rest = await hits(seconds=seconds // 10)
        load_ends = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for first in (0, len(held.layers) // 2):
                group.create_task(_keep_filling(server, held, first, load_ends))
            target = blob_path("large", large.layers[0])
            group.create_task(_keep_reading(server, target, stage.scale.medium, load_ends))
            watch = group.create_task(_watch(server, load_ends))
            try:
                busy = await hits(seconds=seconds - seconds // 10)
            finally:
                load_ends.set()
    memory, files = zip(*watch.result(), strict=True)
    third = len(memory) // 3
    return {
        "p99": busy.p99_ms,
        "p99 growth": busy.p99_ms / rest.p99_ms,
        "memory growth": median(memory[-third:]) / median(memory[third : 2 * third]),
        "descriptor growth": median(files[-third:]) - median(files[third : 2 * third]),
        "peak memory": max(memory),
    }


async def _keep_filling(server: Server, held: Image, first: int, end: asyncio.Event) -> None:
    await prove(server, manifest_path("soak"), held.digest)
    layers = [*held.layers[first:], *held.layers[:first]]
    while True:
        for digest in layers:
            if end.is_set():
                return
            await prove(server, blob_path("soak", digest), digest)
            await asyncio.sleep(_FILL_PAUSE_SECONDS)


async def _keep_reading(server: Server, target: str, size: int, end: asyncio.Event) -> None:
    while not end.is_set():
        await load.pull(server, {target: size}, clients=_STEADY_CLIENTS, rate=_STEADY_RATE)


async def _watch(server: Server, end: asyncio.Event) -> list[tuple[float, int]]:
    """Memory (MiB) and descriptors, each second."""
    seen = []
    while not end.is_set():
        seen.append((resident_mib(server.pid), descriptors(server.pid)))
        await asyncio.sleep(_TICK_SECONDS)
    return seen


_TAGS = "≥ 20 x docker-registry, ≥ 0.4 x nginx static"
_DIGESTS = "≥ 10 x docker-registry, ≥ 0.4 x nginx static"
_SMALL = "≥ 8 x docker-registry, ≥ 0.3 x nginx static"
_LARGE = "≥ 1.3 x docker-registry, ≥ 0.95 x nginx static"
_COLD = "≥ 1.0 x docker-registry, ≥ 0.8 x nginx proxy_cache"
_FLAT = "memory growth ≤ 1.1 x, descriptor growth ≤ 8, p99 growth ≤ 5 x"

_HEAD_BOUND = (
    "nginx spends 9 µs on a HEAD; a worker 43, of which Python and aiohttp take 22 "
    "without any work of the mirror's"
)
_COLD_BOUND = (
    "both cores are busy: per GB, sha256 takes 0.56 s, writing 0.25, receiving 0.15, sending 0.3, "
    "upstream itself 0.5; nginx does not hash, docker-registry has less around it"
)
_RUSH_BOUND = (
    "loopback: 6.7 GB are copied to clients, no faster than a cached blob is to 32 clients, "
    "which takes two thirds of nginx's time here"
)

_head = partial(_manifest_by_tag, method="HEAD")
_tls = partial(_cached_blob, tls=True)

CASES: tuple[Case, ...] = (
    Case(
        "tag", "manifest by fresh tag, GET, 32 connections",
        "requests", _TAGS, _manifest_by_tag, peers=EVERYONE,
    ),
    Case(
        "tag-head", "manifest by fresh tag, HEAD, 32 connections",
        "requests", _TAGS, _head, peers=EVERYONE, bound=_HEAD_BOUND,
    ),
    Case(
        "digest", "manifest by digest, 32 connections",
        "requests", _DIGESTS, _manifest_by_digest, peers=EVERYONE,
    ),
    *(
        Case(
            f"blob-{size // KIB}k", f"{size // KIB} KiB blob, 32 connections",
            "requests", _SMALL, partial(_small_blob, size=size), peers=EVERYONE,
        )
        for size in SMALL_SIZES
    ),
    *(
        Case(
            f"large-{clients}", f"cached large blob, clients: {clients}",
            "throughput", _LARGE, partial(_cached_blob, clients=clients, times=times),
            peers=EVERYONE,
        )
        for clients, times in ((1, 8), (4, 4), (32, 1))
    ),
    Case(
        "range", "1 MiB ranges of a large blob, 16 connections",
        "requests", "≥ 1.3 x docker-registry", _ranges, peers=EVERYONE,
    ),
    Case(
        "cold", "cold large blob, fast upstream (nginx does not verify it)",
        "throughput", _COLD, _cold_blob, bound=_COLD_BOUND,
    ),
    Case(
        "rush", "100 clients, one cold medium blob",
        "time", "upstream bytes ≤ 1.00 x, ≤ 0.5 x the best peer", _rush,
        bound=_RUSH_BOUND,
    ),
    Case(
        "slow-readers", "1,000 clients streaming one large blob slowly",
        "peak memory", "≤ 200 MiB", _slow_readers, peers=EVERYONE, most_rounds=1,
    ),
    Case(
        "tls", "TLS: cached large blob, one client",
        "throughput", "≥ 0.6 x nginx static", _tls, peers=(MIRROR, DOCKER, CACHE, STATIC),
    ),
    Case(
        "start", "cold start to first answer, with a full store",
        "time", "≤ 1.5 s, start growth ≤ 1.2 x", _start,
    ),
    Case(
        "soak", "mixed load: paced hits while fills, evictions and large bodies run",
        "p99", _FLAT, _mixed, peers=(MIRROR,), most_rounds=1,
    ),
    *(
        Case(
            f"tag-{connections}", f"manifest by fresh tag, connections: {connections}",
            "requests", "", partial(_manifest_by_tag, connections=connections),
            table=CURVE, peers=EVERYONE, most_rounds=2,
        )
        for connections in CONCURRENCY
    ),
)  # fmt: skip

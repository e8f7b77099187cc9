"""Rows of several mirrors that are one, on a real PostgreSQL and a real bucket.

What is compared is the same mirrors by themselves, and one alone.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from random import Random

from mirror.oci.digest import digest_of
from mirror.shared.database import Database
from mirror.shared.ledger import PostgresLedger
from tests.bench import load
from tests.bench.cases import Case, sent
from tests.bench.figures import ALONE, MIRROR, Failed, Figures
from tests.bench.measure import idle
from tests.bench.peers import Server
from tests.bench.stage import Stage, blob_path, manifest_path, prove
from tests.support.bucket import BucketServer
from tests.support.fleet import running_fleet
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.postgres import Postgres
from tests.support.process import until
from tests.support.seaweed import running_seaweed

SHARED = "Several mirrors as one"

TOGETHER = MIRROR  # three of them, one cache
APART, DISK = "3 mirrors by themselves", "from this disk"

_CLIENTS = 100  # at each mirror
_MIRRORS = 3
_CLAIMS = 2000
_LEASE = {"lease": "15s"}


@dataclass(frozen=True, slots=True)
class _Parts:
    postgres: Postgres
    bucket_server: BucketServer


async def _parts(stage: Stage) -> _Parts:
    """The database and the bucket, for all rows."""

    async def start() -> _Parts:
        postgres = stage.stack.enter_context(Postgres.running())
        server = await stage.stack.enter_async_context(running_seaweed(stage.new_directory()))
        return _Parts(postgres, server)

    return await stage.once("parts of a fleet", start)


@asynccontextmanager
async def _mirrors(stage: Stage, peer: str) -> AsyncIterator[list[Server]]:
    upstreams = {"docker.io": upstream_at(stage.registry.url)}
    if peer == ALONE:
        async with running_mirror(stage.new_directory(), upstreams) as one:
            yield [_server(one)]
        return
    if peer == APART:
        homes = [stage.new_directory() for _ in range(_MIRRORS)]
        async with (
            running_mirror(homes[0], upstreams) as one,
            running_mirror(homes[1], upstreams) as two,
            running_mirror(homes[2], upstreams) as three,
        ):
            yield [_server(mirror) for mirror in (one, two, three)]
        return
    parts = await _parts(stage)
    async with running_fleet(
        stage.new_directory(), upstreams,
        postgres=parts.postgres, bucket_server=parts.bucket_server, count=_MIRRORS,
        shared=_LEASE, by_lines=False,
    ) as fleet:  # fmt: skip
        yield [_server(mirror) for mirror in fleet.mirrors]


def _server(mirror: MirrorProcess) -> Server:
    port = int(mirror.host.rpartition(":")[2])
    return Server("mirror", port, mirror.store_root.parent, mirror.process, url=mirror.url)


async def _rush(stage: Stage, peer: str) -> Figures:
    """A hundred clients at each mirror (all of them at one, where there is one)."""
    held, size = await stage.image("large"), stage.scale.large
    digest = held.layers[1]
    target = blob_path("large", digest)
    async with _mirrors(stage, peer) as servers:
        for server in servers:
            await prove(server, manifest_path("large"), held.digest)
        await idle(*(server.pid for server in servers), stage.registry.process.pid)
        _, before = sent(stage, digest)
        clients = _CLIENTS * _MIRRORS // len(servers)
        began = time.perf_counter()
        await asyncio.gather(
            *(load.pull(server, {target: size}, clients=clients) for server in servers)
        )
        seconds = time.perf_counter() - began
        await idle(stage.registry.process.pid)
        _, after = sent(stage, digest)
        for server in servers:
            await prove(server, target, digest)
    return {"time": seconds, "upstream bytes": (after - before) / size}


async def _first_byte(stage: Stage, peer: str) -> Figures:
    """How much later than the leader's a follower's client has its first byte."""
    held, size = await stage.image("large"), stage.scale.medium
    target = blob_path("large", held.layers[0])
    async with _mirrors(stage, peer) as servers:
        for server in servers:
            await prove(server, manifest_path("large"), held.digest)
        await idle(*(server.pid for server in servers))
        pulls = await asyncio.gather(*(load.pull(server, {target: size}) for server in servers))
    firsts = sorted(pull.first for [pull] in pulls)
    return {"added latency": (firsts[-1] - firsts[0]) * 1000}


async def _others(stage: Stage, peer: str) -> Figures:
    """What another mirror has fetched: from the bucket, and then from this disk."""
    held, size = await stage.image("large"), stage.scale.large
    digest = held.layers[1]
    target = blob_path("large", digest)
    async with _mirrors(stage, TOGETHER) as servers:
        first, second, _ = servers
        for server in (first, second):
            await prove(server, manifest_path("large"), held.digest)
        await prove(first, target, digest)
        if peer == DISK:
            await prove(second, target, digest)
        await idle(*(server.pid for server in servers))
        [pull] = await load.pull(second, {target: size})
    return {"throughput": size / pull.seconds / 1e6, "time": pull.seconds}


async def _claims(stage: Stage, _peer: str) -> Figures:
    """Turns that are claimed and given back, over the mirror's own connections."""
    parts = await _parts(stage)
    file = stage.new_directory() / "database"
    file.write_text(await parts.postgres.create_database(), encoding="utf-8")

    def fail(task: str, error: Exception) -> None:
        raise Failed(f"{task}: {error}")

    dice = Random(1)  # noqa: S311 - for jitter
    opening = Database.open(file, name="bench", expected=None, note_fault=fail, dice=dice)
    async with opening as database:
        ledger = PostgresLedger(
            database, "bench", patience=60, read_private=list, had_trouble=lambda _: False
        )
        numbers = iter(range(_CLAIMS))

        async def work() -> None:
            for number in numbers:
                turn = await ledger.claim("docker.io", digest_of(b"%d" % number), 15, 15)
                if turn is None:
                    raise Failed("a turn is another's, and there is no other")
                await ledger.release(turn.blob, turn.epoch)

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(8)))
        return {"requests": _CLAIMS / (time.perf_counter() - began)}


async def _local(stage: Stage, peer: str, *, is_tag: bool) -> Figures:
    """What is on this disk, or fresh: that there are others must cost nothing."""
    held, size = await stage.image("large"), stage.scale.large
    async with _mirrors(stage, peer) as servers:
        server = servers[0]
        target = blob_path("large", held.layers[1])
        await prove(server, manifest_path("large"), held.digest)
        await prove(server, target, held.layers[1])

        async def is_calm() -> bool:  # what is published is behind it
            await idle(*(one.pid for one in servers))
            return True

        await until(is_calm)
        if not is_tag:
            pulls = await load.pull(server, {target: size}, clients=4, times=4)
            seconds = max(pull.seconds for pull in pulls)
            return {"throughput": size * 16 / seconds / 1e6}
        hits = await load.hit(
            server, manifest_path("large"), size=len(held.manifest),
            connections=32, seconds=stage.scale.hit_seconds,
        )  # fmt: skip
    return {"requests": hits.per_second, "p99": hits.p99_ms}


CASES: tuple[Case, ...] = (
    Case(
        "fleet-rush", "3 x 100 clients, one cold large blob",
        "time", "upstream bytes ≤ 1.01 x", _rush,
        table=SHARED, peers=(TOGETHER, APART, ALONE),
    ),
    Case(
        "fleet-first", "first byte of a cold blob, behind that of the mirror that fetches it",
        "added latency", "≤ 300 ms", _first_byte, table=SHARED, peers=(TOGETHER,),
    ),
    Case(
        "fleet-others", "a large blob that another mirror has fetched, one client",
        "throughput", "≥ 30 MB/s", _others, table=SHARED, peers=(TOGETHER, DISK),
    ),
    Case(
        "fleet-claims", "turns claimed and given back",
        "requests", "≥ 500 /s", _claims, table=SHARED, peers=(TOGETHER,),
    ),
    *(
        Case(
            f"fleet-{name}", f"{title}, with and without others",
            figure, f"≥ 0.95 x {ALONE}", partial(_local, is_tag=is_tag),
            table=SHARED, peers=(TOGETHER, ALONE),
        )
        for name, title, figure, is_tag in (
            ("local", "cached large blob, clients: 4", "throughput", False),
            ("tag", "manifest by fresh tag, GET, 32 connections", "requests", True),
        )
    ),
)  # fmt: skip

"""`python -m tests.bench.years`: what years of use make of the catalog.

    pulled    so many images are pulled once each, in a month, by a store that holds 25,000 blobs:
              what the databases take meanwhile and at the end
    million   a catalog of 1,000,000 blobs, 100,000 manifests, 20,000 repositories and 200,000 tags:
              first hit after the start, memory, the longest hold of the loop, a page of the list

No image is transferred: what pulls leave in the databases is written as pulls write it.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import typer

from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_MANIFEST
from mirror.oci.reference import Repository
from mirror.pull.memory import Memory
from mirror.pull.retention import Retention
from mirror.records.ports import Named, TagRecord
from mirror.records.sqlite import SqliteRecords
from mirror.storage.space import Limits
from mirror.storage.store import LocalStorage
from mirror.telemetry.metrics import Metrics
from tests.bench.measure import resident_mib
from tests.support.clock import FakeClock
from tests.support.images import Image, image, random_layer
from tests.support.loop_watch import watching_the_loop
from tests.support.mirror import (
    Mirror,
    Settings,
    document,
    running_mirror,
    start_inner_mirror,
    upstream_at,
)
from tests.support.upstream import ScriptedRegistry

_HUB = "docker.io"
_MIB = 2**20
_BATCH = 500  # images
_MONTH = 30 * 86400.0  # seconds
_OWN = 4  # blobs of an image that no other has: its configuration and layers
_BASES = 2000
_WATCHED = 30.0  # seconds

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def pulled(
    images: Annotated[int, typer.Option(min=1000)] = 500_000,
    repositories: Annotated[int, typer.Option(min=1)] = 20_000,
    blobs: Annotated[int, typer.Option(min=1)] = 25_000,
) -> None:
    """Pull so many images once, and say what the catalog takes."""
    asyncio.run(_pull(images, repositories, blobs))


@cli.command()
def million(
    blobs: Annotated[int, typer.Option(min=1000)] = 1_000_000,
) -> None:
    """Fill a catalog, start a mirror with it, and say what that costs."""
    asyncio.run(_start_with(blobs))


def _digest(rng: random.Random) -> Digest:
    return Digest("sha256", rng.randbytes(32).hex())


async def _pull(images: int, repositories: int, blobs: int) -> None:
    rng, clock = random.Random(12), FakeClock()  # noqa: S311 - not a secret
    bases = [_digest(rng) for _ in range(_BASES)]
    here: deque[Digest] = deque()
    most = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        async with _catalog(root, clock) as (store, records, retention):
            for start in range(0, images, _BATCH):
                clock.advance(_MONTH * _BATCH / images)
                new: list[Digest] = []
                async with asyncio.TaskGroup() as tasks:
                    for number in range(start, min(start + _BATCH, images)):
                        repository = Repository(_HUB, f"library/image-{number % repositories:05}")
                        names = [_digest(rng) for _ in range(_OWN)] + [rng.choice(bases)]
                        manifest = _digest(rng)
                        new += [manifest, *names[:_OWN]]
                        work = _record(
                            records, repository, names, TagRecord(manifest, clock()), f"v{number}"
                        )
                        tasks.create_task(work)
                await _exchange(store, here, new, blobs, clock())
                if start % (8 * _BATCH) == 0:
                    await retention.sweep()
                    took = _sizes(root)
                    most = max(most, sum(took.values()))
                    print(f"\r{start:>8} images, {_told(took)}", end="", file=sys.stderr)
            print(f"\nmeanwhile at most {most / _MIB:.1f} MiB")
            await retention.sweep()
            print(f"after the last sweep: {_told(_sizes(root))}")
            extent = await records.measure()
            print(f"in use in the records: {extent.used / _MIB:.1f} MiB")
        print(f"closed: {_told(_sizes(root))}; {time.monotonic() - began:.0f} s")


async def _record(
    records: SqliteRecords, repository: Repository, names: Sequence[Digest], tag: TagRecord,
    name: str,
) -> None:  # fmt: skip
    """As the pull of an image leaves it on record: `tag` means the manifest, which has `names`."""
    children = [Named(digest, 30_000_000) for digest in names]
    await records.record_manifest(repository, tag.digest, 2000, children, sent_as=OCI_MANIFEST)
    await records.record_tag(repository, name, tag)
    for digest in names:
        await records.record_sent(_HUB, digest)


async def _exchange(
    store: LocalStorage, here: deque[Digest], new: Sequence[Digest], most: int, now: float
) -> None:
    """Have `new` in the index, and what came first leave."""
    await store.index.adopt([(str(digest), 30_000, 0, now, 1) for digest in new], [])
    here.extend(new)
    old = [here.popleft() for _ in range(max(0, len(here) - most))]
    await store.index.forget_blobs(old)


@asynccontextmanager
async def _catalog(
    root: Path, clock: FakeClock
) -> AsyncIterator[tuple[LocalStorage, SqliteRecords, Retention]]:
    metrics = Metrics()
    async with (
        LocalStorage.open(
            root, Limits(2**60, 0), keep_partial_for=86400, clock=clock, metrics=metrics,
            note_fault=_fail,
        ) as store,
        SqliteRecords.open(root / "records.sqlite3", clock=clock) as records,
    ):  # fmt: skip
        yield store, records, Retention(
            store, records, Memory(2**20, missing_for=1, clock=clock.monotonic),
            forget_after=90 * 86400.0, clock=clock, metrics=metrics, pause=0.0,
        )  # fmt: skip


async def _start_with(blobs: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        async with ScriptedRegistry() as upstream:
            first = upstream.add(image(random_layer(1000, seed=1)), "library/first", "1")
            upstreams = {_HUB: upstream_at(upstream.url)}
            async with running_mirror(root, upstreams) as mirror:
                await _pull_first(mirror, first)
            began = time.monotonic()
            await _fill(root / "store", blobs)
            print(f"filled in {time.monotonic() - began:.0f} s: {_told(_sizes(root / 'store'))}")
            began = time.monotonic()
            async with running_mirror(root, upstreams, store={"max_size": "900 TiB"}) as mirror:
                ready = time.monotonic()
                await _pull_first(mirror, first)
                hit = time.monotonic()
                print(f"ready after {ready - began:.2f} s, first pull in {hit - ready:.3f} s more")
                await asyncio.sleep(5)
                print(f"memory of all processes: {resident_mib(mirror.process.pid):.0f} MiB")
                for query in ("n=100", "n=100&last=docker.io/library/image-10000", "n=1000"):
                    await _list(mirror, query)
            await _watch(root / "store", upstreams)


async def _pull_first(mirror: Mirror, first: Image) -> None:
    answers = [await mirror.client.manifest("library/first", "1")]
    answers += [await mirror.client.blob("library/first", digest) for digest in first.blobs]
    if any(answer.status != HTTPStatus.OK for answer in answers):
        raise RuntimeError(f"the first image cannot be pulled: {answers}")


async def _list(mirror: Mirror, query: str) -> None:
    began = time.monotonic()
    answer = await mirror.client.get(f"/v2/_catalog?{query}")
    took = 1000 * (time.monotonic() - began)
    print(f"_catalog?{query}: {len(json.loads(answer.body)['repositories'])} in {took:.1f} ms")


async def _watch(store: Path, upstreams: Mapping[str, Settings]) -> None:
    """How long the loop is held, while all that is on record is walked through."""
    clock = FakeClock()
    clock.advance(1000 * 86400.0)
    settings = document(upstreams, store_root=store, store={"max_size": "900 TiB"})
    with watching_the_loop(limit=0.002) as holds:
        mirror = await start_inner_mirror(settings, clock)
        slowest = 0.0
        until = time.monotonic() + _WATCHED
        while time.monotonic() < until:
            began = time.monotonic()
            await mirror.client.get("/v2/")
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(0.01)
        forgotten = await mirror.metric("mirror_forgotten_digests_total")
        await mirror.stop()
    longest = max((hold.seconds for hold in holds), default=0.0)
    print(
        f"{forgotten:.0f} digests forgotten in {_WATCHED:.0f} s: the loop held for at most"
        f" {1000 * longest:.0f} ms, the slowest answer {1000 * slowest:.0f} ms"
    )


async def _fill(root: Path, blobs: int) -> None:
    rng, clock = random.Random(13), FakeClock()  # noqa: S311 - not a secret
    digests = [_digest(rng) for _ in range(blobs)]
    manifests = blobs // 10
    async with _catalog(root, clock) as (store, records, _):
        for start in range(0, blobs, _BATCH):
            rows = [(str(it), 30_000, 0, clock(), 1) for it in digests[start : start + _BATCH]]
            await store.index.adopt(rows, [])
        for start in range(0, manifests, _BATCH):
            async with asyncio.TaskGroup() as tasks:
                for number in range(start, min(start + _BATCH, manifests)):
                    manifest, *names = digests[10 * number : 10 * number + 10]
                    name = Repository(_HUB, f"library/image-{number % (blobs // 50):05}")
                    tag = TagRecord(manifest, clock())
                    tasks.create_task(_record(records, name, names, tag, f"v{number}"))
                    tasks.create_task(records.record_tag(name, f"v{number}-alpine", tag))
        # A tenth of what is on record is not here any more.
        gone = [digest for digest in digests if digest.encoded < "1a"]
        for start in range(0, len(gone), _BATCH):
            await store.index.forget_blobs(gone[start : start + _BATCH])


def _sizes(root: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(root.glob("*.sqlite3*"))}


def _told(sizes: Mapping[str, int]) -> str:
    each = ", ".join(f"{name} {size / _MIB:.1f}" for name, size in sizes.items())
    return f"{sum(sizes.values()) / _MIB:.1f} MiB ({each})"


def _fail(task: str, error: Exception) -> None:
    raise RuntimeError(task) from error


if __name__ == "__main__":
    cli()

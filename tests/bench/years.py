"""Rows about years of use: a million blobs on record, and half a million images pulled once each.

No image is transferred for them: what pulls leave in the databases is written as pulls write it
(`catalog`), or into the files directly where the row is about what is served then (`bulk.py`).
What holds the loop counts in CPU time of its thread, and memory counts each page once, however many
of the mirror's processes share it.
"""

import asyncio
import random
import shutil
import sqlite3
import tempfile
import time
import tomllib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from statistics import median

from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_MANIFEST
from mirror.oci.reference import Repository
from mirror.pull.memory import Memory
from mirror.pull.retention import Retention
from mirror.records.ports import Named, TagRecord
from mirror.records.sqlite import SqliteRecords
from mirror.storage.building import open_storage
from mirror.storage.space import Limits
from mirror.storage.store import LocalStorage
from mirror.telemetry.metrics import Metrics
from tests.bench import load
from tests.bench.bulk import record_blobs
from tests.bench.cases import Case
from tests.bench.figures import MIRROR, Failed, Figures
from tests.bench.measure import cpu_seconds, idle, memory_mib, metered
from tests.bench.peers import Server
from tests.bench.stage import Stage, blob_path, fill, manifest_path, prove
from tests.support.client import client
from tests.support.clock import FakeClock
from tests.support.loop_watch import watching_the_loop
from tests.support.mirror import document, start_inner_mirror
from tests.support.process import until

YEARS = "Years of use"

_HUB = "docker.io"
_MIB = 2**20
_STARTS = 3
_BATCH = 500  # images
_MONTH = 30 * 86400.0  # seconds
_OWN = 4  # blobs of an image that no other has: its configuration and layers
_BASES = 2000
_REPOSITORIES, _KEPT = 25, 20  # images for each repository, and for each blob that is here
_WATCHED = 30.0  # seconds
_YEARS = 1000 * 86400.0  # seconds, after which nothing is of use
_HITTING = 10  # seconds
_CONNECTIONS, _PAUSE_MS = 8, 5  # of paced hits
_SCRUB_BEGINS = 120.0  # seconds within which it does
_NO_LIMIT = {"store": {"max_size": "900 TiB"}}


async def _million(stage: Stage, peer: str) -> Figures:
    """With so much on record, and with next to nothing, for the costs of hits."""
    full = await stage.once(("recorded", peer), partial(_recorded, stage, peer))
    few = await stage.once(("few", peer), partial(_filled, stage, peer))
    # By turns: whatever else this machine does meanwhile is then the same for both.
    starts = [(await _first_hit(stage, few), await _first_hit(stage, full)) for _ in range(_STARTS)]
    costs = [
        (await _cost_of_hits(stage, few), await _cost_of_hits(stage, full)) for _ in range(_STARTS)
    ]
    async with full.running():
        await fill(full, "many", await stage.image("many"))
        await idle(full.pid)
        memory = memory_mib(full.pid)
    return {
        "time": median(time for _, (time, _) in starts),
        "CPU to first hit": median(cpu for _, (_, cpu) in starts),
        "start growth": median(with_all / with_few for (_, with_few), (_, with_all) in starts),
        "memory": memory,
        "CPU per 1,000 requests": median(with_all for _, with_all in costs),
        "hit growth": median(with_all / with_few for with_few, with_all in costs),
    }


async def _filled(stage: Stage, peer: str) -> Server:
    """One that has "many" and does not run."""
    server = stage.cold_server(peer, mirror=_NO_LIMIT)
    async with server.running():
        await fill(server, "many", await stage.image("many"))
    return server


async def _recorded(stage: Stage, peer: str) -> Server:
    server = await _filled(stage, peer)
    await asyncio.to_thread(record_blobs, server.directory / "store", stage.scale.recorded)
    return server


async def _first_hit(stage: Stage, server: Server) -> tuple[float, float]:
    """Seconds since the start, and CPU seconds of all processes."""
    held = await stage.image("many")
    began = time.perf_counter()
    async with server.running():
        await prove(server, manifest_path("many"), held.digest)
        return time.perf_counter() - began, cpu_seconds(server.pid)


async def _cost_of_hits(stage: Stage, server: Server) -> float:
    """CPU seconds for a thousand blobs, each of which is asked for the first time since a start."""
    held = await stage.image("many")
    async with server.running():
        await prove(server, manifest_path("many"), held.digest)
        await idle(server.pid)
        with metered(server.pid) as cost:
            sizes = {blob_path("many", digest): len(it) for digest, it in held.blobs.items()}
            await load.pull(server, sizes)
            await idle(server.pid)
    return cost.cpu_seconds / len(sizes) * 1000


async def _held(stage: Stage, peer: str) -> Figures:
    """All that is on record expires, and the store is far too large, while requests come."""
    full = await stage.once(("recorded", peer), partial(_recorded, stage, peer))
    root = stage.new_directory() / "store"
    await asyncio.to_thread(shutil.copytree, full.directory / "store", root)
    clock = FakeClock()
    clock.advance(_YEARS)
    settings = document(
        {_HUB: {"endpoints": [{"url": stage.registry.url}]}}, store_root=root,
        store={"max_size": "2 GiB"},
    )  # fmt: skip
    with watching_the_loop(limit=0.002) as holds:
        mirror = await start_inner_mirror(settings, clock)
        until_then = time.monotonic() + _WATCHED
        while time.monotonic() < until_then:
            await mirror.client.get("/v2/")
            await asyncio.sleep(0.01)
        done = [
            await mirror.metric(name)
            for name in ("mirror_forgotten_digests_total", "mirror_evicted_blobs_total")
        ]
        await mirror.stop()
    if not all(done):
        raise Failed(f"nothing was forgotten, or evicted: {done}")
    return {
        "longest hold": 1000 * max((hold.seconds for hold in holds), default=0.0),
        "evicted": done[1],
    }


async def _scrub(stage: Stage, peer: str) -> Figures:
    """Hits at rest, and while everything is hashed again at `store.scrub_rate`."""
    small, large = await stage.image("small"), await stage.image("large")
    server = stage.cold_server(peer)
    async with server.running():
        for name, held in (("small", small), ("large", large)):
            await fill(server, name, held)
    await asyncio.to_thread(_prove_nothing, server.directory / "store")
    hits = partial(
        load.hit, server, manifest_path("small"), size=len(small.manifest),
        connections=_CONNECTIONS, pause_ms=_PAUSE_MS, seconds=_HITTING,
    )  # fmt: skip
    async with server.running():
        await prove(server, manifest_path("small"), small.digest)
        rest = await hits()
        before = await _scrubbed(server)

        async def has_begun() -> bool:
            return await _scrubbed(server) > before

        await until(has_begun, within=_SCRUB_BEGINS)
        busy = await hits()
        hashed = await _scrubbed(server) - before
    if not hashed:
        raise Failed("nothing was hashed meanwhile")
    return {"p99": busy.p99_ms, "p99 growth": busy.p99_ms / rest.p99_ms}


def _prove_nothing(root: Path) -> None:
    """Have all of a store be due, and urgent."""
    with closing(sqlite3.connect(root / "index.sqlite3")) as stored:
        stored.execute("UPDATE blobs SET proved_on = 0")
        stored.commit()


async def _scrubbed(server: Server) -> float:
    settings = tomllib.loads((server.directory / "mirror.toml").read_text("utf-8"))
    async with client(f"http://{settings['server']['admin_listen']}") as admin:
        text = (await admin.get("/metrics")).body.decode()
    name = "mirror_scrubbed_bytes_total "
    return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith(name))


async def _catalog(stage: Stage, _: str) -> Figures:
    """So many images are pulled once each, in a month: what the databases take then."""
    images = stage.scale.pulled
    rng, clock = random.Random(12), FakeClock()  # noqa: S311 - not a secret
    bases = [_digest(rng) for _ in range(_BASES)]
    here: deque[Digest] = deque()
    most = 0
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        async with _databases(root, clock) as (store, records, retention):
            for start in range(0, images, _BATCH):
                clock.advance(_MONTH * _BATCH / images)
                new: list[Digest] = []
                async with asyncio.TaskGroup() as tasks:
                    for number in range(start, min(start + _BATCH, images)):
                        name = f"library/image-{number % (images // _REPOSITORIES):05}"
                        names = [_digest(rng) for _ in range(_OWN)] + [rng.choice(bases)]
                        manifest = _digest(rng)
                        new += [manifest, *names[:_OWN]]
                        tag = TagRecord(manifest, clock())
                        work = _record(records, Repository(_HUB, name), names, tag, f"v{number}")
                        tasks.create_task(work)
                await _exchange(store, here, new, images // _KEPT, clock())
                if start % (8 * _BATCH) == 0:
                    await retention.sweep()
                    most = max(most, _size(root))
            await retention.sweep()
        at_the_end = _size(root)
    return {"catalog": at_the_end / _MIB, "largest meanwhile": most / _MIB}


def _digest(rng: random.Random) -> Digest:
    return Digest("sha256", rng.randbytes(32).hex())


def _size(root: Path) -> int:
    return sum(path.stat().st_size for path in root.glob("*.sqlite3*"))


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
async def _databases(
    root: Path, clock: FakeClock
) -> AsyncIterator[tuple[LocalStorage, SqliteRecords, Retention]]:
    metrics = Metrics()
    async with (
        open_storage(
            root, Limits(2**60, 0), keep_partial_for=86400, clock=clock, metrics=metrics,
            note_fault=_fail,
        ) as store,
        SqliteRecords.open(root / "records.sqlite3", clock=clock) as records,
    ):  # fmt: skip
        yield store, records, Retention(
            store, records, Memory(2**20, missing_for=1, clock=clock.monotonic),
            forget_after=90 * 86400.0, clock=clock, metrics=metrics, pause=0.0,
        )  # fmt: skip


def _fail(task: str, error: Exception) -> None:
    raise RuntimeError(task) from error


CASES: tuple[Case, ...] = (
    Case(
        "million", "1,000,000 blobs, 100,000 manifests, 200,000 tags on record: start to first hit",
        "time", "≤ 1.0 s, start growth ≤ 1.2 x, memory ≤ 120 MiB, hit growth ≤ 1.1 x", _million,
        table=YEARS, peers=(MIRROR,), most_rounds=1,
    ),
    Case(
        "held", "all of that expires, and the limit is far below what is stored: the loop",
        "longest hold", "≤ 50 ms", _held, table=YEARS, peers=(MIRROR,), most_rounds=1,
    ),
    Case(
        "scrub", "paced hits while everything is hashed again",
        "p99", "p99 growth ≤ 2 x", _scrub, table=YEARS, peers=(MIRROR,), most_rounds=1,
    ),
    Case(
        "catalog", "500,000 images pulled once each, in a month: the databases",
        "catalog", "≤ 64 MiB", _catalog, table=YEARS, peers=(MIRROR,), most_rounds=1,
    ),
)  # fmt: skip

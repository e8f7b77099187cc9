"""A large blob over several connections at once."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from mirror.aio.slots import Slots, Urgency
from mirror.oci.digest import parse_digest
from mirror.oci.reference import Repository
from mirror.pull.answers import readable
from mirror.pull.fill.crew import Pace
from mirror.pull.fill.fill import Fill
from mirror.pull.fill.retries import RetryPolicy
from mirror.sources.registry.endpoint import Scope
from mirror.telemetry.metrics import Metrics
from tests.conftest import StartMirror
from tests.support.clock import FakeClock
from tests.support.edge import registry_at
from tests.support.images import Image, image, random_bytes, random_layer
from tests.support.mirror import upstream_at
from tests.support.process import until
from tests.support.tasks import nobody_notes, owned_tasks
from tests.support.upstream import ScriptedRegistry
from tests.unit.storage.opening import open_store

SEGMENT = 64 * 2**10
SIZE = 10 * SEGMENT + 77
APP = image(random_layer(SIZE, seed=6))
[DIGEST] = APP.layers
FILL = {"connections": 4, "segment_size": "64 KiB", "stall_timeout": "500ms"}


@pytest.fixture
async def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(APP, "library/app", "1")


async def test_a_large_blob_comes_over_several_connections(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill=FILL)
    await mirror.client.manifest("app", "1")
    gate = upstream.hold(DIGEST, after=SEGMENT // 2)
    async with asyncio.TaskGroup() as clients:
        pull = clients.create_task(mirror.client.blob("app", DIGEST))
        first = await upstream.was_asked("blob", count=4)
        # What readers wait for comes first; in which order four connections arrive is chance.
        assert {asked.offset for asked in first} == {n * SEGMENT for n in range(4)}
        gate.open()
    assert pull.result().digest == DIGEST
    assert upstream.peaks["blob"] == 4
    assert upstream.bytes_sent(DIGEST) == SIZE


async def test_a_blob_of_unknown_size_is_shared_too_once_upstream_has_told_it(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill=FILL)
    gate = upstream.hold(DIGEST, after=SEGMENT // 2)
    async with asyncio.TaskGroup() as clients:
        pull = clients.create_task(mirror.client.blob("app", DIGEST))
        await upstream.was_asked("blob", count=4)
        gate.open()
    assert pull.result().digest == DIGEST
    assert upstream.bytes_sent(DIGEST) == SIZE


async def test_a_small_blob_is_asked_for_as_everyone_asks(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill=FILL | {"segment_size": "1 MiB"})
    await mirror.client.manifest("app", "1")
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    [asked] = upstream.asked("blob")
    assert "Range" not in asked.headers


async def test_an_upstream_without_ranges_is_asked_once(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill=FILL)
    await mirror.client.manifest("app", "1")
    upstream.fault(kind="blob", ignore_range=True)
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert len(upstream.asked("blob")) == 1
    assert upstream.bytes_sent(DIGEST) == SIZE


async def test_with_one_connection_there_is_one_request(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill=FILL | {"connections": 1})
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert len(upstream.asked("blob")) == 1


async def test_a_segment_that_breaks_comes_from_another_endpoint(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    async with ScriptedRegistry() as second:
        second.add(APP, "library/app", "1")
        mirror = await start_mirror({"docker.io": upstream_at(upstream.url, second.url)}, fill=FILL)
        await mirror.client.manifest("app", "1")
        upstream.fault(kind="blob", where=lambda asked: asked.offset >= SEGMENT, reset_at=1000)
        assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
        assert second.bytes_sent(DIGEST) > 0
        assert upstream.bytes_sent(DIGEST) + second.bytes_sent(DIGEST) == SIZE


@pytest.mark.parametrize("fault", ["reset_at", "truncate_at", "stall_at"])
async def test_segments_that_break_are_continued_without_a_byte_twice(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, fault: str
) -> None:
    mirror = await start_mirror(fill=FILL)
    await mirror.client.manifest("app", "1")
    upstream.fault(kind="blob", times=2, **{fault: SEGMENT // 3})
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert upstream.bytes_sent(DIGEST) == SIZE


async def test_a_byte_that_is_wrong_in_any_segment_spoils_the_whole(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill=FILL)
    await mirror.client.manifest("app", "1")
    upstream.fault(kind="blob", corrupt_at=5 * SEGMENT, times=1)
    target = f"/v2/app/blobs/{DIGEST}"
    async with mirror.client.open(target) as response:
        with pytest.raises(Exception, match="payload"):
            await response.read()
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST


@asynccontextmanager
async def _fill(upstream: ScriptedRegistry, root: Path, clock: FakeClock) -> AsyncIterator[Fill]:
    """A fill with a clock of its own, over two connections."""
    metrics = Metrics()
    async with (
        open_store(root) as store,
        registry_at(upstream.url, clock, stall_timeout=0.5) as registry,
        owned_tasks() as tasks,
    ):
        fill = Fill(
            parse_digest(DIGEST),
            registry.blobs(Scope(Repository("hub", "library/app"))),
            store,
            promised=SIZE,
            is_size_proved=False,
            is_doubted=False,
            pace=Pace(2, SEGMENT, RetryPolicy(attempts=3), alone=0.01),
            slots=Slots(1),
            is_shared=False,
            deserted=lambda: None,
            urgency=Urgency(),
            metrics=metrics,
            note_fault=metrics.faults.note,
            note_sent=nobody_notes,
            clock=clock,
            random=Random(0),  # noqa: S311 - for jitter
        )
        fill.join(fill.authorities.current, None)
        _ = tasks.create_task(fill.run())
        yield fill


async def test_the_rest_of_a_slow_connection_is_taken_over(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, tmp_path: Path
) -> None:
    slow = upstream.fault(kind="blob", stall_at=10_000, skip=1, times=1)
    gate = upstream.hold(DIGEST, after=60_000)
    async with _fill(upstream, tmp_path, clock) as fill:
        await gate.reached()
        clock.advance(10)  # one connection alone would take long
        await upstream.was_asked("blob", count=2)
        clock.advance(10)
        gate.open()
        assert await readable(fill.readers, SIZE - 1, SIZE) == SIZE
        fill.readers.leave()
    [stalled] = slow.struck
    others = [asked.offset for asked in upstream.asked("blob") if asked is not stalled]
    taken = [start for start in others if stalled.offset < start < stalled.offset + SEGMENT]
    assert len(taken) >= 2
    assert upstream.bytes_sent(DIGEST) <= SIZE + 2 * 10_000


async def test_no_other_connection_joins_one_of_which_nobody_can_tell_how_fast_it_is(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, tmp_path: Path
) -> None:
    """With its first byte it has been infinitely slow; on a fast line others would only cost."""
    gate = upstream.hold(DIGEST, after=10)
    async with _fill(upstream, tmp_path, clock) as fill:

        async def has_begun() -> bool:
            return fill.written > 0

        await until(has_begun)
        gate.open()
        assert await readable(fill.readers, SIZE - 1, SIZE) == SIZE
        fill.readers.leave()
    assert upstream.peaks["blob"] == 1


async def test_memory_does_not_grow_with_the_blob(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    size = 48 * 2**20
    digest = upstream.add_blob(random_bytes(size, seed=7), "library/big")
    mirror = await start_mirror(fill=FILL | {"segment_size": "1 MiB"})
    tracemalloc.start()
    try:
        async with mirror.client.open(f"/v2/big/blobs/{digest}") as response:
            received = 0
            async for chunk in response.content.iter_any():
                received += len(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert received == size
    assert peak < size / 2

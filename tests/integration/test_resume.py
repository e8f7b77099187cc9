"""A line that breaks: continued where it broke, on whichever endpoint, across restarts."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import StartMirror, StartRelay
from tests.support.client import client
from tests.support.clock import FakeClock
from tests.support.images import Image, image, random_layer
from tests.support.mirror import InnerMirror, Mirror, running_mirror, upstream_at
from tests.support.process import until
from tests.support.upstream import Cdn, ScriptedRegistry

SIZE = 1_000_000
LAYER = random_layer(SIZE, seed=2)
APP = image(LAYER)
[DIGEST] = APP.layers
TARGET = f"/v2/app/blobs/{DIGEST}"


@pytest.fixture
async def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(APP, "library/app", "1")


@pytest.fixture
async def second() -> AsyncIterator[ScriptedRegistry]:
    """Another endpoint with the same content."""
    async with ScriptedRegistry() as registry:
        registry.add(APP, "library/app", "1")
        yield registry


def _offsets(registry: ScriptedRegistry) -> list[int]:
    return [asked.offset for asked in registry.asked("blob", reference=DIGEST)]


def _left(store: Path) -> list[int]:
    return [
        path.stat().st_size for path in (store / "partial").glob("*/sha256-*") if path.is_file()
    ]


async def _kept(mirror: Mirror, length: int) -> bool:
    return sum(_left(mirror.store_root)) >= length


async def _ended(mirror: Mirror, outcome: str) -> bool:
    return await mirror.metric("mirror_fills_total", outcome=outcome) == 1


async def test_a_line_that_is_cut_again_and_again_delivers_each_byte_once(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("app", "1")
    upstream.fault(reference=DIGEST, reset_at=300_000)
    answer = await mirror.client.blob("app", DIGEST)
    assert answer.digest == DIGEST
    assert _offsets(upstream) == [0, 300_000, 600_000, 900_000]
    assert upstream.bytes_sent(DIGEST) == SIZE
    assert await mirror.metric("mirror_fill_resumes_total") == 3


async def test_a_relay_that_cuts_costs_hardly_a_byte_more(
    upstream: ScriptedRegistry, start_mirror: StartMirror, start_relay: StartRelay, app: Image
) -> None:
    relay = await start_relay(upstream.port)
    mirror = await start_mirror({"docker.io": upstream_at(relay.url)})
    await mirror.client.manifest("app", "1")
    relay.cut_after = 400_000
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert await mirror.metric("mirror_upstream_bytes_total") < SIZE * 1.02


async def test_a_line_that_stalls_is_given_up_and_continued(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill={"stall_timeout": "300ms"})
    upstream.fault(reference=DIGEST, stall_at=400_000, times=1)
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert _offsets(upstream) == [0, 400_000]
    assert upstream.bytes_sent(DIGEST) == SIZE


@pytest.mark.parametrize("fault", ["reset_at", "truncate_at", "stall_at"])
async def test_what_breaks_at_one_endpoint_continues_at_the_next(
    upstream: ScriptedRegistry,
    second: ScriptedRegistry,
    start_mirror: StartMirror,
    app: Image,
    fault: str,
) -> None:
    mirror = await start_mirror(
        {"docker.io": upstream_at(upstream.url, second.url)}, fill={"stall_timeout": "300ms"}
    )
    upstream.fault(reference=DIGEST, **{fault: 400_000})
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert (_offsets(upstream), _offsets(second)) == ([0], [400_000])
    assert upstream.bytes_sent(DIGEST) + second.bytes_sent(DIGEST) == SIZE
    assert await mirror.metric("mirror_fill_resumes_total", endpoint=second.host) == 1


async def test_a_link_that_has_expired_is_asked_for_again_at_the_registry(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, clock: FakeClock
) -> None:
    upstream.cdn = Cdn(life=60)
    mirror = await start_mirror()
    gate = upstream.hold(DIGEST, after=500_000)
    async with mirror.client.open(TARGET) as response:
        await response.content.readexactly(100_000)
        clock.advance(61)
        gate.cut()
        body = LAYER.blob[:100_000] + await response.read()
    assert body == LAYER.blob
    assert _offsets(upstream) == [0, 500_000]
    statuses = [asked.status for asked in upstream.asked("cdn")]
    assert statuses == [206, 206]


async def test_storage_that_refuses_a_link_is_tried_again_not_believed(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    upstream.cdn = Cdn()
    mirror = await start_mirror()
    upstream.fault(kind="cdn", reset_at=500_000, times=1)
    upstream.fault(kind="cdn", status=403, skip=1, times=1)
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert upstream.bytes_sent(DIGEST) < SIZE + 1000


async def test_an_endpoint_that_ignores_ranges_is_read_past_what_readers_have(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    upstream.fault(reference=DIGEST, reset_at=400_000, times=1)
    upstream.fault(reference=DIGEST, ignore_range=True)
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert upstream.bytes_sent(DIGEST) == SIZE + 400_000


async def test_another_endpoint_is_preferred_to_one_that_ignores_ranges(
    upstream: ScriptedRegistry, second: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url, second.url)})
    upstream.fault(reference=DIGEST, ignore_range=True)
    upstream.fault(reference=DIGEST, reset_at=400_000)
    second.fault(reference=DIGEST, reset_at=100_000)
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert second.bytes_sent(DIGEST) == SIZE - 400_000


async def test_after_the_last_attempt_the_response_is_aborted_and_the_next_continues(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill={"attempts": 2})
    await mirror.client.manifest("app", "1")
    upstream.fault(reference=DIGEST, reset_at=600_000, times=1)
    broken = upstream.fault(reference=DIGEST, reset_at=0)
    with pytest.raises(aiohttp.ClientPayloadError):
        await mirror.client.blob("app", DIGEST)
    assert _left(mirror.store_root) == [600_000]
    upstream.faults.remove(broken)
    upstream.requests = [asked for asked in upstream.requests if asked.sent]
    answer = await mirror.client.blob("app", DIGEST)
    assert answer.digest == DIGEST
    assert _offsets(upstream) == [0, 600_000]
    assert upstream.bytes_sent(DIGEST) == SIZE
    assert await mirror.metric("mirror_fills_total", outcome="unavailable") == 1


async def test_progress_resets_the_count_of_attempts(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill={"attempts": 1})
    upstream.fault(reference=DIGEST, reset_at=200_000)
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert len(_offsets(upstream)) == 5


async def test_a_burst_of_503_is_waited_out(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    upstream.fault(reference=DIGEST, reset_at=500_000, times=1)
    burst = upstream.fault(reference=DIGEST, status=503, skip=1, times=2)
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert len(burst.struck) == 2
    assert sum(asked.sent for asked in upstream.requests if asked.status < 300) == SIZE


async def test_a_denial_in_the_middle_ends_the_fill_but_not_what_is_there(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("app", "1")
    upstream.fault(reference=DIGEST, reset_at=500_000, times=1)
    upstream.fault(reference=DIGEST, status=403, skip=1, times=2)
    with pytest.raises(aiohttp.ClientPayloadError):
        await mirror.client.blob("app", DIGEST)
    assert _left(mirror.store_root) == [500_000]
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    whole = 0  # it might have been the range that was denied
    assert _offsets(upstream) == [0, 500_000, whole, 500_000]


async def test_a_fill_that_is_stopped_in_the_middle_continues_after_the_restart(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(server={"drain_timeout": "100ms"})
    await mirror.client.manifest("app", "1")
    gate = upstream.hold(DIGEST, after=600_000)
    async with client(mirror.url) as connected, connected.open(TARGET) as response:
        await response.content.readexactly(100_000)
        await until(partial(_kept, mirror, 600_000))
        await mirror.stop()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    gate.cut()
    restarted: InnerMirror = await start_mirror()
    assert (await restarted.client.blob("app", DIGEST)).digest == DIGEST
    assert _offsets(upstream) == [0, 600_000]
    assert upstream.bytes_sent(DIGEST) == SIZE


async def test_a_mirror_that_is_killed_in_the_middle_continues_after_the_restart(
    upstream: ScriptedRegistry, app: Image, tmp_path: Path
) -> None:
    upstreams = {"docker.io": upstream_at(upstream.url)}
    async with running_mirror(tmp_path, upstreams) as mirror:
        await mirror.client.manifest("app", "1")
        gate = upstream.hold(DIGEST, after=600_000)
        async with mirror.client.open(TARGET) as response:
            await response.content.readexactly(100_000)
            await until(partial(_kept, mirror, 600_000))
            await mirror.process.kill()
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        gate.cut()
        await mirror.process.start()
        assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert _offsets(upstream) == [0, 600_000]
    assert upstream.bytes_sent(DIGEST) == SIZE


async def test_a_partial_that_nobody_continues_in_time_is_removed(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, clock: FakeClock
) -> None:
    settings = {"attempts": 1, "keep_partial_for": "1h"}
    mirror = await start_mirror(fill=settings)
    await mirror.client.manifest("app", "1")
    upstream.fault(reference=DIGEST, reset_at=600_000, times=1)
    upstream.fault(reference=DIGEST, reset_at=0, times=1)
    with pytest.raises(aiohttp.ClientPayloadError):
        await mirror.client.blob("app", DIGEST)
    assert _left(mirror.store_root) == [600_000]
    await mirror.stop()
    clock.advance(3601)
    restarted = await start_mirror(fill=settings)
    await until(partial(_is_tidy, restarted))
    assert (await restarted.client.blob("app", DIGEST)).digest == DIGEST
    assert _offsets(upstream) == [0, 600_000, 0]


async def _is_tidy(mirror: Mirror) -> bool:
    return not _left(mirror.store_root)


async def test_a_client_may_ask_for_the_rest_itself_while_the_fill_continues(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("app", "1")
    upstream.fault(reference=DIGEST, reset_at=300_000, times=1)
    answer = await mirror.client.get(TARGET, headers={"Range": "bytes=700000-"})
    assert (answer.status, answer.body) == (206, LAYER.blob[700_000:])
    await until(partial(_ended, mirror, "committed"))
    assert upstream.bytes_sent(DIGEST) == SIZE


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_a_signed_link_that_has_ended_is_asked_for_anew(
    upstream: ScriptedRegistry, start_mirror: StartMirror, status: int
) -> None:
    """S3 and OSS say 400 or 403 of it, a storage node that is gone says 404."""
    upstream.add(APP, "library/app", "1")
    upstream.cdn = Cdn()
    upstream.fault(kind="cdn", status=status, times=1)
    mirror = await start_mirror()
    answer = await mirror.client.blob("library/app", DIGEST)
    assert (answer.status, answer.digest) == (200, DIGEST)
    assert len(upstream.asked("blob", method="GET")) == 2

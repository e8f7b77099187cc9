"""Lazy pulling (eStargz, SOCI, nydus, zstd:chunked): parts of a cold layer, wherever they lie."""

import asyncio
from contextlib import suppress
from random import Random

import aiohttp
import pytest

from tests.conftest import StartMirror
from tests.support.client import client
from tests.support.estargz import LazyReader, layer
from tests.support.images import Image, Layer, digest_of, image, random_bytes, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.upstream import Cdn, ScriptedRegistry

SEGMENT = 512 * 2**10
SIZE = 6 * 2**20 + 77
APP = image(random_layer(SIZE, seed=61))
[DIGEST] = APP.layers
CONTENT = APP.blobs[DIGEST]
TARGET = f"/v2/app/blobs/{DIGEST}"
FILL = {"connections": 4, "segment_size": "512 KiB"}
NEVER = FILL | {"whole": "never"}
LARGE = 256 * 2**10  # bytes of one answer, after which `held` ones stop
BLOCK = 4096  # bytes; what is asked for is rounded to such


@pytest.fixture
async def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(APP, "library/app", "1")


async def _range(mirror: InnerMirror, start: int, stop: int) -> None:
    """Ask for it, as a lazy puller does, and see that it is right."""
    wanted = {"Range": f"bytes={start}-{stop - 1}"}
    answer = await mirror.client.get(TARGET, headers=wanted)
    assert (answer.status, answer.body) == (206, CONTENT[start:stop])


async def _whole(mirror: InnerMirror) -> None:
    answer = await mirror.client.blob("app", DIGEST)
    assert (answer.status, answer.digest) == (200, DIGEST)


FOOTERS = {
    "eStargz": f"bytes={SIZE - 51}-{SIZE - 1}",
    "open-ended": f"bytes={SIZE - 51}-",
    "suffix": "bytes=-51",
}


@pytest.mark.parametrize("wanted", FOOTERS.values(), ids=FOOTERS)
@pytest.mark.parametrize("whole", ["always", "never"])
@pytest.mark.parametrize("is_size_known", [True, False], ids=["size known", "size unknown"])
async def test_the_footer_of_a_cold_layer_comes_before_what_is_between(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    app: Image,
    *,
    wanted: str,
    whole: str,
    is_size_known: bool,
) -> None:
    mirror = await start_mirror(fill=FILL | {"whole": whole})
    if is_size_known:
        await mirror.client.manifest("app", "1")
    held = upstream.hold(DIGEST, after=LARGE)
    answer = await mirror.client.get(TARGET, headers={"Range": wanted})
    assert (answer.status, answer.body) == (206, CONTENT[-51:])
    assert answer.headers["Content-Range"] == f"bytes {SIZE - 51}-{SIZE - 1}/{SIZE}"
    held.open()
    await _whole(mirror)
    assert upstream.bytes_sent(DIGEST) == SIZE


async def test_a_footer_comes_while_another_client_has_the_layer_fetched(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill=FILL)
    await mirror.client.manifest("app", "1")
    held = upstream.hold(DIGEST, after=LARGE)
    async with asyncio.TaskGroup() as clients:
        clients.create_task(_whole(mirror))
        await upstream.was_asked("blob", count=4)
        await held.reached()
        await _range(mirror, SIZE - 51, SIZE)  # all connections are taken: there is one more for it
        held.open()
    assert upstream.bytes_sent(DIGEST) == SIZE


async def test_with_one_connection_that_fetches_everything_there_is_another_for_a_footer(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill=FILL | {"connections": 1})
    await mirror.client.manifest("app", "1")
    held = upstream.hold(DIGEST, after=LARGE)
    async with asyncio.TaskGroup() as clients:
        clients.create_task(_whole(mirror))
        await held.reached()
        await _range(mirror, SIZE - 51, SIZE)
        held.open()
    assert upstream.bytes_sent(DIGEST) <= SIZE + BLOCK


async def test_the_rest_of_a_layer_follows_what_was_asked_for(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill=FILL)
    await mirror.client.manifest("app", "1")
    await _range(mirror, 4_000_000, 4_100_000)
    await mirror.until_metric("mirror_fills_total", 1, outcome="committed")
    upstream.forget()
    await _whole(mirror)
    assert upstream.requests == []


async def test_twenty_ranges_at_random_cost_upstream_little_more_than_they_are(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill=NEVER)
    await mirror.client.manifest("app", "1")
    starts = Random(5).sample(range(0, SIZE - 150_000, 150_000), 20)  # noqa: S311 - which ones
    async with asyncio.TaskGroup() as clients:
        for start in starts:
            clients.create_task(_range(mirror, start, start + 128_000))
    asked = 20 * 128_000
    assert asked <= upstream.bytes_sent(DIGEST) <= 1.1 * asked
    assert await mirror.metric("mirror_store_blobs") == 1  # the manifest
    async with asyncio.TaskGroup() as clients:
        for start in starts:
            clients.create_task(_range(mirror, start + 1000, start + 100_000))
    assert upstream.bytes_sent(DIGEST) <= 1.1 * asked  # what is there already costs nothing


async def test_sixty_four_readers_at_random_have_theirs_beside_one_who_has_all(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill=FILL)
    await mirror.client.manifest("app", "1")
    dice = Random(6)  # noqa: S311 - which ones
    async with asyncio.TaskGroup() as clients:
        clients.create_task(_whole(mirror))
        for _ in range(64):
            start = dice.randrange(SIZE - 70_000)
            clients.create_task(_range(mirror, start, start + dice.randrange(1, 70_000)))
    assert upstream.bytes_sent(DIGEST) <= 1.1 * SIZE


async def test_what_is_there_stays_over_a_restart_and_the_rest_comes_when_it_is_asked_for(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill=NEVER)
    await mirror.client.manifest("app", "1")
    await _range(mirror, SIZE - 51, SIZE)
    await _range(mirror, 3_000_000, 3_500_000)
    await mirror.stop()
    so_far = upstream.bytes_sent(DIGEST)
    assert so_far <= 500_000 + 4 * BLOCK
    mirror = await start_mirror(fill=NEVER)
    await _range(mirror, 3_100_000, 3_400_000)
    await _range(mirror, SIZE - 51, SIZE)
    assert upstream.bytes_sent(DIGEST) <= so_far + BLOCK  # upstream was asked whether it has it
    await _whole(mirror)
    assert upstream.bytes_sent(DIGEST) == SIZE
    await mirror.until_metric("mirror_store_blobs", 2)


async def test_a_mirror_that_is_stopped_in_the_middle_of_a_far_range_continues_it(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill=NEVER, server={"drain_timeout": "100ms"})
    await mirror.client.manifest("app", "1")
    held = upstream.hold(DIGEST, after=LARGE)
    wanted = {"Range": "bytes=3000000-3399999"}
    async with client(mirror.url) as one, one.open(TARGET, headers=wanted) as response:
        assert await response.content.readexactly(200_000) == CONTENT[3_000_000:3_200_000]
        await held.reached()
        await mirror.stop()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    held.cut()
    mirror = await start_mirror(fill=NEVER)
    await _range(mirror, 3_000_000, 3_400_000)
    assert upstream.bytes_sent(DIGEST) <= 400_000 + 3 * BLOCK


@pytest.mark.parametrize("fill", [FILL, NEVER, FILL | {"connections": 1}])
async def test_an_upstream_that_ignores_ranges_sends_everything_once(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, fill: dict[str, object]
) -> None:
    upstream.fault(kind="blob", ignore_range=True)
    mirror = await start_mirror(fill=fill)
    await mirror.client.manifest("app", "1")
    async with asyncio.TaskGroup() as clients:
        clients.create_task(_range(mirror, SIZE - 51, SIZE))
        clients.create_task(_range(mirror, 3_000_000, 3_400_000))
        clients.create_task(_whole(mirror))
    complete = [asked for asked in upstream.asked("blob") if asked.sent == SIZE]
    assert len(complete) <= 2  # on loopback, one that is broken off may have been sent already
    await mirror.until_metric("mirror_store_blobs", 2)


async def test_a_connection_that_fetches_all_goes_on_where_a_range_was_ignored(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill=FILL | {"connections": 1})
    await mirror.client.manifest("app", "1")
    upstream.fault(kind="blob", ignore_range=True)
    held = upstream.hold(DIGEST, after=LARGE)
    async with asyncio.TaskGroup() as clients:
        clients.create_task(_whole(mirror))
        first = await held.reached()
        clients.create_task(_range(mirror, SIZE - 51, SIZE))
        await upstream.was_asked("blob", count=2)
        held.open()
    assert first.sent == SIZE
    assert len(upstream.asked("blob")) == 2


@pytest.mark.parametrize("whole", ["always", "never"])
@pytest.mark.parametrize("fault", ["reset_at", "truncate_at", "stall_at"])
async def test_a_far_range_that_breaks_is_continued_where_it_broke(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, fault: str, whole: str
) -> None:
    mirror = await start_mirror(fill=FILL | {"whole": whole, "stall_timeout": "300ms"})
    await mirror.client.manifest("app", "1")
    start, stop = 4 * 2**20, 4 * 2**20 + 400_000
    broken = upstream.fault(
        kind="blob", where=lambda asked: asked.offset == start, times=1, **{fault: 100_000}
    )
    await _range(mirror, start, stop)
    assert len(broken.struck) == 1
    await _whole(mirror)
    assert upstream.bytes_sent(DIGEST) == SIZE


async def test_ranges_come_from_storage_that_upstream_redirects_to(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    """Docker Hub, Quay and ECR send nobody a layer themselves."""
    upstream.cdn = Cdn()
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url)}, fill=NEVER)
    await mirror.client.manifest("app", "1")
    await _range(mirror, SIZE - 51, SIZE)
    await _range(mirror, 2_000_000, 2_100_000)
    assert upstream.bytes_sent(DIGEST) <= 100_000 + 4 * BLOCK


async def test_parts_in_one_request_come_as_parts_and_nothing_else_is_fetched(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    """podman asks for up to 256 ranges of a zstd:chunked layer at once."""
    mirror = await start_mirror(fill=NEVER)
    await mirror.client.manifest("app", "1")
    spans = [(start, start + 20_000) for start in range(100_000, SIZE - 100_000, 250_000)]
    wanted = ",".join(f"{start}-{stop - 1}" for start, stop in spans)
    answer = await mirror.client.get(TARGET, headers={"Range": f"bytes={wanted}"})
    assert answer.status == 206
    for start, stop in spans:
        assert CONTENT[start:stop] in answer.body
    assert upstream.bytes_sent(DIGEST) <= len(spans) * (20_000 + 2 * BLOCK)


async def test_a_client_that_leaves_early_does_not_have_the_rest_fetched(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    """containerd 2 asks for everything from somewhere on, and takes a part of it."""
    mirror = await start_mirror(fill=NEVER | {"connections": 1})
    await mirror.client.manifest("app", "1")
    held = upstream.hold(DIGEST, after=LARGE)
    async with mirror.client.open(TARGET, headers={"Range": "bytes=1000000-"}) as response:
        assert await response.content.readexactly(100_000) == CONTENT[1_000_000:1_100_000]
        await held.reached()
        response.close()
    held.open()
    await mirror.until_metric("mirror_fill_readers", 0)
    await _range(mirror, 5_000_000, 5_010_000)
    assert upstream.bytes_sent(DIGEST) < SIZE // 2


async def test_small_layers_come_whole_whatever_is_asked_for(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    small = upstream.add(image(random_layer(300_000, seed=62)), "library/small", "1")
    mirror = await start_mirror(fill=NEVER)
    await mirror.client.manifest("small", "1")
    target = f"/v2/small/blobs/{small.layers[0]}"
    answer = await mirror.client.get(target, headers={"Range": "bytes=-51"})
    assert answer.body == small.blobs[small.layers[0]][-51:]
    await mirror.until_metric("mirror_store_blobs", 2)
    assert len(upstream.asked("blob")) == 1


async def _mirror_of_wrong_bytes(
    upstream: ScriptedRegistry, start_mirror: StartMirror, *, times: int | None
) -> InnerMirror:
    mirror = await start_mirror(fill=FILL)
    await mirror.client.manifest("app", "1")
    upstream.fault(kind="blob", corrupt_at=3_000_000, times=times)
    return mirror


@pytest.mark.parametrize(
    "wanted",
    [
        None,
        "bytes=0-",
        f"bytes=0-2999999,3000000-{SIZE - 1}",
        f"bytes=3000000-{SIZE - 1},0-2999999",
    ],
)
async def test_no_whole_layer_is_complete_with_a_wrong_byte_whatever_ranges_went_before(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, wanted: str | None
) -> None:
    mirror = await _mirror_of_wrong_bytes(upstream, start_mirror, times=None)
    await _range(mirror, SIZE - 51, SIZE)
    with pytest.raises(aiohttp.ClientError):
        await mirror.client.get(TARGET, headers={} if wanted is None else {"Range": wanted})
    assert await mirror.metric("mirror_store_blobs") == 1


@pytest.mark.parametrize("span", [(SIZE - 51, SIZE), (3_100_000, 3_200_000)])
async def test_after_wrong_bytes_no_range_is_complete_before_all_is_proved(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, span: tuple[int, int]
) -> None:
    """A client that puts a layer together from what it is sent (wget -c) checks nothing."""
    mirror = await _mirror_of_wrong_bytes(upstream, start_mirror, times=1)
    with pytest.raises(aiohttp.ClientError):
        await mirror.client.blob("app", DIGEST)
    upstream.forget()
    held = upstream.hold(DIGEST, after=LARGE)
    start, stop = span
    async with mirror.client.open(
        TARGET, headers={"Range": f"bytes={start}-{stop - 1}"}
    ) as response:
        assert response.status == 206
        got = await response.content.readexactly(stop - start - 1)
        await held.reached()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                pytest.fail(f"{await response.content.read(1)!r} came before the proof")
        held.open()
        assert got + await response.read() == CONTENT[start:stop]


async def test_an_estargz_layer_is_read_file_by_file(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    files = {f"usr/lib/{n}": random_bytes(400_000, seed=n) for n in range(12)}
    blob, toc_digest = layer(files, chunk_size=100_000)
    held = upstream.add(image(Layer(blob, digest_of(blob))), "library/lazy", "1")
    [digest] = held.layers
    mirror = await start_mirror(fill=NEVER)
    await mirror.client.manifest("lazy", "1")
    reader = LazyReader(mirror.client, f"/v2/lazy/blobs/{digest}", len(blob), toc_digest)
    await reader.open()
    for name in ("usr/lib/7", "usr/lib/2"):
        assert await reader.read(name) == files[name]
    assert upstream.bytes_sent(digest) <= 1.1 * 2 * 400_000 + 4 * BLOCK
    assert (await mirror.client.blob("lazy", digest)).digest == digest


async def test_parts_take_the_room_that_they_need_and_not_that_of_whole_layers(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    other = upstream.add(image(random_layer(SIZE, seed=63)), "library/other", "1")
    [digest] = other.layers
    mirror = await start_mirror(fill=NEVER, store={"max_size": "8 MB"})
    await mirror.client.manifest("app", "1")
    await mirror.client.manifest("other", "1")
    await _range(mirror, 3_000_000, 3_100_000)
    answer = await mirror.client.get(
        f"/v2/other/blobs/{digest}", headers={"Range": "bytes=3000000-3099999"}
    )
    assert answer.body == other.blobs[digest][3_000_000:3_100_000]
    assert upstream.bytes_sent(digest) <= 100_000 + 2 * BLOCK

"""Pulls of blobs: one transfer per digest, links, ranges, and a cap that holds."""

import asyncio
import email
import json
from contextlib import suppress
from email.message import Message
from typing import cast

import aiohttp
import pytest

from tests.conftest import StartMirror
from tests.support.clock import FakeClock
from tests.support.images import Image, digest_of, image, index, random_bytes, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

SIZE = 600_000  # bytes: more than what is served from memory
SMALL = 1000


@pytest.fixture
def alpine(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=1)), "library/alpine", "3.20")


@pytest.fixture
def layer(alpine: Image) -> str:
    return alpine.layers[0]


async def stored(mirror: InnerMirror) -> None:
    """Return when every blob is in the store, and none on its way there."""
    await mirror.until_metric("mirror_fills_active", 0)


async def test_a_cold_blob_is_one_get_and_a_warm_one_is_none(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, layer: str
) -> None:
    mirror = await start_mirror()
    cold = await mirror.client.blob("alpine", layer)
    await stored(mirror)
    warm = await mirror.client.blob("alpine", layer)
    assert upstream.questions() == [("blob", "GET", layer)]
    for answer in (cold, warm):
        assert (answer.status, answer.body) == (200, alpine.blobs[layer])
        assert answer.headers["Content-Length"] == str(SIZE)
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Docker-Content-Digest"] == layer
        assert answer.headers["ETag"] == f'"{layer}"'
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert "Content-Encoding" not in answer.headers
    assert cold.headers["Cache-Status"] == "mirror; fwd=miss; stored"
    assert warm.headers["Cache-Status"] == "mirror; hit"


@pytest.mark.parametrize("size", [0, 1, SMALL, SIZE])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_blobs_of_every_size_arrive_whole_cold_and_warm(
    upstream: ScriptedRegistry, start_mirror: StartMirror, size: int, algorithm: str
) -> None:
    content = random_layer(size, seed=4).blob[:size]
    digest = upstream.add_blob(content, "library/alpine", algorithm)
    mirror = await start_mirror()
    assert (await mirror.client.blob("alpine", digest)).body == content
    await stored(mirror)
    assert (await mirror.client.blob("alpine", digest)).body == content  # from disk
    assert (await mirror.client.blob("alpine", digest)).body == content  # small: from memory
    assert upstream.questions() == [("blob", "GET", digest)]


async def test_a_warm_blob_survives_a_restart_and_an_upstream_that_is_gone(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, layer: str
) -> None:
    mirror = await start_mirror()
    await mirror.client.blob("alpine", layer)
    await mirror.stop()
    await upstream.stop()
    mirror = await start_mirror()
    answer = await mirror.client.blob("alpine", layer)
    assert (answer.status, answer.body) == (200, alpine.blobs[layer])
    assert answer.headers["Cache-Status"] == "mirror; hit"


async def test_a_head_never_transfers_the_blob(
    upstream: ScriptedRegistry, start_mirror: StartMirror, layer: str
) -> None:
    mirror = await start_mirror()
    for status in ("mirror; fwd=miss", "mirror; hit"):
        answer = await mirror.client.head(f"/v2/alpine/blobs/{layer}")
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["Content-Length"] == str(SIZE)
        assert answer.headers["Docker-Content-Digest"] == layer
        assert answer.headers["Cache-Status"] == status
    assert upstream.questions() == [("blob", "HEAD", layer)]
    assert upstream.bytes_sent(layer) == 0


async def test_a_head_of_what_a_manifest_has_told_costs_nothing(
    upstream: ScriptedRegistry, start_mirror: StartMirror, layer: str
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("alpine", "3.20")
    upstream.forget()
    answer = await mirror.client.head(f"/v2/alpine/blobs/{layer}")
    assert upstream.questions() == []
    assert answer.headers["Content-Length"] == str(SIZE)


async def test_a_head_knows_no_ranges(start_mirror: StartMirror, alpine: Image, layer: str) -> None:
    mirror = await start_mirror()
    for wanted in ("bytes=0-9", f"bytes={SIZE}-"):
        answer = await mirror.client.head(f"/v2/alpine/blobs/{layer}", headers={"Range": wanted})
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(SIZE))


@pytest.mark.parametrize("status", [405, 403, 401])
@pytest.mark.parametrize("size", [0, 1, SIZE])
@pytest.mark.parametrize("ranges", [True, False])
async def test_where_a_head_is_refused_one_byte_tells_the_size(
    upstream: ScriptedRegistry, start_mirror: StartMirror, *, status: int, size: int, ranges: bool
) -> None:
    digest = upstream.add_blob(random_layer(size, seed=4).blob, "library/alpine")
    upstream.fault(kind="blob", method="HEAD", status=status)
    upstream.fault(kind="blob", ignore_range=not ranges)
    mirror = await start_mirror()
    answer = await mirror.client.head(f"/v2/alpine/blobs/{digest}")
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(size))
    assert upstream.questions() == [("blob", "HEAD", digest), ("blob", "GET", digest)]
    assert upstream.requests[1].headers["Range"] == "bytes=0-0"
    if ranges and size:
        assert upstream.bytes_sent(digest) == 1


@pytest.mark.parametrize(
    "silence",
    [{"chunked": True, "ignore_range": True}, {"headers": {"Content-Range": "bytes 0-0/*"}}],
    ids=["no length", "no size"],
)
async def test_a_size_that_nothing_tells_is_an_outage(
    upstream: ScriptedRegistry, start_mirror: StartMirror, layer: str, silence: dict[str, object]
) -> None:
    upstream.fault(kind="blob", method="HEAD", status=405)
    upstream.fault(kind="blob", method="GET", **silence)
    mirror = await start_mirror()
    assert (await mirror.client.head(f"/v2/alpine/blobs/{layer}")).status == 502
    assert len(upstream.requests) == 2


async def test_many_who_ask_for_one_cold_blob_cost_one_transfer(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, layer: str
) -> None:
    mirror = await start_mirror()
    gate = upstream.hold(layer, after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        asking = [clients.create_task(mirror.client.blob("alpine", layer)) for _ in range(30)]
        await gate.reached()
        await mirror.until_metric("mirror_fill_readers", 30)
        asking.pop().cancel()  # one leaves in the middle
        gate.open()
    answers = [task.result() for task in asking]
    assert upstream.questions() == [("blob", "GET", layer)]
    assert upstream.bytes_sent(layer) == SIZE
    assert {answer.body for answer in answers} == {alpine.blobs[layer]}
    told = sorted(answer.headers["Cache-Status"] for answer in answers)
    assert set(told) <= {"mirror; fwd=miss; collapsed", "mirror; fwd=miss; stored"}
    assert told.count("mirror; fwd=miss; collapsed") >= 28


# Who may have it


async def test_a_blob_known_from_another_repository_costs_one_head_and_no_transfer(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, layer: str
) -> None:
    upstream.add(alpine, "team/copy")
    mirror = await start_mirror()
    await mirror.client.blob("alpine", layer)
    await stored(mirror)
    upstream.forget()
    answer = await mirror.client.blob("team/copy", layer)
    again = await mirror.client.blob("team/copy", layer)
    assert upstream.questions() == [("blob", "HEAD", layer)]
    assert answer.body == again.body == alpine.blobs[layer]
    assert answer.headers["Cache-Status"] == "mirror; fwd=miss; detail=linked"
    assert again.headers["Cache-Status"] == "mirror; hit"
    assert await mirror.metric("mirror_lookups_total", kind="blob", result="linked") == 1


async def test_a_head_of_a_blob_known_from_another_repository_is_linked_too(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, layer: str
) -> None:
    upstream.add(alpine, "team/copy")
    mirror = await start_mirror()
    await mirror.client.blob("alpine", layer)
    await stored(mirror)
    answer = await mirror.client.head(f"/v2/team/copy/blobs/{layer}")
    assert answer.headers["Cache-Status"] == "mirror; fwd=miss; detail=linked"


async def test_a_blob_of_a_manifest_pulled_for_this_repository_needs_no_head(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, layer: str
) -> None:
    upstream.add(alpine, "team/copy")
    mirror = await start_mirror()
    await mirror.client.blob("alpine", layer)
    await stored(mirror)
    await mirror.client.manifest("team/copy", alpine.digest)
    upstream.forget()
    answer = await mirror.client.blob("team/copy", layer)
    assert upstream.questions() == []
    assert answer.headers["Cache-Status"] == "mirror; hit"


@pytest.mark.parametrize(
    ("status", "told", "code"),
    [
        (404, 404, "BLOB_UNKNOWN"),
        (403, 403, "DENIED"),
        (401, 403, "DENIED"),
        (503, 502, "UNAVAILABLE"),
    ],
)
@pytest.mark.parametrize("size", [SMALL, SIZE], ids=["in memory", "on disk"])
async def test_knowing_a_digest_is_no_permission(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    *,
    size: int,
    status: int,
    told: int,
    code: str,
) -> None:
    content = random_layer(size, seed=5).blob
    digest = upstream.add_blob(content, "library/alpine")
    mirror = await start_mirror()
    await mirror.client.blob("alpine", digest)
    await stored(mirror)
    await mirror.client.blob("alpine", digest)  # now in memory, if it is small
    upstream.fault(repository="team/secret", status=status)
    upstream.forget()
    for method in (mirror.client.get, mirror.client.head):
        answer = await method(f"/v2/team/secret/blobs/{digest}")
        assert answer.status == told
        assert content[:50] not in answer.body
    got = await mirror.client.blob("team/secret", digest)
    assert json.loads(got.body)["errors"][0]["code"] == code
    assert not upstream.asked(repository="library/alpine")


@pytest.mark.parametrize("status", [404, 403])
async def test_a_blob_on_its_way_to_another_repository_is_no_permission_either(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    layer: str,
    status: int,
) -> None:
    """Some registries refuse every HEAD: then one byte is asked for, before a no is believed."""
    mirror = await start_mirror()
    gate = upstream.hold(layer, after=SIZE // 2)
    upstream.fault(repository="team/secret", status=status)
    async with asyncio.TaskGroup() as clients:
        clients.create_task(mirror.client.blob("alpine", layer))
        await gate.reached()
        answer = await mirror.client.blob("team/secret", layer)
        assert answer.status == status
        gate.open()
    assert [asked.method for asked in upstream.asked(repository="team/secret")] == ["HEAD", "GET"]


async def test_a_blob_on_its_way_is_joined_by_another_repository_that_has_it(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, layer: str
) -> None:
    upstream.add(alpine, "team/copy")
    mirror = await start_mirror()
    gate = upstream.hold(layer, after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        clients.create_task(mirror.client.blob("alpine", layer))
        await gate.reached()
        async with mirror.client.open(f"/v2/team/copy/blobs/{layer}") as response:
            assert response.headers["Cache-Status"] == "mirror; fwd=miss; collapsed"
            gate.open()
            assert digest_of(await response.read()) == layer
    assert upstream.questions() == [("blob", "GET", layer), ("blob", "HEAD", layer)]


async def test_the_same_layer_through_two_upstreams_is_stored_once(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    clock: FakeClock,
    alpine: Image,
    layer: str,
) -> None:
    async with ScriptedRegistry() as ghcr:
        ghcr.add(alpine, "org/app", "1")
        mirror = await start_mirror(
            {"docker.io": upstream_at(upstream.url), "ghcr.io": upstream_at(ghcr.url)}
        )
        await mirror.client.manifest("alpine", "3.20")
        await mirror.client.blob("alpine", layer)
        await stored(mirror)
        once = await mirror.metric("mirror_store_bytes")
        assert once >= SIZE
        await mirror.client.manifest("ghcr.io/org/app", "1")
        answer = await mirror.client.blob("ghcr.io/org/app", layer)
        assert answer.body == alpine.blobs[layer]
        assert ghcr.questions() == [("tag", "GET", "1"), ("blob", "HEAD", layer)]
        assert await mirror.metric("mirror_store_bytes") == once

        async def counts_both() -> bool:
            clock.advance(301)  # it is counted every few minutes
            return await mirror.metric("mirror_store_referenced_bytes") >= 2 * SIZE

        await until(counts_both)
        assert len([file for file in mirror.store_root.rglob(layer[7:]) if file.is_file()]) == 1


# Ranges


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=100-", 100, SIZE),
        (f"bytes=5-{SIZE * 2}", 5, SIZE),
        ("bytes=-1", SIZE - 1, SIZE),
        (f"bytes=-{SIZE * 2}", 0, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
    ],
)
@pytest.mark.parametrize("state", ["cold", "arriving", "stored"])
async def test_a_range_is_answered_exactly(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    alpine: Image,
    layer: str,
    *,
    state: str,
    wanted: str,
    start: int,
    stop: int,
) -> None:
    mirror = await start_mirror()
    gate = upstream.hold(layer, after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        if state == "arriving":
            clients.create_task(mirror.client.blob("alpine", layer))
            await gate.reached()
        else:
            gate.open()
        if state == "stored":
            await mirror.client.blob("alpine", layer)
            await stored(mirror)
        async with mirror.client.open(
            f"/v2/alpine/blobs/{layer}", headers={"Range": wanted}
        ) as response:
            assert response.status == 206
            assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
            assert response.headers["Content-Length"] == str(stop - start)
            assert response.headers["Accept-Ranges"] == "bytes"
            gate.open()
            assert await response.read() == alpine.blobs[layer][start:stop]
    assert upstream.questions() == [("blob", "GET", layer)]
    assert upstream.requests[0].headers.get("Range") in {None, f"bytes=0-{2**24 - 1}"}


async def test_what_is_there_of_a_growing_blob_is_sent_before_the_rest_arrives(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, layer: str
) -> None:
    mirror = await start_mirror()
    gate = upstream.hold(layer, after=SIZE // 2)
    headers = {"Range": "bytes=10-"}
    async with mirror.client.open(f"/v2/alpine/blobs/{layer}", headers=headers) as response:
        half = await response.content.readexactly(SIZE // 2 - 10)
        assert half == alpine.blobs[layer][10 : SIZE // 2]
        gate.open()
        await response.read()


@pytest.mark.parametrize("wanted", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 5}", "bytes=-0"])
@pytest.mark.parametrize("state", ["cold", "stored"])
async def test_a_range_outside_the_blob_is_416_with_its_size(
    start_mirror: StartMirror, alpine: Image, layer: str, *, state: str, wanted: str
) -> None:
    mirror = await start_mirror()
    if state == "stored":
        await mirror.client.blob("alpine", layer)
        await stored(mirror)
    answer = await mirror.client.get(f"/v2/alpine/blobs/{layer}", headers={"Range": wanted})
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{SIZE}"
    assert json.loads(answer.body)["errors"][0]["code"] == "SIZE_INVALID"


@pytest.mark.parametrize(
    "wanted", ["bytes=5-1", "bytes=0-1,x-6", "lines=0-5", "bytes=a-b", "bytes=", "0-5", "bytes=-"]
)
async def test_a_range_that_makes_no_sense_is_ignored(
    start_mirror: StartMirror, alpine: Image, layer: str, wanted: str
) -> None:
    mirror = await start_mirror()
    answer = await mirror.client.get(f"/v2/alpine/blobs/{layer}", headers={"Range": wanted})
    assert (answer.status, answer.body) == (200, alpine.blobs[layer])
    assert "Content-Range" not in answer.headers


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ('"{0}"', 206),
        ('W/"{0}"', 200),  # a weak validator proves nothing (RFC 9110, 13.1.5)
        ('"other"', 200),
        ("Tue, 24 Nov 2026 08:00:00 GMT", 200),
    ],
)
async def test_if_range_needs_the_very_same_blob(
    start_mirror: StartMirror, alpine: Image, layer: str, condition: str, status: int
) -> None:
    mirror = await start_mirror()
    headers = {"Range": "bytes=0-9", "If-Range": condition.format(layer)}
    answer = await mirror.client.get(f"/v2/alpine/blobs/{layer}", headers=headers)
    assert answer.status == status
    assert answer.body == alpine.blobs[layer][: 10 if status == 206 else SIZE]


async def test_a_client_that_has_the_blob_is_told_304(
    start_mirror: StartMirror, alpine: Image, layer: str
) -> None:
    mirror = await start_mirror()
    await mirror.client.blob("alpine", layer)
    headers = {"If-None-Match": f'"{layer}"', "Range": "bytes=0-9"}
    for method in (mirror.client.get, mirror.client.head):
        answer = await method(f"/v2/alpine/blobs/{layer}", headers=headers)
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["ETag"] == f'"{layer}"'


async def test_a_blob_of_unknown_length_is_streamed_and_kept(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    content = random_layer(SIZE, seed=6).blob
    digest = upstream.add_blob(content, "library/alpine")
    upstream.fault(kind="blob", method="GET", chunked=True, ignore_range=True)
    mirror = await start_mirror()
    headers = {"Range": "bytes=0-9"}  # of what?
    answer = await mirror.client.get(f"/v2/alpine/blobs/{digest}", headers=headers)
    assert (answer.status, answer.body) == (200, content)
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in answer.headers
    await stored(mirror)
    assert (await mirror.client.get(f"/v2/alpine/blobs/{digest}", headers=headers)).status == 206


# What is wrong upstream


async def test_a_corrupted_blob_completes_for_nobody_and_is_not_kept(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, layer: str
) -> None:
    mirror = await start_mirror()
    upstream.fault(kind="blob", corrupt_at=SIZE // 3, times=1)
    outcomes = await asyncio.gather(
        *[mirror.client.blob("alpine", layer) for _ in range(5)], return_exceptions=True
    )
    assert all(isinstance(outcome, aiohttp.ClientPayloadError) for outcome in outcomes)
    assert await mirror.metric("mirror_store_bytes") == 0
    assert await mirror.metric("mirror_fills_total", outcome="mismatch") == 1
    answer = await mirror.client.blob("alpine", layer)
    assert answer.body == alpine.blobs[layer]


async def test_a_blob_that_upstream_does_not_have_is_remembered_as_missing(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    missing = digest_of(b"missing")
    mirror = await start_mirror()
    for _ in range(2):
        answer = await mirror.client.blob("alpine", missing)
        assert answer.status == 404
        assert json.loads(answer.body)["errors"][0]["code"] == "BLOB_UNKNOWN"
    assert upstream.questions() == [("blob", "GET", missing)]
    assert await mirror.metric("mirror_lookups_total", kind="blob", result="negative") == 1


# A cap that holds


async def test_the_least_recently_used_blob_makes_room(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    a, b, c = (
        upstream.add_blob(random_layer(SIZE, seed=n).blob, "library/alpine") for n in (1, 2, 3)
    )
    mirror = await start_mirror(store={"max_size": f"{SIZE * 5 // 2} B"})
    for digest in (a, b, a):  # a is used again
        clock.advance(1)
        await mirror.client.blob("alpine", digest)
        await stored(mirror)
    await mirror.client.blob("alpine", c)
    await stored(mirror)
    assert await mirror.metric("mirror_store_bytes") == 2 * SIZE
    assert await mirror.metric("mirror_evicted_blobs_total") == 1
    assert await mirror.metric("mirror_evicted_bytes_total") == SIZE
    upstream.forget()
    for digest in (a, c, b):
        await mirror.client.blob("alpine", digest)
    assert upstream.questions() == [("blob", "GET", b)]


async def test_a_blob_that_is_being_read_is_not_evicted(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """Nothing else could go: so the newcomer is streamed through instead."""
    size = 8 * 2**20  # more than the sockets hold
    content = random_layer(size, seed=7).blob
    read, other = (
        upstream.add_blob(content, "library/alpine"),
        upstream.add_blob(random_layer(size, seed=8).blob, "library/alpine"),
    )
    mirror = await start_mirror(store={"max_size": f"{size * 3 // 2} B"})
    await mirror.client.blob("alpine", read)
    await stored(mirror)
    async with mirror.client.open(f"/v2/alpine/blobs/{read}") as response:
        head = await response.content.readexactly(10)
        answer = await mirror.client.blob("alpine", other)
        assert answer.digest == other
        assert answer.headers["Cache-Status"] == "mirror; fwd=miss"
        assert head + await response.read() == content
    assert await mirror.metric("mirror_store_bytes") == size
    assert await mirror.metric("mirror_evicted_blobs_total") == 0


async def test_what_found_no_room_for_a_moment_is_kept_the_next_time(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    one, other = (
        upstream.add_blob(random_layer(SIZE, seed=n).blob, "library/alpine") for n in (1, 2)
    )
    mirror = await start_mirror(store={"max_size": f"{SIZE * 3 // 2} B"})
    gate = upstream.hold(one, after=SIZE // 2)
    async with mirror.client.open(f"/v2/alpine/blobs/{one}") as response:
        head = await response.content.readexactly(10)  # it has its room
        answer = await mirror.client.blob("alpine", other)
        assert (answer.digest, answer.headers["Cache-Status"]) == (other, "mirror; fwd=miss")
        gate.open()
        assert digest_of(head + await response.read()) == one
    await stored(mirror)
    for status in ("mirror; fwd=miss; stored", "mirror; hit"):
        answer = await mirror.client.blob("alpine", other)
        assert (answer.digest, answer.headers["Cache-Status"]) == (other, status)
        await stored(mirror)


@pytest.mark.parametrize("chunked", [False, True])
async def test_too_large_a_blob_is_streamed_through_and_not_stored(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    alpine: Image,
    layer: str,
    *,
    chunked: bool,
) -> None:
    if chunked:
        upstream.fault(kind="blob", method="GET", chunked=True, ignore_range=True)
    mirror = await start_mirror(store={"max_size": f"{SIZE // 2} B"})
    await mirror.client.manifest("alpine", "3.20")
    for _ in range(2):
        answer = await mirror.client.blob("alpine", layer)
        assert (answer.status, answer.body) == (200, alpine.blobs[layer])
        assert answer.headers["Cache-Status"] == "mirror; fwd=miss"
    assert len(upstream.asked("blob", reference=layer)) == 2
    assert await mirror.metric("mirror_store_bytes") < SIZE // 2
    assert await mirror.metric("mirror_evicted_blobs_total") == 0


async def test_a_range_of_what_is_streamed_through_is_a_range(
    start_mirror: StartMirror, alpine: Image, layer: str
) -> None:
    mirror = await start_mirror(store={"max_size": f"{SIZE // 2} B"})
    headers = {"Range": "bytes=100-199"}
    answer = await mirror.client.get(f"/v2/alpine/blobs/{layer}", headers=headers)
    assert (answer.status, answer.body) == (206, alpine.blobs[layer][100:200])


async def test_what_is_streamed_through_is_proved_all_the_same(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, layer: str
) -> None:
    mirror = await start_mirror(store={"max_size": f"{SIZE // 2} B"})
    upstream.fault(kind="blob", corrupt_at=10)
    with suppress(aiohttp.ClientPayloadError):  # unless it has come in one piece
        assert (await mirror.client.blob("alpine", layer)).status == 502


async def test_min_free_is_left_free(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, layer: str
) -> None:
    mirror = await start_mirror(store={"min_free": "1000 TiB"})
    answer = await mirror.client.blob("alpine", layer)
    assert (answer.status, answer.body) == (200, alpine.blobs[layer])
    assert answer.headers["Cache-Status"] == "mirror; fwd=miss"
    assert await mirror.metric("mirror_store_bytes") == 0
    manifest = await mirror.client.manifest("alpine", "3.20")
    assert manifest.body == alpine.manifest  # a disk that is full fails no pull


@pytest.mark.parametrize("state", ["cold", "cached"])
async def test_podman_gets_several_ranges_of_a_layer_at_once(
    upstream: ScriptedRegistry, start_mirror: StartMirror, state: str
) -> None:
    mirror = await start_mirror()
    content = random_bytes(SIZE, seed=7)
    digest = upstream.add_blob(content, "library/app")
    if state == "cached":
        assert (await mirror.client.blob("app", digest)).body == content
    wanted = [(number * 1000, number * 1000 + 10) for number in (250, 3, 4, 299)]
    ranges = ",".join(f"{start}-{stop - 1}" for start, stop in wanted)
    answer = await mirror.client.get(
        f"/v2/library/app/blobs/{digest}", headers={"Range": f"bytes={ranges}"}
    )
    assert (answer.status, int(answer.headers["Content-Length"])) == (206, len(answer.body))
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    parts = cast("list[Message]", email.message_from_bytes(head + answer.body).get_payload())
    found = [part.get_payload(decode=True) for part in parts]
    assert found == [content[start:stop] for start, stop in wanted]


async def test_several_ranges_of_a_layer_that_cannot_be_kept_are_answered_with_all_of_it(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """It streams by once, in its own order (RFC 9110, 14.2)."""
    mirror = await start_mirror(store={"max_size": "100 KiB"})
    content = random_bytes(SIZE, seed=9)
    digest = upstream.add_blob(content, "library/app")
    answer = await mirror.client.get(
        f"/v2/library/app/blobs/{digest}", headers={"Range": "bytes=5000-5009,0-9"}
    )
    assert (answer.status, answer.digest) == (200, digest)


async def test_a_manifest_that_cannot_be_had_is_not_taken_for_a_blob(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """containerd asks for it as a blob next, and believes what it is told (its issue 7390)."""
    child = image(random_layer(SMALL, seed=8))
    both = upstream.add(index(child, image(random_layer(SMALL, seed=9))), "org/app", "1")
    mirror = await start_mirror()
    assert (await mirror.client.manifest("org/app", "1")).body == both.manifest
    upstream.fault(kind="manifest", status=429)
    manifest, blob = f"/v2/org/app/manifests/{child.digest}", f"/v2/org/app/blobs/{child.digest}"
    assert (await mirror.client.head(manifest)).status == 429
    asked = await mirror.client.head(blob)
    assert asked.status == 404
    assert (await mirror.client.head(f"/v2/org/app/blobs/{child.layers[0]}")).status == 200

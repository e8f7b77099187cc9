"""Blobs that are too large to be kept: shared while they pass, asked for by range, continued."""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import aiohttp
import pytest

from tests.conftest import StartMirror, StartRelay
from tests.support.evil import Ask, Evil, head
from tests.support.images import digest_of, image, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.process import until
from tests.support.upstream import Cdn, ScriptedRegistry

MIB = 2**20
LAYER = random_layer(24 * MIB, seed=21)  # more than the sockets on the way hold
CONTENT, SIZE = LAYER.blob, len(LAYER.blob)
STORE = {"max_size": "8 MiB"}


@pytest.fixture
def digest(upstream: ScriptedRegistry) -> str:
    return upstream.add(image(LAYER), "library/app", "1").layers[0]


@pytest.fixture
async def mirror(start_mirror: StartMirror, digest: str) -> InnerMirror:
    """Too small; it has served the manifest, as to every client."""
    return await _ready(await start_mirror(store=STORE))


async def _ready(mirror: InnerMirror) -> InnerMirror:
    assert (await mirror.client.manifest("app", "1")).status == 200
    return mirror


async def _read(mirror: InnerMirror, digest: str, *, pause: float = 0) -> str:
    """The digest of what comes."""
    hasher = hashlib.sha256()
    async with mirror.client.open(f"/v2/app/blobs/{digest}") as response:
        assert response.status == 200
        assert response.content_length == SIZE
        async for chunk in response.content.iter_any():
            hasher.update(chunk)
            await asyncio.sleep(pause)
    return f"sha256:{hasher.hexdigest()}"


async def _part(mirror: InnerMirror, digest: str, start: int, stop: int) -> bytes:
    answer = await mirror.client.get(
        f"/v2/app/blobs/{digest}", headers={"Range": f"bytes={start}-{stop - 1}"}
    )
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.headers["Content-Length"] == str(stop - start)
    return answer.body


async def _passed(mirror: InnerMirror, count: int) -> bool:
    return await mirror.metric("mirror_passed_through_total") == count


async def _together(mirror: InnerMirror, digest: str, count: int) -> Sequence[str]:
    async with asyncio.TaskGroup() as clients:
        pulls = [clients.create_task(_read(mirror, digest)) for _ in range(count)]
    return [pull.result() for pull in pulls]


# Shared


async def test_eight_readers_of_a_blob_that_cannot_be_kept_cost_one_transfer(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str
) -> None:
    assert await _together(mirror, digest, 8) == [digest] * 8
    assert upstream.bytes_sent(digest) <= 1.1 * SIZE
    assert await mirror.metric("mirror_store_bytes") < MIB
    assert await mirror.metric("mirror_passed_through_total", part="all") == 8


async def test_who_comes_a_little_later_reads_along(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str
) -> None:
    gate = upstream.hold(digest, after=4 * MIB)
    async with asyncio.TaskGroup() as clients:
        first = clients.create_task(_read(mirror, digest))
        await gate.reached()
        second = clients.create_task(_read(mirror, digest))
        await until(partial(_passed, mirror, 2))
        gate.open()
    assert {first.result(), second.result()} == {digest}
    assert upstream.bytes_sent(digest) == SIZE


async def test_readers_at_workers_of_their_own_share_it_too(
    upstream: ScriptedRegistry, start_mirror: StartMirror, digest: str
) -> None:
    mirror = await _ready(await start_mirror(store=STORE, server={"workers": 3}))
    gate = upstream.hold(digest, after=MIB)
    async with asyncio.TaskGroup() as clients:
        pulls = [clients.create_task(_read(mirror, digest)) for _ in range(6)]
        await until(partial(_passed, mirror, 6))
        gate.open()
    assert [pull.result() for pull in pulls] == [digest] * 6
    assert upstream.bytes_sent(digest) <= 1.1 * SIZE


async def test_a_reader_that_does_not_read_holds_no_other_and_gets_everything_in_the_end(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str
) -> None:
    async with mirror.client.open(f"/v2/app/blobs/{digest}") as slow:
        beginning = await slow.content.readexactly(1000)
        assert await _together(mirror, digest, 3) == [digest] * 3
        assert beginning + await slow.read() == CONTENT
    assert upstream.bytes_sent(digest) <= 2.1 * SIZE  # what it has missed came once more


async def test_what_another_repository_gets_is_not_shared(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str
) -> None:
    """Upstream has not said that this one may have it."""
    gate = upstream.hold(digest, after=MIB)
    async with asyncio.TaskGroup() as clients:
        first = clients.create_task(_read(mirror, digest))
        await gate.reached()
        answer = await mirror.client.blob("other", digest)
        assert answer.status == 404
        gate.open()
    assert first.result() == digest


async def test_when_all_have_left_upstream_is_let_go(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str
) -> None:
    upstream.hold(digest, after=MIB)
    async with mirror.client.open(f"/v2/app/blobs/{digest}") as response:
        await response.content.readexactly(1000)
        response.close()
    [asked] = upstream.asked("blob")

    async def is_over() -> bool:
        return asked.ended

    await until(is_over)


# By range


async def test_one_byte_ranges_cost_next_to_nothing(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str
) -> None:
    await _part(mirror, digest, 0, 1)  # its size is not known before
    upstream.forget()
    for position in range(1, SIZE, SIZE // 8):
        assert await _part(mirror, digest, position, position + 1) == CONTENT[position:][:1]
    assert upstream.bytes_sent(digest) == 8
    assert {asked.status for asked in upstream.asked("blob")} == {206}


async def test_a_client_that_fetches_piece_after_piece_costs_one_transfer_of_it(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str
) -> None:
    await _part(mirror, digest, 0, 1)
    upstream.forget()
    content = [await _part(mirror, digest, at, at + 2 * MIB) for at in range(0, SIZE, 2 * MIB)]
    assert b"".join(content) == CONTENT
    assert upstream.bytes_sent(digest) == SIZE


async def test_clients_that_want_the_same_part_at_once_share_it(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str
) -> None:
    await _part(mirror, digest, 0, 1)
    upstream.forget()
    gate = upstream.hold(digest)
    async with asyncio.TaskGroup() as clients:
        pulls = [clients.create_task(_part(mirror, digest, 10 * MIB, 15 * MIB)) for _ in range(6)]
        await until(partial(_passed, mirror, 7))
        gate.open()
    assert {pull.result() for pull in pulls} == {CONTENT[10 * MIB : 15 * MIB]}
    assert upstream.bytes_sent(digest) == 5 * MIB


async def test_containerds_open_ended_ranges_that_it_closes_early(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str
) -> None:
    """With `concurrent_layer_fetch_buffer`: `bytes=N-` for each piece, until it is there."""
    length = 4 * MIB
    pieces = {}

    async def fetch(starts: Sequence[int]) -> None:
        for start in starts:
            wanted = {"Range": f"bytes={start}-"}
            async with mirror.client.open(f"/v2/app/blobs/{digest}", headers=wanted) as response:
                assert response.headers["Content-Range"] == f"bytes {start}-{SIZE - 1}/{SIZE}"
                pieces[start] = await response.content.readexactly(min(length, SIZE - start))
                response.close()

    starts = range(0, SIZE, length)
    await asyncio.gather(*(fetch(starts[number::3]) for number in range(3)))
    assert b"".join(pieces[start] for start in starts) == CONTENT
    assert upstream.bytes_sent(digest) < 3 * SIZE


async def test_a_registry_without_ranges_sends_it_once_for_several_that_want_parts(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str
) -> None:
    upstream.fault(kind="blob", ignore_range=True)
    await _part(mirror, digest, 0, 1)
    await _part(mirror, digest, 5 * MIB, 5 * MIB + 1)  # now it is known
    upstream.forget()
    gate = upstream.hold(digest)
    async with asyncio.TaskGroup() as clients:
        pulls = [
            clients.create_task(_part(mirror, digest, at, at + 10))
            for at in range(MIB, SIZE, 4 * MIB)
        ]
        await until(partial(_passed, mirror, 2 + len(pulls)))
        gate.open()
    for pull, at in zip(pulls, range(MIB, SIZE, 4 * MIB), strict=True):
        assert pull.result() == CONTENT[at : at + 10]
    assert upstream.bytes_sent(digest) <= 1.1 * SIZE


async def test_an_end_that_is_not_there_is_told_before_anything_is_asked(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str
) -> None:
    answer = await mirror.client.get(f"/v2/app/blobs/{digest}", headers={"Range": f"bytes={SIZE}-"})
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{SIZE}")


# Broken lines, wrong answers


@pytest.mark.parametrize("has_cdn", [False, True])
async def test_a_line_that_breaks_every_few_megabytes_is_continued(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str, *, has_cdn: bool
) -> None:
    if has_cdn:
        upstream.cdn = Cdn()
    kind = "cdn" if has_cdn else "blob"
    upstream.fault(kind=kind, method="GET", reset_at=7 * MIB)
    assert await _read(mirror, digest) == digest
    assert upstream.bytes_sent(digest) <= 1.1 * SIZE
    assert len(upstream.asked(kind)) == 4
    assert await mirror.metric("mirror_fill_resumes_total") == 3


async def test_a_part_that_breaks_off_is_continued(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str
) -> None:
    await _part(mirror, digest, 0, 1)
    upstream.fault(kind="blob", truncate_at=MIB)
    assert await _part(mirror, digest, MIB, 4 * MIB) == CONTENT[MIB : 4 * MIB]


@pytest.mark.parametrize("readers", [1, 3])
async def test_wrong_bytes_complete_no_answer_of_the_whole(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str, readers: int
) -> None:
    upstream.fault(kind="blob", corrupt_at=SIZE - 1, times=1)
    gate = upstream.hold(digest, after=SIZE // 2)

    async def pull() -> None:
        with pytest.raises(aiohttp.ClientPayloadError):
            await _read(mirror, digest)

    async with asyncio.TaskGroup() as clients:
        for _ in range(readers):
            _ = clients.create_task(pull())
        await until(partial(_passed, mirror, readers))
        gate.open()
    assert await _read(mirror, digest) == digest


async def test_wrong_bytes_of_the_line_that_continued_complete_none_either(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str
) -> None:
    upstream.fault(kind="blob", reset_at=SIZE // 2, times=1)
    upstream.fault(kind="blob", corrupt_at=SIZE - 5, where=lambda asked: asked.offset > 0)
    with pytest.raises(aiohttp.ClientPayloadError):
        await _read(mirror, digest)


async def test_a_reader_that_was_left_behind_is_given_proved_bytes_too(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str
) -> None:
    async with mirror.client.open(f"/v2/app/blobs/{digest}") as slow:
        await slow.content.readexactly(1000)
        assert await _read(mirror, digest) == digest
        upstream.fault(kind="blob", corrupt_at=SIZE - 1)
        with pytest.raises(aiohttp.ClientPayloadError):
            await slow.read()


async def test_upstreams_denial_is_an_answer_also_where_the_size_is_remembered(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str
) -> None:
    await _part(mirror, digest, 0, 1)
    upstream.fault(kind="blob", status=403)
    for headers in ({}, {"Range": "bytes=5-9"}):
        answer = await mirror.client.get(f"/v2/app/blobs/{digest}", headers=headers)
        assert answer.status == 403


def _says_part(of: bytes) -> bytes:
    told = b"Content-Range: bytes 0-9/" + of
    return head(b"HTTP/1.1 206 Partial Content", told, b"Content-Length: 10") + b"x" * 10


@pytest.mark.parametrize("wanted", [{}, {"Range": "bytes=0-9"}, {"Range": "bytes=100-"}])
async def test_a_part_of_a_blob_of_an_exabyte_hangs_nobody(
    start_mirror: StartMirror, wanted: dict[str, str]
) -> None:
    async def behave(ask: Ask) -> None:
        await ask.send(_says_part(b"%d" % 10**18))

    async with Evil() as evil:
        evil.on("blobs/", behave)
        mirror = await start_mirror(
            {"docker.io": upstream_at(evil.url)}, store=STORE, fill={"attempts": 2}
        )
        for _ in range(2):
            async with asyncio.timeout(30):
                target = f"/v2/app/blobs/{digest_of(b'x')}"
                answer = await mirror.client.get(target, headers=wanted)
            assert answer.status == 502


async def test_a_blob_of_an_exabyte_that_breaks_off_ends_for_its_reader(
    start_mirror: StartMirror,
) -> None:
    async def behave(ask: Ask) -> None:
        ask.ends = True
        await ask.send(head(b"HTTP/1.1 200 OK", b"Content-Length: %d" % 10**18), b"x" * MIB)

    async with Evil() as evil:
        evil.on("blobs/", behave)
        mirror = await start_mirror(
            {"docker.io": upstream_at(evil.url)}, store=STORE, fill={"attempts": 1}
        )
        async with asyncio.timeout(30):
            with suppress(aiohttp.ClientPayloadError):
                assert (await mirror.client.blob("app", digest_of(b"x"))).status == 502


async def test_a_line_that_is_slow_is_shared_as_well(
    upstream: ScriptedRegistry, start_mirror: StartMirror, start_relay: StartRelay
) -> None:
    """What comes in small pieces must not look as if somebody had fallen behind."""
    relay = await start_relay(upstream.port)
    relay.bandwidth = 8 * MIB
    layer = random_layer(4 * MIB, seed=3)
    [digest] = upstream.add(image(layer), "library/app", "1").layers
    mirror = await start_mirror({"docker.io": upstream_at(relay.url)}, store={"max_size": "1 MiB"})
    await _ready(mirror)
    pulls = [mirror.client.blob("app", digest) for _ in range(8)]
    assert {answer.digest for answer in await asyncio.gather(*pulls)} == {digest}
    assert upstream.bytes_sent(digest) == len(layer.blob)


async def test_a_small_blob_from_elsewhere_that_comes_in_pieces_comes(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """Nothing of it is handed on before its proof; it is read to its end all the same."""
    layer = random_layer(40_000, seed=6)
    [digest] = upstream.add(image(layer), "library/app", "1").layers
    upstream.cdn = Cdn(host="localhost")
    mirror = await _ready(await start_mirror(store={"max_size": "20 B"}))
    gate = upstream.hold(digest, after=20_000)
    before = await mirror.metric("mirror_upstream_bytes_total")
    upstream.requests.clear()

    async def has_come() -> bool:
        return await mirror.metric("mirror_upstream_bytes_total") - before == 20_000

    async with asyncio.TaskGroup() as clients:
        pull = clients.create_task(mirror.client.blob("app", digest))
        await upstream.was_asked("cdn")
        await until(has_come)
        gate.open()
    assert (pull.result().status, pull.result().body) == (200, layer.blob)


async def test_storage_that_tells_no_length_sends_all_and_parts_again_and_again(
    upstream: ScriptedRegistry, mirror: InnerMirror, digest: str
) -> None:
    upstream.cdn = Cdn(host="localhost")
    upstream.fault(kind="cdn", chunked=True, ignore_range=True)
    for _ in range(2):  # the second time its size is known
        answer = await mirror.client.blob("app", digest)
        assert (answer.status, answer.digest) == (200, digest)
    for start in (1, 5 * MIB):
        assert await _part(mirror, digest, start, start + 9) == CONTENT[start:][:9]

"""What the line and the registry do to a push is ours to mend: the client notices nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import aiohttp
import pytest

from tests.conftest import StartMirror
from tests.support.clock import FakeClock
from tests.support.images import digest_of, random_bytes
from tests.support.mirror import InnerMirror
from tests.support.process import until
from tests.support.pusher import Pusher, Upload, codes, in_pieces
from tests.support.pushing import NAME, bytes_taken, held, spooled, start_pushing
from tests.support.uploads import Pushes
from tests.support.upstream import ScriptedRegistry

LARGE = random_bytes(12 << 20, seed=5)
DIGEST = digest_of(LARGE)
MIB = 1 << 20


pytestmark = pytest.mark.usefixtures("takes_pushes")


@pytest.fixture
async def mirror(upstream: ScriptedRegistry, start_mirror: StartMirror) -> InnerMirror:
    return await start_pushing(start_mirror, upstream)


@pytest.fixture(params=[False, True], ids=["chunks", "length"])
def pusher(mirror: InnerMirror, request: pytest.FixtureRequest) -> Pusher:
    return Pusher(mirror.client, NAME, tells_length=request.param)


async def test_a_line_that_cuts_every_few_bytes_costs_no_byte_that_upstream_has_kept(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    upstream.fault(kind="upload", method="PATCH", cut_body_at=3 * MIB)
    assert await pusher.blob(LARGE) == DIGEST
    assert held(upstream, DIGEST) == LARGE
    assert bytes_taken(upstream) == len(LARGE)
    assert await mirror.metric("mirror_push_resumes_total") >= 3


async def test_a_registry_that_forgets_what_is_cut_is_sent_chunks_that_get_through(
    upstream: ScriptedRegistry, takes_pushes: Pushes, pusher: Pusher
) -> None:
    takes_pushes.style = "2.8"
    upstream.fault(kind="upload", method="PATCH", cut_body_at=3 * MIB)
    assert await pusher.blob(LARGE) == DIGEST
    assert held(upstream, DIGEST) == LARGE
    assert bytes_taken(upstream) <= len(LARGE) + 4 * MIB
    known = bytes_taken(upstream)
    other = LARGE[::-1]
    await pusher.blob(other)  # it is known by now
    assert bytes_taken(upstream) == known + len(other)


async def test_a_registry_that_keeps_next_to_nothing_is_not_sent_to_without_end(
    upstream: ScriptedRegistry, takes_pushes: Pushes, pusher: Pusher
) -> None:
    takes_pushes.keeps_of_part = 1000
    upload = await pusher.begin()
    await upload.patch(LARGE)
    answer = await upload.put(b"", DIGEST)
    assert answer.status == 500
    [error] = json.loads(answer.body)["errors"]
    assert "keeps too little of what it is sent" in error["message"]
    assert bytes_taken(upstream) <= 6 * len(LARGE)


async def test_a_line_that_cuts_after_very_little_gets_all_of_it_through(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    upstream.fault(kind="upload", method="PATCH", cut_body_at=64 << 10)
    content = LARGE[: 4 * MIB]
    digest = await pusher.blob(content)
    assert held(upstream, digest) == content
    sent = await mirror.metric("mirror_push_sent_bytes_total", upstream="docker.io")
    assert len(content) <= sent <= 6 * len(content)


async def test_on_a_slow_line_a_break_costs_one_part_also_where_a_registry_forgets(
    upstream: ScriptedRegistry, takes_pushes: Pushes, pusher: Pusher, clock: FakeClock
) -> None:
    takes_pushes.style = "2.8"
    gate = takes_pushes.hold(after=MIB)
    async with asyncio.TaskGroup() as group:
        pushing = group.create_task(pusher.blob(LARGE * 2))
        await gate.reached()
        clock.advance(10)
        gate.open()
    digest = pushing.result()
    assert held(upstream, digest) == LARGE * 2
    parts = [asked.received for asked in upstream.asked("upload", method="PATCH")]
    assert sum(parts) == len(LARGE) * 2
    assert max(parts[1:]) <= 6 * MIB
    assert parts[0] <= 16 * MIB  # what was in the buffers of sockets by then


async def test_on_a_line_that_is_fast_enough_all_goes_in_one_request_however_long_it_takes(
    upstream: ScriptedRegistry, takes_pushes: Pushes, pusher: Pusher, clock: FakeClock
) -> None:
    content = LARGE * 3
    async with asyncio.TaskGroup() as group:
        gates = [takes_pushes.hold(after=after) for after in (2 * MIB, 26 * MIB)]
        pushing = group.create_task(pusher.blob(content))
        for gate in gates:
            await gate.reached()
            clock.advance(2)
            gate.open()
    assert held(upstream, pushing.result()) == content
    assert len(upstream.asked("upload", method="PATCH")) == 1


@pytest.mark.parametrize("style", ["2.8", "3"])
@pytest.mark.parametrize(
    "fault",
    [{"stall_body_at": 5 * MIB}, {"body_status_at": (5 * MIB, 503)}, {"cut_body_at": 5 * MIB}],
    ids=lambda fault: next(iter(fault)),
)
async def test_what_goes_wrong_in_the_middle_is_gone_on_with(
    upstream: ScriptedRegistry,
    takes_pushes: Pushes,
    pusher: Pusher,
    fault: dict[str, object],
    style: str,
) -> None:
    takes_pushes.style = style  # type: ignore[assignment]
    upstream.fault(kind="upload", method="PATCH", times=1, **fault)
    assert await pusher.blob(LARGE) == DIGEST
    assert held(upstream, DIGEST) == LARGE


async def test_an_upload_that_upstream_has_lost_is_begun_anew(
    upstream: ScriptedRegistry, takes_pushes: Pushes, pusher: Pusher
) -> None:
    upload = await pusher.begin()
    await upload.patch(LARGE[: 6 * MIB])
    await upstream.was_asked("upload", method="PATCH", ended=True)
    takes_pushes.lose()
    await upload.patch(LARGE[6 * MIB :])
    assert (await upload.put(b"", DIGEST)).status == 201
    assert held(upstream, DIGEST) == LARGE


async def test_a_registry_that_puts_parts_together_wrongly_is_sent_all_in_one(
    upstream: ScriptedRegistry, takes_pushes: Pushes, pusher: Pusher
) -> None:
    takes_pushes.takes_parts = False
    upstream.fault(kind="upload", method="PATCH", cut_body_at=3 * MIB, times=1)
    assert await pusher.blob(LARGE) == DIGEST
    assert held(upstream, DIGEST) == LARGE


async def test_where_a_registry_takes_no_parts_those_of_a_client_go_in_one_request(
    upstream: ScriptedRegistry, takes_pushes: Pushes, pusher: Pusher
) -> None:
    takes_pushes.takes_parts = False
    upload, size = await pusher.begin(), len(LARGE) // 12
    for start in range(0, len(LARGE), size):
        assert (await upload.bring(LARGE[start : start + size])).status == 202
    assert (await upload.put(b"", DIGEST)).status == 201
    assert held(upstream, DIGEST) == LARGE
    assert len(upstream.asked("upload", method="PATCH")) <= 3


@pytest.mark.parametrize("code", ["BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"])
@pytest.mark.parametrize("at", ["the first part", "a later part", "the end"])
async def test_an_upload_that_is_over_upstream_by_another_status_is_begun_anew(
    upstream: ScriptedRegistry, pusher: Pusher, at: str, code: str
) -> None:
    upload = await pusher.begin()
    if at != "the first part":
        await upload.patch(LARGE[: 6 * MIB])
        await upstream.was_asked("upload", method="PATCH", ended=True)
    words = json.dumps({"errors": [{"code": code, "message": "it is over"}]}).encode()
    method = "PUT" if at == "the end" else "PATCH"
    upstream.fault(kind="upload", method=method, status=400, body=words, times=1)
    position = 0 if at == "the first part" else 6 * MIB
    assert (await upload.bring(LARGE[position:])).status == 202
    assert (await upload.put(b"", DIGEST)).status == 201
    assert held(upstream, DIGEST) == LARGE


@pytest.mark.parametrize(
    ("code", "tries"), [("BLOB_UPLOAD_UNKNOWN", 3), ("BLOB_UPLOAD_INVALID", 2)]
)
async def test_what_is_refused_again_and_again_is_refused_in_upstreams_words(
    upstream: ScriptedRegistry, start_mirror: StartMirror, code: str, tries: int
) -> None:
    mirror = await start_pushing(start_mirror, upstream, fill={"attempts": 2})
    words = json.dumps({"errors": [{"code": code, "message": "no"}]}).encode()
    upstream.fault(kind="upload", method="PUT", status=400, body=words)
    upload = await Pusher(mirror.client, NAME).begin()
    await upload.patch(LARGE)
    assert codes(await upload.put(b"", DIGEST)) == [code]
    assert bytes_taken(upstream) <= tries * len(LARGE)


async def test_no_part_is_smaller_than_upstream_takes_however_small_the_clients_are(
    upstream: ScriptedRegistry, takes_pushes: Pushes, pusher: Pusher
) -> None:
    takes_pushes.least = 2 * MIB
    upload = await pusher.begin()
    content, step = LARGE[: 7 * MIB + 5], 3 * MIB // 4
    for start in range(0, len(content), step):
        answer = await upload.patch(content[start : start + step])
        assert (answer.status, answer.headers["OCI-Chunk-Min-Length"]) == (202, str(2 * MIB))
    digest = digest_of(content)
    assert (await upload.put(b"", digest)).status == 201
    assert held(upstream, digest) == content
    assert not upstream.asked("upload", status=416)
    assert bytes_taken(upstream) == len(content)


@pytest.mark.parametrize("brings", [b"", LARGE], ids=["nothing", "all"])
async def test_who_asks_again_since_the_answer_was_lost_is_told_that_it_is_there(
    upstream: ScriptedRegistry, start_mirror: StartMirror, brings: bytes
) -> None:
    mirror = await start_pushing(start_mirror, upstream)
    mine, hers = {"Authorization": "Bearer mine"}, {"Authorization": "Bearer hers"}
    upload = await Pusher(mirror.client, NAME, mine).begin()
    await upload.patch(LARGE)
    assert (await upload.put(b"", DIGEST)).status == 201
    await mirror.stop()
    again = await start_pushing(start_mirror, upstream)
    same = Upload(Pusher(again.client, NAME, mine), upload.location)
    answer = await same.put(brings, DIGEST)
    assert answer.status == 201
    assert answer.headers["Docker-Content-Digest"] == DIGEST
    assert (await same.put(b"", digest_of(b"another"))).status == 404
    assert (await same.patch(b"x")).status == 404
    upstream.fault(kind="blob", status=401)
    stranger = Upload(Pusher(again.client, NAME, hers), upload.location)
    assert (await stranger.put(brings, DIGEST)).status == 404
    assert bytes_taken(upstream) == len(LARGE)


async def test_where_upstream_cannot_be_reached_the_client_is_told_so_and_may_go_on_later(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_pushing(start_mirror, upstream, fill={"attempts": 1})
    upload = await Pusher(mirror.client, NAME).begin()
    assert (await upload.patch(LARGE[: 2 * MIB])).status == 202
    await upstream.was_asked("upload", method="PATCH", ended=True)
    await upstream.stop()
    answer = await upload.put(LARGE[2 * MIB :], DIGEST)
    assert answer.status in {502, 504}
    await upstream.start()

    async def goes_through() -> bool:
        position = int((await upload.status()).headers["Range"].partition("-")[2]) + 1
        return (await upload.put(LARGE[position:], DIGEST)).status == 201

    await until(goes_through)
    assert held(upstream, DIGEST) == LARGE


async def test_a_client_that_breaks_asks_how_far_it_came_and_goes_on(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    upload = await pusher.begin()
    await _break(upload, LARGE[: 5 * MIB])
    await mirror.until_metric("mirror_connections", 0)
    status = await upload.status()
    assert status.status == 204
    position = int(status.headers["Range"].partition("-")[2]) + 1
    assert MIB < position <= 5 * MIB
    wrong = await upload.patch(b"x" * 10, span=f"{position + 1}-{position + 10}")
    assert wrong.status == 416
    assert wrong.headers["Range"] == f"0-{position - 1}"
    rest = LARGE[position:]
    answer = await upload.patch(rest, span=f"{position}-{len(LARGE) - 1}")
    assert answer.status == 202
    assert (await upload.put(b"", DIGEST)).status == 201
    assert bytes_taken(upstream) == len(LARGE)


async def test_a_client_that_starts_over_has_sent_upstream_only_what_was_lacking(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    for stop in (3 * MIB, 7 * MIB):
        await _break(await pusher.begin(), LARGE[:stop])
    assert await pusher.blob(LARGE) == DIGEST
    assert held(upstream, DIGEST) == LARGE
    assert bytes_taken(upstream) == len(LARGE)
    assert await mirror.metric("mirror_push_spared_bytes_total") > 3 * MIB


async def test_what_differs_after_a_while_is_another_blob(
    upstream: ScriptedRegistry, pusher: Pusher
) -> None:
    other = LARGE[: 6 * MIB] + random_bytes(2 * MIB, seed=6)
    await _break(await pusher.begin(), LARGE[: 9 * MIB])
    digest = await pusher.blob(other)
    part = await pusher.blob(LARGE[: 4 * MIB])
    assert await pusher.blob(LARGE) == DIGEST
    assert held(upstream, digest) == other
    assert held(upstream, part) == LARGE[: 4 * MIB]
    assert held(upstream, DIGEST) == LARGE


async def test_of_several_that_begin_alike_none_is_sent_on_before_it_is_known_which_it_is(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    one, two = LARGE[: 2 * MIB] + LARGE[:MIB], LARGE[: 2 * MIB] + LARGE[MIB:]
    for content in (one, two):
        await _break(await pusher.begin(), content[: 3 * MIB - 5])
    await mirror.until_metric("mirror_connections", 0)
    known = bytes_taken(upstream)
    digest = await pusher.blob(two)
    assert held(upstream, digest) == two
    assert bytes_taken(upstream) <= max(known, len(two)) + 3 * MIB


async def test_a_token_that_ends_in_the_middle_is_made_good_by_the_next_one(
    upstream: ScriptedRegistry, mirror: InnerMirror
) -> None:
    challenge = {"WWW-Authenticate": 'Bearer realm="http://x.example/token"'}
    upstream.fault(kind="upload", method="PATCH", cut_body_at=3 * MIB, times=1)
    upstream.fault(kind="upload", method="GET", status=401, times=1, headers=challenge)
    pusher = Pusher(mirror.client, NAME, {"Authorization": "Bearer one"})
    upload = await pusher.begin()
    assert (await upload.patch(LARGE)).status == 202
    await upstream.was_asked("upload", method="GET")
    pusher.headers["Authorization"] = "Bearer two"
    assert (await upload.put(b"", DIGEST)).status == 201
    assert held(upstream, DIGEST) == LARGE
    assert bytes_taken(upstream) == len(LARGE)
    asked = upstream.asked("upload", method="PUT")
    assert [it.headers["Authorization"] for it in asked] == ["Bearer two"]


async def test_who_shows_nothing_first_has_no_byte_taken(
    upstream: ScriptedRegistry, mirror: InnerMirror
) -> None:
    known = Pusher(mirror.client, NAME, {"Authorization": "Bearer one"})
    upload = await known.begin()
    upstream.fault(kind="upload", method="POST", status=401, times=1)
    known.headers.clear()
    assert (await upload.put(LARGE, DIGEST)).status in {401, 403}
    known.headers["Authorization"] = "Bearer one"
    assert (await upload.put(LARGE, DIGEST)).status == 201
    assert held(upstream, DIGEST) == LARGE


async def test_what_a_client_does_not_wait_for_is_finished_all_the_same(
    upstream: ScriptedRegistry, pusher: Pusher
) -> None:
    upload = await pusher.begin()
    upstream.fault(kind="upload", method="PUT", delay=0.5)
    await upload.bring(LARGE)
    putting = asyncio.get_running_loop().create_task(upload.put(b"", DIGEST))
    await upstream.was_asked("upload", method="PUT")
    putting.cancel()
    with suppress(asyncio.CancelledError):
        await putting

    async def is_there() -> bool:
        return held(upstream, DIGEST) == LARGE

    await until(is_there)


async def test_two_who_push_the_same_at_once_are_one_upload_upstream(
    upstream: ScriptedRegistry, takes_pushes: Pushes, mirror: InnerMirror, pusher: Pusher
) -> None:
    gate = takes_pushes.hold(after=MIB)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(pusher.blob(LARGE))
        await gate.reached()
        second = group.create_task(Pusher(mirror.client, NAME).blob(LARGE))
        await upstream.was_asked("upload", method="POST", count=2)
        gate.open()
    assert first.result() == second.result() == DIGEST
    assert held(upstream, DIGEST) == LARGE
    assert bytes_taken(upstream) == len(LARGE)
    await upstream.was_asked("upload", method="DELETE", ended=True)
    assert not takes_pushes.uploads


async def test_a_restart_in_the_middle_costs_no_byte_that_upstream_has_kept(
    upstream: ScriptedRegistry, start_mirror: StartMirror, mirror: InnerMirror
) -> None:
    upload = await Pusher(mirror.client, NAME).begin()
    assert (await upload.patch(LARGE[: 7 * MIB])).status == 202
    await upstream.was_asked("upload", method="PATCH", ended=True)
    await mirror.stop()
    assert spooled(mirror)
    again = await start_pushing(start_mirror, upstream)
    same = Upload(Pusher(again.client, NAME), upload.location)
    assert (await same.status()).headers["Range"] == f"0-{7 * MIB - 1}"
    assert (await same.put(LARGE[7 * MIB :], DIGEST)).status == 201
    assert held(upstream, DIGEST) == LARGE
    assert bytes_taken(upstream) == len(LARGE)
    assert not spooled(again)


async def test_after_a_restart_a_client_that_starts_over_sends_upstream_only_what_is_lacking(
    upstream: ScriptedRegistry, start_mirror: StartMirror, mirror: InnerMirror
) -> None:
    upload = await Pusher(mirror.client, NAME).begin()
    await upload.patch(LARGE[: 7 * MIB])
    await upstream.was_asked("upload", method="PATCH", ended=True)
    await mirror.stop()
    again = await start_pushing(start_mirror, upstream)
    assert await Pusher(again.client, NAME).blob(LARGE) == DIGEST
    assert bytes_taken(upstream) == len(LARGE)


async def test_nothing_of_an_authorization_is_on_disk(
    upstream: ScriptedRegistry, mirror: InnerMirror
) -> None:
    pusher = Pusher(mirror.client, NAME, {"Authorization": "Bearer very-secret-token"})
    upload = await pusher.begin()
    await upload.patch(LARGE[: 2 * MIB])
    kept = [mirror.store_root / "push" / name for name in spooled(mirror)]
    assert len(kept) == 2
    for path in kept:
        assert b"very-secret-token" not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0


async def test_a_wrong_digest_of_one_of_two_leaves_the_other(
    upstream: ScriptedRegistry, pusher: Pusher
) -> None:
    one, two = await pusher.begin(), await pusher.begin()
    await one.patch(LARGE)
    await two.patch(LARGE)
    assert codes(await two.put(b"", digest_of(b"x"))) == ["DIGEST_INVALID"]
    assert (await one.put(b"", DIGEST)).status == 201
    assert held(upstream, DIGEST) == LARGE


async def _break(upload: Upload, content: bytes) -> None:
    """Send so much of a blob, and then hang up in its middle."""

    async def bring() -> AsyncIterator[bytes]:
        async for piece in in_pieces(content):
            yield piece
        await asyncio.sleep(0.05)  # for what is on its way
        raise ConnectionAbortedError

    with suppress(aiohttp.ClientError, ConnectionError):
        await upload.patch(bring())

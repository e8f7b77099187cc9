"""Bodies that are taken off the client's connection by the mirror's process, and what follows."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mirror.push import feed
from tests.conftest import StartMirror
from tests.support.client import get
from tests.support.faults import Asked
from tests.support.images import digest_of, random_bytes
from tests.support.mirror import InnerMirror, Mirror, running_mirror, upstream_at
from tests.support.process import until
from tests.support.pusher import Pusher, Upload, codes
from tests.support.pushing import NAME, bytes_taken, held, spooled, start_pushing
from tests.support.uploads import Pushes
from tests.support.upstream import ScriptedRegistry

MIB = 1 << 20
LARGE = random_bytes(6 * MIB, seed=21)
DIGEST = digest_of(LARGE)
NEXT = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"

pytestmark = pytest.mark.usefixtures("takes_pushes")


@pytest.fixture
async def mirror(upstream: ScriptedRegistry, start_mirror: StartMirror) -> InnerMirror:
    return await start_pushing(start_mirror, upstream)


@pytest.fixture
def pusher(mirror: InnerMirror) -> Pusher:
    return Pusher(mirror.client, NAME, tells_length=True)


class Wire:
    """A connection to the mirror, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, method: str, target: str, body: bytes, length: int | None = None) -> None:
        """A request with this much of its body."""
        size = len(body) if length is None else length
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
        self.writer.write(head.encode() + body)

    async def answer(self) -> tuple[int, bytes]:
        """The status of the next answer, and its fields."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or b"0")
        await self._reader.readexactly(length)
        return int(head.split()[1]), head.lower()

    async def end(self) -> bytes:
        """What comes until the mirror hangs up, or breaks the connection."""
        try:
            return await self._reader.read()
        except ConnectionResetError:
            return b""


@asynccontextmanager
async def wire_to(mirror: Mirror) -> AsyncIterator[Wire]:
    host, _, port = mirror.host.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


def has_come(upload: Upload, offset: int) -> Callable[[], Awaitable[bool]]:
    async def is_so() -> bool:
        return (await upload.status()).headers["Range"] == f"0-{offset - 1}"

    return is_so


async def test_a_connection_goes_on_after_a_body_that_others_have_taken_off_it(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    upload = await pusher.begin()
    async with wire_to(mirror) as wire:
        for start in range(0, len(LARGE), 2 * MIB):
            wire.send("PATCH", upload.location, LARGE[start : start + 2 * MIB])
            assert (await wire.answer())[0] == 202
        wire.send("PUT", f"{upload.location}?digest={DIGEST}", b"")
        assert (await wire.answer())[0] == 201
    assert held(upstream, DIGEST) == LARGE


async def test_what_comes_right_behind_such_a_body_is_the_next_request(
    mirror: InnerMirror, pusher: Pusher
) -> None:
    upload = await pusher.begin()
    async with wire_to(mirror) as wire:
        wire.send("PATCH", upload.location, LARGE)
        wire.writer.write(NEXT + NEXT)
        assert [(await wire.answer())[0] for _ in range(3)] == [202, 200, 200]


async def test_a_client_that_has_nothing_more_to_send_is_answered_all_the_same(
    mirror: InnerMirror, pusher: Pusher
) -> None:
    upload = await pusher.begin()
    async with wire_to(mirror) as wire:
        wire.send("PATCH", upload.location, LARGE)
        wire.writer.write(NEXT)
        wire.writer.write_eof()
        assert [(await wire.answer())[0] for _ in range(2)] == [202, 200]
        assert await wire.end() == b""


async def test_a_client_that_has_nothing_more_to_send_in_the_middle_is_let_go(
    mirror: InnerMirror, pusher: Pusher
) -> None:
    upload = await pusher.begin()
    async with wire_to(mirror) as wire:
        wire.send("PATCH", upload.location, LARGE[: 3 * MIB], len(LARGE))
        wire.writer.write_eof()
        assert await wire.end() == b""
    assert (await upload.status()).headers["Range"] == f"0-{3 * MIB - 1}"


async def test_a_body_that_begins_with_its_head_or_long_after_it_is_the_same(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    for first in (0, 1, 2**16, len(LARGE) - 1):
        upload = await pusher.begin()
        async with wire_to(mirror) as wire:
            wire.send("PATCH", upload.location, LARGE[:first], len(LARGE))
            if first:
                await until(has_come(upload, first))
            wire.writer.write(LARGE[first:])
            assert (await wire.answer())[0] == 202
            wire.send("PUT", f"{upload.location}?digest={DIGEST}", b"")
            assert (await wire.answer())[0] == 201
    assert held(upstream, DIGEST) == LARGE


async def test_who_waits_to_be_told_to_go_on_is_told(mirror: InnerMirror, pusher: Pusher) -> None:
    upload = await pusher.begin()
    async with wire_to(mirror) as wire:
        head = f"PATCH {upload.location} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(LARGE)}\r\n"
        wire.writer.write(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert (await wire.answer())[0] == 100
        wire.writer.write(LARGE)
        assert (await wire.answer())[0] == 202


async def test_a_client_that_leaves_in_the_middle_goes_on_where_it_was(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    upload = await pusher.begin()
    async with wire_to(mirror) as wire:
        wire.send("PATCH", upload.location, LARGE[: 4 * MIB + 5], len(LARGE))
        await until(has_come(upload, 4 * MIB + 5))
    assert (await upload.bring(LARGE[4 * MIB + 5 :])).status == 202
    assert (await upload.put(b"", DIGEST)).status == 201
    assert held(upstream, DIGEST) == LARGE
    assert bytes_taken(upstream) == len(LARGE)


async def test_a_client_that_brings_nothing_any_more_is_let_go(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_pushing(start_mirror, upstream, server={"send_timeout": "1s"})
    upload = await Pusher(mirror.client, NAME, tells_length=True).begin()
    async with wire_to(mirror) as wire:
        wire.send("PATCH", upload.location, LARGE[: 2 * MIB], len(LARGE))
        assert await wire.end() == b""
    assert (await upload.bring(LARGE[2 * MIB :])).status == 202
    assert (await upload.put(b"", DIGEST)).status == 201


async def test_a_client_that_brings_nothing_any_more_is_let_go_when_the_mirror_stops(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    """As for who sends in chunked coding: it hears nothing of upstream, and tries again."""
    settings = {"docker.io": upstream_at(upstream.url) | {"push": "client"}}
    server = {"drain_timeout": "3s"}
    async with running_mirror(tmp_path, settings, server=server) as mirror:
        upload = await Pusher(mirror.client, NAME).begin()
        async with wire_to(mirror) as wire:
            wire.send("PATCH", upload.location, LARGE[: 3 * MIB], len(LARGE))
            await until(has_come(upload, 3 * MIB))
            await mirror.process.stop()
            assert not await wire.end()
    assert "the server ends" in mirror.process.log()


async def test_a_client_may_have_days_to_bring_something(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_pushing(start_mirror, upstream, server={"send_timeout": "30000d"})
    assert await Pusher(mirror.client, NAME, tells_length=True).blob(LARGE) == DIGEST


async def test_a_body_that_is_refused_is_the_last_of_its_connection(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_pushing(start_mirror, upstream, push={"max_blob_size": "5 MiB"})
    upload = await Pusher(mirror.client, NAME).begin()
    async with wire_to(mirror) as wire:
        wire.send("PATCH", upload.location, LARGE)
        wire.writer.write(NEXT)
        status, head = await wire.answer()
        assert (status, b"connection: close" in head) == (413, True)
        assert await wire.end() == b""


@pytest.mark.parametrize("length", [2**63 - 1, 2**63 + MIB, 2**64 - 2])
async def test_a_body_of_any_length_is_too_large_and_costs_nobody_else_anything(
    mirror: InnerMirror, pusher: Pusher, length: int
) -> None:
    upload = await pusher.begin()
    async with wire_to(mirror) as other, wire_to(mirror) as wire:
        wire.send("PATCH", upload.location, LARGE[:MIB], length)
        assert (await wire.answer())[0] == 413
        other.writer.write(NEXT)
        assert (await other.answer())[0] == 200


async def test_a_registry_that_refuses_the_blob_is_heard_by_who_is_still_bringing_it(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    upstream.fault(kind="upload", method="PATCH", status=403)
    upload = await pusher.begin()
    async with wire_to(mirror) as wire:
        wire.send("PATCH", upload.location, LARGE[: 5 * MIB], len(LARGE))
        await until(lambda: mirror_has_refused(mirror))
        wire.writer.write(LARGE[5 * MIB :])
        assert (await wire.answer())[0] == 403


async def mirror_has_refused(mirror: InnerMirror) -> bool:
    return bool(await mirror.metric("mirror_push_requests_total", kind="bytes", outcome="denied"))


async def test_a_wrong_digest_is_told_and_nothing_is_kept(
    mirror: InnerMirror, pusher: Pusher
) -> None:
    upload = await pusher.begin()
    answer = await upload.put(LARGE, digest_of(b"something else"))
    assert (answer.status, codes(answer)) == (400, ["DIGEST_INVALID"])
    assert not spooled(mirror)


@pytest.mark.parametrize("tells_length", [False, True], ids=["chunks", "length"])
async def test_who_bring_the_same_at_once_send_it_once(
    upstream: ScriptedRegistry, mirror: InnerMirror, *, tells_length: bool
) -> None:
    pusher = Pusher(mirror.client, NAME, tells_length=tells_length)
    async with asyncio.TaskGroup() as group:
        pushes = [group.create_task(pusher.blob(LARGE)) for _ in range(3)]
    assert [it.result() for it in pushes] == [DIGEST] * 3
    assert held(upstream, DIGEST) == LARGE
    assert bytes_taken(upstream) == len(LARGE)
    assert await mirror.metric("mirror_push_received_bytes_total") == 3 * len(LARGE)


async def test_what_begins_alike_and_goes_on_otherwise_is_another_blob(
    upstream: ScriptedRegistry, takes_pushes: Pushes, pusher: Pusher
) -> None:
    other = LARGE[: 3 * MIB] + LARGE[3 * MIB :][::-1]
    gate = takes_pushes.hold(after=2 * MIB)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(pusher.blob(LARGE))
        await gate.reached()
        second = group.create_task(pusher.blob(other))
        await asyncio.sleep(0)
        gate.open()
    assert held(upstream, first.result()) == LARGE
    assert held(upstream, second.result()) == other


async def push_until_it_is_fast(upstream: ScriptedRegistry, pusher: Pusher) -> tuple[bytes, Asked]:
    """What was pushed when the registry was told a length, and how it was.

    The second is, but on a machine that is very busy.
    """
    for seed in range(1000, 2000):
        content = random_bytes(7 * MIB, seed=seed)
        await pusher.blob(content)
        patch = upstream.asked("upload", method="PATCH")[-1]
        if "Content-Length" in patch.headers:
            return content, patch
    raise AssertionError("it never was")


async def test_on_a_fast_line_a_registry_is_told_the_length_that_a_client_tells(
    upstream: ScriptedRegistry, pusher: Pusher
) -> None:
    content, patch = await push_until_it_is_fast(upstream, pusher)
    assert held(upstream, digest_of(content)) == content
    assert patch.headers["Content-Length"] == str(len(content))
    assert "Content-Range" not in patch.headers


async def has_ended(asked: Asked) -> bool:
    return asked.ended


@pytest.mark.parametrize("loses_what_breaks", [False, True])
async def test_a_client_that_leaves_before_a_length_that_was_told_goes_on_where_it_was(
    upstream: ScriptedRegistry, takes_pushes: Pushes, mirror: InnerMirror, pusher: Pusher,
    *, loses_what_breaks: bool,
) -> None:  # fmt: skip
    await push_until_it_is_fast(upstream, pusher)
    takes_pushes.loses_what_breaks = loses_what_breaks
    before = bytes_taken(upstream)
    upload = await pusher.begin()
    async with wire_to(mirror) as wire:
        wire.send("PATCH", upload.location, LARGE[: 4 * MIB + 5], len(LARGE))
        await until(has_come(upload, 4 * MIB + 5))
        [patch] = upstream.asked("upload", method="PATCH")[-1:]
    await until(lambda: has_ended(patch))
    assert (await upload.bring(LARGE[4 * MIB + 5 :])).status == 202
    assert (await upload.put(b"", DIGEST)).status == 201
    assert held(upstream, DIGEST) == LARGE
    if not loses_what_breaks:
        assert bytes_taken(upstream) - before == len(LARGE)


async def test_a_client_that_leaves_before_a_length_that_was_told_has_cut_no_line(
    upstream: ScriptedRegistry, takes_pushes: Pushes, mirror: InnerMirror, pusher: Pusher
) -> None:
    takes_pushes.style = "2.8"  # which forgets an upload that is asked after when it has broken
    await push_until_it_is_fast(upstream, pusher)
    upload = await pusher.begin()
    async with wire_to(mirror) as wire:
        wire.send("PATCH", upload.location, LARGE[:MIB], len(LARGE))
        await until(has_come(upload, MIB))
        [patch] = upstream.asked("upload", method="PATCH")[-1:]
    await until(lambda: has_ended(patch))
    upstream.forget()
    assert (await upload.bring(LARGE[MIB:])).status == 202
    assert (await upload.put(b"", DIGEST)).status == 201
    assert held(upstream, DIGEST) == LARGE
    assert len(upstream.asked("upload", method="PATCH")) == 1


async def test_who_is_behind_tells_no_length_of_what_is_here(
    upstream: ScriptedRegistry, takes_pushes: Pushes, mirror: InnerMirror, pusher: Pusher
) -> None:
    async def rests() -> bool:
        answer = await get(f"{mirror.admin_url}/api/v1/status")
        return [it["state"] for it in json.loads(answer.body)["pushes"]] == ["resting"]

    await push_until_it_is_fast(upstream, pusher)
    takes_pushes.least = 2 * MIB
    refusals = upstream.fault(kind="upload", method="PATCH", status=503)
    assert (await (await pusher.begin()).bring(LARGE[: 3 * MIB])).status == 202
    await until(rests)
    upstream.faults.remove(refusals)
    upstream.forget()
    upload = await pusher.begin()
    async with wire_to(mirror) as wire:
        wire.send("PATCH", upload.location, LARGE[: MIB // 2], MIB)
        await upstream.was_asked("upload", method="PATCH")
        wire.writer.write(LARGE[MIB // 2 : MIB])
        assert (await wire.answer())[0] == 202
    assert (await upload.bring(LARGE[MIB:])).status == 202
    assert (await upload.put(b"", DIGEST)).status == 201
    assert held(upstream, DIGEST) == LARGE
    assert not upstream.asked("upload", status=416)


async def test_a_length_that_is_told_goes_over_the_connection_that_there_is(
    upstream: ScriptedRegistry, pusher: Pusher
) -> None:
    _, patch = await push_until_it_is_fast(upstream, pusher)
    last = upstream.asked("upload")[-3:]
    assert [asked.method for asked in last] == ["POST", "PATCH", "PUT"]
    assert last[1] is patch
    assert len({asked.peer for asked in last}) == 1


async def test_who_has_left_for_long_before_a_length_that_was_told_goes_on_where_it_was(
    upstream: ScriptedRegistry, takes_pushes: Pushes, mirror: InnerMirror, pusher: Pusher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Also where the registry takes all in one request, and is kept waiting for who may be back."""
    takes_pushes.takes_parts = False
    in_parts = await pusher.begin()
    for start in range(0, len(LARGE), MIB):
        await in_parts.bring(LARGE[start : start + MIB])
    assert (await in_parts.put(b"", DIGEST)).status == 201
    await push_until_it_is_fast(upstream, pusher)
    monkeypatch.setattr(feed, "_PATIENCE", 0.1)
    other = LARGE[::-1]
    upload = await pusher.begin()
    async with wire_to(mirror) as wire:
        wire.send("PATCH", upload.location, other[: 4 * MIB], len(other))
        await until(has_come(upload, 4 * MIB))
        [patch] = upstream.asked("upload", method="PATCH")[-1:]
    await until(lambda: has_ended(patch))
    assert (await upload.bring(other[4 * MIB :])).status == 202
    assert (await upload.put(b"", digest_of(other))).status == 201
    assert held(upstream, digest_of(other)) == other
    assert await mirror.metric("mirror_internal_errors_total") == 0


@pytest.mark.parametrize("becomes", ["kept", "lost", "forgotten"])
async def test_a_length_that_was_told_and_is_not_answered_is_asked_after(
    upstream: ScriptedRegistry, takes_pushes: Pushes, pusher: Pusher, becomes: str
) -> None:
    await push_until_it_is_fast(upstream, pusher)
    takes_pushes.loses_what_breaks = becomes == "lost"
    gate = takes_pushes.hold(after=len(LARGE))
    before = len(upstream.asked("upload", method="PATCH"))
    pushing = asyncio.get_running_loop().create_task(pusher.blob(LARGE))
    patch = await gate.reached()
    assert patch.headers["Content-Length"] == str(len(LARGE))
    if becomes == "forgotten":
        takes_pushes.lose()
    gate.cut()
    assert await pushing == DIGEST
    assert held(upstream, DIGEST) == LARGE
    again = len(upstream.asked("upload", method="PATCH")) - before - 1
    assert (again == 0) == (becomes == "kept")


async def test_a_token_that_ends_before_a_length_that_was_told_is_made_good_by_the_next_one(
    upstream: ScriptedRegistry, mirror: InnerMirror
) -> None:
    pusher = Pusher(mirror.client, NAME, {"Authorization": "Bearer one"}, tells_length=True)
    await push_until_it_is_fast(upstream, pusher)
    before = bytes_taken(upstream)
    upload = await pusher.begin()
    ends = upstream.fault(kind="upload", method="PATCH", body_status_at=(3 * MIB, 401), times=1)
    challenge = {"WWW-Authenticate": 'Bearer realm="http://x.example/token"'}
    upstream.fault(kind="upload", method="GET", status=401, times=1, headers=challenge)
    assert (await upload.bring(LARGE)).status == 202
    assert (await upload.put(b"", DIGEST)).status == 401
    assert ends.struck[0].headers["Content-Length"] == str(len(LARGE))
    pusher.headers["Authorization"] = "Bearer two"
    assert (await upload.put(b"", DIGEST)).status == 201
    assert held(upstream, DIGEST) == LARGE
    assert bytes_taken(upstream) - before == len(LARGE)

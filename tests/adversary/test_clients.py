"""Clients that wait, drip, flood or hang up halfway: each costs its own connection, and no more."""

import asyncio
import errno
import os
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from tests.conftest import StartMirror
from tests.support.client import get
from tests.support.evil import Evil, hangs
from tests.support.images import image, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

PING = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def connection(
    mirror: InnerMirror,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = mirror.host.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("begun", [b"", b"GET /v2/ HTTP/1.1\r\nHost: x\r\n", b"G"])
async def test_who_connects_and_sends_no_whole_request_is_let_go(
    start_mirror: StartMirror, begun: bytes
) -> None:
    mirror = await start_mirror(server={"request_timeout": "200ms"})
    async with connection(mirror) as (reader, writer):
        writer.write(begun)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
    assert await mirror.metric("mirror_requests_total", method="other", status="408") == 1


@pytest.mark.parametrize("begun", [b"", b"GET /v2/ HTTP/1.1\r\nHost: x\r\n"])
async def test_who_is_silent_after_a_request_or_slow_with_the_next_is_let_go(
    start_mirror: StartMirror, begun: bytes
) -> None:
    mirror = await start_mirror(server={"keep_alive_timeout": "200ms"})
    async with connection(mirror) as (reader, writer):
        writer.write(PING + begun)
        async with asyncio.timeout(10):
            assert (await reader.read()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "body", [b"Content-Length: 1000000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5\r\n"]
)
async def test_who_never_ends_a_body_that_nobody_wants_is_answered_and_let_go(
    start_mirror: StartMirror, body: bytes
) -> None:
    mirror = await start_mirror()
    async with connection(mirror) as (reader, writer):
        writer.write(b"PUT /v2/a/manifests/1 HTTP/1.1\r\nHost: x\r\n" + body)
        async with asyncio.timeout(15):
            assert (await reader.read()).startswith(b"HTTP/1.1 405")


async def test_endless_header_fields_are_not_collected(start_mirror: StartMirror) -> None:
    mirror = await start_mirror()
    async with connection(mirror) as (reader, writer):
        writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n")
        for number in range(6):
            writer.write(b"X-%d: %s\r\n" % (number, b"a" * 2**14))
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            assert await read_all(reader) == b""
    assert await mirror.metric("mirror_requests_total", method="other", status="408") == 1


_GET = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n"
FLOODS = {
    "header fields": (_GET, b"a: b\r\n" * 10_000),
    "trailer fields": (_GET + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 10_000),
    "chunk extensions": (_GET + b"Transfer-Encoding: chunked\r\n\r\n1", b";a=b" * 15_000),
    "a body": (_GET + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nabcde\r\n" * 6_000),
    "requests": (b"", (_GET + b"\r\n") * 2_000),
    "large requests": (b"", (_GET + b"X: " + b"a" * 16_000 + b"\r\n\r\n") * 4),
    "an upgrade": (_GET + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n", b"x" * 60_000),
    "a target": (b"GET /v2/", b"a" * 60_000),
    "what is no request": (b"", b"\x16\x03\x01" * 20_000),
}


@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.parametrize("waits", [True, False], ids=["behind a request that waits", "at once"])
async def test_what_a_client_floods_a_connection_with_is_not_collected(
    start_mirror: StartMirror, name: str, *, waits: bool
) -> None:
    begins, goes_on = FLOODS[name]
    async with Evil() as evil:
        evil.on("manifests/", hangs)
        mirror = await start_mirror(
            {"docker.io": upstream_at(evil.url)}, fill={"connect_timeout": "60s"}
        )
        async with connection(mirror) as (_, writer):
            if waits:
                writer.write(b"GET /v2/a/b/manifests/1 HTTP/1.1\r\nHost: x\r\n\r\n")
                await evil_was_asked(evil)
            writer.write(begins)
            await flood(writer, goes_on, times=40)  # untraced, so that the loop's watch can judge
            tracemalloc.start()
            await flood(writer, goes_on, times=400)
            collected = sum(
                one.size
                for one in tracemalloc.take_snapshot().statistics("filename")
                if "/aiohttp/" in one.traceback[0].filename
            )
            tracemalloc.stop()
        assert collected < 2**21
        assert (await mirror.client.get("/v2/")).status == 200


async def flood(writer: asyncio.StreamWriter, data: bytes, *, times: int) -> None:
    with suppress(ConnectionError, TimeoutError):
        for _ in range(times):
            writer.write(data)
            async with asyncio.timeout(1):  # it is not read: that is well
                await writer.drain()


async def evil_was_asked(evil: Evil) -> None:
    async def asked() -> bool:
        return bool(evil.asked)

    await until(asked, within=20)


async def read_all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("name", ["Authorization", "X-Forwarded-Cookie"])
async def test_a_header_field_of_16_kib_is_read(start_mirror: StartMirror, name: str) -> None:
    """Tokens of registries with many groups are as long as that."""
    mirror = await start_mirror()
    answer = await mirror.client.get("/v2/", headers={name: "Bearer " + "a" * 2**14})
    assert answer.status == 200


@pytest.mark.parametrize("requests", [1, 3])
async def test_a_client_that_has_nothing_more_to_send_is_answered_all_the_same(
    upstream: ScriptedRegistry, start_mirror: StartMirror, requests: int
) -> None:
    """`printf ... | nc -N`, and some proxies."""
    app = upstream.add(image(random_layer(400_000, seed=1)), "library/app", "1")
    [layer] = app.layers
    mirror = await start_mirror()
    gate = upstream.hold(layer, after=1000)
    async with connection(mirror) as (reader, writer):
        request = f"GET /v2/app/blobs/{layer} HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write(request.encode() * requests)
        writer.write_eof()
        async with asyncio.timeout(10):
            await gate.reached()
            gate.open()
            answer = await reader.read()
    assert answer.count(b"HTTP/1.1 200 OK") == requests
    assert answer.endswith(app.blobs[layer])
    assert len(upstream.asked("blob")) == 1


@pytest.mark.parametrize("length", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
async def test_who_drips_a_form_for_a_token_server_is_let_go(
    start_mirror: StartMirror, upstream: ScriptedRegistry, length: bytes
) -> None:
    private = upstream_at(upstream.url) | {"access": "client", "relay_tokens": "http"}
    mirror = await start_mirror({"ghcr.io": private}, server={"request_timeout": "300ms"})
    async with connection(mirror) as (reader, writer):
        target = b"/v2/_token/0123456789abcdef/ghcr.io"
        writer.write(b"POST " + target + b" HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n")
        with suppress(ConnectionResetError):
            async with asyncio.timeout(10):
                assert await reader.read() == b""
    assert upstream.requests == []


UNWANTED = {
    "GET /v2/": b"HTTP/1.1 200",
    "PUT /v2/a/manifests/1": b"HTTP/1.1 405",
    "POST /v2/_token/0123456789abcdef/ghcr.io": b"HTTP/1.1 405",
}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("asked", UNWANTED)
async def test_a_body_that_is_not_what_its_encoding_says_is_no_fault(
    start_mirror: StartMirror, caplog: pytest.LogCaptureFixture, asked: str, encoding: str
) -> None:
    private = upstream_at("http://127.0.0.1:9") | {"access": "client", "relay_tokens": "http"}
    mirror = await start_mirror({"ghcr.io": private})
    async with connection(mirror) as (reader, writer):
        head = f"{asked} HTTP/1.1\r\nHost: x\r\nContent-Encoding: {encoding}\r\n"
        writer.write(f"{head}Content-Length: 5\r\n\r\nabcde".encode())
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(UNWANTED[asked])
            writer.write(PING)  # all that came with the first one has been read
            rest = b""
            while b"HTTP/1.1 " not in rest and (piece := await reader.read(4096)):
                rest += piece
    assert b"HTTP/1.1 200" in rest
    assert "Traceback" not in caplog.text
    assert await mirror.metric("mirror_internal_errors_total") == 0


async def test_a_client_with_too_many_connections_gets_no_more_and_the_others_are_served(
    start_mirror: StartMirror, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = await start_mirror(server={"max_connections_per_client": 5})
    host, _, port = mirror.host.partition(":")
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(connection(mirror)) for _ in range(5)]
        for reader, writer in others:
            writer.write(PING)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        for _ in range(3):
            async with connection(mirror) as (reader, writer):
                writer.write(PING)
                async with asyncio.timeout(10):
                    assert await read_all(reader) == b""
        elsewhere = await asyncio.open_connection(host, int(port), local_addr=("127.0.0.2", 0))
        elsewhere[1].write(PING)
        assert (await elsewhere[0].readline()).startswith(b"HTTP/1.1 200")
        elsewhere[1].transport.abort()
        await mirror.until_metric("mirror_connections", 5)
        assert await mirror.metric("mirror_connections_refused_total") == 3
        assert [it.message for it in caplog.records if "as many connections" in it.message] != []
        others[0][1].transport.abort()
        await mirror.until_metric("mirror_connections", 4)
        assert (await mirror.client.get("/v2/")).status == 200
    await mirror.until_metric("mirror_connections", 1)  # our own client's


async def test_where_there_is_room_for_nobody_the_mirror_says_that_it_is_not_ready(
    start_mirror: StartMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.front.workers.pool.room_for", lambda _: 2)
    mirror = await start_mirror(server={"workers": 1})
    host, _, port = mirror.host.partition(":")
    for _ in range(2):  # and it recovers
        async with AsyncExitStack() as stack:
            held = []  # a writer that nobody holds closes its connection
            for address in ("127.0.0.1", "127.0.0.2"):
                opened = await asyncio.open_connection(host, int(port), local_addr=(address, 0))
                held.append(opened)
                stack.callback(opened[1].transport.abort)
                opened[1].write(PING)
                assert (await opened[0].readline()).startswith(b"HTTP/1.1 200")
            answer = await get(f"{mirror.admin_url}/readyz")
            assert (answer.status, b"descriptors allow no more" in answer.body) == (503, True)
        await mirror.until_metric("mirror_connections", 0)
        assert (await get(f"{mirror.admin_url}/readyz")).status == 200


async def test_a_client_that_cannot_be_handed_on_does_not_count_for_ever(
    start_mirror: StartMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor is free for it: it is let go, and its share is as it was."""
    mirror = await start_mirror()
    left, duplicate = [None] * 3, os.dup

    def dup(descriptor: int) -> int:
        if left:
            left.pop()
            raise OSError(errno.EMFILE, "Too many open files")
        return duplicate(descriptor)

    monkeypatch.setattr(os, "dup", dup)
    for _ in range(3):
        async with connection(mirror) as (reader, writer):
            writer.write(PING)
            async with asyncio.timeout(10):
                with suppress(ConnectionResetError):
                    assert await read_all(reader) == b""
    async with connection(mirror) as (reader, writer):
        writer.write(PING)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    await mirror.until_metric("mirror_connections", 0)

"""Upstreams that send without end where little is expected: it is not collected."""

import asyncio
import tracemalloc
from contextlib import suppress

import aiohttp
import pytest

from tests.conftest import StartMirror
from tests.support.evil import Ask, Evil, head
from tests.support.images import digest_of, image, random_layer
from tests.support.mirror import upstream_at

APP = image(random_layer(1000, seed=1))
TYPE = b"Content-Type: " + APP.media_type.encode()
WHOLE = head(b"HTTP/1.1 200 OK", TYPE, b"Content-Length: %d" % len(APP.manifest)) + APP.manifest
CHUNKED = head(b"HTTP/1.1 200 OK", TYPE, b"Transfer-Encoding: chunked")
CHUNK = b"%x\r\n%b\r\n" % (len(APP.manifest), APP.manifest)
SOON = {"connect_timeout": "2s", "stall_timeout": "2s", "attempts": 1}
FLOODS = {
    "after the answer": (WHOLE, b"x" * 60_000),
    "after a connection: close": (
        WHOLE.replace(b"200 OK\r\n", b"200 OK\r\nConnection: close\r\n"),
        b"x" * 60_000,
    ),
    "answers that nobody asked for": (WHOLE, WHOLE * 50),
    "trailer fields": (CHUNKED + CHUNK + b"0\r\n", b"a: b\r\n" * 10_000),
    "chunk extensions": (CHUNKED + CHUNK + b"1", b";a=b" * 15_000),
    "a chunk's size": (CHUNKED + CHUNK, b"0" * 60_000),
    "upgraded": (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"x" * 60_000,
    ),
    "a status line": (b"HTTP/1.1 200 ", b"x" * 60_000),
    "a version": (b"HTTP/", b"1" * 60_000),
    "empty lines": (b"", b"\r\n" * 30_000),
    "204 with a body": (b"HTTP/1.1 204 No Content\r\n\r\n", b"x" * 60_000),
    "304 with a body": (b"HTTP/1.1 304 Not Modified\r\n\r\n", b"x" * 60_000),
    "a HEAD's body": (WHOLE, APP.manifest * 100),
}
WANTED = ("manifests/1", f"blobs/{digest_of(b'x')}")
MOST = 16 * 2**20  # bytes of a flood


@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.parametrize(
    "what", ["manifests/1", f"blobs/{digest_of(b'x')}"], ids=["manifest", "blob"]
)
async def test_what_an_upstream_floods_a_connection_with_is_not_collected(
    start_mirror: StartMirror, name: str, what: str
) -> None:
    begins, goes_on = FLOODS[name]
    over = asyncio.Event()

    async def flood(ask: Ask) -> None:
        ask.ends = True
        sent = 0
        try:
            await ask.send(begins)
            while sent < MOST:
                async with asyncio.timeout(1):  # it is not read: that is well
                    await ask.send(goes_on)
                sent += len(goes_on)
        except (ConnectionError, TimeoutError):
            pass
        over.set()
        with suppress(ConnectionError):
            await ask.writer.wait_closed()

    async with Evil() as evil:
        evil.on("/v2/org", flood)
        mirror = await start_mirror({"docker.io": upstream_at(evil.url)}, fill=SOON)
        tracemalloc.start()
        with suppress(aiohttp.ClientError):
            await mirror.client.get(f"/v2/org/app/{what}")
        async with asyncio.timeout(30):
            await over.wait()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * 2**20
        assert (await mirror.client.get("/v2/")).status == 200

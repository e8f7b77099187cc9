"""Who can reach the operators' port, and is none: it is not taken away, and tells nothing."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import StartMirror
from tests.support.client import get
from tests.support.mirror import InnerMirror
from tests.support.process import until

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

SECRET = "open-sesame"  # noqa: S105 - of the test
NO_REQUESTS = {
    "a space before the colon": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer %b\r\n\r\n",
    "a NUL in the value": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\x00\r\n\r\n",
    "a byte in the target": b"GET /api/v1/\xff%b HTTP/1.1\r\nHost: x\r\n\r\n",
    "no host": b"GET http://[/%b HTTP/1.1\r\nHost: x\r\n\r\n",
    "no port": b"GET http://x:99999999/%b HTTP/1.1\r\nHost: x\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\nAuthorization: Bearer %b\r\n\r\n",
    "no HTTP": b"\x16\x03\x01%b\r\n\r\n",
}
JSON = b"Host: x\r\nContent-Type: application/json\r\n"
NO_BODIES = {
    "what is no gzip": b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde",
    "what is no chunk": b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "half of a character": b'Content-Length: 18\r\n\r\n{"level":"\\ud800"}',
    "no character": b'Content-Length: 13\r\n\r\n{"level":"\xff"}',
    "what is deep": b"Content-Length: 60000\r\n\r\n" + b'{"level":' * 6666 + b"[[[[[[",
}


@asynccontextmanager
async def connection(mirror: InnerMirror, address: str = "127.0.0.1") -> AsyncIterator[Stream]:
    host, _, port = mirror.admin_host.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(address, 0))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def answer_to(mirror: InnerMirror, *pieces: bytes) -> bytes:
    """All that is answered to bytes after which the connection ends, or nothing more comes."""
    async with connection(mirror) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)  # a piece of its own
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        return head + await reader.readexactly(length)


@pytest.fixture
async def mirror(start_mirror: StartMirror) -> InnerMirror:
    return await start_mirror()


@pytest.mark.parametrize("manner", NO_REQUESTS)
async def test_what_is_no_request_of_an_operators_is_told_without_its_text(
    mirror: InnerMirror, caplog: pytest.LogCaptureFixture, manner: str
) -> None:
    caplog.set_level(logging.DEBUG, logger="aiohttp")
    answer = await answer_to(mirror, NO_REQUESTS[manner].replace(b"%b", SECRET.encode()))
    assert answer.startswith(b"HTTP/1.0 400")
    assert SECRET.encode() not in answer
    assert SECRET not in caplog.text
    assert "Traceback" not in caplog.text
    assert await mirror.metric("mirror_internal_errors_total") == 0


@pytest.mark.parametrize("manner", NO_BODIES)
async def test_a_body_that_cannot_be_read_is_400_and_no_fault(
    mirror: InnerMirror, manner: str
) -> None:
    begins = b"PUT /api/v1/log-level HTTP/1.1\r\n" + JSON
    assert b" 400 " in (await answer_to(mirror, begins + NO_BODIES[manner])).partition(b"\r")[0]
    assert await mirror.metric("mirror_internal_errors_total") == 0


async def test_a_body_is_read_in_as_many_pieces_as_it_comes_in(mirror: InnerMirror) -> None:
    begins = b"PUT /api/v1/log-level HTTP/1.1\r\n" + JSON + b"Content-Length: 16\r\n\r\n"
    answer = await answer_to(mirror, begins, b'{"level"', b":", b'"info"}')
    assert answer.startswith(b"HTTP/1.1 200")


async def test_who_sends_no_body_does_not_wait_for_ever(
    mirror: InnerMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.control.api.routes._PATIENCE", 0.1)
    begins = b"PUT /api/v1/log-level HTTP/1.1\r\n" + JSON + b"Content-Length: 16\r\n\r\n"
    assert (await answer_to(mirror, begins + b"{")).startswith(b"HTTP/1.1 408")


async def test_who_connects_to_the_operators_port_and_asks_nothing_is_let_go(
    mirror: InnerMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.control.port._FIRST_REQUEST", 0.2)
    for begun in (b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n"):
        async with connection(mirror) as (reader, writer):
            writer.write(begun)
            async with asyncio.timeout(10):
                assert await reader.read() == b""


async def test_one_address_does_not_take_the_operators_port_from_the_others(
    mirror: InnerMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.control.port._SHARE", 3)
    async with AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(connection(mirror, "127.0.0.2"))
        async with connection(mirror, "127.0.0.2") as (reader, _):
            with suppress(ConnectionResetError):
                async with asyncio.timeout(10):
                    assert await reader.read() == b""
        assert (await get(f"{mirror.admin_url}/readyz")).status == 200


async def test_so_many_may_watch_and_who_comes_after_them_is_told_so(
    mirror: InnerMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.control.watching._MOST", 2)
    ask = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"
    async with AsyncExitStack() as stack:
        for target in (b"/api/v1/events", b"/page/now/events"):
            reader, writer = await stack.enter_async_context(connection(mirror))
            writer.write(ask % target)
            async with asyncio.timeout(10):
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        for target in (b"/api/v1/events", b"/page/store/events"):
            answer = await answer_to(mirror, ask % target)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"Retry-After" in answer

    async def is_let_in() -> bool:
        async with connection(mirror) as (reader, writer):
            writer.write(ask % b"/api/v1/events")
            return (await reader.readline()).startswith(b"HTTP/1.1 200")

    await until(is_let_in)  # they have left


async def test_who_watches_and_reads_nothing_is_cut_off(
    mirror: InnerMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.control.watching._MOST", 1)
    monkeypatch.setattr("mirror.control.watching._EVERY", 0)
    monkeypatch.setattr("mirror.control.watching._PATIENCE", 0.2)
    host, _, port = mirror.admin_host.partition(":")
    ask = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"

    async def is_let_in() -> bool:
        async with connection(mirror) as (reader, writer):
            writer.write(ask % b"/api/v1/events")
            return (await reader.readline()).startswith(b"HTTP/1.1 200")

    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.setblocking(False)
        await asyncio.get_running_loop().sock_connect(silent, (host, int(port)))
        await asyncio.get_running_loop().sock_sendall(silent, ask % b"/page/setup/events")
        await until(is_let_in)


async def test_who_watches_with_a_token_that_was_replaced_is_told_no_more(
    start_mirror: StartMirror, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(SECRET)
    mirror = await start_mirror(admin={"token_file": str(token)})
    for target in ("/api/v1/events", "/page/now/events"):
        token.write_text(SECRET)
        async with connection(mirror) as (reader, writer):
            writer.write(
                f"GET {target} HTTP/1.1\r\nHost: x\r\n"
                f"Authorization: Bearer {SECRET}\r\n\r\n".encode()
            )
            async with asyncio.timeout(20):
                await reader.readuntil(b"\n\n")
                token.write_text("another")
                assert (await reader.readuntil(b"0\r\n\r\n")).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("target", ["/api/v1/status", "/api/v1/events", "/page/now/events", "/"])
async def test_a_page_of_another_site_loads_nothing_and_a_link_leads_here(
    mirror: InnerMirror, site: str, target: str
) -> None:
    fetched = f"GET {target} HTTP/1.1\r\nHost: x\r\nSec-Fetch-Site: {site}\r\n"
    answer = await answer_to(mirror, f"{fetched}Sec-Fetch-Mode: no-cors\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 403")
    for frame in ("iframe", "frame", "object", "embed"):
        framed = f"{fetched}Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: {frame}\r\n\r\n"
        answer = await answer_to(mirror, framed.encode())
        assert answer.startswith(b"HTTP/1.1 403")
    linked = f"GET /page/now HTTP/1.1\r\nHost: x\r\nSec-Fetch-Site: {site}\r\n"
    linked += "Sec-Fetch-Mode: navigate\r\n"
    for field in ("", "Sec-Fetch-Dest: document\r\n"):
        answer = await answer_to(mirror, f"{linked}{field}\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 200")


async def test_what_a_registry_is_called_and_says_is_text_on_the_page(
    start_mirror: StartMirror,
) -> None:
    mirror = await start_mirror()
    for name in ("<script>alert(1)</script>", "%3Cimg%20src=x%20onerror=alert(1)%3E"):
        await mirror.client.get(f"/v2/{name}/manifests/1?ns={name}")
    shown = (await get(f"{mirror.admin_url}/page/endpoints?lang=<script>")).body
    assert shown.count(b"<script") == shown.count(b'<script src="/static/')
    assert b"onerror" not in shown
    told = await get(f"{mirror.admin_url}/api/v1/<script>")
    assert told.headers["X-Content-Type-Options"] == "nosniff"
    assert json.loads(told.body)["status"] == 404


async def test_whoever_guesses_tokens_is_told_to_wait(
    start_mirror: StartMirror, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(SECRET, encoding="utf-8")
    mirror = await start_mirror(admin={"token_file": str(token)})
    url = f"{mirror.admin_url}/api/v1/status"
    for number in range(20):
        assert (await get(url, headers={"Authorization": f"Bearer {number}"})).status == 401
    answer = await get(url, headers={"Authorization": "Bearer 20"})
    assert answer.status == 429
    assert 0 < int(answer.headers["Retry-After"]) <= 6
    assert SECRET.encode() not in answer.body

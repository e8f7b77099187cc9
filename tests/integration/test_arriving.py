"""Bodies as they arrive, from a server that sends what the test says, byte for byte."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from mirror.aio.trust import trust
from mirror.oci.digest import Chunk
from mirror.sources.registry.receiver import arriving
from mirror.sources.registry.sessions import open_sessions
from tests.support.images import random_bytes
from tests.support.tls import Authority

CONTENT = random_bytes(9_000_000, seed=1)  # more than all buffers together
HEAD = f"HTTP/1.1 200 OK\r\nContent-Length: {len(CONTENT)}\r\n\r\n".encode()

Send = Callable[[asyncio.StreamWriter], Awaitable[None]]
Get = Callable[[], Awaitable[aiohttp.ClientResponse]]


class Line:
    """A server that answers every request by `send`, and a client of it; plain or TLS."""

    def __init__(self, tls: Authority | None) -> None:
        self._tls = tls
        self.connections = self.requests = 0

    @asynccontextmanager
    async def get(self, send: Send) -> AsyncIterator[Get]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            try:
                while await reader.readuntil(b"\r\n\r\n"):
                    self.requests += 1
                    await send(writer)
                    await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        context = self._tls.server_context() if self._tls else None
        trusted = trust(self._tls.ca_file) if self._tls else True
        scheme = "https" if self._tls else "http"
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
            url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            async with open_sessions() as sessions:
                yield lambda: sessions.any.get(url, ssl=trusted)


@pytest.fixture(params=["plain", "TLS"])
def line(request: pytest.FixtureRequest, tmp_path: Path) -> Line:
    return Line(Authority(tmp_path / "ca") if request.param == "TLS" else None)


def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[Chunk]:
    return arriving(response, patience=10)


async def _collect(chunks: AsyncIterator[Chunk], got: bytearray) -> None:
    async for chunk in chunks:
        got += chunk


async def test_who_reads_an_earlier_body_late_does_no_harm_to_the_one_that_arrives(
    line: Line,
) -> None:
    """A connection serves again once a body has come, read or not; to read it resumes the line."""
    early = b"x" * 200

    async def send(writer: asyncio.StreamWriter) -> None:
        if line.requests == 1:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(early) + early)
        else:
            await _send_all(writer)

    async with line.get(send) as get:
        first = await get()
        second = await get()
        assert line.connections == 1
        chunks = _chunks(second)
        got = bytearray(await anext(chunks))
        for _ in early:
            assert await first.content.read(1) == b"x"
            await asyncio.sleep(0.002)
        await _collect(chunks, got)
    assert got == CONTENT


async def _send_all(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + CONTENT)


async def test_a_body_arrives_whole_and_its_connection_serves_again(line: Line) -> None:
    async with line.get(_send_all) as get:
        for _ in range(3):
            response = await get()
            assert b"".join([bytes(chunk) async for chunk in _chunks(response)]) == CONTENT
            assert response.content.at_eof()
            response.release()
    assert line.connections == 1


async def test_a_chunk_stays_as_it_is_until_the_next_but_one_is_asked_for(line: Line) -> None:
    async with line.get(_send_all) as get:
        response = await get()
        position = 0
        before: Chunk = b""
        async for chunk in _chunks(response):
            await asyncio.sleep(0)  # the connection goes on meanwhile
            assert before == CONTENT[position - len(before) : position]
            assert chunk == CONTENT[position : position + len(chunk)]
            position += len(chunk)
            before = chunk
        assert position == len(CONTENT)


@pytest.mark.parametrize("length", [0, 1, 300_000, len(CONTENT) - 1])
async def test_what_has_arrived_before_a_break_is_handed_out_first(line: Line, length: int) -> None:
    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + CONTENT[:length])
        writer.close()

    async with line.get(send) as get:
        response = await get()
        got = bytearray()
        with pytest.raises(aiohttp.ClientError):
            await _collect(_chunks(response), got)
        response.close()
    assert got == CONTENT[:length]


async def test_what_comes_after_a_body_is_no_part_of_it(line: Line) -> None:
    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + CONTENT + b"HTTP/1.1 200 OK\r\n")

    async with line.get(send) as get:
        for _ in range(2):
            response = await get()
            assert b"".join([bytes(chunk) async for chunk in _chunks(response)]) == CONTENT


async def test_silence_is_waited_for_no_longer_than_was_said(line: Line) -> None:
    leave = asyncio.Event()

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + CONTENT[:1000])
        await writer.drain()
        await leave.wait()

    async with line.get(send) as get:
        response = await get()
        got = bytearray()
        with pytest.raises(TimeoutError):
            await _collect(arriving(response, patience=0.05), got)
        response.close()
        leave.set()
    assert got == CONTENT[:1000]


async def test_a_body_that_nobody_reads_to_its_end_takes_its_connection_along(line: Line) -> None:
    async with line.get(_send_all) as get:
        response = await get()
        async for _ in _chunks(response):
            break
        response.close()
        response = await get()
        assert b"".join([bytes(chunk) async for chunk in _chunks(response)]) == CONTENT
    assert line.connections == 2

import asyncio

from tests.support.client import get
from tests.support.evil import Evil, drips, drops, endless, hangs, head, redirects, says, tells


async def _raw(evil: Evil, *requests: bytes) -> bytes:
    """Everything that is answered on one connection until it has been silent for a moment."""
    reader, writer = await asyncio.open_connection("127.0.0.1", evil.port)
    writer.write(b"".join(requests))
    received = b""
    try:
        async with asyncio.timeout(1):
            while more := await reader.read(1000):
                received += more
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return received


async def test_every_byte_of_an_answer_is_as_it_was_written() -> None:
    async with Evil() as evil:
        evil.on("blobs/", says(b"HTTP/1.1 200 Fine", b"X :\x01y", body=b"content"))
        got = await _raw(evil, b"GET /v2/a/blobs/b HTTP/1.1\r\n\r\n")
        assert got == b"HTTP/1.1 200 Fine\r\nX :\x01y\r\n\r\ncontent"
        got = await _raw(evil, b"HEAD /v2/a/blobs/b HTTP/1.1\r\n\r\n")
        assert got == b"HTTP/1.1 200 Fine\r\nX :\x01y\r\n\r\n"


async def test_it_remembers_what_it_was_asked_and_keeps_the_connection() -> None:
    async with Evil() as evil:
        evil.on("GET /one", tells(b"1"))
        evil.on("GET /two", tells(b"2"))
        requests = b"GET /one HTTP/1.1\r\nA: b\r\n\r\n", b"GET /two HTTP/1.1\r\n\r\n"
        assert (await _raw(evil, *requests)).count(b"200 OK") == 2
        assert evil.asked == ["GET /one", "GET /two"]
        assert "A: b" in evil.heads[0]
        assert evil.connections == 1
        assert (await get(f"{evil.url}/three")).status == 404


async def test_the_newest_behaviour_counts() -> None:
    async with Evil() as evil:
        evil.on("/", tells(b"old"))
        evil.on("/", tells(b"new"))
        assert (await get(f"{evil.url}/")).body == b"new"


async def test_bodies_drip_and_never_end() -> None:
    async with Evil() as evil:
        evil.on("drip", drips(b"abc", every=0.01, size=10))
        assert (await _raw(evil, b"GET /drip HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\nabc")
        evil.on("endless", endless(b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.01))
        assert (await _raw(evil, b"GET /endless HTTP/1.1\r\n\r\n")).count(b"100") > 3


async def test_it_redirects_hangs_and_drops() -> None:
    async with Evil() as evil:
        evil.on("away", redirects("http://[::1]:0/\x7f"))
        got = await _raw(evil, b"GET /away HTTP/1.1\r\n\r\n")
        assert b"Location: http://[::1]:0/\x7f\r\n" in got
        evil.on("hang", hangs)
        assert await _raw(evil, b"GET /hang HTTP/1.1\r\n\r\n") == b""
        evil.on("drop", drops)
        assert await _raw(evil, b"GET /drop HTTP/1.1\r\n\r\n") == b""


def test_a_head_is_a_status_line_and_fields() -> None:
    assert head(b"HTTP/1.1 200 OK", b"A: b") == b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"

"""Bodies of pushes that are not what they say: one request is one request, and nothing is kept of
what is none."""

import asyncio
import re

import pytest

from tests.conftest import StartMirror
from tests.support.mirror import InnerMirror
from tests.support.pusher import Pusher
from tests.support.pushing import NAME, start_pushing
from tests.support.upstream import ScriptedRegistry

BODY = b"3\r\nabc\r\n0\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
NEXT = b"GET /v2/smuggled HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

REFUSED = {
    "a length and chunks": (b"Content-Length: 3\r\n" + CHUNKED, b"0\r\n\r\n"),
    "chunks and a length": (CHUNKED + b"Content-Length: 3\r\n", BODY),
    "two lengths": (b"Content-Length: 3\r\nContent-Length: 4\r\n", b"abcd"),
    "the same length twice": (b"Content-Length: 3\r\nContent-Length: 3\r\n", b"abc"),
    "a list of lengths": (b"Content-Length: 3, 3\r\n", b"abc"),
    "a length with a sign": (b"Content-Length: +3\r\n", b"abc"),
    "a length below nothing": (b"Content-Length: -3\r\n", b"abc"),
    "a length beyond sense": (b"Content-Length: " + b"9" * 40 + b"\r\n", b"abc"),
    "another coding": (b"Transfer-Encoding: xchunked\r\n", BODY),
    "another coding at last": (b"Transfer-Encoding: chunked, gzip\r\n", BODY),
    "chunked twice": (CHUNKED + CHUNKED, BODY),
    "a space before the colon": (b"Transfer-Encoding : chunked\r\n", BODY),
    "a folded line": (b"Transfer-Encoding:\r\n chunked\r\n", BODY),
    "a bare LF after a size": (CHUNKED, b"3\nabc\r\n0\r\n\r\n"),
    "a bare LF after a chunk": (CHUNKED, b"3\r\nabc\n0\r\n\r\n"),
    "a bare LF in an extension": (CHUNKED, b"3;a\nabc\r\n0\r\n\r\n"),
    "a chunk that is longer than it says": (CHUNKED, b"3\r\nabcXX0\r\n\r\n"),
    "a size that is no number": (CHUNKED, b"0x3\r\nabc\r\n0\r\n\r\n"),
    "a size below nothing": (CHUNKED, b"-3\r\nabc\r\n0\r\n\r\n"),
    "a size beyond sense": (CHUNKED, b"f" * 20 + b"\r\nabc\r\n0\r\n\r\n"),
    "a length in the trailers": (CHUNKED, BODY[:-2] + b"Content-Length: 5\r\n\r\n"),
}
TAKEN = {
    "a length": (b"Content-Length: 3\r\n", b"abc"),
    "chunks": (CHUNKED, BODY),
    "chunks after a tab": (b"Transfer-Encoding:\tChunked\r\n", BODY),
    "extensions": (CHUNKED, b'3;a=b;c="d"\r\nabc\r\n0;x\r\n\r\n'),
}


pytestmark = pytest.mark.usefixtures("takes_pushes")


@pytest.fixture
async def mirror(upstream: ScriptedRegistry, start_mirror: StartMirror) -> InnerMirror:
    return await start_pushing(start_mirror, upstream)


async def statuses(mirror: InnerMirror, target: str, fields: bytes, rest: bytes) -> list[int]:
    """Of all answers to a PATCH of an upload, up to the end of the connection."""
    host, _, port = mirror.host.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"PATCH " + target.encode() + b" HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n" + rest
    )
    try:
        answer = await reader.read()
    finally:
        writer.close()
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


@pytest.mark.parametrize(("fields", "body"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_is_no_body_is_refused_with_all_that_follows(
    mirror: InnerMirror, fields: bytes, body: bytes
) -> None:
    upload = await Pusher(mirror.client, NAME).begin()
    assert await statuses(mirror, upload.location, fields, body + NEXT) == [400]
    assert await mirror.metric("mirror_push_received_bytes_total") in {0, 3}  # what was a chunk


@pytest.mark.parametrize(("fields", "body"), TAKEN.values(), ids=TAKEN.keys())
async def test_what_is_a_body_is_taken_and_what_follows_is_another_request(
    mirror: InnerMirror, fields: bytes, body: bytes
) -> None:
    upload = await Pusher(mirror.client, NAME).begin()
    assert await statuses(mirror, upload.location, fields, body + NEXT) == [202, 404]
    assert (await upload.status()).headers["Range"] == "0-2"


async def test_a_body_of_chunks_of_a_byte_is_taken_and_holds_nobody_up(mirror: InnerMirror) -> None:
    """Much of a body is read at once, and nothing is as tedious to parse as this."""
    upload = await Pusher(mirror.client, NAME).begin()
    count = 150_000
    body = b"1\r\nx\r\n" * count + b"0\r\n\r\n"
    assert await statuses(mirror, upload.location, CHUNKED, body + NEXT) == [202, 404]
    assert (await upload.status()).headers["Range"] == f"0-{count - 1}"


async def test_bytes_of_a_body_are_no_requests_that_wait_however_many_come_at_once(
    mirror: InnerMirror,
) -> None:
    """Once a client has pushed, the system hands on more of what it brings than a head may have."""
    host, _, port = mirror.host.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for _ in range(10):
        upload = await Pusher(mirror.client, NAME).begin()
        writer.write(f"PATCH {upload.location} HTTP/1.1\r\nHost: x\r\n".encode())
        writer.write(b"Content-Length: 2000000\r\n\r\n")
        writer.write(bytes(2_000_000))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 202 ")
    writer.close()


async def test_a_coding_that_would_have_to_be_undone_is_not_known(mirror: InnerMirror) -> None:
    upload = await Pusher(mirror.client, NAME).begin()
    fields = b"Connection: close\r\nTransfer-Encoding: gzip, chunked\r\n"
    assert await statuses(mirror, upload.location, fields, BODY) == [501]
    assert (await upload.status()).headers["Range"] == "0-0"


@pytest.mark.parametrize(
    ("span", "status"),
    [
        ("0-999999999999999999", 400),
        ("0-18446744073709551615", 400),
        ("18446744073709551616-18446744073709551619", 400),
        ("-1-2", 400),
        ("a-b", 400),
        ("0 - 2", 400),
        ("0-2,5-6", 400),
        ("0-1", 400),
        ("5-4", 416),
        ("3-5", 416),
        ("0-2", 202),
        ("bytes 0-2/3", 202),
    ],
)
async def test_a_part_that_says_what_it_is_not_is_refused(
    mirror: InnerMirror, span: str, status: int
) -> None:
    upload = await Pusher(mirror.client, NAME).begin()
    assert (await upload.patch(b"abc", span=span)).status == status
    assert (await upload.status()).status == 204  # and it can be gone on with


async def test_who_begins_a_thousand_uploads_and_drips_keeps_nobody_from_pulling(
    mirror: InnerMirror,
) -> None:
    pusher = Pusher(mirror.client, NAME)
    answers = [await pusher.post() for _ in range(200)]
    assert {answer.status for answer in answers} == {202, 429}
    begun = [it.headers["Location"] for it in answers if it.status == 202]
    assert len(begun) <= 64
    host, _, port = mirror.host.partition(":")
    writers = []
    for location in begun:
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"PATCH {location} HTTP/1.1\r\nHost: x\r\n".encode() + CHUNKED + b"\r\n")
        writer.write(b"1\r\nx\r\n")
        writers.append(writer)
    assert (await mirror.client.get("/v2/")).status == 200
    for writer in writers:
        writer.close()

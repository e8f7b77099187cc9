"""Who brings the rest of a blob once more, from its beginning, has it pushed once.

PUT may be repeated (RFC 9110, 9.2.2), and is: by containerd and BuildKit, when the registry wants
another token at its end; by proxies and clients whose connection ends without an answer.
"""

import asyncio

import pytest

from tests.conftest import StartMirror
from tests.support.images import digest_of, random_bytes
from tests.support.mirror import InnerMirror
from tests.support.pusher import Pusher, Upload, in_pieces
from tests.support.pushing import NAME, bytes_taken, held, start_pushing
from tests.support.upstream import ScriptedRegistry

SIZES = {"little": 10_000, "a-piece": 200_000, "much": 6 << 20}
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="http://x.example/token"'}

pytestmark = pytest.mark.usefixtures("takes_pushes")


@pytest.fixture(params=["little", "a-piece", "much"])
def content(request: pytest.FixtureRequest) -> bytes:
    size = SIZES[request.param]
    return random_bytes(size, seed=size)


@pytest.fixture
async def mirror(upstream: ScriptedRegistry, start_mirror: StartMirror) -> InnerMirror:
    return await start_pushing(start_mirror, upstream)


@pytest.fixture(params=[False, True], ids=["chunks", "length"])
def pusher(mirror: InnerMirror, request: pytest.FixtureRequest) -> Pusher:
    return Pusher(mirror.client, NAME, {"Authorization": "Bearer one"}, tells_length=request.param)


async def end(upload: Upload, content: bytes, digest: str) -> int:
    """Bring all of it with the request that ends it, in its client's way; the status."""
    body = content if upload.pusher.tells_length else in_pieces(content)
    return (await upload.put(body, digest)).status


async def test_a_token_that_has_ended_by_the_end_costs_upstream_no_byte_twice(
    upstream: ScriptedRegistry, pusher: Pusher, content: bytes
) -> None:
    upload, digest = await pusher.begin(), digest_of(content)
    upstream.fault(kind="upload", method="PUT", status=401, times=1, headers=CHALLENGE)
    assert await end(upload, content, digest) == 401
    pusher.headers["Authorization"] = "Bearer two"
    assert await end(upload, content, digest) == 201
    assert held(upstream, digest) == content
    assert bytes_taken(upstream) == len(content)


async def test_what_a_connection_has_lost_is_brought_from_its_beginning(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher, content: bytes
) -> None:
    upload, digest = await pusher.begin(), digest_of(content)
    await leave_after(mirror, upload, content[: len(content) // 2], digest, of=len(content))
    assert await end(upload, content, digest) == 201
    assert held(upstream, digest) == content
    assert bytes_taken(upstream) == len(content)


async def test_the_rest_that_is_brought_once_more_follows_what_came_before_it(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher, content: bytes
) -> None:
    upload, digest, half = await pusher.begin(), digest_of(content), len(content) // 2
    assert (await upload.bring(content[:half])).status == 202
    await leave_after(mirror, upload, content[half : half + 1000], digest, of=half)
    assert await end(upload, content[half:], digest) == 201
    assert held(upstream, digest) == content
    assert bytes_taken(upstream) == len(content)


async def test_who_has_asked_how_far_it_is_goes_on_from_there(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher, content: bytes
) -> None:
    upload, digest = await pusher.begin(), digest_of(content)
    await leave_after(mirror, upload, content[: len(content) // 2], digest, of=len(content))
    at = int((await upload.status()).headers["Range"].removeprefix("0-")) + 1
    assert at == len(content) // 2
    assert await end(upload, content[at:], digest) == 201
    assert held(upstream, digest) == content


async def test_who_lost_the_answer_while_the_registry_ends_it_is_told_that_it_is_there(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher, content: bytes
) -> None:
    upload, digest = await pusher.begin(), digest_of(content)
    slow = upstream.fault(kind="upload", method="PUT", delay=0.5, times=1)
    body = content if pusher.tells_length else b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    await leave_after(mirror, upload, content, digest, of=len(content), body=body)
    assert slow.struck
    assert await end(upload, content, digest) == 201
    assert held(upstream, digest) == content
    assert bytes_taken(upstream) == len(content)


async def test_other_bytes_that_are_brought_once_more_are_not_taken_for_the_first(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher, content: bytes
) -> None:
    upload, digest, other = await pusher.begin(), digest_of(content), content[::-1]
    await leave_after(mirror, upload, other[: len(other) // 2], digest, of=len(content))
    assert await end(upload, content, digest) == 201
    assert held(upstream, digest) == content


async def leave_after(
    mirror: InnerMirror,
    upload: Upload,
    content: bytes,
    digest: str,
    *,
    of: int,
    body: bytes | None = None,
) -> None:
    """Bring so much with the request that is to end it, and break the connection in its middle."""
    before = await mirror.metric("mirror_push_received_bytes_total")
    connections = await mirror.metric("mirror_connections")
    _, writer = await asyncio.open_connection(*mirror.host.split(":"))
    told = f"Content-Length: {of}" if upload.pusher.tells_length else "Transfer-Encoding: chunked"
    mark = "&" if "?" in upload.location else "?"
    head = (
        f"PUT {upload.location}{mark}digest={digest} HTTP/1.1\r\nHost: {mirror.host}\r\n{told}\r\n"
    )
    head += f"Authorization: {upload.pusher.headers['Authorization']}\r\n\r\n"
    if body is None:
        body = content if upload.pusher.tells_length else b"%x\r\n%b\r\n" % (len(content), content)
    writer.write(head.encode() + body)
    await mirror.until_metric("mirror_push_received_bytes_total", before + len(content))
    writer.transport.abort()
    await mirror.until_metric("mirror_connections", connections)

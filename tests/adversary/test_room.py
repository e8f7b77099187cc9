"""No manifest, header or body of one upstream's empties the cache of everybody."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import StartMirror
from tests.support.evil import Ask, Behaviour, Evil, endless, head, says, tells
from tests.support.images import OCI_MANIFEST, digest_of, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.upstream import ScriptedRegistry

MIB = 2**20
MAX = 8 * MIB
BLOBS = 15
SIZE = MIB // 2
BODY = b"Nobody has such a blob."
DIGEST = digest_of(BODY)
HUGE = MAX - 1000

CHUNKED = head(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked")
CHUNK = b"10000\r\n" + b"x" * 2**16 + b"\r\n"


def _manifest(size: int) -> bytes:
    layer = {"mediaType": "application/octet-stream", "digest": DIGEST, "size": size}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": layer, "layers": [layer]}
    return json.dumps(document).encode()


def _and_hangs(*pieces: bytes) -> Behaviour:
    async def behave(ask: Ask) -> None:
        ask.ends = True
        await ask.send(*pieces)
        with suppress(ConnectionError):
            await ask.writer.wait_closed()

    return behave


async def _full(
    upstream: ScriptedRegistry, start_mirror: StartMirror, evil: Evil
) -> tuple[InnerMirror, list[str]]:
    """A mirror that is nearly full of an honest upstream's blobs."""
    digests = [
        upstream.add_blob(random_layer(SIZE, seed=seed).blob, "library/app")
        for seed in range(BLOBS)
    ]
    mirror = await start_mirror(
        {"docker.io": upstream_at(upstream.url), "evil.example": upstream_at(evil.url)},
        store={"max_size": f"{MAX} B"},
        fill={"attempts": 1, "stall_timeout": "500ms"},
    )
    for digest in digests:
        assert (await mirror.client.blob("app", digest)).status == 200
        await mirror.until_metric("mirror_fills_active", 0)
    assert await mirror.metric("mirror_store_blobs") == BLOBS
    return mirror, digests


@pytest.mark.parametrize(
    ("behaviour", "stay"),
    [
        (says(b"HTTP/1.1 404 Not Found", b"Content-Length: 0"), BLOBS),
        (says(b"HTTP/1.1 200 OK", b"Content-Length: %d" % HUGE), BLOBS),
        (says(b"HTTP/1.1 206 OK", b"Content-Range: bytes 0-9/%d" % HUGE), BLOBS),
        (_and_hangs(head(b"HTTP/1.1 200 OK", b"Content-Length: %d" % (MAX // 3)), b"x"), BLOBS - 3),
        (tells(bytes(MAX // 2)), BLOBS - 8),
        (tells(bytes(HUGE)), BLOBS),
        (endless(CHUNK, CHUNKED), BLOBS - 5),
    ],
    ids=["missing", "empty", "range", "hangs", "half", "all", "endless"],
)
async def test_one_get_costs_what_is_cached_a_bounded_share(
    upstream: ScriptedRegistry, start_mirror: StartMirror, behaviour: Behaviour, stay: int
) -> None:
    async with Evil() as evil:
        kind = b"Content-Type: " + OCI_MANIFEST.encode()
        evil.on("manifests/", tells(_manifest(HUGE), kind))
        evil.on("blobs/", behaviour)
        mirror, digests = await _full(upstream, start_mirror, evil)
        assert (await mirror.client.manifest("evil.example/app", "1")).status == 200
        for _ in range(2):
            with suppress(aiohttp.ClientError, EOFError, TimeoutError):
                async with (
                    asyncio.timeout(2),
                    mirror.client.open(f"/v2/evil.example/app/blobs/{DIGEST}") as response,
                ):
                    for _ in range(10 * MAX // MIB):
                        await response.content.readexactly(MIB)
        upstream.forget()
        answers = [await mirror.client.blob("app", digest) for digest in reversed(digests)]
        hits = [answer.headers["Cache-Status"] == "mirror; hit" for answer in answers]
        assert hits[:stay] == [True] * stay


def _left_of(mirror: InnerMirror) -> int:
    files = [path for path in Path(mirror.store_root).rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files if "sqlite" not in path.name)


async def test_what_one_upstream_drips_keeps_no_neighbours_blob_out_of_the_cache(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    async with Evil() as evil:
        evil.on("blobs/", _and_hangs(head(b"HTTP/1.1 200 OK", b"Content-Length: %d" % HUGE), b"x"))
        mirror = await start_mirror(
            {"docker.io": upstream_at(upstream.url), "evil.example": upstream_at(evil.url)},
            store={"max_size": f"{MAX} B"},
        )
        large = upstream.add_blob(random_layer(MAX - 2 * MIB, seed=1).blob, "library/app")
        async with mirror.client.open(f"/v2/evil.example/app/blobs/{DIGEST}") as response:
            assert response.status == 200
            answer = await mirror.client.blob("app", large)
            assert answer.headers["Cache-Status"] == "mirror; fwd=miss; stored"
            await mirror.until_metric("mirror_store_blobs", 1)
        assert _left_of(mirror) <= MAX


async def test_a_blob_larger_than_the_share_is_kept_once_it_has_been_proved(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    async with Evil() as evil:
        mirror, _ = await _full(upstream, start_mirror, evil)
    large = upstream.add_blob(random_layer(MAX - 2 * MIB, seed=99).blob, "library/app")
    for status in ("mirror; fwd=miss", "mirror; fwd=miss; stored", "mirror; hit"):
        answer = await mirror.client.blob("app", large)
        assert (answer.digest, answer.headers["Cache-Status"]) == (large, status)
        await mirror.until_metric("mirror_fills_active", 0)

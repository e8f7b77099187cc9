"""Upstreams that send a little now and then: they hold no download, and nobody who waits for it."""

import asyncio

import aiohttp
import pytest

from tests.conftest import StartMirror
from tests.support.evil import Ask, Behaviour, Evil, drips, head
from tests.support.images import digest_of, random_bytes
from tests.support.mirror import upstream_at
from tests.support.upstream import ScriptedRegistry

BLOB = random_bytes(100_000, seed=3)
SOON = {"stall_timeout": "400ms", "attempts": 2, "connect_timeout": "10s"}


def _chunked(every: float) -> Behaviour:
    async def behave(ask: Ask) -> None:
        ask.ends = True
        await ask.send(head(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked"))
        for byte in BLOB:
            await ask.send(b"1\r\n%c\r\n" % byte)
            await asyncio.sleep(every)

    return behave


BEHAVIOURS = {
    "by its length": drips(BLOB, every=0.05),
    "in chunks": _chunked(0.05),
    "after a good beginning": drips(BLOB[:200], every=0.05, size=5_000_000),
}


@pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=BEHAVIOURS)
async def test_a_download_that_only_drips_fails_in_the_end_and_says_why(
    start_mirror: StartMirror, behaviour: Behaviour, caplog: pytest.LogCaptureFixture
) -> None:
    async with Evil() as evil:
        evil.on("blobs/", behaviour)
        mirror = await start_mirror({"evil.example": upstream_at(evil.url)}, fill=SOON)
        with pytest.raises(aiohttp.ClientError):
            await mirror.client.blob("app", digest_of(BLOB))
        await mirror.until_metric("mirror_fills_active", 0)
        assert await mirror.metric("mirror_fills_total", outcome="unavailable") == 1
        assert (
            await mirror.metric("mirror_upstream_slow_bodies_total", upstream="evil.example") >= 2
        )
    assert "sends less than fill.min_rate" in caplog.text


async def test_an_endpoint_that_drips_is_left_for_another_one(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    digest = upstream.add_blob(BLOB, "org/app")
    async with Evil() as evil:
        evil.on("blobs/", drips(BLOB, every=0.05))
        mirror = await start_mirror(
            {"evil.example": upstream_at(evil.url, upstream.url)}, fill=SOON | {"attempts": 8}
        )
        assert (await mirror.client.blob("org/app", digest)).body == BLOB
        [asked] = upstream.asked(reference=digest)
        assert 0 < asked.sent < len(BLOB)  # what has dripped is not thrown away


async def test_a_blob_that_cannot_be_kept_and_drips_is_broken_off(
    start_mirror: StartMirror,
) -> None:
    async with Evil() as evil:
        evil.on("blobs/", drips(BLOB, every=0.05))
        mirror = await start_mirror(
            {"evil.example": upstream_at(evil.url)}, fill=SOON, store={"max_size": "10 KiB"}
        )
        with pytest.raises(aiohttp.ClientError):
            await mirror.client.blob("app", digest_of(BLOB))


async def test_whoever_may_send_as_little_as_it_likes_is_left_to(start_mirror: StartMirror) -> None:
    blob = BLOB[:40]
    async with Evil() as evil:
        evil.on("blobs/", drips(blob, every=0.05))
        mirror = await start_mirror(
            {"evil.example": upstream_at(evil.url)}, fill=SOON | {"min_rate": "0 B"}
        )
        assert (await mirror.client.blob("app", digest_of(blob))).body == blob

"""Clients that read slowly, or not at all, while others want the same blob."""

import asyncio
import hashlib
from contextlib import AsyncExitStack
from functools import partial

import aiohttp

from tests.conftest import StartMirror
from tests.support.images import random_bytes
from tests.support.mirror import InnerMirror
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

SIZE = 24 * 2**20  # more than the kernel and aiohttp take in for one connection
CONTENT = random_bytes(SIZE, seed=8)


async def _committed(mirror: InnerMirror) -> bool:
    return await mirror.metric("mirror_fills_total", outcome="committed") == 1


async def _readers(mirror: InnerMirror, count: int) -> bool:
    return await mirror.metric("mirror_fill_readers") == count


async def _digest_of_rest(response: aiohttp.ClientResponse) -> str:
    hasher = hashlib.sha256()
    async for chunk in response.content.iter_any():
        hasher.update(chunk)
    return f"sha256:{hasher.hexdigest()}"


async def test_a_client_that_does_not_read_delays_neither_the_fill_nor_others(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror()
    digest = upstream.add_blob(CONTENT, "library/app")
    async with mirror.client.open(f"/v2/app/blobs/{digest}") as slow:
        head = await slow.content.readexactly(1000)
        assert (await mirror.client.blob("app", digest)).digest == digest
        await until(partial(_committed, mirror), within=20)
        assert await mirror.metric("mirror_fill_readers") == 1  # it is still at it
        rest = await slow.read()
    assert head + rest == CONTENT
    assert upstream.bytes_sent(digest) == SIZE


async def test_what_a_slow_client_still_reads_is_not_evicted(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror(store={"max_size": f"{SIZE * 3 // 2} B"})
    digest = upstream.add_blob(CONTENT, "library/app")
    other = upstream.add_blob(random_bytes(SIZE, seed=9), "library/app")
    async with mirror.client.open(f"/v2/app/blobs/{digest}") as slow:
        head = await slow.content.readexactly(1000)
        await until(partial(_committed, mirror), within=20)
        answer = await mirror.client.blob("app", other)
        assert answer.digest == other
        assert answer.headers["Cache-Status"] == "mirror; fwd=miss"  # there is no room for it
        assert await mirror.metric("mirror_fill_readers") == 1
        assert head + await slow.read() == CONTENT
    assert await mirror.metric("mirror_evicted_blobs_total") == 0
    assert await mirror.metric("mirror_store_bytes") == SIZE


async def test_many_slow_clients_all_get_everything_in_the_end(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror()
    digest = upstream.add_blob(CONTENT, "library/app")
    gate = upstream.hold(digest, after=SIZE // 4)
    async with AsyncExitStack() as stack:
        slow = []
        for _ in range(10):
            opening = mirror.client.open(f"/v2/app/blobs/{digest}")
            slow.append(await stack.enter_async_context(opening))
        gate.open()
        await until(partial(_committed, mirror), within=20)

        assert set(await asyncio.gather(*map(_digest_of_rest, slow))) == {digest}
    assert upstream.bytes_sent(digest) == SIZE


async def test_a_slow_client_that_leaves_is_forgotten(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror()
    digest = upstream.add_blob(CONTENT, "library/app")
    async with mirror.client.open(f"/v2/app/blobs/{digest}") as slow:
        await slow.content.readexactly(1000)
        await until(partial(_committed, mirror), within=20)
        slow.close()
    await until(partial(_readers, mirror, 0), within=10)
    answer = await mirror.client.blob("app", digest)
    assert answer.headers["Cache-Status"] == "mirror; hit"

"""Clients that read slowly, or not at all, while others want the same blob."""

import asyncio
import hashlib
import ssl
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from mirror.aio.trust import trust
from tests.conftest import StartMirror
from tests.support.images import random_bytes
from tests.support.mirror import InnerMirror
from tests.support.process import until
from tests.support.tls import Authority
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
    await until(partial(_readers, mirror, 0))
    answer = await mirror.client.blob("app", digest)
    assert answer.headers["Cache-Status"] == "mirror; hit"


# Clients that take nothing


async def _is_let_go(mirror: InnerMirror, digest: str, context: ssl.SSLContext | None) -> None:
    """Ask for a blob, read nothing of it, and return when the mirror has hung up."""
    scheme = "https" if context else "http"
    connector = aiohttp.TCPConnector(ssl=context or True)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"{scheme}://{mirror.host}/v2/app/blobs/{digest}") as silent,
    ):
        await until(partial(_was_let_go, mirror), within=30)
        silent.close()


async def _was_let_go(mirror: InnerMirror) -> bool:
    return await mirror.metric("mirror_requests_total", kind="blob", status="499") == 1


@pytest.mark.parametrize("way", ["sendfile", "tls", "stream"])
async def test_a_client_that_takes_no_byte_for_send_timeout_is_let_go_and_pins_nothing(
    upstream: ScriptedRegistry, start_mirror: StartMirror, tmp_path: Path, way: str
) -> None:
    server: dict[str, str] = {"send_timeout": "1s"}
    context = None
    if way == "tls":
        authority = Authority(tmp_path / "ca")
        issued = authority.issue("server")
        server["tls_certificate_file"] = str(issued.certificate_file)
        server["tls_private_key_file"] = str(issued.private_key_file)
        context = trust(authority.ca_file)
    digest = upstream.add_blob(CONTENT, "library/app")
    size = "1 MiB" if way == "stream" else "30 MiB"  # what is too large to keep is streamed
    mirror = await start_mirror(server=server, store={"max_size": size})
    await _is_let_go(mirror, digest, context)
    await until(partial(_readers, mirror, 0))


async def test_a_client_that_reads_slowly_is_not_let_go(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror(server={"send_timeout": "2s"})
    digest = upstream.add_blob(CONTENT, "library/app")
    async with mirror.client.open(f"/v2/app/blobs/{digest}") as slow:
        received = b""
        for _ in range(8):  # for twice as long as it may take nothing
            received += await slow.content.readexactly(2**21)
            await asyncio.sleep(0.5)
        assert received + await slow.read() == CONTENT

"""The relay spoils a line as it was told to, and nothing else."""

import asyncio
import socket
from contextlib import suppress
from functools import partial

import aiohttp
import pytest

from tests.conftest import StartRelay
from tests.support.client import client, get
from tests.support.images import random_bytes
from tests.support.process import until
from tests.support.relay import Relay
from tests.support.upstream import ScriptedRegistry

SIZE = 1_000_000
CONTENT = random_bytes(SIZE, seed=1)


@pytest.fixture
async def relay(upstream: ScriptedRegistry, start_relay: StartRelay) -> Relay:
    return await start_relay(upstream.port)


@pytest.fixture
def target(upstream: ScriptedRegistry) -> str:
    return f"/v2/app/blobs/{upstream.add_blob(CONTENT, 'app')}"


async def test_bytes_pass_unchanged_and_are_counted(relay: Relay, target: str) -> None:
    assert (await get(relay.url + target)).body == CONTENT
    assert relay.connections == 1
    assert SIZE < relay.bytes_to_client < SIZE + 1000
    assert 0 < relay.bytes_to_server < 1000


@pytest.mark.parametrize("line", [{"bandwidth": 2_000_000}, {"latency": 0.1}])
async def test_a_slow_line_is_no_faster_than_it_may_be(
    relay: Relay, target: str, line: dict[str, float]
) -> None:
    for name, value in line.items():
        setattr(relay, name, value)
    # A megabyte at two per second, or two round trips (to connect and to ask) of 200 ms each.
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(get(relay.url + target), timeout=0.35)
    assert relay.connections == 1
    assert (await get(relay.url + target)).body == CONTENT


@pytest.mark.parametrize("length", [50_000, 500_000])
async def test_a_connection_is_cut_after_exactly_so_many_bytes(
    relay: Relay, upstream: ScriptedRegistry, target: str, length: int
) -> None:
    relay.cut_after, relay.cuts = length, 1
    assert await _received_before_a_reset(relay, target) == length
    assert relay.bytes_to_client == length
    assert (await get(relay.url + target)).body == CONTENT
    assert len(upstream.asked("blob")) == 2


async def test_every_connection_can_be_cut_at_once(relay: Relay, target: str) -> None:
    relay.bandwidth = 100_000
    async with client(relay.url) as pull, pull.open(target) as response:
        relay.cut()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_a_black_hole_takes_everything_and_gives_it_back_when_it_ends(
    relay: Relay, upstream: ScriptedRegistry, target: str
) -> None:
    relay.black_hole = True
    async with asyncio.TaskGroup() as tasks:
        pulled = tasks.create_task(get(relay.url + target))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(get(relay.url + target), timeout=0.1)
        assert not pulled.done()
        assert upstream.requests == []
        relay.black_hole = False
    assert pulled.result().body == CONTENT


async def test_a_black_hole_swallows_what_is_under_way(
    relay: Relay, upstream: ScriptedRegistry, target: str
) -> None:
    gate = upstream.hold(target.rpartition("/")[2], after=100_000)
    async with client(relay.url) as pull, pull.open(target) as response:
        assert await response.content.readexactly(100_000) == CONTENT[:100_000]
        relay.black_hole = True
        gate.open()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(response.content.readany(), timeout=0.1)
        relay.black_hole = False
        assert await response.content.read() == CONTENT[100_000:]


async def test_a_stopped_relay_refuses_until_it_is_started_again(relay: Relay, target: str) -> None:
    await relay.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await get(relay.url + target)
    await relay.start()
    assert (await get(relay.url + target)).body == CONTENT


async def _received_before_a_reset(relay: Relay, target: str) -> int:
    """Bytes of the answer that a client's kernel gets, however late the client reads them."""
    loop = asyncio.get_running_loop()
    received = 0
    with socket.socket() as connection:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(connection, ("127.0.0.1", relay.port))
        await loop.sock_sendall(connection, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await until(partial(_has_sent, relay, 50_000))
        with suppress(ConnectionResetError):
            while chunk := await loop.sock_recv(connection, 65536):
                received += len(chunk)
            pytest.fail("closed, not reset")
    return received


async def _has_sent(relay: Relay, length: int) -> bool:
    return relay.bytes_to_client >= length

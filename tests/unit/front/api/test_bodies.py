"""Bodies that are handed on: in pieces that are worth it, and bounded whoever is slow."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from mirror.aio.sealed import MOST_AT_ONCE, Bulk
from mirror.front.api.bodies import Gathering
from tests.support.process import until

CHUNK = 2**16


class Client:
    """Brings what it is told to, while it is asked for more."""

    def __init__(self) -> None:
        self.brings: asyncio.Queue[bytes | BaseException] = asyncio.Queue()
        self.taken = 0

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        while True:
            brought = await self.brings.get()
            if isinstance(brought, BaseException):
                raise brought
            if not brought:
                return
            self.taken += len(brought)
            yield brought

    async def has_brought(self) -> bool:
        return self.brings.empty()


class Mirror:
    """Takes pieces, as slowly as it is told to."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.may_go_on = asyncio.Event()
        self.is_busy = asyncio.Event()
        self.error: Exception | None = None

    async def write(self, piece: Bulk) -> None:
        self.is_busy.set()
        await self.may_go_on.wait()
        if self.error is not None:
            raise self.error
        self.pieces.append(piece.whole())


async def test_what_comes_while_a_piece_is_on_its_way_is_the_next_one() -> None:
    client, mirror = Client(), Mirror()
    async with asyncio.TaskGroup() as group:
        group.create_task(Gathering().hand_on(client.chunks(), mirror.write))
        client.brings.put_nowait(b"first")
        await mirror.is_busy.wait()
        for chunk in (b"one", b"two", b"three", b""):
            client.brings.put_nowait(chunk)
        await until(client.has_brought)
        mirror.may_go_on.set()
    assert mirror.pieces == [b"first", b"onetwothree"]


async def test_a_slow_clients_bytes_wait_for_no_others() -> None:
    client, mirror = Client(), Mirror()
    mirror.may_go_on.set()
    async with asyncio.TaskGroup() as group:
        group.create_task(Gathering().hand_on(client.chunks(), mirror.write))
        for chunk in (b"one", b"two"):
            mirror.is_busy.clear()
            client.brings.put_nowait(chunk)
            await mirror.is_busy.wait()
        client.brings.put_nowait(b"")
    assert mirror.pieces == [b"one", b"two"]


@pytest.mark.parametrize("others", [0, 1000], ids=["alone", "among a thousand"])
async def test_who_brings_more_than_can_be_handed_on_is_held_back(others: int) -> None:
    gathering, client, mirror = Gathering(), Client(), Mirror()
    idle = [Client() for _ in range(others)]
    most = MOST_AT_ONCE if not others else CHUNK
    async with asyncio.TaskGroup() as group:
        for one in idle:
            group.create_task(gathering.hand_on(one.chunks(), mirror.write))
        group.create_task(gathering.hand_on(client.chunks(), mirror.write))
        for _ in range(3 * MOST_AT_ONCE // CHUNK):
            client.brings.put_nowait(bytes(CHUNK))
        await mirror.is_busy.wait()
        for _ in range(100):
            await asyncio.sleep(0)  # it takes nothing more, however often it is its turn
        assert client.taken <= 2 * most + CHUNK  # what is on its way, and what is next
        mirror.may_go_on.set()
        for one in (client, *idle):
            one.brings.put_nowait(b"")
    assert sum(map(len, mirror.pieces)) == 3 * MOST_AT_ONCE
    assert max(map(len, mirror.pieces)) <= MOST_AT_ONCE


async def test_a_client_that_brings_byte_by_byte_is_held_back_too() -> None:
    client, mirror = Client(), Mirror()
    async with asyncio.TaskGroup() as group:
        group.create_task(Gathering().hand_on(client.chunks(), mirror.write))
        for _ in range(1000):
            client.brings.put_nowait(b"x")
        await mirror.is_busy.wait()
        for _ in range(1000):
            await asyncio.sleep(0)
        assert client.taken < 600
        mirror.may_go_on.set()
        client.brings.put_nowait(b"")
    assert b"".join(mirror.pieces) == b"x" * 1000


async def test_what_came_before_the_client_broke_is_handed_on() -> None:
    client, mirror = Client(), Mirror()
    for brought in (b"one", b"two", ConnectionError("it is gone")):
        client.brings.put_nowait(brought)
    mirror.may_go_on.set()
    with pytest.raises(ConnectionError, match="it is gone"):
        await Gathering().hand_on(client.chunks(), mirror.write)
    assert b"".join(mirror.pieces) == b"onetwo"


async def test_a_body_that_is_cut_since_the_server_ends_is_not_taken_for_whole() -> None:
    """aiohttp has whoever reads it cancelled then (`RequestHandler.shutdown`)."""
    client, mirror = Client(), Mirror()
    client.brings.put_nowait(b"one")
    client.brings.put_nowait(asyncio.CancelledError())
    mirror.may_go_on.set()
    with pytest.raises(ConnectionError, match="is cut"):
        await Gathering().hand_on(client.chunks(), mirror.write)
    assert b"".join(mirror.pieces) == b"one"


async def test_who_cannot_be_served_is_told_so_while_it_has_yet_to_bring_more() -> None:
    client, mirror = Client(), Mirror()
    mirror.error = ValueError("refused")
    mirror.may_go_on.set()
    client.brings.put_nowait(b"one")
    with pytest.raises(ValueError, match="refused"):
        await Gathering().hand_on(client.chunks(), mirror.write)

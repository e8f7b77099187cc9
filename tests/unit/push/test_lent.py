"""What has lent a connection still has it, and may be anybody."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from mirror.push.lent import Lent

HANGS = 60.0  # seconds
HELD = 1.0  # seconds after which whoever waits in vain gets a byte, so that nobody waits for ever


LOW = (socket.SOL_SOCKET, socket.SO_RCVLOWAT)


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    """One that has been lent, and then made one to be waited at by whoever has lent it."""
    ours, clients = socket.socketpair()
    with ours, clients:
        rescue = threading.Timer(HELD, clients.send, (b"x",))
        rescue.start()
        yield ours
        rescue.cancel()
        rescue.join()


async def test_who_has_lent_a_connection_cannot_have_others_wait_at_it(
    connection: socket.socket,
) -> None:
    with closing(Lent(connection.dup(), patience=0.01)) as lent:
        connection.setblocking(True)
        assert lent.read(1) == b""
        assert lent.read_into(memoryview(bytearray(1))) == 0
        with pytest.raises(ConnectionError, match="nothing any more"):
            await lent.ready()


@pytest.fixture
def lent_and_clients() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as clients,
        server.accept()[0] as ours,
    ):
        yield ours, clients


async def test_few_bytes_of_many_are_taken_though_no_more_come(
    lent_and_clients: tuple[socket.socket, socket.socket],
) -> None:
    ours, clients = lent_and_clients
    with closing(Lent(ours.dup(), patience=60)) as lent:
        clients.send(b"few")
        async with asyncio.timeout(HANGS):
            await lent.ready(2**30)
        assert lent.read(2**30) == b"few"


async def test_the_last_bytes_are_waited_for_by_their_number(
    lent_and_clients: tuple[socket.socket, socket.socket],
) -> None:
    ours, clients = lent_and_clients
    with closing(Lent(ours.dup(), patience=60)) as lent:
        clients.send(b"last")
        await lent.ready(4)
        assert ours.getsockopt(*LOW) == 4


@pytest.mark.parametrize("brought", [b"", b"few"])
async def test_whoever_has_it_back_is_told_of_every_byte(
    lent_and_clients: tuple[socket.socket, socket.socket], brought: bytes
) -> None:
    ours, clients = lent_and_clients
    clients.send(brought)
    with closing(Lent(ours.dup(), patience=0.01)) as lent, suppress(ConnectionError):
        await lent.ready(2**30)
    assert ours.getsockopt(*LOW) == 1

"""What has lent a connection still has it, and may be anybody."""

import asyncio
import select
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
    with closing(Lent(connection.dup(), 1, patience=0.01)) as lent:
        connection.setblocking(True)
        assert lent.read() == b""
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
    with closing(Lent(ours.dup(), 2**30, patience=60)) as lent:
        clients.send(b"few")
        async with asyncio.timeout(HANGS):
            await lent.ready()
        assert lent.read() == b"few"
        assert lent.left == 2**30 - 3


async def test_the_last_bytes_are_waited_for_by_their_number(
    lent_and_clients: tuple[socket.socket, socket.socket],
) -> None:
    ours, clients = lent_and_clients
    with closing(Lent(ours.dup(), 4, patience=60)) as lent:
        clients.send(b"last")
        await lent.ready()
        assert ours.getsockopt(*LOW) == 4


@pytest.mark.parametrize("brought", [b"", b"few"])
async def test_whoever_has_it_back_is_told_of_every_byte(
    lent_and_clients: tuple[socket.socket, socket.socket], brought: bytes
) -> None:
    ours, clients = lent_and_clients
    clients.send(brought)
    with closing(Lent(ours.dup(), 2**30, patience=0.01)) as lent, suppress(ConnectionError):
        await lent.ready()
    assert ours.getsockopt(*LOW) == 1


async def test_what_nobody_reads_is_not_much_however_fast_the_line_was(
    lent_and_clients: tuple[socket.socket, socket.socket],
) -> None:
    ours, clients = lent_and_clients
    clients.setblocking(False)
    memory = memoryview(bytearray(2**21))
    with closing(Lent(ours.dup(), 2**30, patience=60)) as lent:
        taken = 0
        while taken < 2**26:
            with suppress(BlockingIOError):
                clients.send(memory)
            await lent.ready()
            taken += lent.read_into(memory)
        while select.select([], [clients], [], 0.3)[1]:
            clients.send(memory)
        assert len(ours.recv(2**26, socket.MSG_PEEK)) < 2**22


async def test_no_byte_is_read_that_was_not_lent(
    lent_and_clients: tuple[socket.socket, socket.socket],
) -> None:
    ours, clients = lent_and_clients
    clients.send(b"lent not")
    with closing(Lent(ours.dup(), 5, patience=60)) as lent:
        await lent.ready()
        memory = memoryview(bytearray(12))
        assert lent.read_into(memory[:2]) + lent.read_into(memory[2:]) == 5
        assert lent.read() == b""
        assert lent.read_into(memory) == 0
    assert ours.recv(12) == b"not"

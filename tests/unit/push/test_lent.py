"""What has lent a connection still has it, and may be anybody."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from mirror.push.lent import Lent

HELD = 1.0  # seconds after which whoever waits in vain gets a byte, so that nobody waits for ever


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

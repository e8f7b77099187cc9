"""What a client sends before anybody reads it."""

import select
import socket
import struct
from collections.abc import Iterator

import pytest

from mirror.front.workers.worker import bound_unread

UNASKED = 2**16  # bytes that a client may send once they have shaken hands (tcp_rmem, tcp(7))
MOST = 2**18  # bytes: of what is tedious to parse, twice as many once held a worker for 23 ms


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client, and its connection as it is accepted."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    with client, accepted:
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client, accepted


@pytest.mark.parametrize("piece", [2**16, 1400], ids=["large pieces", "small pieces"])
def test_what_a_client_may_send_is_kept_until_it_is_read_and_is_not_much(
    ends: tuple[socket.socket, socket.socket], piece: int
) -> None:
    client, accepted = ends
    sent = 0
    while sent < UNASKED:
        sent += client.send(bytes(min(piece, UNASKED - sent)))
    bound_unread(accepted)  # it was on its way to a worker meanwhile
    while select.select([], [client], [], 0.3)[1]:
        client.send(bytes(piece))
    unread = accepted.recv(2**22, socket.MSG_PEEK)
    assert UNASKED <= len(unread) < MOST
    assert packets_on_their_way(client) == 0


def packets_on_their_way(client: socket.socket) -> int:
    """Those that nobody has acknowledged. One that found no room stays so, until it comes again."""
    info: bytes = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
    return int(struct.unpack("8B5I", info)[-1])  # tcpi_unacked, linux/tcp.h

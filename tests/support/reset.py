"""Breaking a TCP connection the hard way."""

import array
import asyncio
import fcntl
import socket
import struct
import termios

_POLL_SECONDS = 0.002


async def reset(transport: asyncio.WriteTransport | None) -> None:
    """Send a RST once everything written has arrived at the other end; None: already gone."""
    if transport is None:
        return
    connection: socket.socket = transport.get_extra_info("socket")
    while not transport.is_closing() and (  # noqa: ASYNC110 - the kernel sets no Event of ours
        transport.get_write_buffer_size() or _unacknowledged(connection)
    ):
        await asyncio.sleep(_POLL_SECONDS)
    if not transport.is_closing():
        reset_now(transport)


def reset_now(transport: asyncio.WriteTransport) -> None:
    """Send a RST; what was written may be lost."""
    if not transport.is_closing():
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _unacknowledged(connection: socket.socket) -> int:
    """Bytes that the other end's kernel has not got yet."""
    count = array.array("i", [0])
    fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, count)
    return count[0]

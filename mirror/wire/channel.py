"""Messages between two processes of this program, with open files and connections among them.

A packet of a Unix socket is a message (SOCK_SEQPACKET keeps them apart); what is open travels
beside it as descriptors (SCM_RIGHTS) and arrives as a file or a socket of the receiver's own. A
message that is large travels in a file of its own, in memory, whose descriptor is sent.
"""

import array
import asyncio
import io
import logging
import mmap
import os
import pickle
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from typing import Any

_logger = logging.getLogger(__name__)

_INLINE = 64 * 1024  # bytes; a larger message does not fit into the socket's buffer for certain
_ENVELOPE = b"\0"  # no pickle begins with it: the message is in the last descriptor
_DESCRIPTORS = 8  # in one message, at most
_TURN = 32  # messages read before others have their turn

Open = FileIO | socket.socket
"""What may travel in a message; the sender's own stays open, and is the sender's to close."""


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a channel."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Channel:
    """One end. `receive` is called with each message, `lost` once the other end has gone."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        receive: Callable[[Any], None],
        lost: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._receive = receive
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Packet] = deque()  # until the other end has read what it was sent
        connection.setblocking(False)
        self._loop.add_reader(connection, self._read)

    def send(self, message: object) -> None:
        """Send a message; what cannot go at once waits, and nobody with it.

        Raises:
            pickle.PicklingError, TypeError, AttributeError: It holds what cannot travel.
        """
        packet = _pack(message)
        if self._connection.fileno() < 0:
            packet.close()  # nobody reads it any more
        elif self._waiting or not self._try(packet):
            if not self._waiting:
                self._loop.add_writer(self._connection, self._write)
            self._waiting.append(packet)

    def close(self) -> None:
        """Hang up: the other end has lost this one."""
        if self._connection.fileno() >= 0:
            self._loop.remove_reader(self._connection)
            self._loop.remove_writer(self._connection)
            self._connection.close()
        while self._waiting:
            self._waiting.popleft().close()

    def _write(self) -> None:
        while self._waiting and self._try(self._waiting[0]):
            self._waiting.popleft()
        if not self._waiting and self._connection.fileno() >= 0:
            self._loop.remove_writer(self._connection)

    def _try(self, packet: "_Packet") -> bool:
        """Whether the packet needs no more attention."""
        try:
            socket.send_fds(self._connection, [packet.data], packet.descriptors)
        except BlockingIOError:
            return False
        except OSError:  # the other end has gone, as reading will tell
            pass
        packet.close()
        return True

    def _read(self) -> None:
        for _ in range(_TURN):
            try:
                data, descriptors = _receive(self._connection)
            except BlockingIOError:
                return
            except OSError:  # gone, with what it has not read
                data, descriptors = b"", []
            if not data:
                self._lose()
                return
            try:
                message = _unpack(data, descriptors)
            except Exception:
                # The program has been replaced on disk, and the other end is the new one.
                _logger.exception("the other process cannot be understood: restart the mirror")
                self._lose()
                return
            self._receive(message)
            if self._connection.fileno() < 0:
                return

    def _lose(self) -> None:
        self.close()
        self._lost()


@dataclass(frozen=True, slots=True)
class _Packet:
    """What one system call sends. The descriptors are its own: it may have to wait."""

    data: bytes
    descriptors: list[int]

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


class _Pickler(pickle.Pickler):
    """Both ends are this program, and nobody else has the socket: a pickle may be trusted."""

    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer, pickle.HIGHEST_PROTOCOL)
        self.open: list[Open] = []

    def persistent_id(self, thing: object) -> tuple[type[Open], int] | None:
        """Leave what is open out of the bytes."""
        if not isinstance(thing, FileIO | socket.socket):
            return None
        self.open.append(thing)
        kind = FileIO if isinstance(thing, FileIO) else socket.socket
        return kind, len(self.open) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, descriptors: list[int]) -> None:
        super().__init__(buffer)
        self._descriptors = descriptors

    def persistent_load(self, reference: tuple[type[Open], int]) -> Open:
        """Put what is open back in."""
        kind, index = reference
        descriptor = self._descriptors[index]
        return FileIO(descriptor) if kind is FileIO else socket.socket(fileno=descriptor)


def _pack(message: object) -> _Packet:
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    pickler.dump(message)
    data = buffer.getvalue()
    descriptors = [os.dup(thing.fileno()) for thing in pickler.open]
    if len(data) > _INLINE:
        descriptors.append(_in_memory(data))
        data = _ENVELOPE
    return _Packet(data, descriptors)


def _unpack(data: bytes, descriptors: list[int]) -> Any:
    if data == _ENVELOPE:
        descriptor = descriptors.pop()
        with suppress(OSError), mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as content:
            data = content[:]
        os.close(descriptor)
    return _Unpickler(io.BytesIO(data), descriptors).load()


def _in_memory(data: bytes) -> int:
    descriptor = os.memfd_create("message", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, len(data))
    with mmap.mmap(descriptor, len(data)) as content:
        content[:] = data
    return descriptor


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """One packet; empty once the other end has gone. As `socket.recv_fds`, but not inherited."""
    data, ancillary, _, _ = connection.recvmsg(
        _INLINE, socket.CMSG_SPACE(_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
    )
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return data, list(descriptors)

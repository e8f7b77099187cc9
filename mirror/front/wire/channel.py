"""Messages between two processes of this program, with open files and connections among them.

A packet of a Unix socket is a message (SOCK_SEQPACKET keeps them apart); what is open travels
beside it as descriptors (SCM_RIGHTS) and arrives as a file or a socket of the receiver's own. A
message that is large travels in a file of its own, in memory, whose descriptor is sent.
"""

import array
import asyncio
import errno
import io
import logging
import mmap
import os
import pickle
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from typing import Any

_logger = logging.getLogger(__name__)

_INLINE = 16 * 1024  # bytes; what is larger might not fit into a socket's buffer
_BUFFER = 2**20  # bytes; the system may grant less
_ENVELOPE = b"\0"  # no pickle begins with it: the message is in the last descriptor
_DESCRIPTORS = 8  # in one message, at most
_TURN = 32  # messages read before others have their turn
_AGAIN = 0.05  # seconds, where the system has too many descriptors under way

_GONE = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}
_BUSY = {errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM}

Open = FileIO | socket.socket
"""What may travel in a message; the sender's own stays open, and is the sender's to close."""


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a channel. Raises OSError."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return pair


@dataclass(frozen=True, slots=True)
class Torn:
    """A message that has lost what was open in it: this process has no descriptor free."""

    message: Any


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

    @property
    def is_open(self) -> bool:
        """Whether neither end has hung up, as far as this one knows."""
        return self._connection.fileno() >= 0

    @property
    def waiting(self) -> int:
        """How many messages the other end has been too slow for."""
        return len(self._waiting)

    def send(self, message: object) -> None:
        """Send a message; what cannot go at once waits, and nobody with it.

        Raises:
            pickle.PicklingError, TypeError, AttributeError: It holds what cannot travel.
            OSError: There is no descriptor free to send it.
        """
        packet = _pack(message)
        if not self.is_open:
            packet.close()  # nobody reads it any more
            return
        self._waiting.append(packet)
        if len(self._waiting) == 1:
            self._write()

    def close(self) -> None:
        """Hang up: the other end has lost this one."""
        if self.is_open:
            self._loop.remove_reader(self._connection)
            self._loop.remove_writer(self._connection)
            self._connection.close()
        while self._waiting:
            self._waiting.popleft().close()

    def _write(self) -> None:
        """Send what waits, as far as that is possible now."""
        while self._waiting and self.is_open:
            packet = self._waiting[0]
            try:
                socket.send_fds(self._connection, [packet.data], packet.descriptors)
            except BlockingIOError:
                self._loop.add_writer(self._connection, self._write)
                return
            except OSError as error:
                if error.errno in _BUSY:
                    self._loop.remove_writer(self._connection)  # it would say at once: go on
                    self._loop.call_later(_AGAIN, self._write)
                    return
                if error.errno not in _GONE:  # else reading tells, after what there is to read
                    _logger.exception("a message to another process cannot be sent")
                    self._loop.call_soon(self._lose)
            self._waiting.popleft().close()
        if self.is_open:
            self._loop.remove_writer(self._connection)

    def _read(self) -> None:
        for _ in range(_TURN):
            try:
                data, descriptors, is_whole = _receive(self._connection)
            except BlockingIOError:
                return
            except OSError:  # gone, with what it has not read
                data, descriptors, is_whole = b"", [], True
            if not data:
                self._lose()
                return
            try:
                message = (
                    _unpack(data, descriptors) if is_whole else _unpack_torn(data, descriptors)
                )
            except Exception:
                # Most likely the program was replaced on disk, and the other end is the new one.
                _logger.exception("the other process cannot be understood: restart the mirror")
                self._lose()
                return
            self._receive(message)
            if not self.is_open:
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
        _close(self.descriptors)


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
    def __init__(self, data: bytes, descriptors: list[int]) -> None:
        super().__init__(io.BytesIO(data))
        self._descriptors = descriptors

    def persistent_load(self, reference: tuple[type[Open], int]) -> Open | None:
        """Put what is open back in; None where it got lost."""
        kind, index = reference
        if index >= len(self._descriptors):
            return None
        descriptor = self._descriptors[index]
        return FileIO(descriptor) if kind is FileIO else socket.socket(fileno=descriptor)


def _pack(message: object) -> _Packet:
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    pickler.dump(message)
    packet = _Packet(buffer.getvalue(), [])
    try:
        for thing in pickler.open:
            packet.descriptors.append(os.dup(thing.fileno()))
        if len(packet.data) <= _INLINE:
            return packet
        return _Packet(_ENVELOPE, [*packet.descriptors, _in_memory(packet.data)])
    except OSError:
        packet.close()
        raise


def _unpack(data: bytes, descriptors: list[int]) -> Any:
    try:
        if data == _ENVELOPE:
            data = _from_memory(descriptors.pop())
        return _Unpickler(data, descriptors).load()
    except BaseException:
        _close(descriptors)
        raise


def _unpack_torn(data: bytes, descriptors: list[int]) -> Torn:
    _close(descriptors)
    _logger.error("no descriptor is free for a client: raise the limit (LimitNOFILE, ulimit -n)")
    return Torn(None if data == _ENVELOPE else _Unpickler(data, []).load())


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _from_memory(descriptor: int) -> bytes:
    try:
        with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as content:
            return content[:]
    finally:
        os.close(descriptor)


def _in_memory(data: bytes) -> int:
    descriptor = os.memfd_create("message", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, len(data))
    with mmap.mmap(descriptor, len(data)) as content:
        content[:] = data
    return descriptor


def _receive(connection: socket.socket) -> tuple[bytes, list[int], bool]:
    """One packet, empty once the other end has gone; and whether all of it is there."""
    data, ancillary, flags, _ = connection.recvmsg(
        _INLINE, socket.CMSG_SPACE(_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
    )
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return data, [*descriptors], not flags & socket.MSG_CTRUNC

"""Packets between two processes of this program, with open files and connections beside them.

A packet of a Unix socket is a message (SOCK_SEQPACKET keeps them apart); what is open travels
beside it as descriptors (SCM_RIGHTS) and arrives as descriptors of the receiver's own. A message
that is large travels in a file in memory, sealed, whose descriptor is sent.

The other end may be anybody: what it sends is bytes here, and bounded. Whatever is wrong with them
ends the channel, and nothing more.
"""

import array
import asyncio
import errno
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mirror.aio.sealed import Bulk, read_sealed, seal
from mirror.front.wire.interface import Beside, Violation, close_all

_logger = logging.getLogger(__name__)

_INLINE = 16 * 1024  # bytes; what is larger might not fit into a socket's buffer
_BUFFER = 2**20  # bytes; the system may grant less
_ENVELOPE = b"\xc1"  # no message is this (MessagePack never uses it): it is in the last descriptor
_DESCRIPTORS = 8  # in one message, at most
_TURN = 32  # messages read before others have their turn
_AGAIN = 0.05  # seconds, where the system has too many descriptors under way
_LARGEST = 64 * 2**20  # bytes of one message
_MOST_WAITING = 256 * 2**20  # bytes that the other end has not read

_GONE = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}
_BUSY = {errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM}


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a channel. Raises OSError."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return pair


@dataclass(frozen=True, slots=True)
class Packet:
    """A message that has arrived. The descriptors are the receiver's, who closes them.

    Where `is_torn`, some were lost (this process has none free), and the others have been closed.
    """

    data: bytes
    descriptors: list[int]
    is_torn: bool = False


class Channel:
    """One end. `receive` is called with each packet, `lost` once the other end has gone.

    The socket is the channel's from now on. What `receive` raises as Violation ends the channel.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        receive: Callable[[Packet], None],
        lost: Callable[[], None],
    ) -> None:
        # Nobody else can close it: a loop that watches a closed descriptor watches the next file
        # that gets its number.
        self._connection = socket.socket(fileno=connection.detach())
        self._receive = receive
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Outgoing] = deque()  # until the other end has read what it was sent
        self._waiting_bytes = 0
        self._connection.setblocking(False)
        self._loop.add_reader(self._connection, self._read)

    @property
    def is_open(self) -> bool:
        """Whether neither end has hung up, as far as this one knows."""
        return self._connection.fileno() >= 0

    @property
    def waiting(self) -> int:
        """How many messages the other end has been too slow for."""
        return len(self._waiting)

    def send(self, data: bytes, opened: Sequence[Beside] = ()) -> None:
        """Send a message; what cannot go at once waits, and nobody with it.

        Raises:
            OSError: There is no descriptor free to send it.
        """
        if not self.is_open:
            return  # nobody reads it any more
        if self._waiting_bytes > _MOST_WAITING:
            _logger.error("another process does not read what it is sent")
            self._loop.call_soon(self._lose)
            return
        self._waiting.append(_pack(data, opened))
        self._waiting_bytes += len(data)
        if len(self._waiting) == 1:
            self._write()

    def close(self) -> None:
        """Hang up: the other end has lost this one."""
        if self.is_open:
            self._loop.remove_writer(self._connection)
            self._loop.remove_reader(self._connection)
            self._connection.close()
        while self._waiting:
            close_all(self._waiting.popleft().descriptors)

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
            self._waiting.popleft()
            self._waiting_bytes -= packet.size
            close_all(packet.descriptors)
        if self.is_open:
            self._loop.remove_writer(self._connection)

    def _read(self) -> None:
        for _ in range(_TURN):
            try:
                data, descriptors, is_torn = _receive(self._connection)
            except BlockingIOError:
                return
            except OSError:  # gone, with what it has not read
                data, descriptors, is_torn = b"", [], False
            if not data:
                close_all(descriptors)
                self._lose()
                return
            try:
                self._receive(_unpack(data, descriptors, is_torn=is_torn))
            except Violation as violation:
                # Or the program was replaced on disk, and the other end is the new one.
                _logger.error(  # noqa: TRY400 - where it stands says nothing
                    "another process cannot be understood, and is let go: %s", violation
                )
                self._lose()
                return
            if not self.is_open:
                return

    def _lose(self) -> None:
        if self.is_open:
            self.close()
            self._lost()


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """What one system call sends. The descriptors are its own: it may have to wait."""

    data: bytes
    descriptors: list[int]
    size: int  # bytes of the message


def _pack(data: bytes, opened: Sequence[Beside]) -> _Outgoing:
    descriptors: list[int] = []
    try:
        for thing in opened:
            descriptors.append(_descriptor(thing))  # noqa: PERF401 - those before a failure count
        if len(data) <= _INLINE:
            return _Outgoing(data, descriptors, len(data))
        descriptors.append(seal([data]))
        return _Outgoing(_ENVELOPE, descriptors, len(data))
    except OSError:
        close_all(descriptors)
        raise


def _descriptor(thing: Beside) -> int:
    """One of the packet's own."""
    return seal(thing.pieces) if isinstance(thing, Bulk) else os.dup(thing.fileno())


def _unpack(data: bytes, descriptors: list[int], *, is_torn: bool) -> Packet:
    if is_torn:
        close_all(descriptors)
        _logger.error("no descriptor is free: raise the limit (LimitNOFILE, ulimit -n)")
        if data == _ENVELOPE:
            raise Violation("nobody knows what it was, and so nobody what to wait for")
        return Packet(data, [], is_torn=True)
    if data != _ENVELOPE:
        return Packet(data, descriptors)
    try:
        return Packet(_from_memory(descriptors), descriptors)
    except Violation:
        close_all(descriptors)
        raise


def _from_memory(descriptors: list[int]) -> bytes:
    if not descriptors:
        raise Violation("an envelope with nothing in it")
    descriptor = descriptors.pop()
    try:
        return read_sealed(descriptor, most=_LARGEST)
    except ValueError as error:
        raise Violation(f"an envelope that is none: {error}") from error
    finally:
        os.close(descriptor)


def _receive(connection: socket.socket) -> tuple[bytes, list[int], bool]:
    """One packet, empty once the other end has gone; and whether a part of it is lost."""
    data, ancillary, flags, _ = connection.recvmsg(
        _INLINE + 1, socket.CMSG_SPACE(_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
    )
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return data, [*descriptors], bool(flags & socket.MSG_CTRUNC)

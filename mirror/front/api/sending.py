"""From a file to a client's connection by the kernel alone (sendfile), as far as it has grown.

asyncio's `loop.sendfile` does the same, but tells epoll about the socket anew for every piece that
goes out, and uvloop has none. Here epoll is told of a socket once for each call.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO

from aiohttp import web

_TURN = 2**21  # bytes sent before others have their turn; nginx's sendfile_max_chunk


class Sender:
    """Sends to one connection. The descriptor is its own: the loop watches the other."""

    def __init__(self, request: web.BaseRequest, descriptor: int) -> None:
        self._request = request
        self._descriptor = descriptor

    async def send(
        self, file: FileIO, position: int, limit: int, note: Callable[[int], object] = int
    ) -> None:
        """Send what the file has from `position` to `limit`; `note` is told how many bytes went.

        It is told also where not all of them did.

        Raises:
            ConnectionError: The client has left, or took nothing for `server.send_timeout`.
            OSError: The file is shorter.
        """
        await self._flush()
        loop = asyncio.get_running_loop()
        piece = _Piece(self._descriptor, file.fileno(), position, limit, loop.create_future())
        try:
            await self._send(piece, loop)
        except TimeoutError as error:  # the kernel's (TCP_USER_TIMEOUT)
            raise ConnectionAbortedError("the client takes nothing") from error
        finally:
            note(piece.position - position)

    async def _send(self, piece: "_Piece", loop: asyncio.AbstractEventLoop) -> None:
        if piece.send():
            return
        loop.add_writer(self._descriptor, piece.go_on)
        try:
            await piece.sent
        finally:
            loop.remove_writer(self._descriptor)

    async def _flush(self) -> None:
        """Wait until everything that was written to the transport has gone out: it comes first."""
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        if transport.get_write_buffer_size():
            transport.set_write_buffer_limits(high=0)  # now draining ends when nothing is left
            try:
                await self._request.writer.drain()
            finally:
                if not transport.is_closing():
                    transport.set_write_buffer_limits()
            if transport.is_closing():
                raise ConnectionResetError("the client has left")


class _Piece:
    """A part of a file on its way."""

    def __init__(
        self, to: int, source: int, position: int, limit: int, sent: asyncio.Future[None]
    ) -> None:
        self._to = to
        self._source = source
        self.position = position
        self._limit = limit
        self.sent = sent

    def send(self) -> bool:
        """Send as much as there is room for, in a turn; True: that was all. Raises OSError."""
        length = min(self._limit - self.position, _TURN)
        if not length:
            return True
        try:
            sent = os.sendfile(self._to, self._source, self.position, length)
        except BlockingIOError:
            return False
        if not sent:
            raise OSError("somebody else has truncated the file")
        self.position += sent
        return self.position == self._limit

    def go_on(self) -> None:
        """Called when there is room again."""
        if self.sent.done():  # nobody waits any more
            return
        try:
            if self.send():
                self.sent.set_result(None)
        except OSError as error:
            self.sent.set_exception(error)


@contextmanager
def sending_to(request: web.BaseRequest) -> Iterator[Sender]:
    """A sender for a plain connection, inside the block.

    Raises:
        ConnectionError: The client has left.
    """
    if request.transport is None:
        raise ConnectionResetError("the client has left")
    descriptor = os.dup(request.transport.get_extra_info("socket").fileno())
    try:
        yield Sender(request, descriptor)
    finally:
        os.close(descriptor)

"""From a file to a connection by the kernel alone (sendfile), and nobody sees the bytes.

asyncio's `loop.sendfile` does the same, but tells epoll about the socket anew for every piece that
goes out, and uvloop has none. Here epoll is told of a socket once for each call.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from io import FileIO

_TURN = 2**21  # bytes sent before others have their turn; nginx's sendfile_max_chunk


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes that lie in a file; `read_at` reads so many from a position on, for who must see them.

    What `is_cold` may have to be read from the disk: a loop has that done by others. A slice of it
    is one, too.
    """

    file: FileIO
    position: int
    length: int
    read_at: Callable[[int, int], Awaitable[bytes]]
    is_cold: bool = False

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, part: slice) -> "FilePart":
        start, stop, step = part.indices(self.length)
        assert step == 1  # noqa: S101 - it is no sequence
        return replace(self, position=self.position + start, length=max(0, stop - start))

    async def read(self) -> bytes:
        """All of it. Raises what `read_at` raises."""
        content = bytearray()
        while len(content) < self.length:
            at, rest = self.position + len(content), self.length - len(content)
            content += await self.read_at(at, rest)
        return bytes(content)


class Sendfile:
    """A part of a file, `file` from `position` to `limit`, on its way to a connection.

    The descriptor is of the connection, and is watched by nobody else: a `dup` of the transport's.
    It has come as far as `position`; `moved` is told of so many bytes whenever some have gone.
    """

    def __init__(
        self, descriptor: int, file: FileIO, position: int, limit: int,
        moved: Callable[[int], object] | None = None,
    ) -> None:  # fmt: skip
        self._to = descriptor
        self._source = file.fileno()
        self.position = position
        self._limit = limit
        self._moved = moved
        self._loop = asyncio.get_running_loop()
        self._sent: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        """Send it.

        Raises:
            OSError: Nobody is at the other end any more; or the file is shorter (`Truncated`).
        """
        if self._send():
            return
        self._loop.add_writer(self._to, self._go_on)
        try:
            await self._sent
        finally:
            self._loop.remove_writer(self._to)

    def stop(self, why: OSError) -> None:
        """Have it end with this, wherever it is."""
        if not self._sent.done():
            self._sent.set_exception(why)

    def _send(self) -> bool:
        """Send as much as there is room for, in a turn; True: that was all. Raises OSError."""
        length = min(self._limit - self.position, _TURN)
        if not length:
            return True
        try:
            sent = os.sendfile(self._to, self._source, self.position, length)
        except BlockingIOError:
            return False
        if not sent:
            raise Truncated("somebody else has truncated the file")
        self.position += sent
        if self._moved is not None:
            self._moved(sent)
        return self.position == self._limit

    def _go_on(self) -> None:
        """Called when there is room again."""
        if self._sent.done():  # nobody waits any more
            return
        try:
            if self._send():
                self._sent.set_result(None)
        except OSError as error:
            self._sent.set_exception(error)


class Truncated(OSError):
    """A file is shorter than it was."""


async def flushed(transport: asyncio.WriteTransport, drain: Callable[[], Awaitable[None]]) -> None:
    """Wait until everything that was written to a transport has gone out.

    Raises:
        ConnectionError: Nobody is at the other end any more.
    """
    if transport.is_closing():
        raise ConnectionResetError("the other end has left")
    if not transport.get_write_buffer_size():
        return
    transport.set_write_buffer_limits(high=0)  # now draining ends when nothing is left
    try:
        await drain()
    finally:
        if not transport.is_closing():
            transport.set_write_buffer_limits()
    if transport.is_closing():
        raise ConnectionResetError("the other end has left")

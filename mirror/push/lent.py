"""A client's connection in the hands of the mirror's process, which takes a body off it.

What clients send is parsed by workers. But of a body whose length has been told there is nothing to
parse: its bytes then go from the connection to the disk without a process in between. Whatever they
are, they are bytes here; and what has lent the connection says how many are the body's. The kernel
tells of them in lots (SO_RCVLOWAT): a fast line that is asked each time brings 64 KiB at a time.
"""

import asyncio
import socket
from contextlib import suppress

_ENOUGH = 2**20  # bytes that are worth a turn: each has its price, and a fast line brings more
_MOMENT = 0.05  # seconds; what has come by then is taken, so that it shows how far a slow one is
_AT_ONCE = 2**18  # bytes that are looked at here, and not written away at once
_NOW = socket.MSG_DONTWAIT  # whoever has lent it may say of the connection itself that it waits
_BUF_LOCK = getattr(socket, "SO_BUF_LOCK", 72)  # Linux 5.14; socket(7)
_RCVBUF_LOCK = 2  # linux/socket.h


class Lent:
    """One of them, for `left` bytes more. The client has `patience` seconds to bring something."""

    def __init__(self, connection: socket.socket, length: int, *, patience: float) -> None:
        self._connection = connection
        self.left = length
        self._patience = patience
        connection.setblocking(False)
        # For requests its buffer is small. For what nobody parses the kernel gives it twice what is
        # waited for, and no more: all of that may lie unread where a registry takes nothing.
        self._enough = 1
        self._set(_BUF_LOCK, 0)
        self._wait_for(_ENOUGH)
        self._set(_BUF_LOCK, _RCVBUF_LOCK)

    async def ready(self) -> None:
        """Return once there is something to read: as much as is worth it, or all, or after a while.

        Raises:
            ConnectionError: The client has left, or brings nothing.
        """
        self._wait_for(min(self.left, _ENOUGH))
        if await self._comes(_MOMENT):
            return
        self._wait_for(1)
        if not await self._comes(self._patience):
            raise ConnectionError("it brings nothing any more")

    def _wait_for(self, enough: int) -> None:
        """So many bytes have to be there, before anybody is told that there are any."""
        if self._enough != enough:
            self._set(socket.SO_RCVLOWAT, enough)
            self._enough = enough

    def _set(self, option: int, value: int) -> None:
        with suppress(OSError):  # an older kernel; or the client has left, which shows by itself
            self._connection.setsockopt(socket.SOL_SOCKET, option, value)

    async def _comes(self, within: float) -> bool:
        """Whether enough is there in so many seconds; or the end."""
        loop = asyncio.get_running_loop()
        descriptor, came = self._connection.fileno(), asyncio.Event()
        loop.add_reader(descriptor, came.set)
        try:
            async with asyncio.timeout(within):
                await came.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(descriptor)
        return True

    def read(self) -> bytes:
        """Some of what has come; none: nothing has.

        Raises:
            ConnectionError: Nothing will come any more.
        """
        memory = memoryview(bytearray(min(self.left, _AT_ONCE)))
        return bytes(memory[: self.read_into(memory)])

    def read_into(self, buffer: memoryview) -> int:
        """As `read`, into as much memory; how many bytes. From any thread."""
        most = min(len(buffer), self.left)
        if not most:
            return 0  # who asks for none is told what means the end
        try:
            came = self._connection.recv_into(buffer, most, _NOW)
        except BlockingIOError:
            return 0
        except OSError as error:  # whatever was lent: a connection that has timed out, or none
            raise ConnectionError("it has left") from error
        if not came:
            raise ConnectionError("it has left")
        self.left -= came
        return came

    def close(self) -> None:
        """Whoever has lent it has it alone again."""
        self._wait_for(1)
        self._connection.close()

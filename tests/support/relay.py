"""A bad line: a TCP relay with latency, limited bandwidth, cuts and silence.

async with Relay(registry.port) as relay:
    relay.latency, relay.bandwidth = 0.05, 1_000_000
    ...
    relay.cut_after = 500_000
    relay.cut_up_after = 500_000  # of what is sent to the registry
"""

import asyncio
import math
import socket
from types import TracebackType
from typing import Self

from tests.support.reset import reset, reset_now

_LONGEST_CHUNK = 64 * 1024
_CHUNKS_UNDER_WAY = 64  # at most, per direction of a connection
_CHUNKS_PER_SECOND = 50  # at least, so that a slow line flows evenly
_CATCH_UP = 0.02  # seconds of lateness that are made up for
_KERNEL_BUFFER = 128 * 1024

Line = asyncio.Queue[tuple[float, bytes]]  # when a chunk arrives, and the chunk; empty: the end


class Relay:
    """Set its attributes at any time; they hold from the next chunk on."""

    def __init__(self, target_port: int, target_host: str = "127.0.0.1") -> None:
        self.latency: float = 0  # seconds, one way; connecting costs a round trip
        self.bandwidth: float | None = None  # bytes per second, each connection, each direction
        self.cut_after: int | None = None  # bytes from the server on one connection; then a RST
        self.cut_up_after: int | None = None  # the same of bytes from the client
        self.cuts: int | None = None  # how often either may still strike; None: always
        self.connections = 0  # accepted so far
        self.bytes_to_server = 0
        self.bytes_to_client = 0
        self.port = 0
        self._target = (target_host, target_port)
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None
        self._pairs: dict[asyncio.Task[None], list[asyncio.WriteTransport]] = {}
        self._lines: list[Line] = []
        self._silenced: list[Line] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def open_connections(self) -> int:
        return len(self._pairs)

    @property
    def black_hole(self) -> bool:
        """Whether connections are accepted, and kept, but nothing is forwarded."""
        return not self._flows.is_set()

    @black_hole.setter
    def black_hole(self, wanted: bool) -> None:
        if wanted:
            self._flows.clear()
        else:
            self._flows.set()

    def cut(self) -> None:
        """Reset every connection, now."""
        for transports in self._pairs.values():
            for transport in transports:
                reset_now(transport)

    def silence(self) -> None:
        """Forward nothing more over the connections there are; new ones are not concerned."""
        self._silenced += self._lines

    async def start(self) -> None:
        """Listen; after a `stop`, on the same port again."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Cut every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()
        tasks = list(self._pairs)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        self._pairs[task] = transports = [writer.transport]
        try:
            await asyncio.sleep(2 * self.latency)
            from_server, to_server = await asyncio.open_connection(*self._target)
            transports.append(to_server.transport)
            for transport in transports:
                _limit_buffers(transport)
            up, down = Line(_CHUNKS_UNDER_WAY), Line(_CHUNKS_UNDER_WAY)
            self._lines += up, down
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._feed(reader, up))
                pumps.create_task(self._to_server(up, to_server))
                pumps.create_task(self._feed(from_server, down))
                pumps.create_task(self._to_client(down, writer))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            for transport in transports:
                reset_now(transport)
        finally:
            for transport in transports:
                transport.close()
            del self._pairs[task]

    async def _to_server(self, line: Line, writer: asyncio.StreamWriter) -> None:
        passed = 0
        while chunk := await self._next(line):
            end = await self._pass(chunk, writer, passed, self.cut_up_after)
            passed += end
            self.bytes_to_server += end
            if end < len(chunk):
                await _cut(writer)
        writer.write_eof()

    async def _to_client(self, line: Line, writer: asyncio.StreamWriter) -> None:
        passed = 0
        while chunk := await self._next(line):
            end = await self._pass(chunk, writer, passed, self.cut_after)
            passed += end
            self.bytes_to_client += end
            if end < len(chunk):
                await _cut(writer)
        writer.write_eof()

    async def _pass(
        self, chunk: bytes, writer: asyncio.StreamWriter, passed: int, cut_after: int | None
    ) -> int:
        """Hand on as much of a chunk as passes: how much that is."""
        end = self._end(passed, len(chunk), cut_after)
        writer.write(chunk[:end])
        await writer.drain()
        return end

    def _end(self, passed: int, length: int, cut_after: int | None) -> int:
        """How much of a chunk passes; counts the cut if it is not all."""
        if cut_after is None or self.cuts == 0 or passed + length <= cut_after:
            return length
        if self.cuts is not None:
            self.cuts -= 1
        return max(0, cut_after - passed)

    async def _feed(self, reader: asyncio.StreamReader, line: Line) -> None:
        """Take in what `reader` gives, at this line's pace."""
        clock = asyncio.get_running_loop().time
        free_at = clock()
        while chunk := await reader.read(self._chunk_size()):
            free_at = max(free_at, clock() - _CATCH_UP) + len(chunk) / (self.bandwidth or math.inf)
            await line.put((max(free_at, clock()) + self.latency, chunk))
            await asyncio.sleep(free_at - clock())
        await line.put((clock() + self.latency, b""))

    async def _next(self, line: Line) -> bytes:
        """The next chunk, once it has come all the way; empty at the end."""
        due, chunk = await line.get()
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        await self._flows.wait()
        if any(line is silent for silent in self._silenced):
            await asyncio.Event().wait()  # until the relay stops
        return chunk

    def _chunk_size(self) -> int:
        if self.bandwidth is None:
            return _LONGEST_CHUNK
        return min(_LONGEST_CHUNK, max(1, int(self.bandwidth / _CHUNKS_PER_SECOND)))


async def _cut(writer: asyncio.StreamWriter) -> None:
    await reset(writer.transport)
    raise ConnectionResetError("cut")


def _limit_buffers(transport: asyncio.WriteTransport) -> None:
    """Keep the kernel from taking in much more than the line has carried."""
    connection: socket.socket = transport.get_extra_info("socket")
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        connection.setsockopt(socket.SOL_SOCKET, buffer, _KERNEL_BUFFER)

"""An upstream whose every byte is an attacker's, down to the status line.

    async with Evil() as evil:
        evil.on("manifests/", says(b"HTTP/1.1 200 OK", b"Content-Length: 2", body=b"{}"))
        evil.on("blobs/", drips(b"x" * 100, every=0.01))
        ...
        assert evil.asked == ["GET /v2/app/manifests/1"]

What no behaviour is set for is 404. Connections are kept as HTTP/1.1 keeps them, unless a behaviour
ends its own. The scripted registry (`tests.support.upstream`) is for what honest ones do.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_LONGEST_HEAD = 2**20


@dataclass(slots=True)
class Ask:
    """A request, and the connection that it came over."""

    line: str  # without the version
    head: str
    writer: asyncio.StreamWriter
    ends: bool = field(default=False)  # the connection, after this answer

    async def send(self, *pieces: bytes) -> None:
        """Send bytes as they are. Raises ConnectionError once the other side has left."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
        if self.writer.is_closing():
            raise ConnectionResetError


Behaviour = Callable[[Ask], Awaitable[None]]


def head(status: bytes, *fields: bytes) -> bytes:
    """The head of a response: a status line, and header fields, each as it is."""
    return b"\r\n".join((status, *fields, b"", b""))


def says(status: bytes, *fields: bytes, body: bytes = b"") -> Behaviour:
    """Answer with these bytes; `body` is not sent to a HEAD."""

    async def behave(ask: Ask) -> None:
        await ask.send(head(status, *fields), b"" if ask.line.startswith("HEAD ") else body)

    return behave


def tells(body: bytes, *fields: bytes) -> Behaviour:
    """Answer 200 with a body of a length that is right."""
    return says(b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *fields, body=body)


def drips(body: bytes, *fields: bytes, every: float, size: int | None = None) -> Behaviour:
    """Send a body byte by byte, `every` so many seconds; it is said to be of `size` bytes."""
    promised = len(body) if size is None else size

    async def behave(ask: Ask) -> None:
        await ask.send(head(b"HTTP/1.1 200 OK", b"Content-Length: %d" % promised, *fields))
        for byte in b"" if ask.line.startswith("HEAD ") else body:
            await ask.send(bytes([byte]))
            await asyncio.sleep(every)

    return behave


def endless(piece: bytes, *before: bytes, pause: float = 0) -> Behaviour:
    """Send `before`, then `piece` again and again, until the other side leaves."""

    async def behave(ask: Ask) -> None:
        ask.ends = True
        await ask.send(*before)
        while True:
            await ask.send(piece)
            await asyncio.sleep(pause)

    return behave


def redirects(location: str, status: bytes = b"HTTP/1.1 307 Temporary Redirect") -> Behaviour:
    """Send elsewhere; the location is sent as it is."""
    return says(status, b"Location: " + location.encode(), b"Content-Length: 0")


async def hangs(ask: Ask) -> None:
    """Say nothing until the other side leaves."""
    ask.ends = True
    with suppress(ConnectionError):
        await ask.writer.wait_closed()


async def drops(ask: Ask) -> None:
    """Reset the connection."""
    ask.ends = True
    ask.writer.transport.abort()


class Evil:
    """Serves on a port of 127.0.0.1 inside the block."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.heads: list[str] = []
        self.connections = 0
        self.port = 0
        self._behaviours: list[tuple[str, Behaviour]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def on(self, part: str, behaviour: Behaviour) -> None:
        """What to do with a request whose method and target hold `part`; the newest rule counts."""
        self._behaviours.insert(0, (part, behaviour))

    def hang_up(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, limit=_LONGEST_HEAD
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self._writers.add(writer)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                while await self._answer(reader, writer):
                    pass
        except asyncio.CancelledError:
            pass  # the block has ended; a stream's task must not end cancelled
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        ask = Ask(text.partition("\r\n")[0].rpartition(" ")[0], text, writer)
        self.asked.append(ask.line)
        self.heads.append(text)
        missing = says(b"HTTP/1.1 404 Not Found", b"Content-Length: 0")
        found = (behaviour for part, behaviour in self._behaviours if part in ask.line)
        await next(found, missing)(ask)
        return not ask.ends

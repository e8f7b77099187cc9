"""A forward proxy: HTTP (CONNECT, and absolute-form) and SOCKS5 on one port of 127.0.0.1.

    async with ForwardProxy() as proxy:
        ...
        assert proxy.asked == [("CONNECT", "registry.test", 443)]

It resolves names by itself: those that end in `.test` are this machine's.
"""

import asyncio
import base64
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_SOCKS5 = 5


class ForwardProxy:
    """Set its attributes at any time; they hold from the next connection on."""

    def __init__(self) -> None:
        self.users: dict[str, str] = {}  # name: password; empty: everybody
        self.refuses: set[tuple[str, int]] = set()  # what it does not let anybody through to
        self.leads: dict[tuple[str, int], int] = {}  # elsewhere: to these ports of this machine
        self.asked: list[tuple[str, str, int]] = []  # method (or SOCKS), host, port
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def hosts(self) -> set[str]:
        """Whom it was asked for, so far."""
        return {host for _, host, _ in self.asked}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])
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
        with self._noted(writer), suppress(ConnectionError, asyncio.IncompleteReadError):
            first = await reader.readexactly(1)
            if first[0] == _SOCKS5:
                await self._socks(reader, writer)
            else:
                await self._http(first + await reader.readuntil(b"\r\n\r\n"), reader, writer)

    @contextmanager
    def _noted(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            pass  # the block has ended; a stream's task must not end cancelled
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _http(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        method, target, _ = head.decode("latin-1").split(" ", 2)
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        host, port = parts.hostname or "", parts.port or 80
        self.asked.append((method, host, port))
        if self.users and not self._is_known(head):
            writer.write(b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\n")
            writer.write(b"Content-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return
        try:
            to_reader, to_writer = await self._connect(host, port)
        except OSError:
            writer.write(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            to_writer.write(_forwarded(head, f"{parts.path}?{parts.query}".rstrip("?")))
        await _relay(reader, writer, to_reader, to_writer)

    def _is_known(self, head: bytes) -> bool:
        pairs = [f"{name}:{password}".encode() for name, password in self.users.items()]
        return any(b"Basic " + base64.b64encode(pair) + b"\r\n" in head for pair in pairs)

    async def _socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """RFC 1928, and RFC 1929 for passwords."""
        methods = await reader.readexactly((await reader.readexactly(1))[0])
        wanted = 2 if self.users else 0
        writer.write(bytes([5, wanted if wanted in methods else 255]))
        if wanted not in methods:
            return
        if self.users:
            await reader.readexactly(1)
            name = await reader.readexactly((await reader.readexactly(1))[0])
            password = await reader.readexactly((await reader.readexactly(1))[0])
            is_known = self.users.get(name.decode()) == password.decode()
            writer.write(bytes([1, 0 if is_known else 1]))
            if not is_known:
                await writer.drain()
                return
        _, _, _, kind = await reader.readexactly(4)
        length = {1: 4, 4: 16}.get(kind) or (await reader.readexactly(1))[0]
        address = await reader.readexactly(length)
        port = int.from_bytes(await reader.readexactly(2))
        host = address.decode() if kind == 3 else ".".join(map(str, address))
        self.asked.append(("SOCKS", host, port))
        try:
            to_reader, to_writer = await self._connect(host, port)
        except OSError:
            writer.write(b"\x05\x05\x00\x01" + bytes(6))
            await writer.drain()
            return
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        await _relay(reader, writer, to_reader, to_writer)

    async def _connect(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if (host, port) in self.refuses:
            raise OSError
        if (host, port) in self.leads:
            host, port = "127.0.0.1", self.leads[host, port]
        return await asyncio.open_connection("127.0.0.1" if host.endswith(".test") else host, port)


def _forwarded(head: bytes, path: str) -> bytes:
    """A request as the origin gets it: by its path, without what is the proxy's, and alone."""
    line, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, _, version = line.split(" ")
    kept = [each for each in fields if not each.lower().startswith(("proxy-", "connection:"))]
    return "\r\n".join([f"{method} {path} {version}", *kept, "Connection: close", "", ""]).encode()


async def _relay(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    to_reader: asyncio.StreamReader,
    to_writer: asyncio.StreamWriter,
) -> None:
    try:
        async with asyncio.TaskGroup() as pumps:
            up = pumps.create_task(_pump(reader, to_writer))
            await _pump(to_reader, writer)
            up.cancel()
    finally:
        to_writer.transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while piece := await source.read(2**16):
            sink.write(piece)
            await sink.drain()

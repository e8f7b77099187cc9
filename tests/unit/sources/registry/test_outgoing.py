"""A body on its way over a connection that ends."""

import asyncio
import os
from collections.abc import AsyncIterator
from io import FileIO
from pathlib import Path

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_writer import StreamWriter

from mirror.aio.sending import FilePart
from mirror.sources.registry.outgoing import Outgoing
from mirror.sources.targets import Sendable

CONTENT = b"what is sent"


@pytest.fixture
async def writer() -> AsyncIterator[StreamWriter]:
    """Of a request in chunked coding, to who takes all that comes."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    async with server:
        address = server.sockets[0].getsockname()
        transport, protocol = await loop.create_connection(lambda: BaseProtocol(loop), *address)
        writer = StreamWriter(protocol, loop)
        writer.enable_chunking()
        yield writer
        transport.close()


async def at_once(size: int) -> None:
    """No line is slow here."""


@pytest.mark.parametrize("is_file", [True, False], ids=["part of a file", "bytes"])
async def test_a_connection_that_has_ended_before_the_body_is_told_with_the_body(
    writer: StreamWriter, tmp_path: Path, *, is_file: bool
) -> None:
    """What the library finds out behind it, nobody hears: it would be in the log as a fault."""
    path = tmp_path / "spool"
    path.write_bytes(CONTENT)

    async def read_at(offset: int, length: int) -> bytes:
        return os.pread(file.fileno(), length, offset)

    async def pieces() -> AsyncIterator[Sendable]:
        yield FilePart(file, 0, len(CONTENT), read_at) if is_file else CONTENT
        assert writer.transport is not None
        writer.transport.abort()

    with FileIO(path) as file:
        outgoing = Outgoing(pieces(), patience=5, answer=5)
        async with asyncio.timeout(None) as deadline:
            outgoing.begin(deadline, at_once)
            with pytest.raises(ConnectionResetError):
                await outgoing.write_to(writer)

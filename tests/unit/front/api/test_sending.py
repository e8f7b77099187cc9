"""Files on their way to a client, by the kernel: whole, in order, in either kind of event loop."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web

from mirror.front.api.sending import Sender, sending_to
from tests.support.images import random_bytes

SIZE = 2**20
BUFFER = 8 * 1024  # bytes in each socket: far less than is sent
CONTENT = random_bytes(SIZE, seed=1)
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: leave without a goodbye

Run = Callable[[Coroutine[Any, Any, None]], None]
Handler = Callable[[web.BaseRequest], Awaitable[None]]
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test in a loop of its own, and sees that it leaves no descriptor behind."""

    def run_clean(test: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.get_loop()  # the first in a process opens what every other one uses
        before = {*Path("/proc/self/fd").iterdir()}
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(test)
        assert {*Path("/proc/self/fd").iterdir()} == before

    return run_clean


@asynccontextmanager
async def client_of(handler: Handler) -> AsyncIterator[socket.socket]:
    """A client whose request is with the handler; little fits between the two."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await handler(request)
        request.protocol.force_close()
        return web.Response()

    loop = asyncio.get_running_loop()
    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    assert runner.server is not None
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        client.setblocking(False)
        await loop.sock_connect(client, listener.getsockname())
        connection, _ = listener.accept()
        await loop.connect_accepted_socket(runner.server, connection)
        await loop.sock_sendall(client, b"GET /blob HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            yield client
        finally:
            await runner.cleanup()


async def read(client: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        chunk = await asyncio.get_running_loop().sock_recv(client, 4096)
        assert chunk, f"the end, after {len(received)} bytes"
        received += chunk
    return bytes(received)


class Sending:
    """A handler that sends a file, and what became of it."""

    def __init__(self, send: Callable[[web.BaseRequest, Sender], Awaitable[None]]) -> None:
        self._send = send
        self.began = asyncio.Event()
        self.ended: asyncio.Queue[BaseException | None] = asyncio.Queue()

    async def __call__(self, request: web.BaseRequest) -> None:
        self.began.set()
        try:
            with sending_to(request) as sender:
                await self._send(request, sender)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test is told
            self.ended.put_nowait(error)
        else:
            self.ended.put_nowait(None)


def test_a_file_arrives_whole_at_a_client_that_reads_slowly(run: Run, file: Path) -> None:
    async def test() -> None:
        with FileIO(file) as opened:
            sending = Sending(lambda _, sender: sender.send(opened, 0, SIZE))
            async with client_of(sending) as client:
                await sending.began.wait()
                assert sending.ended.empty()
                assert await read(client, SIZE) == CONTENT
                assert await sending.ended.get() is None

    run(test())


def test_a_part_of_a_file_is_sent_and_then_the_next(run: Run, file: Path) -> None:
    cuts = [(100, 100), (100, 101), (101, SIZE // 2), (SIZE // 2, SIZE - 7)]

    async def test() -> None:
        async def send(_: web.BaseRequest, sender: Sender) -> None:
            for start, stop in cuts:
                await sender.send(opened, start, stop)

        with FileIO(file) as opened:
            sending = Sending(send)
            async with client_of(sending) as client:
                assert await read(client, SIZE - 107) == CONTENT[100:-7]
                assert await sending.ended.get() is None
            assert opened.tell() == 0  # others share it

    run(test())


def test_once_a_file_is_sent_the_loop_no_longer_watches_the_connection_for_it(
    run: Run, file: Path
) -> None:
    """A descriptor that is closed would be reported as writable for ever: it is a duplicate."""

    async def test() -> None:
        async def send(request: web.BaseRequest, sender: Sender) -> None:
            number = os.dup(0)
            os.close(number)  # the next one to be given away
            for _ in range(2):
                with sending_to(request) as another:
                    await another.send(opened, 0, SIZE)
                assert not asyncio.get_running_loop().remove_writer(number)

        with FileIO(file) as opened:
            sending = Sending(send)
            async with client_of(sending) as client:
                assert await read(client, 2 * SIZE) == CONTENT * 2
                assert await sending.ended.get() is None

    run(test())


def test_what_was_written_before_arrives_before_the_file_and_what_is_written_after_it_after(
    run: Run, file: Path
) -> None:
    head, middle, tail = (bytes([byte]) * 2**18 for byte in b"hmt")

    async def test() -> None:
        async def send(request: web.BaseRequest, sender: Sender) -> None:
            assert request.transport is not None
            request.transport.write(head)
            assert request.transport.get_write_buffer_size() > 0
            await sender.send(opened, 0, SIZE)
            assert request.transport.get_write_buffer_size() == 0
            request.transport.write(middle)
            await sender.send(opened, 0, SIZE)
            request.transport.write(tail)

        with FileIO(file) as opened:
            sending = Sending(send)
            async with client_of(sending) as client:
                expected = head + CONTENT + middle + CONTENT + tail
                assert await read(client, len(expected)) == expected
                assert await sending.ended.get() is None

    run(test())


def test_after_it_the_transport_takes_as_much_as_ever(run: Run, file: Path) -> None:
    """To wait for an empty buffer is for once: nobody waits until the last byte is gone again."""

    async def test() -> None:
        async def send(request: web.BaseRequest, sender: Sender) -> None:
            assert request.transport is not None
            request.transport.write(bytes(2**18))
            await sender.send(opened, 0, SIZE)
            request.transport.write(bytes(60 * 1024))
            await request.writer.drain()
            assert request.transport.get_write_buffer_size() > 0

        with FileIO(file) as opened:
            sending = Sending(send)
            async with client_of(sending) as client:
                await read(client, 2**18 + SIZE)
                async with asyncio.timeout(10):
                    assert await sending.ended.get() is None

    run(test())


def test_a_client_that_leaves_is_a_connection_error(run: Run, file: Path) -> None:
    async def test() -> None:
        with FileIO(file) as opened:
            sending = Sending(lambda _, sender: sender.send(opened, 0, SIZE))
            async with client_of(sending) as client:
                await read(client, 100)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                client.close()
                assert isinstance(await sending.ended.get(), ConnectionError)

    run(test())


def test_a_client_that_leaves_while_headers_wait_is_a_connection_error(
    run: Run, file: Path
) -> None:
    async def test() -> None:
        async def send(request: web.BaseRequest, sender: Sender) -> None:
            assert request.transport is not None
            request.transport.write(bytes(2**18))
            await sender.send(opened, 0, SIZE)

        with FileIO(file) as opened:
            sending = Sending(send)
            async with client_of(sending) as client:
                await read(client, 100)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                client.close()
                assert isinstance(await sending.ended.get(), ConnectionError)

    run(test())


def test_who_has_left_before_it_begins_is_a_connection_error(run: Run, file: Path) -> None:
    async def test() -> None:
        async def send(request: web.BaseRequest, sender: Sender) -> None:
            assert request.transport is not None
            request.transport.abort()
            await sender.send(opened, 0, SIZE)

        with FileIO(file) as opened:
            sending = Sending(send)
            async with client_of(sending):
                assert isinstance(await sending.ended.get(), ConnectionError)

    run(test())


def test_who_is_told_to_stop_sends_no_more(run: Run, file: Path) -> None:
    """And the loop watches the connection for it no longer: the rest is never sent."""

    async def test() -> None:
        async def send(_: web.BaseRequest, sender: Sender) -> None:
            async with asyncio.timeout(0.05):
                await sender.send(opened, 0, SIZE)

        with FileIO(file) as opened:
            sending = Sending(send)
            async with client_of(sending) as client:
                assert isinstance(await sending.ended.get(), TimeoutError)
                received = bytearray()
                while chunk := await asyncio.get_running_loop().sock_recv(client, 65536):
                    received += chunk
                assert CONTENT.startswith(received)
                assert len(received) < SIZE

    run(test())


def test_a_file_that_is_shorter_than_it_was_said_to_be_is_an_error(run: Run, file: Path) -> None:
    async def test() -> None:
        with FileIO(file) as opened:
            sending = Sending(lambda _, sender: sender.send(opened, 0, SIZE + 1))
            async with client_of(sending) as client:
                assert await read(client, SIZE) == CONTENT
                assert isinstance(await sending.ended.get(), OSError)

    run(test())

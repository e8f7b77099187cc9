"""Messages between processes: whole, in order, with what is open; here both ends are ours."""

import asyncio
import fcntl
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from mirror.front.wire.channel import Channel, Packet, make_pair
from mirror.front.wire.interface import Codec, Violation, close_all
from tests.support.process import until

MANY = 3000  # more than fit into a socket's buffer
RUBBISH = b"rubbish"


class End:
    """One end of a channel, and what has come out of it."""

    def __init__(self, connection: socket.socket) -> None:
        self.received: asyncio.Queue[Any] = asyncio.Queue()
        self.losses = 0
        self.channel = Channel(connection, receive=self._receive, lost=self._lose)

    async def next(self, count: int) -> list[Any]:
        return [await self.received.get() for _ in range(count)]

    async def has_lost_the_other(self) -> bool:
        return self.losses > 0

    def send(self, message: object) -> None:
        """What is open in it, it gives away as it is."""
        codec = Codec()
        self.channel.send(*codec.encode(message))

    async def next_of(self, kind: Any, count: int) -> list[Any]:
        codec = Codec()
        packets = await self.next(count)
        return [codec.decode(kind, packet.data, packet.descriptors) for packet in packets]

    def _receive(self, packet: Packet) -> None:
        if packet.data == RUBBISH:
            close_all(packet.descriptors)
            raise Violation("rubbish")
        self.received.put_nowait(packet)

    def _lose(self) -> None:
        self.losses += 1


@pytest.fixture
async def sockets() -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = make_pair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
async def near(sockets: tuple[socket.socket, socket.socket]) -> AsyncIterator[End]:
    end = End(sockets[0])
    yield end
    end.channel.close()


@pytest.fixture
async def far(sockets: tuple[socket.socket, socket.socket]) -> AsyncIterator[End]:
    end = End(sockets[1])
    yield end
    end.channel.close()


@pytest.fixture
def file(tmp_path: Path) -> FileIO:
    path = tmp_path / "blob"
    path.write_bytes(b"content")
    return FileIO(path)


def read(file: FileIO) -> bytes:
    return os.pread(file.fileno(), 100, 0)


def count_open() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


# Messages


@pytest.mark.parametrize("size", [0, 1, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 5 * 2**20])
async def test_a_message_of_any_size_arrives_whole(near: End, far: End, size: int) -> None:
    sent = {"content": os.urandom(size)}
    near.send(sent)
    far.send(["back", sent["content"]])
    assert await far.next_of(dict[str, bytes], 1) == [sent]
    assert await near.next_of(list[Any], 1) == [["back", sent["content"]]]


async def test_messages_arrive_in_the_order_in_which_they_were_sent(near: End, far: End) -> None:
    """Large ones travel in another way; and there are more than there is room for."""
    sent = [(number, bytes(2**17 if number % 50 == 0 else 10)) for number in range(MANY)]
    for message in sent:
        near.send(message)
    assert await far.next_of(tuple[int, bytes], MANY) == sent


async def test_who_sends_does_not_wait_for_who_does_not_read(
    near: End, sockets: tuple[socket.socket, socket.socket]
) -> None:
    for number in range(MANY):
        near.send(number)
    near.send(MANY)
    late = End(sockets[1])
    assert await late.next_of(int, MANY + 1) == [*range(MANY + 1)]
    late.channel.close()


async def test_what_cannot_travel_is_the_senders_fault_and_harms_nothing(
    near: End, far: End, file: FileIO
) -> None:
    with file, pytest.raises(TypeError):
        near.send((file, threading.Lock()))
    near.send("next")
    assert await far.next_of(str, 1) == ["next"]


# What is open


async def test_a_file_arrives_open_and_the_senders_own_stays_open(
    near: End, far: End, file: FileIO
) -> None:
    near.send(("take this", file))
    [(text, received)] = await far.next_of(tuple[str, FileIO], 1)
    with file, received:
        assert text == "take this"
        assert received.fileno() != file.fileno()
        assert read(received) == read(file) == b"content"


async def test_a_connection_arrives_open_and_the_sender_may_close_its_own(
    near: End, far: End
) -> None:
    client, server = socket.socketpair()
    with client:
        near.send(server)
        server.close()
        [received] = await far.next_of(socket.socket, 1)
        with received:
            received.sendall(b"hello")
            assert client.recv(100) == b"hello"
        assert client.recv(100) == b""  # it was the only one


async def test_several_files_travel_in_one_large_message(
    near: End, far: End, tmp_path: Path
) -> None:
    content = bytes(2**20)
    sent = []
    for number in range(7):
        (tmp_path / str(number)).write_bytes(b"%d" % number)
        sent.append(FileIO(tmp_path / str(number)))
    near.send((sent[:4], content, sent[4:]))
    for file in sent:
        file.close()
    kind = tuple[list[FileIO], bytes, list[FileIO]]
    [(some, received, others)] = await far.next_of(kind, 1)
    assert received == content
    assert [read(file) for file in (*some, *others)] == [b"%d" % number for number in range(7)]
    for file in (*some, *others):
        file.close()


async def test_a_file_may_be_closed_as_soon_as_it_is_sent_also_where_it_has_to_wait(
    near: End, sockets: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    """A descriptor's number is given to the next file at once: nobody gets another's."""
    path = tmp_path / "blob"
    for number in range(MANY):
        path.write_bytes(b"%d" % number)
        with FileIO(path) as file:
            near.send((number, file))
        path.unlink()
    late = End(sockets[1])
    for number in range(MANY):
        [(name, received)] = await late.next_of(tuple[int, FileIO], 1)
        with received:
            assert (name, read(received)) == (number, b"%d" % number)
    late.channel.close()


async def test_no_program_that_is_started_inherits_what_has_arrived(
    near: End, far: End, file: FileIO
) -> None:
    with file:
        near.send(file)
    [received] = await far.next_of(FileIO, 1)
    with received:
        assert not os.get_inheritable(received.fileno())


# The end


async def test_who_hangs_up_is_lost_to_the_other_once(near: End, far: End) -> None:
    near.send("goodbye")
    near.channel.close()
    assert await far.next_of(str, 1) == ["goodbye"]
    await until(far.has_lost_the_other)
    for end in (near, far):
        end.channel.close()
        end.send("too late")
    assert (near.losses, far.losses) == (0, 1)


async def test_who_hangs_up_without_having_read_is_lost_too(near: End, far: End) -> None:
    for number in range(MANY):
        near.send(number)
    far.channel.close()
    await until(near.has_lost_the_other)
    assert near.losses == 1


async def test_a_process_that_dies_is_lost(
    near: End, sockets: tuple[socket.socket, socket.socket]
) -> None:
    sockets[1].close()
    await until(near.has_lost_the_other)
    assert near.losses == 1


async def test_who_hangs_up_over_a_message_hears_no_more(
    near: End, sockets: tuple[socket.socket, socket.socket]
) -> None:
    heard: list[object] = []

    def hang_up(packet: Packet) -> None:
        heard.append(packet.data)
        channel.close()

    channel = Channel(sockets[1], receive=hang_up, lost=lambda: heard.append("lost"))
    for number in range(5):
        near.send(number)
    await until(near.has_lost_the_other)
    assert heard == [b"\x00"]


@pytest.mark.parametrize("hangs_up", ["sender", "receiver"])
async def test_files_that_have_not_been_received_when_it_ends_are_closed(
    near: End,
    sockets: tuple[socket.socket, socket.socket],
    file: FileIO,
    *,
    hangs_up: str,
) -> None:
    """Some are in the socket's buffer, some wait for room, one comes too late."""
    before = count_open()
    with file:
        for _ in range(MANY):
            near.send((file, bytes(2**16)))
        assert count_open() > before
        if hangs_up == "receiver":
            sockets[1].close()
            await until(near.has_lost_the_other)
        near.channel.close()
        near.send(file)
    sockets[1].close()
    assert count_open() < before


ENVELOPE = b"\xc1"  # says that the message is in a file in memory


def memory(content: bytes, *, seals: int) -> int:
    descriptor = os.memfd_create("message", os.MFD_ALLOW_SEALING)
    os.write(descriptor, content)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def sealed_sparsely(size: int) -> int:
    descriptor = os.memfd_create("message", os.MFD_ALLOW_SEALING)
    os.truncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, ALL_SEALS)
    return descriptor


ALL_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
RUBBISHES: dict[str, Callable[[], tuple[bytes, list[int]]]] = {
    "rubbish": lambda: (RUBBISH, []),
    "rubbish and a file": lambda: (RUBBISH, [os.open("/dev/null", os.O_RDONLY)]),
    "an empty envelope": lambda: (ENVELOPE, []),
    "no file in memory": lambda: (ENVELOPE, [os.open("/dev/zero", os.O_RDONLY)]),
    "a pipe": lambda: (ENVELOPE, [*os.pipe()]),
    "what may be cut": lambda: (ENVELOPE, [memory(b"x", seals=fcntl.F_SEAL_WRITE)]),
    "what may be changed": lambda: (ENVELOPE, [memory(b"x", seals=fcntl.F_SEAL_SHRINK)]),
    "what is large beyond sense": lambda: (ENVELOPE, [sealed_sparsely(2**40)]),
}


@pytest.mark.parametrize("rubbish", RUBBISHES.values(), ids=RUBBISHES.keys())
async def test_what_cannot_be_understood_ends_the_channel_and_is_told_in_one_line(
    far: End,
    sockets: tuple[socket.socket, socket.socket],
    caplog: pytest.LogCaptureFixture,
    rubbish: Callable[[], tuple[bytes, list[int]]],
) -> None:
    before = count_open()
    data, descriptors = rubbish()
    socket.send_fds(sockets[0], [data], descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    await until(far.has_lost_the_other)
    assert sockets[0].recv(1) == b""
    assert far.losses == 1
    assert count_open() == before - 1  # the end that was hung up; nothing that has come stays open
    [told] = caplog.records
    assert (told.levelno, told.exc_info) == (logging.ERROR, None)
    assert "cannot be understood" in told.getMessage()


async def test_what_was_sent_before_rubbish_arrives(
    near: End, far: End, sockets: tuple[socket.socket, socket.socket]
) -> None:
    near.send("sense")
    near.channel.send(RUBBISH)
    near.send("more sense")
    await until(far.has_lost_the_other)
    assert await far.next_of(str, 1) == ["sense"]
    assert far.received.empty()


async def test_nobody_else_can_close_what_the_loop_watches(
    near: End, sockets: tuple[socket.socket, socket.socket]
) -> None:
    """The next file that is opened would have the same number, and the loop would watch that."""
    sockets[0].close()
    far = End(sockets[1])
    near.send("still there")
    assert await far.next_of(str, 1) == ["still there"]
    far.channel.close()
    await until(near.has_lost_the_other)

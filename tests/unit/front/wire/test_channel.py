"""Messages between processes: whole, in order, with what is open; here both ends are ours."""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from mirror.front.wire.channel import Channel, make_pair
from tests.support.process import until

MANY = 3000  # more than fit into a socket's buffer


class End:
    """One end of a channel, and what has come out of it."""

    def __init__(self, connection: socket.socket) -> None:
        self.received: asyncio.Queue[Any] = asyncio.Queue()
        self.losses = 0
        self.channel = Channel(connection, receive=self.received.put_nowait, lost=self._lose)

    async def next(self, count: int) -> list[Any]:
        return [await self.received.get() for _ in range(count)]

    async def has_lost_the_other(self) -> bool:
        return self.losses > 0

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
    near.channel.send(sent)
    far.channel.send(["back", sent])
    assert await far.next(1) == [sent]
    assert await near.next(1) == [["back", sent]]


async def test_messages_arrive_in_the_order_in_which_they_were_sent(near: End, far: End) -> None:
    """Large ones travel in another way; and there are more than there is room for."""
    sent = [(number, bytes(2**17 if number % 50 == 0 else 10)) for number in range(MANY)]
    for message in sent:
        near.channel.send(message)
    assert await far.next(MANY) == sent


async def test_who_sends_does_not_wait_for_who_does_not_read(
    near: End, sockets: tuple[socket.socket, socket.socket]
) -> None:
    for number in range(MANY):
        near.channel.send(number)
    near.channel.send("the last")
    late = End(sockets[1])
    assert await late.next(MANY + 1) == [*range(MANY), "the last"]
    late.channel.close()


async def test_what_cannot_travel_is_the_senders_fault_and_harms_nothing(
    near: End, far: End, file: FileIO
) -> None:
    with file, pytest.raises(TypeError):
        near.channel.send((file, threading.Lock()))
    near.channel.send("next")
    assert await far.next(1) == ["next"]


# What is open


async def test_a_file_arrives_open_and_the_senders_own_stays_open(
    near: End, far: End, file: FileIO
) -> None:
    near.channel.send(("take this", file))
    [(text, received)] = await far.next(1)
    with file, received:
        assert text == "take this"
        assert received.fileno() != file.fileno()
        assert read(received) == read(file) == b"content"


async def test_a_connection_arrives_open_and_the_sender_may_close_its_own(
    near: End, far: End
) -> None:
    client, server = socket.socketpair()
    with client:
        near.channel.send(server)
        server.close()
        [received] = await far.next(1)
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
    near.channel.send((sent[:4], content, sent[4:]))
    for file in sent:
        file.close()
    [(some, received, others)] = await far.next(1)
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
            near.channel.send((number, file))
        path.unlink()
    late = End(sockets[1])
    for number in range(MANY):
        [(name, received)] = await late.next(1)
        with received:
            assert (name, read(received)) == (number, b"%d" % number)
    late.channel.close()


async def test_no_program_that_is_started_inherits_what_has_arrived(
    near: End, far: End, file: FileIO
) -> None:
    with file:
        near.channel.send(file)
    [received] = await far.next(1)
    with received:
        assert not os.get_inheritable(received.fileno())


# The end


async def test_who_hangs_up_is_lost_to_the_other_once(near: End, far: End) -> None:
    near.channel.send("goodbye")
    near.channel.close()
    assert await far.next(1) == ["goodbye"]
    await until(far.has_lost_the_other, within=5)
    for end in (near, far):
        end.channel.close()
        end.channel.send("too late")
    assert (near.losses, far.losses) == (0, 1)


async def test_who_hangs_up_without_having_read_is_lost_too(near: End, far: End) -> None:
    for number in range(MANY):
        near.channel.send(number)
    far.channel.close()
    await until(near.has_lost_the_other, within=5)
    assert near.losses == 1


async def test_a_process_that_dies_is_lost(
    near: End, sockets: tuple[socket.socket, socket.socket]
) -> None:
    sockets[1].close()
    await until(near.has_lost_the_other, within=5)
    assert near.losses == 1


async def test_who_hangs_up_over_a_message_hears_no_more(
    near: End, sockets: tuple[socket.socket, socket.socket]
) -> None:
    heard = []

    def hang_up(message: object) -> None:
        heard.append(message)
        channel.close()

    channel = Channel(sockets[1], receive=hang_up, lost=lambda: heard.append("lost"))
    for number in range(5):
        near.channel.send(number)
    await until(near.has_lost_the_other, within=5)
    assert heard == [0]


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
            near.channel.send((file, bytes(2**16)))
        assert count_open() > before
        if hangs_up == "receiver":
            sockets[1].close()
            await until(near.has_lost_the_other, within=5)
        near.channel.close()
        near.channel.send(file)
    sockets[1].close()
    assert count_open() < before


@pytest.mark.parametrize("rubbish", [b"rubbish", b"\0", b"\x80\x05K"])
async def test_a_message_that_cannot_be_understood_ends_the_channel_and_is_told(
    far: End,
    sockets: tuple[socket.socket, socket.socket],
    caplog: pytest.LogCaptureFixture,
    rubbish: bytes,
) -> None:
    sockets[0].send(rubbish)
    await until(far.has_lost_the_other, within=5)
    assert sockets[0].recv(1) == b""
    assert far.losses == 1
    [told] = caplog.records
    assert (told.levelno, told.exc_info is not None) == (logging.ERROR, True)
    assert "restart the mirror" in told.getMessage()


async def test_a_file_that_comes_beside_rubbish_is_closed(
    far: End, sockets: tuple[socket.socket, socket.socket], file: FileIO
) -> None:
    before = count_open()
    with file:
        socket.send_fds(sockets[0], [b"rubbish"], [file.fileno()])
        await until(far.has_lost_the_other, within=5)
    assert count_open() == before - 2  # neither the file nor the end that was hung up


async def test_what_was_sent_before_rubbish_arrives(
    near: End, far: End, sockets: tuple[socket.socket, socket.socket]
) -> None:
    near.channel.send("sense")
    sockets[0].send(b"rubbish")
    near.channel.send("more sense")
    await until(far.has_lost_the_other, within=5)
    assert await far.next(1) == ["sense"]
    assert far.received.empty()

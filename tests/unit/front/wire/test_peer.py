"""Calls between processes: who asks gets what was answered, and nothing outlives who asked."""

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from io import FileIO
from pathlib import Path

import pytest

from mirror.config import ConfigError
from mirror.front.wire.channel import make_pair
from mirror.front.wire.peer import Peer, Served
from mirror.oci.errors import (
    Denied,
    DigestMismatch,
    ErrorCode,
    Missing,
    RegistryError,
    StoreError,
    Unavailable,
)
from mirror.storage.errors import NoRoom, TooLarge
from mirror.telemetry.log import request_id
from tests.support.tasks import owned_tasks


@asynccontextmanager
async def connected(
    serves: Served, others: Served | None = None
) -> AsyncIterator[tuple[Peer, Peer]]:
    """Who asks, and who serves; as two processes would be, but that their tasks are in one loop."""
    ours, theirs = make_pair()
    async with owned_tasks() as tasks:
        peers = Peer(ours, others or {}, tasks=tasks), Peer(theirs, serves, tasks=tasks)
        try:
            yield peers
        finally:
            for peer in peers:
                peer.close()


class Shelf:
    """Serves what takes its time, and knows how it went."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.began = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.lent = 0

    def serves(self) -> Served:
        return {"work": self.work, "lend": self.lend}

    async def work(self, name: str = "") -> str:
        try:
            self.began.set()
            await self.may_go_on.wait()
        except asyncio.CancelledError:
            self.ended.put_nowait(f"cancelled {name}".strip())
            raise
        return f"done {name}".strip()

    @asynccontextmanager
    async def lend(self, name: str = "") -> AsyncIterator[FileIO | str]:
        await self.work(name)
        self.lent += 1
        try:
            if self._file is None:
                yield f"this is {name}"
            else:
                with FileIO(self._file) as file:
                    yield file
        finally:
            self.lent -= 1
            self.ended.put_nowait(f"let go {name}".strip())


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


async def fail(error: Exception) -> None:
    raise error


async def add(*numbers: int) -> int:
    return sum(numbers)


# Asking


async def test_a_call_is_answered_with_what_the_method_returns() -> None:
    async with connected({"add": add}) as (asking, _):
        answers = await asyncio.gather(*[asking.call("add", n, 1) for n in range(100)])
    assert answers == [*range(1, 101)]


async def test_both_sides_may_ask() -> None:
    async def twice(number: int) -> int:
        answer: int = await serving.call("add", number, number)
        return answer

    async with connected({"twice": twice}, {"add": add}) as (asking, serving):
        assert await asking.call("twice", 21) == 42


async def test_answers_come_as_they_are_ready_not_as_they_were_asked_for(shelf: Shelf) -> None:
    async with connected({**shelf.serves(), "add": add}) as (asking, _), owned_tasks() as tasks:
        slow = tasks.create_task(asking.call("work"))
        await shelf.began.wait()
        assert await asking.call("add", 1) == 1
        assert not slow.done()
        shelf.may_go_on.set()
        assert await slow == "done"


async def test_what_is_told_is_done_and_a_fault_in_it_is_nobodys_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()

    async def listen(text: str) -> None:
        told.put_nowait(text)

    async with connected({"listen": listen, "fail": fail, "add": add}) as (asking, _):
        asking.tell("fail", KeyError("a fault"))
        asking.tell("listen", "hello")
        assert await told.get() == "hello"
        assert await asking.call("add", 1) == 1
    [fault] = caplog.records
    assert (fault.levelno, fault.getMessage()) == (logging.ERROR, "fail failed")


async def test_what_is_open_may_be_told_of() -> None:
    async def greet(connection: socket.socket) -> None:
        with connection:
            connection.sendall(b"hello")

    client, server = socket.socketpair()
    client.setblocking(False)
    with client:
        async with connected({"greet": greet}) as (asking, _):
            with server:
                asking.tell("greet", server)
            assert await asyncio.get_running_loop().sock_recv(client, 100) == b"hello"


@pytest.mark.parametrize("way", ["call", "open", "tell"])
async def test_whoever_answers_logs_under_the_id_of_the_clients_request(way: str) -> None:
    ids: asyncio.Queue[str] = asyncio.Queue()

    async def note() -> None:
        ids.put_nowait(request_id.get())

    @asynccontextmanager
    async def note_open() -> AsyncIterator[None]:
        await note()
        yield

    async with connected({"note": note, "note_open": note_open}) as (asking, _):
        for identity in ("4f2a-1", "4f2a-2", ""):
            token = request_id.set(identity)
            match way:
                case "call":
                    await asking.call("note")
                case "open":
                    async with asking.open("note_open"):
                        pass
                case _:
                    asking.tell("note")
            request_id.reset(token)
            assert await ids.get() == identity


# What goes wrong

MISSING_AGAIN = Missing(ErrorCode.BLOB_UNKNOWN, "not there")
MISSING_AGAIN.is_remembered = True
ERRORS = [
    RegistryError(ErrorCode.NAME_UNKNOWN, "no such registry", {"name": "x"}),
    Missing(ErrorCode.MANIFEST_UNKNOWN, "no such tag", {"tag": "1"}),
    MISSING_AGAIN,
    Denied(ErrorCode.UNAUTHORIZED, "log in", ["pull"], challenge='Bearer realm="https://x"'),
    Unavailable("down"),
    Unavailable(
        "limited",
        code=ErrorCode.TOOMANYREQUESTS,
        retry_after=2.5,
        timed_out=True,
        status_seen=429,
    ),
    DigestMismatch("wrong bytes"),
    StoreError("/data/blobs is read-only"),
    NoRoom("no room for 5 GiB"),
    TooLarge("larger than store.max_size"),
]


def all_below(kind: type[RegistryError]) -> set[type[RegistryError]]:
    return {kind}.union(*map(all_below, kind.__subclasses__()))


def test_every_error_that_clients_may_be_told_of_is_among_these() -> None:
    public = {kind for kind in all_below(RegistryError) if not kind.__name__.startswith("_")}
    assert {type(error) for error in ERRORS} == public


@pytest.mark.parametrize("error", ERRORS, ids=repr)
async def test_an_error_arrives_as_itself_with_all_that_it_says(
    error: RegistryError, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected({"fail": fail}) as (asking, _):
        with pytest.raises(type(error)) as arrived:
            await asking.call("fail", error)
    assert type(arrived.value) is type(error)
    assert vars(arrived.value) == vars(error)
    assert (str(arrived.value), arrived.value.status) == (str(error), error.status)
    assert arrived.value.args == error.args
    assert caplog.records == []  # whoever asked knows what to make of it


async def test_a_configuration_that_makes_no_sense_arrives_with_its_problems() -> None:
    error = ConfigError("mirror.toml", ["server.lisen: unknown key", "store.max_size: 5"])
    async with connected({"fail": fail}) as (asking, _):
        with pytest.raises(ConfigError) as arrived:
            await asking.call("fail", error)
    assert (arrived.value.source, arrived.value.problems) == (error.source, error.problems)
    assert str(arrived.value) == str(error)


async def test_an_error_when_it_is_opened_arrives_too() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        await fail(MISSING_AGAIN)
        yield

    async with connected({"broken": broken}) as (asking, _):
        with pytest.raises(Missing):
            async with asking.open("broken"):
                raise AssertionError("there is nothing to hold")


async def test_a_fault_of_our_own_is_told_in_the_log_of_the_process_that_has_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    token = request_id.set("4f2a-1")
    async with connected({"fail": fail}) as (asking, _):
        with pytest.raises(RuntimeError, match="by nought"):
            await asking.call("fail", ZeroDivisionError("by nought"))
    request_id.reset(token)
    [fault] = caplog.records
    assert fault.getMessage() == "fail failed"
    assert vars(fault)["request_id"] == "4f2a-1"
    assert fault.exc_info is not None
    assert fault.exc_info[0] is ZeroDivisionError


class Stuck(Exception):
    """Holds what cannot travel."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class Foreign(Exception):
    """Cannot be unpickled, as many libraries' errors: its `args` are not what it is made of."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"{host}:{port} is in the mud")


@pytest.mark.parametrize("error", [Stuck("in the mud"), Foreign("host", 80)], ids=repr)
async def test_an_error_that_cannot_travel_arrives_as_one_that_can(error: Exception) -> None:
    async def stick() -> None:
        raise error

    async with connected({"stick": stick, "add": add}) as (asking, _):
        with pytest.raises(RuntimeError, match="in the mud"):
            await asking.call("stick")
        assert await asking.call("add", 1) == 1


async def test_an_answer_that_cannot_travel_is_an_error() -> None:
    async def lock() -> object:
        return threading.Lock()

    async with connected({"lock": lock, "add": add}) as (asking, _):
        with pytest.raises(RuntimeError, match="cannot pickle"):
            await asking.call("lock")
        with pytest.raises(TypeError):
            await asking.call("add", threading.Lock())
        assert await asking.call("add", 1) == 1


# Whoever stops waiting


async def test_what_nobody_waits_for_any_more_is_cancelled(shelf: Shelf) -> None:
    async with connected(shelf.serves()) as (asking, _), owned_tasks() as tasks:
        waiting = tasks.create_task(asking.call("work", "early"))
        await shelf.began.wait()
        other = tasks.create_task(asking.call("work", "late"))
        waiting.cancel()
        assert await shelf.ended.get() == "cancelled early"
        shelf.may_go_on.set()
        assert await other == "done late"
    assert shelf.ended.empty()


async def test_a_call_that_is_left_before_it_has_begun_is_forgotten() -> None:
    async with connected({"add": add}) as (asking, serving):
        call = asking.call("add", 1)
        call.send(None)
        with pytest.raises(asyncio.CancelledError):
            call.throw(asyncio.CancelledError)  # in the same turn: both arrive together
        assert await asking.call("add", 1) == 1
        await asyncio.sleep(0)
        assert serving._working == {}  # noqa: SLF001 - what is kept for ever has no other sign


async def test_what_is_open_is_let_go_when_the_block_ends(shelf: Shelf) -> None:
    shelf.may_go_on.set()
    async with connected(shelf.serves()) as (asking, _):
        async with asking.open("lend", "a") as one, asking.open("lend", "b") as other:
            assert (one, other) == ("this is a", "this is b")
            assert shelf.lent == 2
        assert [await shelf.ended.get() for _ in range(2)] == ["let go b", "let go a"]
        with pytest.raises(ZeroDivisionError):
            async with asking.open("lend", "c"):
                _ = 1 / 0
        assert await shelf.ended.get() == "let go c"
        assert shelf.lent == 0


async def test_what_is_open_is_let_go_when_whoever_has_it_is_cancelled(shelf: Shelf) -> None:
    shelf.may_go_on.set()
    is_open = asyncio.Event()

    async def hold(asking: Peer) -> None:
        async with asking.open("lend", "it"):
            is_open.set()
            await asyncio.Event().wait()

    async with connected(shelf.serves()) as (asking, _), owned_tasks() as tasks:
        holding = tasks.create_task(hold(asking))
        await is_open.wait()
        assert shelf.lent == 1
        holding.cancel()
        assert await shelf.ended.get() == "let go it"


async def test_what_is_being_opened_for_nobody_is_cancelled(shelf: Shelf) -> None:
    async def hold(asking: Peer) -> None:
        async with asking.open("lend", "it"):
            raise AssertionError("it never comes")

    async with connected(shelf.serves()) as (asking, _), owned_tasks() as tasks:
        holding = tasks.create_task(hold(asking))
        await shelf.began.wait()
        holding.cancel()
        assert await shelf.ended.get() == "cancelled it"
        assert shelf.lent == 0


async def test_whenever_somebody_stops_waiting_nothing_stays_open(tmp_path: Path) -> None:
    """Also where the answer is on its way just then, with a file that comes for nobody."""
    path = tmp_path / "blob"
    path.write_bytes(b"content")
    shelf = Shelf(path)
    shelf.may_go_on.set()
    opened = 0

    async def hold(asking: Peer) -> None:
        nonlocal opened
        async with asking.open("lend", "it") as file:
            assert file.read() == b"content"
            opened += 1
            await asyncio.Event().wait()

    async with connected(shelf.serves()) as (asking, _), owned_tasks() as tasks:
        turns = range(12)  # of the loop, until it is cancelled
        for count in turns:
            holding = tasks.create_task(hold(asking))
            for _ in range(count):
                await asyncio.sleep(0)
            holding.cancel()
            await asyncio.wait([holding])
        await asking.call("work")  # by now everything before it has been heard of
        assert 0 < opened < len(turns)
        assert shelf.lent == 0


async def test_an_answer_that_comes_too_late_has_its_file_closed(tmp_path: Path) -> None:
    """The answer and the change of mind pass each other on the way."""
    path = tmp_path / "blob"
    path.write_bytes(b"content")
    opened: list[FileIO] = []
    waiting: asyncio.Task[object] | None = None

    async def give() -> FileIO:
        assert waiting is not None
        opened.append(FileIO(path))
        waiting.cancel()
        return opened[0]

    async with connected({"give": give, "add": add}) as (asking, _), owned_tasks() as tasks:
        waiting = tasks.create_task(asking.call("give"))
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert await asking.call("add", 1) == 1
    assert len(opened) == 1
    opened[0].close()  # the sender's own; the other has been closed, or it would be left behind


# The other side has gone


async def is_unavailable(asking: Peer, way: str) -> bool:
    try:
        if way == "open":
            async with asking.open("lend"):
                return False
        await asking.call("work")
    except Unavailable:
        return True
    return False


async def hang_up(asking: Peer, serving: Peer) -> None:
    asking.close()


async def be_lost(asking: Peer, serving: Peer) -> None:
    serving.close()
    await asking.lost.wait()


@pytest.mark.parametrize("end", [hang_up, be_lost])
async def test_once_the_other_side_has_gone_it_is_unavailable_to_all_who_ask(
    shelf: Shelf, end: Callable[[Peer, Peer], Awaitable[None]]
) -> None:
    async with connected(shelf.serves()) as (asking, serving), owned_tasks() as tasks:
        ways = ["call", "call", "open", "open"]
        waiting = [tasks.create_task(is_unavailable(asking, way)) for way in ways]
        await shelf.began.wait()
        await end(asking, serving)
        assert [await task for task in waiting] == [True] * len(ways)
        assert await is_unavailable(asking, "call")
        assert await is_unavailable(asking, "open")
        asking.tell("work")  # nobody hears it, and nobody waits


async def test_what_was_asked_by_a_process_that_has_died_is_cancelled_and_let_go(
    shelf: Shelf,
) -> None:
    shelf.may_go_on.set()
    async with connected(shelf.serves()) as (asking, serving), owned_tasks() as tasks:
        async with asking.open("lend", "it"):
            shelf.may_go_on.clear()
            shelf.began.clear()
            waiting = tasks.create_task(is_unavailable(asking, "call"))
            await shelf.began.wait()
            asking.close()
            await serving.lost.wait()
            ends = {await shelf.ended.get(), await shelf.ended.get()}
            assert ends == {"let go it", "cancelled"}
            assert shelf.lent == 0
        assert await waiting


async def test_a_block_may_end_after_the_other_side_has_gone(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"content")
    shelf = Shelf(path)
    shelf.may_go_on.set()
    async with connected(shelf.serves()) as (asking, serving):
        async with asking.open("lend") as file:
            serving.close()
            await asking.lost.wait()
            assert file.read() == b"content"  # it is ours
        assert file.closed


async def test_a_connection_that_is_dealt_to_a_process_that_has_died_is_closed() -> None:
    client, server = socket.socketpair()
    client.setblocking(False)
    with client:
        async with connected({}) as (asking, serving):
            with closing(server):
                asking.tell("connect", server)
            serving.close()
        assert await asyncio.get_running_loop().sock_recv(client, 100) == b""

"""Calls between processes: who asks gets what was answered, and nothing outlives who asked."""

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import pytest

from mirror.aio.sealed import MOST_AT_ONCE, Bulk
from mirror.aio.tasks import owned_tasks
from mirror.front.ports import FaultElsewhere
from mirror.front.settings import UnusableFile
from mirror.front.wire.channel import make_pair
from mirror.front.wire.interface import Served, serve
from mirror.front.wire.peer import Peer, proxy
from mirror.oci.errors import (
    Denied,
    DigestMismatch,
    ErrorCode,
    Missing,
    Refused,
    RegistryError,
    Sealed,
    StoreError,
    Unavailable,
)
from mirror.storage.errors import NoRoom, TooLarge
from mirror.telemetry.faults import Faults
from mirror.telemetry.log import request_id


class Port(Protocol):
    """What is asked of the other side here."""

    async def add(self, one: int, other: int) -> int: ...
    async def work(self, name: str) -> str: ...
    def lend(self, name: str) -> AbstractAsyncContextManager[str]: ...
    def lend_file(self, name: str) -> AbstractAsyncContextManager[FileIO]: ...
    def lend_broken(self) -> AbstractAsyncContextManager[str]: ...
    async def give_file(self) -> FileIO: ...
    async def fail(self, number: int) -> None: ...
    async def lock(self) -> Any: ...
    async def weigh(self, bulk: Bulk) -> int: ...
    def listen(self, text: str) -> None: ...
    def greet(self, connection: socket.socket) -> None: ...


class Shelf:
    """Serves what takes its time, and knows how it went."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.began = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.told: asyncio.Queue[str] = asyncio.Queue()
        self.ids: asyncio.Queue[str] = asyncio.Queue()
        self.bulks: asyncio.Queue[bytes] = asyncio.Queue()
        self.given: list[FileIO] = []
        self.before_giving: Callable[[], object] = int
        self.lent = 0

    async def add(self, one: int, other: int) -> int:
        self.ids.put_nowait(request_id.get())
        return one + other

    async def work(self, name: str) -> str:
        try:
            self.began.set()
            await self.may_go_on.wait()
        except asyncio.CancelledError:
            self.ended.put_nowait(f"cancelled {name}")
            raise
        return f"done {name}"

    async def weigh(self, bulk: Bulk) -> int:
        self.bulks.put_nowait(bulk.whole())
        return bulk.size

    @asynccontextmanager
    async def lend(self, name: str) -> AsyncIterator[str]:
        self.ids.put_nowait(request_id.get())
        await self.work(name)
        self.lent += 1
        try:
            yield f"this is {name}"
        finally:
            self.lent -= 1
            self.ended.put_nowait(f"let go {name}")

    @asynccontextmanager
    async def lend_file(self, name: str) -> AsyncIterator[FileIO]:
        assert self._file is not None
        async with self.lend(name):
            with FileIO(self._file) as file:
                yield file

    @asynccontextmanager
    async def lend_broken(self) -> AsyncIterator[str]:
        await self.fail(ERRORS.index(MISSING_AGAIN))
        yield "never"

    async def give_file(self) -> FileIO:
        assert self._file is not None
        self.before_giving()
        self.given.append(FileIO(self._file))
        return self.given[0]

    async def fail(self, number: int) -> None:
        raise ERRORS[number]

    async def lock(self) -> object:
        return threading.Lock()

    def listen(self, text: str) -> None:
        self.ids.put_nowait(request_id.get())
        if text == "fault":
            raise ZeroDivisionError("by nought")
        self.told.put_nowait(text)

    def greet(self, connection: socket.socket) -> None:
        with connection:
            connection.sendall(b"hello")


@dataclass
class Pair:
    """Who asks, and who serves; as two processes would be, but that their tasks are in one loop."""

    asking: Peer
    serving: Peer
    other: Port
    faults: Faults


@asynccontextmanager
async def connected(
    implementation: object, others: Served | None = None, *, is_trusted: bool = False
) -> AsyncIterator[Pair]:
    ours, theirs = make_pair()
    faults = Faults()
    async with owned_tasks(faults.note) as tasks:
        served = serve(Port, implementation)
        asking = Peer(
            ours, others or {}, tasks=tasks, note_fault=faults.note, is_trusted=is_trusted
        )
        serving = Peer(theirs, served, tasks=tasks, note_fault=faults.note)
        try:
            yield Pair(asking, serving, proxy(Port, asking), faults)
        finally:
            asking.close()
            serving.close()


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def shelf_with_file(tmp_path: Path) -> Shelf:
    path = tmp_path / "blob"
    path.write_bytes(b"content")
    shelf = Shelf(path)
    shelf.may_go_on.set()
    return shelf


MISSING_AGAIN = Missing(ErrorCode.BLOB_UNKNOWN, "not there")
MISSING_AGAIN.is_remembered = True
ERRORS: list[Exception] = [
    RegistryError(ErrorCode.NAME_UNKNOWN, "no such registry", {"name": "x"}),
    Missing(ErrorCode.MANIFEST_UNKNOWN, "no such tag", {"tag": "1"}),
    MISSING_AGAIN,
    Sealed(ErrorCode.BLOB_UNKNOWN),
    Denied(
        ErrorCode.UNAUTHORIZED, "log in", ["pull"], challenges=['Bearer realm="https://x"', "Basic"]
    ),
    Refused(400, "no", [{"code": "PAGINATION_NUMBER_INVALID", "message": "too many"}]),
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
    UnusableFile("htpasswd", ["line 1: no hash", "line 3: no hash"]),
    ZeroDivisionError("by nought, with a password"),
    RegistryError(ErrorCode.UNKNOWN, "it holds what cannot travel", threading.Lock()),
]
KNOWN = [error for error in ERRORS if isinstance(error, RegistryError)][:-1]


# Asking


async def test_a_call_is_answered_with_what_the_method_returns(shelf: Shelf) -> None:
    async with connected(shelf) as pair:
        answers = await asyncio.gather(*[pair.other.add(n, 1) for n in range(100)])
    assert answers == [*range(1, 101)]


async def test_arguments_may_be_given_by_name(shelf: Shelf) -> None:
    async with connected(shelf) as pair:
        assert await pair.other.add(other=2, one=1) == 3


class Liar(Shelf):
    """Serves what is not of the type that it has promised."""

    async def add(self, one: int, other: int) -> int:
        return f"{one}{other}"  # type: ignore[return-value]  # as it would be by mistake

    @asynccontextmanager
    async def lend(self, name: str) -> AsyncIterator[str]:
        async with super().lend(name):
            yield 5  # type: ignore[misc]  # as above


async def test_an_answer_that_is_none_costs_who_asked_where_the_other_side_is_trusted() -> None:
    liar = Liar()
    liar.may_go_on.set()
    async with connected(liar, is_trusted=True) as pair:
        with pytest.raises(FaultElsewhere):
            await pair.other.add(1, 2)
        with pytest.raises(FaultElsewhere):
            async with pair.other.lend("it"):
                pytest.fail("there is nothing in it")
        async with asyncio.timeout(10):
            assert await liar.ended.get() == "let go it"
            assert await pair.other.work("it") == "done it"
        assert pair.faults.take() == {"answer": 2}


async def test_an_answer_that_is_none_ends_it_where_the_other_side_is_not_trusted() -> None:
    async with connected(Liar()) as pair:
        with pytest.raises(Unavailable):
            await pair.other.add(1, 2)
        assert pair.asking.lost.is_set()


@pytest.mark.parametrize("size", [0, 1, 2**12, 2**12 + 1, MOST_AT_ONCE])
async def test_many_bytes_arrive_as_they_were(shelf: Shelf, size: int) -> None:
    pieces = [b"a" * (size // 2), b"b" * (size - size // 2)]
    async with connected(shelf) as pair:
        assert await pair.other.weigh(Bulk(*pieces)) == size
    assert shelf.bulks.get_nowait() == b"".join(pieces)


async def test_both_sides_may_ask(shelf: Shelf) -> None:
    async with connected(shelf, serve(Port, shelf)) as pair:
        back: Port = proxy(Port, pair.serving)
        assert await back.add(21, 21) == await pair.other.add(40, 2) == 42


async def test_answers_come_as_they_are_ready_not_as_they_were_asked_for(shelf: Shelf) -> None:
    async with connected(shelf) as pair, asyncio.TaskGroup() as tasks:
        slow = tasks.create_task(pair.other.work("it"))
        await shelf.began.wait()
        assert await pair.other.add(1, 0) == 1
        assert not slow.done()
        shelf.may_go_on.set()
        assert await slow == "done it"


async def test_what_is_told_is_done_in_order_and_a_fault_in_it_is_noted(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(shelf) as pair:
        pair.other.listen("hello")
        pair.other.listen("fault")
        pair.other.listen("again")
        assert [await shelf.told.get(), await shelf.told.get()] == ["hello", "again"]
        assert pair.faults.counts == {"answer": 1}
    [fault] = caplog.records
    assert fault.levelno == logging.ERROR


async def test_what_is_open_may_be_told_of(shelf: Shelf) -> None:
    client, server = socket.socketpair()
    client.setblocking(False)
    with client:
        async with connected(shelf) as pair:
            with server:
                pair.other.greet(server)
            assert await asyncio.get_running_loop().sock_recv(client, 100) == b"hello"


@pytest.mark.parametrize("way", ["call", "open", "tell"])
async def test_whoever_answers_logs_under_the_id_of_the_clients_request(
    shelf: Shelf, way: str
) -> None:
    shelf.may_go_on.set()
    async with connected(shelf) as pair:
        for identity in ("4f2a-1", "4f2a-2", ""):
            token = request_id.set(identity)
            match way:
                case "call":
                    await pair.other.add(1, 1)
                case "open":
                    async with pair.other.lend("it"):
                        pass
                case _:
                    pair.other.listen("hello")
            request_id.reset(token)
            assert await shelf.ids.get() == identity


# What goes wrong


def all_below(kind: type[RegistryError]) -> set[type[RegistryError]]:
    return {kind}.union(*map(all_below, kind.__subclasses__()))


def test_every_error_that_clients_may_be_told_of_is_among_these() -> None:
    # Those that are defined elsewhere do not leave their package; of SQLite's a client is told as
    # of the StoreError that each of them is.
    told = ("mirror.oci.errors", "mirror.storage.errors")
    public = {kind for kind in all_below(RegistryError) if kind.__module__ in told}
    assert {type(error) for error in KNOWN} == public


@pytest.mark.parametrize("error", KNOWN, ids=repr)
async def test_an_error_arrives_with_all_that_a_client_is_told_of_it(
    shelf: Shelf, error: RegistryError, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(shelf) as pair:
        with pytest.raises(RegistryError) as arrived:
            await pair.other.fail(ERRORS.index(error))
    assert isinstance(error, type(arrived.value))  # or the kind of it that is told apart
    assert vars(arrived.value) == vars(error)
    assert (str(arrived.value), arrived.value.status) == (str(error), error.status)
    assert caplog.records == []  # whoever asked knows what to make of it


async def test_a_file_that_makes_no_sense_arrives_with_its_problems(shelf: Shelf) -> None:
    [error] = [error for error in ERRORS if isinstance(error, UnusableFile)]
    async with connected(shelf) as pair:
        with pytest.raises(UnusableFile) as arrived:
            await pair.other.fail(ERRORS.index(error))
    assert (arrived.value.file, arrived.value.problems) == (error.file, error.problems)
    assert str(arrived.value) == str(error)


async def test_an_error_when_it_is_opened_arrives_too(shelf: Shelf) -> None:
    async with connected(shelf) as pair:
        with pytest.raises(Missing):
            async with pair.other.lend_broken():
                raise AssertionError("there is nothing to hold")


async def test_a_fault_is_noted_where_it_happens_and_its_text_stays_there(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    [number] = [n for n, error in enumerate(ERRORS) if isinstance(error, ZeroDivisionError)]
    token = request_id.set("4f2a-1")
    async with connected(shelf) as pair:
        with pytest.raises(FaultElsewhere) as arrived:
            await pair.other.fail(number)
        assert pair.faults.counts == {"answer": 1}
    request_id.reset(token)
    assert "password" not in str(arrived.value)
    [fault] = caplog.records
    assert vars(fault)["request_id"] == "4f2a-1"
    assert fault.exc_info is not None
    assert fault.exc_info[0] is ZeroDivisionError


@pytest.mark.parametrize("way", ["result", "error"])
async def test_what_cannot_travel_is_a_fault_and_harms_nothing(shelf: Shelf, way: str) -> None:
    async with connected(shelf) as pair:
        with pytest.raises(FaultElsewhere):
            await (pair.other.lock() if way == "result" else pair.other.fail(len(ERRORS) - 1))
        assert pair.faults.counts == {"answer": 1}
        with pytest.raises(TypeError):
            await pair.other.work(threading.Lock())  # type: ignore[arg-type]  # it is what is tried
        assert await pair.other.add(1, 0) == 1


# What nobody should send


WRONG: dict[str, Callable[[Any], Any]] = {
    "another type": lambda other: other.add("1", 2),
    "too few": lambda other: other.add(1, None),
    "no file": lambda other: other.greet(7),
    "more bytes than at once": lambda other: other.weigh(Bulk(bytes(MOST_AT_ONCE + 1))),
    "neither bytes nor where they are": lambda other: other.weigh(7),
}


@pytest.mark.parametrize("ask", WRONG.values(), ids=WRONG.keys())
async def test_whoever_sends_what_the_port_does_not_have_is_let_go_and_nothing_else_happens(
    shelf: Shelf, ask: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(shelf) as pair:
        try:
            answer = ask(pair.other)
            if answer is not None:
                await answer
        except Unavailable:
            pass
        await pair.serving.lost.wait()
        assert pair.faults.counts == {}
    assert "cannot be understood" in caplog.text
    assert shelf.ids.empty()
    assert shelf.bulks.empty()


class Wider(Protocol):
    """As another version of this program might have it."""

    async def add(self, one: int, other: int, third: int) -> int: ...


async def test_whoever_says_more_than_the_port_has_is_let_go(shelf: Shelf) -> None:
    async with connected(shelf) as pair:
        wider: Wider = proxy(Wider, pair.asking)
        with pytest.raises(Unavailable):
            await wider.add(1, 2, 3)


async def test_whoever_asks_for_a_method_that_is_not_served_is_let_go(shelf: Shelf) -> None:
    async with connected(shelf) as pair:
        back: Port = proxy(Port, pair.serving)
        with pytest.raises(Unavailable):
            await back.add(1, 2)  # it is the other side that serves


# Whoever stops waiting


async def test_what_nobody_waits_for_any_more_is_cancelled(shelf: Shelf) -> None:
    async with connected(shelf) as pair, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(pair.other.work("early"))
        await shelf.began.wait()
        other = tasks.create_task(pair.other.work("late"))
        waiting.cancel()
        assert await shelf.ended.get() == "cancelled early"
        shelf.may_go_on.set()
        assert await other == "done late"
    assert shelf.ended.empty()


async def test_a_call_that_is_left_before_it_has_begun_leaves_nothing(shelf: Shelf) -> None:
    async with connected(shelf) as pair:
        call = pair.asking.call(serve(Port, shelf)["add"][0], 1, 0)
        call.send(None)
        with pytest.raises(asyncio.CancelledError):
            call.throw(asyncio.CancelledError)  # in the same turn: both arrive together
        assert await pair.other.add(1, 0) == 1


async def test_what_is_open_is_let_go_when_the_block_ends(shelf: Shelf) -> None:
    shelf.may_go_on.set()
    async with connected(shelf) as pair:
        async with pair.other.lend("a") as one, pair.other.lend("b") as other:
            assert (one, other) == ("this is a", "this is b")
            assert shelf.lent == 2
        assert [await shelf.ended.get() for _ in range(2)] == ["let go b", "let go a"]
        with pytest.raises(ZeroDivisionError):
            async with pair.other.lend("c"):
                _ = 1 / 0
        assert await shelf.ended.get() == "let go c"
        assert shelf.lent == 0


async def test_what_is_open_is_let_go_when_whoever_has_it_is_cancelled(shelf: Shelf) -> None:
    shelf.may_go_on.set()
    is_open = asyncio.Event()

    async def hold(pair: Pair) -> None:
        async with pair.other.lend("it"):
            is_open.set()
            await asyncio.Event().wait()

    async with connected(shelf) as pair, asyncio.TaskGroup() as tasks:
        holding = tasks.create_task(hold(pair))
        await is_open.wait()
        assert shelf.lent == 1
        holding.cancel()
        assert await shelf.ended.get() == "let go it"


async def test_what_is_being_opened_for_nobody_is_cancelled(shelf: Shelf) -> None:
    async def hold(pair: Pair) -> None:
        async with pair.other.lend("it"):
            raise AssertionError("it never comes")

    async with connected(shelf) as pair, asyncio.TaskGroup() as tasks:
        holding = tasks.create_task(hold(pair))
        await shelf.began.wait()
        holding.cancel()
        assert await shelf.ended.get() == "cancelled it"
        assert shelf.lent == 0


async def test_whenever_somebody_stops_waiting_nothing_stays_open(shelf_with_file: Shelf) -> None:
    """Also where the answer is on its way just then, with a file that comes for nobody."""
    shelf = shelf_with_file
    opened = 0

    async def hold(pair: Pair) -> None:
        nonlocal opened
        async with pair.other.lend_file("it") as file:
            assert file.read() == b"content"
            opened += 1
            await asyncio.Event().wait()

    async with connected(shelf) as pair, asyncio.TaskGroup() as tasks:
        turns = range(12)  # of the loop, until it is cancelled
        for count in turns:
            holding = tasks.create_task(hold(pair))
            for _ in range(count):
                await asyncio.sleep(0)
            holding.cancel()
            await asyncio.wait([holding])
        await pair.other.work("")  # by now everything before it has been heard of
        assert 0 < opened < len(turns)
        assert shelf.lent == 0


async def test_an_answer_that_comes_too_late_has_its_file_closed(shelf_with_file: Shelf) -> None:
    """The answer and the change of mind pass each other on the way."""
    shelf = shelf_with_file
    async with connected(shelf) as pair, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(pair.asking.call(serve(Port, shelf)["give_file"][0]))
        shelf.before_giving = waiting.cancel
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert await pair.other.add(1, 0) == 1
    assert len(shelf.given) == 1
    shelf.given[0].close()  # the sender's own; the other has been closed, or would be left behind


# The other side has gone


async def is_unavailable(pair: Pair, way: str) -> bool:
    try:
        if way == "open":
            async with pair.other.lend(""):
                return False
        await pair.other.work("")
    except Unavailable:
        return True
    return False


async def hang_up(pair: Pair) -> None:
    pair.asking.close()


async def be_lost(pair: Pair) -> None:
    pair.serving.close()
    await pair.asking.lost.wait()


@pytest.mark.parametrize("end", [hang_up, be_lost])
async def test_once_the_other_side_has_gone_it_is_unavailable_to_all_who_ask(
    shelf: Shelf, end: Callable[[Pair], Awaitable[None]]
) -> None:
    async with connected(shelf) as pair, asyncio.TaskGroup() as tasks:
        ways = ["call", "call", "open", "open"]
        waiting = [tasks.create_task(is_unavailable(pair, way)) for way in ways]
        await shelf.began.wait()
        await end(pair)
        assert [await task for task in waiting] == [True] * len(ways)
        assert await is_unavailable(pair, "call")
        assert await is_unavailable(pair, "open")
        pair.other.listen("hello")  # nobody hears it, and nobody waits


async def test_what_was_asked_by_a_process_that_has_died_is_cancelled_and_let_go(
    shelf: Shelf,
) -> None:
    shelf.may_go_on.set()
    async with connected(shelf) as pair, asyncio.TaskGroup() as tasks:
        async with pair.other.lend("it"):
            shelf.may_go_on.clear()
            shelf.began.clear()
            waiting = tasks.create_task(is_unavailable(pair, "call"))
            await shelf.began.wait()
            pair.asking.close()
            await pair.serving.lost.wait()
            ends = {await shelf.ended.get(), await shelf.ended.get()}
            assert ends == {"let go it", "cancelled "}
            assert shelf.lent == 0
        assert await waiting


async def test_a_block_may_end_after_the_other_side_has_gone(shelf_with_file: Shelf) -> None:
    async with connected(shelf_with_file) as pair:
        async with pair.other.lend_file("it") as file:
            pair.serving.close()
            await pair.asking.lost.wait()
            assert file.read() == b"content"  # it is ours
        assert file.closed


async def test_a_connection_that_is_given_to_a_process_that_has_died_is_closed(
    shelf: Shelf,
) -> None:
    client, server = socket.socketpair()
    client.setblocking(False)
    with client:
        async with connected(shelf) as pair:
            with closing(server):
                pair.other.greet(server)
            pair.serving.close()
        assert await asyncio.get_running_loop().sock_recv(client, 100) in {b"", b"hello"}

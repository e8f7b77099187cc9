"""Whatever upstream and the clients do, a reader gets exactly the right bytes, or an error."""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from hypothesis import given, settings, strategies as st

from mirror.aio.backoff import Backoff
from mirror.aio.slots import Slots, Urgency
from mirror.oci.digest import Digest, digest_of
from mirror.oci.errors import RegistryError, Unavailable
from mirror.pull.answers import readable
from mirror.pull.fill.crew import Pace
from mirror.pull.fill.fill import Fill
from mirror.pull.fill.retries import RetryPolicy
from mirror.sources.ports import Body, Sender
from mirror.storage.store import LocalStorage
from mirror.telemetry.metrics import Metrics
from tests.support.images import random_bytes
from tests.support.memory_source import MemorySender
from tests.support.tasks import nobody_notes
from tests.unit.storage.opening import open_store

SEGMENT = 1000


class Upstream:
    """A source that sends what it is told to, connection by connection."""

    upstream = "registry.test"
    is_lasting = True
    repository = "docker.io/org/app"

    def __init__(self, content: bytes) -> None:
        self.sender = MemorySender("a")
        self.content = content
        self.connections: list[Connection] = []
        self.refuses = 0  # so many more times
        self.ranges = True
        self.tells_size = True
        self.obeys = False  # nobody tells it anything any more: it just sends
        self.lied = False
        self.promised_wrong = False
        self.sent = [0] * len(content)  # how often each byte

    @asynccontextmanager
    async def open_blob(
        self,
        digest: Digest,
        start: int,
        stop: int | None,
        *,
        avoid: Sender | None,  # noqa: ARG002 - there is no other
        urgency: Urgency,  # noqa: ARG002 - nobody waits here
    ) -> AsyncIterator[Body]:
        assert digest == digest_of(self.content)
        await asyncio.sleep(0)
        if self.refuses:
            self.refuses -= 1
            raise Unavailable("refused")
        whole = len(self.content)
        if start >= whole:
            yield Body(start, start, whole, _nothing(), self.sender, is_range=False)
            return
        ranged = self.ranges and (start > 0 or stop is not None)
        end = min(whole, whole if stop is None or not ranged else stop)
        connection = Connection(self, start, end)
        self.connections.append(connection)
        told = whole if ranged or self.tells_size else None
        try:
            yield Body(
                start,
                end if ranged else told,
                told,
                connection.chunks(),
                self.sender,
                is_range=ranged,
            )
        finally:
            self.connections.remove(connection)

    def wait(self) -> float:
        return 0.0

    def distrust(
        self,
        digest: Digest,  # noqa: ARG002 - as above
        senders: Collection[Sender],  # noqa: ARG002 - as above
        *,
        is_disproved: bool,  # noqa: ARG002 - as above
    ) -> None:
        assert self.lied or self.promised_wrong


class Connection:
    def __init__(self, upstream: Upstream, start: int, stop: int) -> None:
        self.upstream, self.position, self.stop = upstream, start, stop
        self.commands: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        upstream = self.upstream
        while self.position < self.stop:
            command, length = ("send", 700) if upstream.obeys else await self.commands.get()
            if command in {"break", "stall"}:
                raise Unavailable("broken", timed_out=command == "stall")
            if command == "end":  # short of what was promised, without saying so
                upstream.lied |= not upstream.tells_size
                return
            end = min(self.position + length, self.stop)
            chunk = bytearray(upstream.content[self.position : end])
            if command == "corrupt":
                chunk[0] ^= 0xFF
                upstream.lied = True
            for position in range(self.position, end):
                upstream.sent[position] += 1
            self.position = end
            yield bytes(chunk)


@dataclass
class Reader:
    start: int
    stop: int | None
    got: bytearray = field(default_factory=bytearray)
    completed: bool = False
    refused: bool = False

    async def read(self, fill: Fill, source: Upstream) -> None:
        """As a response does: send what is there, complete when there is no more to come."""
        fill.join(source)
        readers = fill.readers
        try:
            await readers.started()
            stop = readers.size if self.stop is None else self.stop
            position = self.start
            while (limit := await readable(readers, position, stop)) > position:
                self.got += os.pread(readers.file.fileno(), limit - position, position)
                position = limit
                assert readers.is_proved or stop is None or position < stop
            assert stop != position or readers.is_proved
            self.completed = True
        except RegistryError:
            self.refused = True
        finally:
            readers.leave()


Action = tuple[str, int, int]
HONEST = ("send", "send", "break", "stall", "refuse", "join", "leave", "tick")


def _scripts(*actions: str) -> st.SearchStrategy[list[Action]]:
    action = st.tuples(st.sampled_from(actions), st.integers(0, 5), st.integers(1, 3000))
    return st.lists(action, max_size=40)


@settings(max_examples=150, deadline=None)
@given(
    size=st.one_of(st.integers(0, 300), st.integers(1500, 9000)),
    promise=st.sampled_from([None, -1, 0, 5, 2500, 2**60]),  # -1: the right one
    tells_size=st.booleans(),
    ranges=st.booleans(),
    connections=st.integers(1, 4),
    attempts=st.integers(1, 3),
    script=_scripts(*HONEST) | _scripts(*HONEST, "corrupt", "end"),
)
def test_every_reader_gets_the_right_bytes_or_an_error(
    *,
    size: int,
    promise: int | None,
    tells_size: bool,
    ranges: bool,
    connections: int,
    attempts: int,
    script: list[Action],
) -> None:
    promised = size if promise == -1 else promise
    pace = Pace(connections, SEGMENT, RetryPolicy(attempts, Backoff(first=0, most=0)))

    async def play(root: Path) -> None:
        async with open_store(root) as store, asyncio.TaskGroup() as tasks:
            upstream = Upstream(random_bytes(size, seed=size))
            upstream.tells_size, upstream.ranges = tells_size, ranges
            upstream.promised_wrong = promised not in {None, size}
            fill = _fill(store, upstream, promised, pace)
            play = Play(upstream, fill, tasks)
            await play.run(script)
            await play.check(store)
            if fill.readers.error is not None:
                await play.check_next(store, pace)

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(play(Path(directory)))


@dataclass
class Play:
    """One fill, its readers, and what happens to them."""

    upstream: Upstream
    fill: Fill
    tasks: asyncio.TaskGroup
    readers: dict[asyncio.Task[None], Reader] = field(default_factory=dict)

    async def run(self, script: list[Action]) -> None:
        upstream = self.upstream
        running = self.tasks.create_task(self.fill.run())
        while not (upstream.connections or running.done()):  # noqa: ASYNC110 - threads set no Event
            await asyncio.sleep(0)
        for action, which, length in script:
            await self.act(action, which, length)
        upstream.obeys = True
        for connection in upstream.connections:
            connection.commands.put_nowait(("send", 700))
        await running
        if self.readers:
            await asyncio.wait(self.readers)

    async def act(self, action: str, which: int, length: int) -> None:
        connections, size = self.upstream.connections, len(self.upstream.content)
        if action == "tick":
            await asyncio.sleep(0.0005 if which == 5 else 0)
        elif action == "refuse":
            self.upstream.refuses += which
        elif action == "join":
            start = 0 if which < 3 else length
            if start < size and self.fill.readers.error is None:
                reader = Reader(start, size if which % 2 else None)
                self.readers[self.tasks.create_task(reader.read(self.fill, self.upstream))] = reader
        elif action == "leave" and self.readers:
            list(self.readers)[which % len(self.readers)].cancel()
        elif connections:
            connection = connections[which % len(connections)]
            connection.commands.put_nowait((action, length))
            while connection in connections and not connection.commands.empty():  # noqa: ASYNC110
                await asyncio.sleep(0)

    async def check(self, store: LocalStorage) -> None:
        content, error = self.upstream.content, self.fill.readers.error
        for reader in self.readers.values():
            if reader.completed:
                assert bytes(reader.got) == content[reader.start : reader.stop]
                assert error is None
            elif not self.upstream.lied:
                assert content[reader.start :].startswith(reader.got)
            if reader.refused:
                assert error is not None
        self.check_thrift()
        blob = await store.open_blob(self.fill.digest)
        assert (blob is None) == (error is not None)
        if blob is not None:
            assert os.pread(blob.file.fileno(), blob.size, 0) == content
            blob.close()

    async def check_next(self, store: LocalStorage, pace: Pace) -> None:
        """After a failure, the next fill succeeds, and asks only for what is not there yet."""
        self.upstream.refuses = 0
        size = len(self.upstream.content)
        reader = Reader(0, size)
        for _ in range(1 + self.upstream.lied):  # what was wrong may be found at the end only
            fill = _fill(store, self.upstream, size, pace)
            reader = Reader(0, size)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(reader.read(fill, self.upstream))
                tasks.create_task(fill.run())
            if reader.completed:
                break
        assert reader.completed
        assert bytes(reader.got) == self.upstream.content
        self.check_thrift()

    def check_thrift(self) -> None:
        """No byte was sent twice, except where it was not to be trusted, or could not be chosen."""
        if self.upstream.ranges and not self.upstream.lied:
            assert max(self.upstream.sent, default=0) <= 1


def _fill(store: LocalStorage, upstream: Upstream, size: int | None, pace: Pace) -> Fill:
    return Fill(
        digest_of(upstream.content),
        upstream,
        store,
        promised=size,
        is_size_proved=False,
        pace=pace,
        slots=Slots(1),
        is_shared=False,
        deserted=lambda: None,
        urgency=Urgency(is_urgent=False),  # begun whether anybody waits or not
        metrics=Metrics(),
        note_fault=_fail,
        note_sent=nobody_notes,
        clock=lambda: 0.0,
        random=Random(0),  # noqa: S311 - for jitter
    )


def _fail(task: str, error: Exception) -> None:
    raise AssertionError(task) from error


async def _nothing() -> AsyncGenerator[bytes, None]:
    for nothing in list[bytes]():
        yield nothing

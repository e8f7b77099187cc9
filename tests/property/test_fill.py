"""Whatever upstream and the clients do, a reader gets exactly the right bytes, or an error."""

import asyncio
import functools
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
from mirror.oci.ranges import ByteRange
from mirror.pull.answers import readable
from mirror.pull.fill.crew import Pace
from mirror.pull.fill.fill import Fill
from mirror.pull.fill.retries import RetryPolicy
from mirror.pull.fill.wants import Want
from mirror.sources.ports import Body, Sender
from mirror.storage import extents
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
        self.piece = 700  # bytes that it sends at a time
        self.largest = 0  # bytes of a piece that was sent
        self.sent: extents.Extents = ()
        self.has_sent_twice = False

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
            command, length = (
                ("send", upstream.piece) if upstream.obeys else await self.commands.get()
            )
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
            is_new = extents.missing(upstream.sent, self.position, end) == [(self.position, end)]
            upstream.has_sent_twice |= not is_new
            upstream.largest = max(upstream.largest, len(chunk))
            upstream.sent = extents.add(upstream.sent, self.position, end)
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
        is_range = self.start > 0 and self.stop is not None
        want = Want([ByteRange(self.start, (self.stop or 0) - 1)]) if is_range else None
        fill.join(source, None, want)
        readers = fill.readers
        try:
            await readers.started()
            stop = readers.size if self.stop is None else self.stop
            position = self.start
            while position != stop or not is_range:
                limit = await readable(readers, position, stop, is_whole=not is_range)
                if limit == position:
                    break
                self.got += os.pread(readers.file.fileno(), limit - position, position)
                position = limit
                assert is_range or readers.is_proved or stop is None or position < stop
            assert is_range or stop != position or readers.is_proved
            self.completed = True
        except RegistryError:
            self.refused = True
        finally:
            fill.leave(None, want)


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


@settings(max_examples=40, deadline=None)
@given(
    size=st.sampled_from([1_200_000, 2_000_000, 3_000_001]),
    promise=st.sampled_from([None, -1, 5, 2_500_000]),  # -1: the right one
    ranges=st.sampled_from([True, True, True, False]),
    connections=st.integers(1, 4),
    is_whole=st.booleans(),
    script=_scripts(*HONEST, "join", "join") | _scripts(*HONEST, "corrupt"),
)
def test_every_reader_of_a_range_gets_the_right_bytes_or_an_error(
    *,
    size: int,
    promise: int | None,
    ranges: bool,
    connections: int,
    is_whole: bool,
    script: list[Action],
) -> None:
    promised = size if promise == -1 else promise
    retries = RetryPolicy(3, Backoff(first=0, most=0))
    pace = Pace(connections, 200_000, retries, whole=is_whole, lingers=0)

    async def play(root: Path) -> None:
        async with open_store(root) as store, asyncio.TaskGroup() as tasks:
            upstream = Upstream(_content(size))
            upstream.ranges, upstream.piece = ranges, 70_000
            upstream.promised_wrong = promised not in {None, size}
            fill = _fill(store, upstream, promised, pace)
            if not is_whole:  # somebody has asked for a part of it
                reader = Reader(size // 2, size // 2 + 1000)
                tasks.create_task(reader.read(fill, upstream))
                await asyncio.sleep(0)
            play = Play(upstream, fill, tasks, scale=1000, ranges_from=1)
            await play.run(script)
            await play.check(store)
            if fill.readers.error is not None:
                await play.check_next(store, pace)

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(play(Path(directory)))


@functools.cache
def _content(size: int) -> bytes:
    return random_bytes(size, seed=size)


@dataclass
class Play:
    """One fill, its readers, and what happens to them."""

    upstream: Upstream
    fill: Fill
    tasks: asyncio.TaskGroup
    scale: int = 1
    ranges_from: int = 3
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
            connection.commands.put_nowait(("send", upstream.piece))
        await running
        if self.readers:
            await asyncio.wait(self.readers)

    async def act(self, action: str, which: int, length: int) -> None:
        connections = self.upstream.connections
        if action == "tick":
            await asyncio.sleep(0.0005 if which == 5 else 0)
        elif action == "refuse":
            self.upstream.refuses += which
        elif action == "join":
            self.join(which, length)
        elif action == "leave" and self.readers:
            list(self.readers)[which % len(self.readers)].cancel()
        elif connections:
            connection = connections[which % len(connections)]
            connection.commands.put_nowait((action, length * self.scale))
            while connection in connections and not connection.commands.empty():  # noqa: ASYNC110
                await asyncio.sleep(0)

    def join(self, which: int, length: int) -> None:
        size = len(self.upstream.content)
        start = 0 if which < self.ranges_from else length * self.scale
        if start < size and self.fill.readers.error is None:
            stop = size if which % 2 else None
            if start and self.scale > 1:
                stop = size if which == 5 else min(size, start + 50 * length)
            reader = Reader(start, stop)
            self.readers[self.tasks.create_task(reader.read(self.fill, self.upstream))] = reader

    async def check(self, store: LocalStorage) -> None:
        content, error = self.upstream.content, self.fill.readers.error
        for reader in self.readers.values():
            is_range = reader.start > 0 and self.scale > 1
            if reader.completed and is_range:  # which nobody can prove to it
                assert len(reader.got) == (reader.stop or 0) - reader.start
                assert self.upstream.lied or content[reader.start :].startswith(reader.got)
            elif reader.completed:
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
        await self.forgive_what_was_on_its_way(store, pace)
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

    async def forgive_what_was_on_its_way(self, store: LocalStorage, pace: Pace) -> None:
        """A piece of each connection may have waited for room when the fill was given up."""
        upstream = self.upstream
        if upstream.lied:
            return
        writer = await store.open_writer("registry.test", self.fill.digest, len(upstream.content))
        kept = tuple(extents.missing(tuple(writer.missing()), 0, len(upstream.content)))
        await writer.suspend()
        writer.close()
        lost = extents.total(upstream.sent) - extents.total(kept)
        assert lost <= upstream.largest * (pace.connections + 1)
        upstream.sent = kept

    def check_thrift(self) -> None:
        """No byte was sent twice, except where it was not to be trusted, or could not be chosen."""
        if self.upstream.ranges and not self.upstream.lied:
            assert not self.upstream.has_sent_twice


def _fill(store: LocalStorage, upstream: Upstream, size: int | None, pace: Pace) -> Fill:
    return Fill(
        digest_of(upstream.content),
        upstream,
        store,
        promised=size,
        is_size_proved=False,
        is_doubted=False,
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

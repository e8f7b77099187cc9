"""Whatever upstream and the clients do, a reader gets exactly the right bytes, or an error."""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from hypothesis import given, settings, strategies as st

from mirror.aio.backoff import Backoff
from mirror.aio.slots import Slots, Urgency
from mirror.config import Endpoint as EndpointConfig
from mirror.oci.digest import Digest, digest_of
from mirror.oci.errors import RegistryError, Unavailable
from mirror.oci.reference import Repository
from mirror.pull.answers import readable
from mirror.pull.fill.fill import Fill, Settings
from mirror.sources.registry.endpoint import Endpoint, Scope
from mirror.sources.registry.exchange import Exchange, Label, open_session
from mirror.sources.registry.registry import Body, Registry
from mirror.storage.ports import Storage
from mirror.telemetry.metrics import Metrics
from tests.support.images import random_bytes
from tests.support.tasks import owned_tasks
from tests.unit.storage.opening import open_store

SEGMENT = 1000
SCOPE = Scope(Repository("registry.test", "app"))


class Upstream(Registry):
    """Sends what it is told to, connection by connection."""

    def __init__(self, endpoint: Endpoint, content: bytes) -> None:
        super().__init__("registry.test", [endpoint])
        self.content = content
        self.connections: list[Connection] = []
        self.refuses = 0  # so many more times
        self.ranges = True
        self.tells_size = True
        self.obeys = False  # nobody tells it anything any more: it just sends
        self.lied = False
        self.sent = [0] * len(content)  # how often each byte

    @asynccontextmanager
    async def open_blob(
        self,
        scope: Scope,
        digest: Digest,
        start: int,
        stop: int | None,
        *,
        size: int | None = None,
        avoid: Endpoint | None = None,  # noqa: ARG002 - there is no other
        urgency: Urgency | None = None,  # noqa: ARG002 - nobody waits here
    ) -> AsyncIterator[Body]:
        assert (scope, digest) == (SCOPE, digest_of(self.content))
        assert size in {None, len(self.content)}
        await asyncio.sleep(0)
        if self.refuses:
            self.refuses -= 1
            raise Unavailable("refused")
        whole = len(self.content)
        if start >= whole:
            yield Body(start, start, start, _nothing(), self.endpoints[0], is_range=False)
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
                self.endpoints[0],
                is_range=ranged,
            )
        finally:
            self.connections.remove(connection)


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

    async def read(self, fill: Fill) -> None:
        """As a response does: send what is there, complete when there is no more to come."""
        fill.join(SCOPE)
        try:
            await fill.started()
            stop = fill.size if self.stop is None else self.stop
            position = self.start
            while (limit := await readable(fill, position, stop)) > position:
                self.got += os.pread(fill.file.fileno(), limit - position, position)
                position = limit
                assert fill.is_proved or stop is None or position < stop
            assert fill.is_proved
            self.completed = True
        except RegistryError:
            self.refused = True
        finally:
            fill.leave()


Action = tuple[str, int, int]
HONEST = ("send", "send", "break", "stall", "refuse", "join", "leave", "tick")


def _scripts(*actions: str) -> st.SearchStrategy[list[Action]]:
    action = st.tuples(st.sampled_from(actions), st.integers(0, 5), st.integers(1, 3000))
    return st.lists(action, max_size=40)


@settings(max_examples=150, deadline=None)
@given(
    size=st.one_of(st.integers(0, 300), st.integers(1500, 9000)),
    knows_size=st.booleans(),
    tells_size=st.booleans(),
    ranges=st.booleans(),
    connections=st.integers(1, 4),
    attempts=st.integers(1, 3),
    script=_scripts(*HONEST) | _scripts(*HONEST, "corrupt", "end"),
)
def test_every_reader_gets_the_right_bytes_or_an_error(
    *,
    size: int,
    knows_size: bool,
    tells_size: bool,
    ranges: bool,
    connections: int,
    attempts: int,
    script: list[Action],
) -> None:
    pace = Settings(connections, SEGMENT, attempts, retry=Backoff(first=0, most=0))

    async def play(root: Path) -> None:
        async with open_store(root) as store, _endpoint() as endpoint, asyncio.TaskGroup() as tasks:
            upstream = Upstream(endpoint, random_bytes(size, seed=size))
            upstream.tells_size, upstream.ranges = tells_size, ranges
            fill = _fill(store, upstream, size if knows_size else None, pace)
            play = Play(upstream, fill, tasks)
            await play.run(script)
            await play.check(store)
            if fill.error is not None:
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
            if start < size and self.fill.error is None:
                reader = Reader(start, size if which % 2 else None)
                self.readers[self.tasks.create_task(reader.read(self.fill))] = reader
        elif action == "leave" and self.readers:
            list(self.readers)[which % len(self.readers)].cancel()
        elif connections:
            connection = connections[which % len(connections)]
            connection.commands.put_nowait((action, length))
            while connection in connections and not connection.commands.empty():  # noqa: ASYNC110
                await asyncio.sleep(0)

    async def check(self, store: Storage) -> None:
        content, error = self.upstream.content, self.fill.error
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

    async def check_next(self, store: Storage, pace: Settings) -> None:
        """After a failure, the next fill succeeds, and asks only for what is not there yet."""
        self.upstream.refuses = 0
        size = len(self.upstream.content)
        reader = Reader(0, size)
        for _ in range(1 + self.upstream.lied):  # what was wrong may be found at the end only
            fill = _fill(store, self.upstream, size, pace)
            reader = Reader(0, size)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(reader.read(fill))
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


def _fill(store: Storage, upstream: Upstream, size: int | None, pace: Settings) -> Fill:
    return Fill(
        digest_of(upstream.content),
        SCOPE,
        upstream,
        store,
        size=size,
        settings=pace,
        places=Slots(1),
        urgency=Urgency(),
        metrics=Metrics(),
        clock=lambda: 0.0,
        random=Random(0),  # noqa: S311 - for jitter
    )


@asynccontextmanager
async def _endpoint() -> AsyncIterator[Endpoint]:
    config, label = EndpointConfig(url="http://registry.test"), Label("registry.test", "a")
    metrics = Metrics()
    async with open_session() as session, owned_tasks() as tasks:
        exchange = Exchange(
            config, label, session=session, connect_timeout=1, stall_timeout=1, metrics=metrics
        )
        yield Endpoint(
            config,
            label,
            exchange,
            tasks=tasks,
            metrics=metrics,
            clock=lambda: 0.0,
            random=Random(0),  # noqa: S311 - for jitter
        )


async def _nothing() -> AsyncGenerator[bytes, None]:
    for nothing in list[bytes]():
        yield nothing

"""Fixtures for everyone: a registry that does as it is told, our application, and the guards."""

import asyncio
import inspect
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop
from blockbuster import BlockBuster

from tests.support.bucket import RunBucket
from tests.support.clock import FakeClock
from tests.support.leaks import Remains
from tests.support.loop_watch import watching_the_loop
from tests.support.mirror import InnerMirror, Settings, document, start_inner_mirror, upstream_at
from tests.support.postgres import Postgres
from tests.support.relay import Relay
from tests.support.rgw import running_rgw
from tests.support.seaweed import running_seaweed
from tests.support.uploads import Pushes
from tests.support.upstream import ScriptedRegistry

_LONGEST_HOLD = 0.05  # seconds of CPU time
_UNDER_A_TRACER = 2  # times as long: coverage's looks at every line, and doubles what it takes

BUCKETS: dict[str, RunBucket] = {"rgw": running_rgw, "seaweed": running_seaweed}

StartMirror = Callable[..., Awaitable[InnerMirror]]
StartRelay = Callable[[int], Awaitable[Relay]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bucket", choices=[*BUCKETS], default="seaweed",
        help="the S3 server that several mirrors have in common",
    )  # fmt: skip


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loops that `mirror serve` runs in."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def nothing_is_set_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this shell says to a mirror of its own is none of the tests' business."""
    for name in [*os.environ]:  # noqa: TID251 - to clean it for mirror.config
        if name.startswith("MIRROR_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def logs_are_as_they_were() -> Iterator[None]:
    """A test that has the mirror tell more, or less, does so for itself alone."""
    level = logging.getLogger("mirror").level
    yield
    logging.getLogger("mirror").setLevel(level)


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest) -> None:
    """Fail a test that leaves tasks or descriptors behind."""
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("nothing_is_left_in_the_loop")


@pytest.fixture
async def nothing_is_left_in_the_loop() -> AsyncIterator[None]:
    # With its first server, the loop opens a descriptor of its own (to have one in need).
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0):
        pass
    remains = Remains()
    yield
    await remains.check()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL for all who need but a database of their own in one that stays."""
    with Postgres.running() as server:
        yield server


@pytest.fixture(scope="session")
def run_bucket(request: pytest.FixtureRequest) -> RunBucket:
    """The S3 server that was asked for: `--bucket`."""
    return BUCKETS[request.config.getoption("--bucket")]


@pytest.fixture(autouse=True)
def umask_is_of_the_test() -> Iterator[None]:
    """Commands set that of their process: where a test calls one, it is the tests' process."""
    before = os.umask(0)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail integration tests in which code of ours blocks the event loop."""
    if "integration" not in request.path.parts:
        yield
        return
    guard = BlockBuster(scanned_modules="mirror")
    for function in guard.functions.values():
        # Starting and stopping may block: there are no clients yet, or no longer.
        function.can_block_in("mirror/app.py", "run")
        function.can_block_in("tests/unit/storage/opening.py", "open_store")
        function.can_block_in("mirror/aio/sending.py", "_send")  # to a socket that does not block
        # What measures coverage takes a lock of its own, in our code's midst, for a moment.
        function.can_block_in("coverage/collector.py", "lock_data")
    guard.activate()
    yield
    guard.deactivate()


@pytest.fixture(autouse=True)
def nothing_holds_the_loop(request: pytest.FixtureRequest) -> None:
    """Fail tests of what peers send in which that keeps everybody else waiting."""
    folders = {"integration", "adversary"} & {*request.path.parts}
    if folders and inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("nothing_holds_the_loop_of_the_test")


@pytest.fixture
async def nothing_holds_the_loop_of_the_test() -> AsyncIterator[None]:
    slower = 1 if sys.gettrace() is None else _UNDER_A_TRACER
    with watching_the_loop(limit=slower * _LONGEST_HOLD) as holds:
        yield
    assert not holds, holds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def upstream(clock: FakeClock) -> AsyncIterator[ScriptedRegistry]:
    """A scripted registry whose tokens and links live by the same clock as `start_mirror`'s."""
    async with ScriptedRegistry(clock=clock) as registry:
        yield registry


@pytest.fixture
def takes_pushes(upstream: ScriptedRegistry) -> Pushes:
    """The registry takes pushes, as docker-registry 3 does."""
    upstream.push = Pushes(style="3")
    return upstream.push


@pytest.fixture
async def start_relay() -> AsyncIterator[StartRelay]:
    """`relay = await start_relay(upstream.port)`: a bad line to a port of this machine."""
    async with AsyncExitStack() as stack:

        async def start(target_port: int) -> Relay:
            return await stack.enter_async_context(Relay(target_port))

        yield start


@pytest.fixture
async def start_mirror(
    tmp_path: Path, upstream: ScriptedRegistry, clock: FakeClock
) -> AsyncIterator[StartMirror]:
    """`mirror = await start_mirror()`: the application, with docker.io at `upstream`.

    Other upstreams, by name: `start_mirror({"ghcr.io": upstream_at(url)})`; other settings, by
    section: `start_mirror(tags={"fresh_for": "5s"})`. The store is the same each time.
    """
    async with AsyncExitStack() as stack:

        async def start(
            upstreams: dict[str, Settings] | None = None, **overrides: Any
        ) -> InnerMirror:
            settings = document(
                upstreams or {"docker.io": upstream_at(upstream.url)},
                store_root=tmp_path / "store",
                **overrides,
            )
            mirror = await start_inner_mirror(settings, clock)
            stack.push_async_callback(mirror.stop)
            return mirror

        yield start

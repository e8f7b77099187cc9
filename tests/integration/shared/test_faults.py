"""Whatever happens to one mirror, to the database or to the bucket: right bytes, hardly ever twice.

The line to upstream is slow, so that there is a middle in which things can happen; it counts what
upstream sends.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.conftest import StartRelay
from tests.integration.shared.conftest import StartFleet
from tests.support.bad_bucket import BadBucket
from tests.support.bucket import BucketServer
from tests.support.client import Answer
from tests.support.fleet import Fleet
from tests.support.images import image, random_layer
from tests.support.mirror import MirrorProcess
from tests.support.postgres import Postgres
from tests.support.process import until
from tests.support.relay import Relay
from tests.support.upstream import ScriptedRegistry

SIZE = 32 * 2**20
APP = image(random_layer(SIZE, seed=1402))
[LAYER] = APP.layers
PACE = 2 * 2**20  # bytes a second, of each of a fill's connections
MIB = 2**20
OK = 200

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


@pytest.fixture
async def line(upstream: ScriptedRegistry, start_relay: StartRelay) -> Relay:
    """The slow way to upstream."""
    upstream.add(APP, "org/app", "1")
    line = await start_relay(upstream.port)
    line.bandwidth = PACE
    return line


class Pulls:
    """A client at each mirror, that pulls the layer."""

    def __init__(self, fleet: Fleet, tasks: list[asyncio.Task[Answer]], line: Relay) -> None:
        self.fleet = fleet
        self._tasks = tasks
        self._line = line

    async def leader(self, *, after: int = 0) -> int:
        """The mirror that fetches it, once upstream has sent so much."""
        found: list[int] = []

        async def has_come() -> bool:
            number = await self.fleet.leader(LAYER)
            if number is not None and self._line.bytes_to_client >= after:
                found.append(number)
            return bool(found)

        await until(has_come)
        return found[0]

    async def another_leads(self, than: int) -> None:
        async def has_turned() -> bool:
            return await self.fleet.leader(LAYER) not in {than, None}

        await until(has_turned)

    async def results(self, *, but: int | None = None) -> None:
        """All get the right bytes, but for the clients of a mirror that was killed."""
        answers = await asyncio.gather(*self._tasks, return_exceptions=True)
        for number, answer in enumerate(answers):
            if number == but and (isinstance(answer, BaseException) or answer.status != OK):
                continue
            if isinstance(answer, BaseException):
                raise answer
            assert (answer.status, answer.digest) == (OK, LAYER)


@asynccontextmanager
async def pulling(fleet: Fleet, line: Relay) -> AsyncIterator[Pulls]:
    line.bytes_to_client = 0
    async with asyncio.TaskGroup() as group:
        # An error is a result here.
        tasks = [group.create_task(_pull(mirror)) for mirror in fleet.mirrors]
        yield Pulls(fleet, tasks, line)  # type: ignore[arg-type]


async def _pull(mirror: MirrorProcess) -> Answer | Exception:
    try:
        return await mirror.client.blob("org/app", LAYER)
    except (aiohttp.ClientError, TimeoutError) as error:
        return error


async def is_proved_in_the_end(fleet: Fleet) -> None:
    async def is_proved() -> bool:
        return await fleet.is_proved(LAYER)

    await until(is_proved)


def send(mirror: MirrorProcess, number: signal.Signals) -> None:
    """To the mirror with its workers."""
    os.killpg(mirror.process.pid, number)


@pytest.mark.parametrize("after", [0, MIB // 2, 10 * MIB, 28 * MIB], ids=str)
async def test_who_fetches_is_killed_and_the_others_clients_notice_nothing(
    start_fleet: StartFleet, line: Relay, after: int
) -> None:
    fleet = await start_fleet(3, line.url)
    async with pulling(fleet, line) as pulls:
        leader = await pulls.leader(after=after)
        await fleet.mirrors[leader].process.kill()
        await pulls.results(but=leader)
    await is_proved_in_the_end(fleet)
    assert line.bytes_to_client < 1.1 * SIZE


@pytest.mark.parametrize("after", [MIB // 2, 10 * MIB], ids=str)
async def test_who_fetches_stands_still_and_comes_back_late(
    start_fleet: StartFleet, line: Relay, after: int
) -> None:
    fleet = await start_fleet(3, line.url)
    async with pulling(fleet, line) as pulls:
        leader = await pulls.leader(after=after)
        send(fleet.mirrors[leader], signal.SIGSTOP)
        try:
            await pulls.another_leads(leader)
        finally:
            send(fleet.mirrors[leader], signal.SIGCONT)
        await pulls.results()
    await is_proved_in_the_end(fleet)
    assert line.bytes_to_client < 1.5 * SIZE


async def test_who_fetches_stands_still_until_all_others_are_done(
    start_fleet: StartFleet, line: Relay
) -> None:
    fleet = await start_fleet(3, line.url)
    async with pulling(fleet, line) as pulls:
        leader = await pulls.leader(after=10 * MIB)
        send(fleet.mirrors[leader], signal.SIGSTOP)
        try:
            await is_proved_in_the_end(fleet)
        finally:
            send(fleet.mirrors[leader], signal.SIGCONT)
        await pulls.results()
    assert line.bytes_to_client < 1.5 * SIZE


@pytest.mark.parametrize("what", ["database", "bucket"])
@pytest.mark.parametrize("whose", ["leader", "follower"])
@pytest.mark.parametrize("how", ["refused", "silent"])
async def test_one_is_cut_off(
    start_fleet: StartFleet, line: Relay, what: str, whose: str, how: str
) -> None:
    fleet = await start_fleet(3, line.url, fill={"stall_timeout": "3s"})
    async with pulling(fleet, line) as pulls:
        leader = await pulls.leader(after=8 * MIB)
        cut_off = leader if whose == "leader" else (leader + 1) % 3
        relay: Relay = getattr(fleet.lines[cut_off], what)
        if how == "refused":
            await relay.stop()
        else:
            relay.black_hole = True
        await pulls.results()
    if how == "refused":
        await relay.start()
    relay.black_hole = False
    await is_proved_in_the_end(fleet)
    # Who is cut off may have to fetch for itself what it has not got yet.
    assert line.bytes_to_client < 2 * SIZE


async def test_connections_to_all_of_it_drop(start_fleet: StartFleet, line: Relay) -> None:
    fleet = await start_fleet(3, line.url, shared={"lease": "15s"})
    async with pulling(fleet, line) as pulls:
        for after in (2 * MIB, 12 * MIB, 20 * MIB):
            await pulls.leader(after=after)
            line.cut()
            for lines in fleet.lines:
                lines.database.cut()
                lines.bucket.cut()
        await pulls.results()
    await is_proved_in_the_end(fleet)
    assert line.bytes_to_client < 1.1 * SIZE


async def test_the_database_is_started_anew(
    start_fleet: StartFleet, line: Relay, postgres: Postgres
) -> None:
    fleet = await start_fleet(3, line.url, shared={"lease": "60s"})
    async with pulling(fleet, line) as pulls:
        await pulls.leader(after=8 * MIB)
        # Not in a thread: it would end with that.
        postgres.stop()
        postgres.start()
        await pulls.results()
    await is_proved_in_the_end(fleet)
    assert line.bytes_to_client < 1.1 * SIZE


@pytest.mark.parametrize(("failing", "loses", "delay"), [(0.3, 0, 0), (0, 0.2, 0), (0, 0, 0.3)])
async def test_the_bucket_is_bad(
    start_fleet: StartFleet,
    line: Relay,
    bucket_server: BucketServer,
    *,
    failing: float,
    loses: float,
    delay: float,
) -> None:
    async with BadBucket(bucket_server.port) as bad:
        fleet = await start_fleet(3, line.url, bucket_port=lambda _: bad.port)
        bad.failing, bad.loses, bad.delay = failing, loses, delay
        async with pulling(fleet, line) as pulls:
            await pulls.results()
        await is_proved_in_the_end(fleet)
        assert delay or bad.failed
    assert line.bytes_to_client < 1.1 * SIZE

"""What is told becomes pulls and totals, and nobody's names push out the others'."""

import asyncio
from typing import cast

import pytest

from mirror.history.gathering import Gathering
from mirror.history.keeper import Keeper
from mirror.history.ports import Batch, History, Known
from mirror.oci.digest import digest_of
from mirror.oci.errors import StoreError
from mirror.oci.reference import Repository, Tag
from mirror.telemetry.asked import MOST_ENTRIES, Answers, Asked, Entry, Key, Requests
from mirror.telemetry.traffic import Kind, Result, Traffic, Why
from tests.support.clock import FakeClock

DIGEST = digest_of(b"1")
SERVED = Result.MISS, Why.NEVER_SEEN
MISSING = Result.MISS, Why.MISSING


def gathering(clock: FakeClock, *known: str) -> Gathering:
    return Gathering(Known(1, 1, known, ()), private=(), tells_clients=True, clock=clock)


def entry(clock: FakeClock, name: str, went: tuple[Result, Why], client: str = "10.0.0.1") -> Entry:
    repository = Repository("docker.io", name)
    asked = Asked(
        "docker.io", *went, Kind.TAG, repository, Tag("1"), DIGEST, None, client, "docker"
    )
    return asked, Answers(1, 10, clock(), clock())


def settled(gathering: Gathering) -> list[Batch]:
    for _ in gathering.settle():
        pass
    found = []
    while batch := gathering.take():
        found.append(batch)
    return found


def test_names_that_nobody_has_are_one_line_for_each_client(clock: FakeClock) -> None:
    gathered = gathering(clock)
    gathered.note([entry(clock, f"made-up-{n}", MISSING) for n in range(5000)])
    gathered.note([entry(clock, "org/app", SERVED, "10.0.0.2")])
    pulls = [pull for batch in settled(gathered) for pull in batch.pulls]
    assert [(it.client, it.repository, it.requests) for it in pulls] == [
        ("10.0.0.1", None, 5000), ("10.0.0.2", "docker.io/org/app", 1),
    ]  # fmt: skip


def test_a_client_has_names_for_half_of_an_hours_room(clock: FakeClock) -> None:
    gathered = gathering(clock, "docker.io/known")
    gathered.note([entry(clock, f"new-{n}", SERVED, "10.0.0.1") for n in range(3000)])
    gathered.note([entry(clock, name, SERVED, "10.0.0.2") for name in ("known", "new")])
    sums = [it for batch in settled(gathered) for it in batch.sums]
    named = {it.repository for it in sums}
    assert len(named) in {502, 503}  # with all others; a half of a thousand, or nearly
    assert {"docker.io/known", "docker.io/new", None} <= named
    assert sum(it.pulls for it in sums if it.repository) in {501, 502}


def test_much_is_worked_out_in_steps(clock: FakeClock) -> None:
    gathered = gathering(clock)
    gathered.note(
        [entry(clock, "org/app", SERVED, f"10.0.{n // 250}.{n % 250}") for n in range(999)]
    )
    assert len([*gathered.settle()]) >= 3
    batches = []
    while batch := gathered.take():
        batches.append(batch)
    assert max(len(it.pulls) for it in batches) <= 250
    assert sum(len(it.pulls) for it in batches) == 999


class Sick:
    """A history that cannot be written at first."""

    def __init__(self) -> None:
        self.is_well = False
        self.kept: list[Batch] = []

    async def begin(self, *_: int) -> Known:
        return Known(1, 1, (), ())

    async def record(self, batch: Batch) -> None:
        if not self.is_well:
            raise StoreError("the disk is full")
        self.kept.append(batch)


async def test_what_could_not_be_written_is_written_later_and_once(clock: FakeClock) -> None:
    history = Sick()
    async with Keeper.keeping(
        cast(History, history), private=(), tells_clients=True, clock=clock
    ) as keeper:
        keeper.note([entry(clock, "org/one", SERVED)])
        await keeper.write()
        keeper.note([entry(clock, "org/two", SERVED)])
        await keeper.write()
        history.is_well = True
        await asyncio.gather(*(keeper.write() for _ in range(4)))
        seen, told = keeper.changed_since(0)
    assert [it.repository for batch in history.kept for it in batch.pulls] == [
        "docker.io/org/one", "docker.io/org/two",
    ]  # fmt: skip
    assert (seen, len(told)) == (2, 2)


def key(name: str, went: tuple[Result, Why], client: str, agent: str = "x" * 999) -> Key:
    repository = Repository("docker.io", name)
    return client, agent, "GET", 200, Kind.TAG, repository, Tag("1"), None, (*went, None)


def test_a_worker_tells_so_much_at_a_time_and_what_fails_leaves_room(clock: FakeClock) -> None:
    requests = Requests(Traffic(), clock=clock, steady=clock.monotonic)
    for number in range(MOST_ENTRIES):
        requests.note(key(f"made-up-{number}", MISSING, "10.0.0.1"), 0, 1, 0)
    for number in range(MOST_ENTRIES):
        requests.note(key(f"app-{number}", SERVED, f"10.0.0.{2 + number % 2}"), 0, 1, 10)
    entries, counted = requests.take()
    assert MOST_ENTRIES < len(entries) <= MOST_ENTRIES + 2
    assert sum(it.repository is not None and it.is_served for it, _ in entries) >= MOST_ENTRIES / 2
    assert sum(answers.count for _, answers in entries) == 2 * MOST_ENTRIES
    assert sum(answers.sent for _, answers in entries) == 10 * MOST_ENTRIES
    assert sum(sum(tally.counts) for _, tally in counted) == 2 * MOST_ENTRIES
    assert max(len(it.agent) for it, _ in entries) == 200
    assert requests.take() == ([], [])


@pytest.mark.parametrize("network", ["10.0.0.1", "2001:db8::{:x}"])
def test_a_client_that_calls_itself_by_ever_new_names_leaves_half_of_it_to_others(
    clock: FakeClock, network: str
) -> None:
    requests = Requests(Traffic(), clock=clock, steady=clock.monotonic)
    for number in range(2 * MOST_ENTRIES):
        client = network.format(number)
        requests.note(key("org/app", SERVED, client, f"agent {number}"), 0, 1, 10)
    requests.note(key("org/other", SERVED, "10.0.0.2"), 0, 1, 10)
    entries, _ = requests.take()
    told = [str(it.repository) for it, _ in entries if it.repository is not None]
    assert told == ["docker.io/org/app"] * (MOST_ENTRIES // 2) + ["docker.io/org/other"]
    assert sum(answers.count for _, answers in entries) == 2 * MOST_ENTRIES + 1

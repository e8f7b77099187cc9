"""Records that get to know only so many repositories an hour."""

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mirror.aio.slots import client
from mirror.oci.digest import digest_of
from mirror.oci.reference import Repository
from mirror.records.bounded import BoundedRecords
from mirror.records.ports import Named, Records, ReferrersRecord, TagRecord
from mirror.records.sqlite import SqliteRecords
from mirror.telemetry.metrics import Metrics
from tests.conformance.records import RecordsConformance
from tests.support.clock import FakeClock

HUB = "docker.io"
ONE, TWO = digest_of(b"1"), digest_of(b"2")

Bound = Callable[[int], BoundedRecords]


@pytest.fixture
async def on_disk(tmp_path: Path, clock: FakeClock) -> AsyncIterator[SqliteRecords]:
    async with SqliteRecords.open(tmp_path / "records.sqlite3", clock=clock) as records:
        yield records


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def bound(on_disk: SqliteRecords, clock: FakeClock, metrics: Metrics) -> Bound:
    return lambda per_hour: BoundedRecords(on_disk, per_hour=per_hour, clock=clock, metrics=metrics)


class TestBoundedRecords(RecordsConformance):
    @pytest.fixture
    def records(self, bound: Bound) -> Records:
        return bound(1000)


@contextmanager
def _asked_by(address: str) -> Iterator[None]:
    token = client.set(address)
    try:
        yield
    finally:
        client.reset(token)


async def test_what_is_new_beyond_the_limit_is_not_put_on_record(
    bound: Bound, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    records = bound(3)
    for number in range(3):
        await records.record_link(_app(number), ONE, 5)
    with caplog.at_level(logging.WARNING):
        await records.record_link(_app(3), ONE, 5)
        await records.record_tag(_app(4), "1", TagRecord(ONE, 1.0))
        await records.record_referrers(_app(5), ONE, ReferrersRecord(b"[]", 1.0))
        await records.record_manifest(_app(6), ONE, 5, [Named(TWO, 20)])
    known = await records.list_repositories([HUB], after=None, limit=99)
    assert [it.repository for it in known] == [_app(number) for number in range(3)]
    [told] = caplog.messages
    assert "store.new_repositories_per_hour" in told
    assert 'mirror_repositories_unrecorded_total{upstream="docker.io"} 4.0' in (
        metrics.exposition().decode()
    )


async def test_what_is_known_is_recorded_on(bound: Bound) -> None:
    await bound(1).record_link(_app(1), ONE, 5)
    again = bound(1)  # after a restart
    await again.record_link(_app(2), ONE, 5)
    await again.record_link(_app(3), ONE, 5)
    await again.record_link(_app(1), TWO, 5)
    assert await again.find_link(_app(1), TWO) is not None
    assert await again.find_link(_app(3), ONE) is None


async def test_who_has_sent_something_is_always_put_on_record(bound: Bound) -> None:
    records = bound(1)
    await records.record_link(_app(1), ONE, 5)
    await records.record_manifest(_app(2), TWO, 5, [], sent_as="a/b")
    assert await records.find_link(_app(2), TWO) is None
    assert await records.list_senders(TWO) == frozenset({HUB})
    assert await records.find_media_type(HUB, TWO) == "a/b"


async def test_an_hour_later_there_is_room_again(bound: Bound, clock: FakeClock) -> None:
    records = bound(2)
    for number in range(4):
        await records.record_link(_app(number), ONE, 5)
    clock.advance(3600)
    for number in range(4):
        await records.record_link(_app(number), ONE, 5)
    assert len(await records.list_repositories([HUB], after=None, limit=99)) == 4


async def test_one_client_leaves_half_of_it_to_others(bound: Bound) -> None:
    records = bound(10)
    for address, number in (("a", 9), ("b", 2)):
        with _asked_by(address):
            for count in range(number):
                await records.record_link(Repository(HUB, f"{address}/{count}"), ONE, 5)
    known = await records.list_repositories([HUB], after=None, limit=99)
    assert [it.repository.name[0] for it in known] == [*"aaaaabb"]


def _app(number: int) -> Repository:
    return Repository(HUB, f"org/app-{number}")

"""What is on record is forgotten once it is of no use, and nothing else is."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirror.aio.single_flight import SingleFlight
from mirror.oci.digest import Digest, digest_of
from mirror.oci.errors import StoreError
from mirror.oci.reference import Repository
from mirror.pull.links import Links, Verdict
from mirror.pull.memory import Memory
from mirror.pull.retention import Retention
from mirror.records.ports import Named, TagRecord
from mirror.records.sqlite import SqliteRecords
from mirror.storage.store import LocalStorage
from mirror.telemetry.metrics import Metrics
from tests.support.clock import FakeClock
from tests.support.tasks import owned_tasks
from tests.unit.storage.opening import content, open_store, put

DAY = 86400.0
HUB, PRIVATE = "docker.io", "private.example"
ONE, TWO = Repository(HUB, "one"), Repository(HUB, "two")
SECRET = Repository(PRIVATE, "secret")
MANIFEST, GONE = digest_of(b"manifest"), digest_of(b"gone")


@dataclass
class House:
    """A store with records, and what forgets."""

    store: LocalStorage
    records: SqliteRecords
    memory: Memory
    links: Links
    path: Path
    clock: FakeClock
    metrics: Metrics
    room: int = 2**40  # bytes

    def retention(self) -> Retention:
        return Retention(
            self.store, self.records, self.memory, room=lambda _: self.room,
            forget_after=90 * DAY, clock=self.clock, metrics=self.metrics, pause=0.0,
        )  # fmt: skip

    async def sweep(self) -> None:
        await self.retention().sweep()

    async def have(self, repository: Repository, *children: Digest, manifest: Digest) -> None:
        """As a pull of an image leaves it on record."""
        await self.records.record_manifest(
            repository, manifest, 5, [Named(it, 20) for it in children], sent_as="a/b"
        )
        for digest in children:
            await self.records.record_sent(repository.namespace, digest)
        tag = TagRecord(manifest, self.clock())
        await self.records.record_tag(repository, manifest.encoded[:12], tag)

    async def knows(self, repository: Repository, *digests: Digest) -> list[bool]:
        return [await self.records.find_link(repository, it) is not None for it in digests]


@pytest.fixture
async def house(tmp_path: Path, clock: FakeClock) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        path = tmp_path / "records.sqlite3"
        store = await enter(open_store(tmp_path, clock=clock))
        records = await enter(SqliteRecords.open(path, clock=clock))
        memory = Memory(10_000, missing_for=10, clock=clock.monotonic)
        flights: SingleFlight[object, int] = SingleFlight(await enter(owned_tasks()))
        links = Links(records, memory, {}, flights, private=frozenset({PRIVATE}))
        yield House(store, records, memory, links, path, clock, Metrics())


async def test_an_image_that_is_not_here_is_forgotten_once_nobody_has_pulled_it_for_long(
    house: House,
) -> None:
    await house.have(ONE, GONE, manifest=MANIFEST)
    house.clock.advance(50 * DAY)
    await house.have(TWO, digest_of(b"lately"), manifest=digest_of(b"other"))
    house.clock.advance(39 * DAY)
    await house.sweep()
    assert await house.knows(ONE, MANIFEST, GONE) == [True, True]
    house.clock.advance(2 * DAY)
    await house.sweep()
    assert await house.knows(ONE, MANIFEST, GONE) == [False, False]
    assert await house.records.list_tags(ONE, after=None, limit=None) == []
    assert await house.records.list_senders(GONE) == frozenset()
    assert await house.knows(TWO, digest_of(b"lately"), digest_of(b"other")) == [True, True]
    assert house.metrics.registry.get_sample_value("mirror_forgotten_digests_total") == 2


async def test_what_is_here_is_known_for_ever(house: House) -> None:
    layer = await put(house.store, content(1000))
    await house.have(SECRET, layer, manifest=MANIFEST)
    for _ in range(5):
        house.clock.advance(400 * DAY)
        await house.sweep()
    assert await house.knows(SECRET, MANIFEST, layer) == [False, True]
    assert await house.records.list_senders(layer) == {PRIVATE}  # or it would be nobody's secret


async def test_of_an_image_that_is_here_all_is_known_until_its_manifest_has_left(
    house: House,
) -> None:
    manifest = await put(house.store, content(300))
    await house.have(ONE, GONE, manifest=manifest)
    for _ in range(3):
        house.clock.advance(400 * DAY)
        await house.sweep()
    assert await house.knows(ONE, manifest, GONE) == [True, True]
    assert await house.records.list_children(manifest) == [GONE]
    await house.store.drop(manifest)
    house.clock.advance(89 * DAY)
    await house.sweep()
    assert await house.knows(ONE, manifest, GONE) == [True, True]
    house.clock.advance(2 * DAY)
    await house.sweep()
    assert await house.knows(ONE, manifest, GONE) == [False, False]


async def test_private_bytes_that_are_in_memory_alone_stay_their_upstreams(house: House) -> None:
    await house.have(SECRET, GONE, manifest=MANIFEST)
    house.memory.keep_blob(GONE, b"gone")
    house.clock.advance(400 * DAY)
    await house.sweep()
    assert await house.records.list_senders(GONE) == {PRIVATE}


async def test_private_bytes_that_come_while_they_are_looked_for_stay_their_upstreams(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.links.record_sent(PRIVATE, GONE)
    house.clock.advance(400 * DAY)
    find_stored = house.store.find_stored

    async def find_late(digests: Sequence[Digest], *, can_wait: bool = False) -> set[Digest]:
        found = await find_stored(digests, can_wait=can_wait)
        await house.links.record_sent(PRIVATE, GONE)  # a fill is about to keep it
        return found

    monkeypatch.setattr(house.store, "find_stored", find_late)
    await house.sweep()
    assert await house.records.list_senders(GONE) == {PRIVATE}
    link = await house.links.find(ONE, GONE)
    assert await house.links.judge(ONE, GONE, link) is Verdict.FETCH


async def test_what_memory_holds_of_what_is_forgotten_is_put_on_record_anew(house: House) -> None:
    await house.links.record(ONE, GONE, 20)
    house.clock.advance(400 * DAY)
    await house.sweep()
    await house.links.record(ONE, GONE, 20)
    assert await house.knows(ONE, GONE) == [True]


async def test_nothing_is_forgotten_before_all_that_is_here_is_known(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.have(ONE, GONE, manifest=MANIFEST)
    house.clock.advance(400 * DAY)
    monkeypatch.setattr(LocalStorage, "is_adopted", False)
    await house.sweep()
    assert await house.knows(ONE, MANIFEST, GONE) == [True, True]


async def test_where_records_take_too_much_the_oldest_go_first_and_the_file_shrinks(
    house: House,
) -> None:
    here = await put(house.store, content(1000))
    rng = random.Random(7)  # noqa: S311 - not a secret
    await house.have(ONE, here, manifest=MANIFEST)
    images = [digest_of(b"manifest %d" % number) for number in range(3000)]
    for start in range(0, len(images), 500):
        house.clock.advance(3 * 3600)
        for image in images[start : start + 500]:
            await house.have(ONE, digest_of(rng.randbytes(9)), manifest=image)
    size = (await house.records.measure()).size
    assert size > 1_000_000
    house.clock.advance(3 * 3600)
    house.room = size // 3
    await house.sweep()
    extent = await house.records.measure()
    assert extent.used <= size // 3
    assert house.path.stat().st_size <= extent.size <= size // 3 + 2**19
    known = await house.knows(ONE, *images)
    assert known == sorted(known)  # the oldest are gone
    assert 300 < sum(known) < 1500
    assert await house.knows(ONE, here) == [True]
    shown = house.metrics.exposition().decode()
    assert f'mirror_catalog_bytes{{database="records"}} {float(extent.size)}' in shown
    house.clock.advance(1800)
    young = digest_of(b"young")
    await house.have(TWO, manifest=young)
    house.room = 0
    await house.sweep()
    assert await house.knows(ONE, *images, here) == [False] * len(images) + [True]
    assert await house.knows(TWO, young) == [True]  # not within the hour


async def test_an_interrupted_sweep_is_taken_up_by_the_next(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [digest_of(b"manifest %d" % number) for number in range(600)]
    for image in images:
        await house.have(ONE, manifest=image)
    house.clock.advance(400 * DAY)
    retention = house.retention()
    answers = [set[Digest]()]

    async def fail(digests: Sequence[Digest], *, can_wait: bool = False) -> set[Digest]:
        if answers:
            return answers.pop()
        raise StoreError("the disk refuses")

    with monkeypatch.context() as patches:
        patches.setattr(house.store, "find_stored", fail)
        with pytest.raises(StoreError):
            await retention.sweep()
    assert 0 < sum(await house.knows(ONE, *images)) < 600
    await retention.sweep()
    assert sum(await house.knows(ONE, *images)) == 0

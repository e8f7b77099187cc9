"""What is superseded, or in no whole image any more, goes before what is not."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.oci.digest import Digest, digest_of
from mirror.oci.reference import Repository
from mirror.pull.images import Images
from mirror.records.ports import Named, TagRecord
from mirror.records.sqlite import SqliteRecords
from mirror.storage.store import LocalStorage
from tests.support.clock import FakeClock
from tests.support.process import until
from tests.support.tasks import owned_tasks
from tests.unit.storage.opening import UPSTREAM, content, on_disk, open_store, put

APP, OTHER = Repository(UPSTREAM, "app"), Repository(UPSTREAM, "other")
SIZE = 1_000_000
MANIFEST = 1_000


class House:
    """A store with room for ten layers, and what is on record of images."""

    def __init__(self, store: LocalStorage, records: SqliteRecords, images: Images) -> None:
        self.store, self.records, self.images = store, records, images
        self._made = 0

    async def layer(self) -> Digest:
        self._made += 1
        return await put(self.store, content(SIZE, self._made))

    async def manifest(self, *children: Digest, repository: Repository = APP) -> Digest:
        self._made += 1
        data = content(MANIFEST, self._made)
        names = [Named(child, 1) for child in children]
        await self.records.record_manifest(repository, digest_of(data), MANIFEST, names)
        await self.store.keep(UPSTREAM, digest_of(data), data, is_manifest=True)
        return digest_of(data)

    async def tag(self, name: str, digest: Digest, before: Digest | None = None) -> None:
        await self.records.record_tag(APP, name, TagRecord(digest, 1.0))
        self.images.note_tag(APP, before, digest)

    async def until_superseded(self, *digests: Digest) -> None:
        async def are() -> bool:
            return not await self.store.find_meant(digests)

        await until(are)

    async def until_meant(self, *digests: Digest) -> None:
        async def are() -> bool:
            return await self.store.find_meant(digests) == set(digests)

        await until(are)


@pytest.fixture
async def house(tmp_path: Path, clock: FakeClock) -> AsyncIterator[House]:
    async with (
        open_store(tmp_path, max_size=10 * SIZE + 9 * MANIFEST, clock=clock) as store,
        SqliteRecords.open(tmp_path / "records.sqlite3", clock=FakeClock()) as records,
        owned_tasks() as tasks,
    ):
        images = Images(store, records, tasks=tasks)
        store.watch_evictions(images.note_evicted)
        yield House(store, records, images)


async def test_when_a_tag_moves_on_the_old_image_goes_first_and_what_both_have_stays(
    house: House, clock: FakeClock, tmp_path: Path
) -> None:
    rare = await house.layer()
    base, old, new = await house.layer(), await house.layer(), await house.layer()
    clock.advance(86_400)
    for _ in range(5):  # it was popular
        await house.store.keep(UPSTREAM, old, b"")
    before = await house.manifest(base, old)
    await house.tag("1", before)
    await house.tag("1", await house.manifest(base, new), before)
    await house.until_superseded(before, old)
    for _ in range(7):
        await house.layer()
    assert {rare.encoded, base.encoded, new.encoded, before.encoded} <= on_disk(tmp_path)
    assert old.encoded not in on_disk(tmp_path)


async def test_what_another_tag_or_another_image_still_means_is_not_superseded(
    house: House,
) -> None:
    shared, own, new = await house.layer(), await house.layer(), await house.layer()
    before = await house.manifest(shared, own)
    await house.manifest(shared, repository=OTHER)
    now = await house.manifest(new)
    for name in ("1", "1.0"):
        await house.tag(name, before)
    await house.tag("1", now, before)
    await house.tag("2", await house.manifest(own, new))  # so that we know that it has looked
    await house.until_meant(before, shared, own)
    await house.tag("1.0", now, before)
    await house.until_superseded(before)
    await house.until_meant(shared, own, now)


async def test_all_that_an_index_is_made_of_is_superseded_and_meant_again_after_a_rollback(
    house: House,
) -> None:
    layers = [await house.layer() for _ in range(3)]
    platforms = [await house.manifest(layer) for layer in layers[:2]]
    before, now = await house.manifest(*platforms), await house.manifest(layers[2])
    await house.tag("1", before)
    await house.tag("1", now, before)
    await house.until_superseded(before, *platforms, *layers[:2])
    await house.tag("1", before, now)
    await house.until_meant(before, *platforms, *layers[:2])
    await house.until_superseded(now, layers[2])


async def test_what_is_left_of_an_evicted_image_goes_before_images_that_are_whole(
    house: House, clock: FakeClock, tmp_path: Path
) -> None:
    whole = [await house.layer(), await house.layer()]
    first, rest, both = await house.layer(), await house.layer(), await house.layer()
    await house.manifest(*whole, both)
    await house.manifest(first, rest, both)
    for digest in (*whole, rest, both):
        clock.advance(1)
        await house.store.keep(UPSTREAM, digest, b"")
    for _ in range(6):
        clock.advance(1)
        await house.layer()
    assert first.encoded not in on_disk(tmp_path)  # it was asked for the longest ago

    async def is_rest_next() -> bool:
        await house.layer()
        return rest.encoded not in on_disk(tmp_path)

    assert rest.encoded in on_disk(tmp_path)
    await until(is_rest_next)
    assert {*(it.encoded for it in whole), both.encoded} <= on_disk(tmp_path)


async def test_a_manifest_that_names_more_than_images_have_is_left_as_it_is(house: House) -> None:
    layer, new = await house.layer(), await house.layer()
    lure = await house.manifest(layer, *(digest_of(b"%d" % number) for number in range(5_000)))
    now = await house.manifest(new)
    await house.tag("1", lure)
    await house.tag("1", now, lure)
    old = await house.manifest(new, layer)
    await house.tag("2", old)
    await house.tag("2", now, old)
    await house.until_superseded(old)
    await house.until_meant(layer, lure, now)

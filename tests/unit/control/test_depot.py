"""A store as bundles are taken into it, a blob at a time."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.config import parse
from mirror.control.bundles import Depot, Sent
from mirror.control.depot import StoreDepot
from mirror.oci.errors import DigestMismatch, StoreError
from mirror.operate.bundles.verbs import open_depot
from mirror.pull.arriving import Arriving
from mirror.pull.memory import Memory
from mirror.records.alone import Alone
from mirror.records.sqlite import SqliteRecords
from tests.conformance.depot import CONTENT, DIGEST, PIECES, DepotConformance, write
from tests.support.clock import FakeClock
from tests.support.mirror import document
from tests.unit.storage.opening import content, open_store, put


@pytest.fixture
async def depot(tmp_path: Path) -> AsyncIterator[Depot]:
    root = tmp_path / "store"
    (root / "blobs").mkdir(parents=True)
    async with open_depot(parse(document({"docker.io": {}}, store_root=root))) as opened:
        yield opened


class TestStoreDepot(DepotConformance):
    """The store itself."""


def files(tmp_path: Path, where: str) -> list[Path]:
    return [it for it in (tmp_path / "store" / where).rglob("*") if it.is_file()]


async def test_a_blob_that_broke_off_is_continued_in_the_same_file(
    tmp_path: Path, depot: Depot
) -> None:
    with pytest.raises(StoreError, match="broken off"):
        await write(depot, DIGEST, len(CONTENT), PIECES[:10])
    [partial] = [it for it in files(tmp_path, "partial") if it.stat().st_size]
    begun = partial.stat().st_ino
    assert await depot.find_missing([DIGEST]) == {DIGEST}
    await write(depot, DIGEST, len(CONTENT), PIECES)
    [kept] = files(tmp_path, "blobs")
    assert (kept.stat().st_ino, kept.read_bytes()) == (begun, CONTENT)
    assert await depot.find_missing([DIGEST]) == set()
    assert b"".join([piece async for piece in depot.read(DIGEST)]) == CONTENT


@pytest.mark.parametrize(
    "pieces", [[b"x" * len(CONTENT)], [*PIECES, b"more"], [b"", b"x", *PIECES[:-1], PIECES[-1][1:]]]
)
async def test_what_is_something_else_is_not_kept_and_hinders_nobody(
    tmp_path: Path, depot: Depot, pieces: list[bytes]
) -> None:
    with pytest.raises(DigestMismatch):
        await write(depot, DIGEST, len(CONTENT), pieces)
    assert files(tmp_path, "blobs") == []
    await write(depot, DIGEST, len(CONTENT), PIECES)
    assert len(files(tmp_path, "blobs")) == 1


async def test_what_another_bundle_has_left_of_it_is_found_out(depot: Depot) -> None:
    with pytest.raises(StoreError, match="broken off"):
        await write(depot, DIGEST, len(CONTENT) * 2, [b"x" * len(CONTENT)])
    with pytest.raises(DigestMismatch):
        await write(depot, DIGEST, len(CONTENT), PIECES)
    await write(depot, DIGEST, len(CONTENT), PIECES)
    assert await depot.find_missing([DIGEST]) == set()


async def test_what_a_bundle_holds_too_is_in_use_from_then_on(tmp_path: Path) -> None:
    """Until its image is on record, nothing else keeps it from being collected."""
    clock = FakeClock()
    async with (
        open_store(tmp_path, clock=clock) as store,
        SqliteRecords.open(tmp_path / "records.sqlite3", clock=clock) as records,
    ):
        old, other = await put(store, content(1)), await put(store, content(2))
        clock.advance(7200)
        config = parse(document({"docker.io": {}}, store_root=tmp_path))
        depot = StoreDepot(
            store, records, Memory(0, missing_for=0.0, clock=clock.monotonic), config.upstream,
            arriving=Arriving(clock.monotonic), forget=lambda _: None, note_tag=lambda *_: None,
            clock=clock, fleet=Alone(), others=None,
        )  # fmt: skip
        await depot.note_sent(Sent([str(old)], ["docker.io"]))
        unused = [it async for batch in store.list_unused(since=clock() - 3600) for it, _ in batch]
        assert unused == [other]

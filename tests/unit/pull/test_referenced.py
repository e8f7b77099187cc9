"""What the store would take without deduplication."""

from pathlib import Path

from mirror.oci.digest import digest_of
from mirror.oci.reference import Repository
from mirror.pull.referenced import ReferencedBytes
from mirror.records.sqlite import SqliteRecords
from tests.support.clock import FakeClock
from tests.support.process import until
from tests.support.tasks import owned_tasks
from tests.unit.storage.opening import content, open_store, put

ONE, TWO = Repository("docker.io", "one"), Repository("ghcr.io", "two")


async def test_each_blob_counts_once_for_each_repository_and_not_all_the_time(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with (
        open_store(tmp_path) as store,
        SqliteRecords.open(tmp_path / "records.sqlite3", clock=clock) as records,
        owned_tasks() as tasks,
    ):
        shared, own = await put(store, content(1000)), await put(store, content(300))
        await put(store, content(70))  # linked to none
        for repository in (ONE, TWO):
            await records.record_link(repository, shared, 1000)
        await records.record_link(ONE, own, 300)
        await records.record_link(ONE, digest_of(b"not here"), 5)
        figure = ReferencedBytes(store, records, tasks=tasks, clock=clock.monotonic, good_for=300)

        async def is_counted() -> bool:
            return figure.read() == 2300

        await until(is_counted)
        await records.record_link(TWO, own, 300)
        clock.set_back(3600)
        clock.advance(299)
        assert figure.read() == 2300
        clock.advance(2)

        async def is_counted_anew() -> bool:
            return figure.read() == 2600

        await until(is_counted_anew)

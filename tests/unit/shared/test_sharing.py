"""What is published when nobody fetches it, in a real PostgreSQL and a bucket in memory."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from random import Random

import pytest
from obstore.store import MemoryStore

from mirror.oci.digest import Digest, digest_of
from mirror.shared.bucket import ObjectBucket
from mirror.shared.opening import Common, OwnBucket
from mirror.shared.sharing import Sharing
from tests.support.bucket import begin_obstore
from tests.support.images import random_bytes
from tests.support.postgres import Postgres, opened
from tests.support.process import until
from tests.support.tasks import owned_tasks
from tests.unit.shared.kept import Kept

CONTENT = random_bytes(50_000, seed=15)
DIGEST = digest_of(CONTENT)
PUBLIC, PRIVATE, OTHER = "docker.io", "private.example", "also-private.example"
DICE = Random(15)  # noqa: S311 - for jitter


@pytest.fixture(scope="module", autouse=True)
def obstore_has_begun() -> None:
    begin_obstore()


@dataclass(eq=False)
class Disk:
    """It has CONTENT, and gives it when it is `open`."""

    file: Path
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def open_blob(self, digest: Digest) -> Kept:
        assert digest == DIGEST
        self.asked.set()
        await self.open.wait()
        return Kept(DIGEST, len(CONTENT), FileIO(self.file))

    async def list_stored(self) -> AsyncIterator[list[tuple[Digest, int]]]:
        for batch in list[list[tuple[Digest, int]]]():
            yield batch


async def _nobody(_digest: Digest) -> frozenset[str]:
    return frozenset()


async def test_what_another_upstream_has_sent_meanwhile_is_published_as_that_ones_too(
    postgres: Postgres, tmp_path: Path
) -> None:
    """What is a private upstream's alone is nothing to the clients of others."""
    file = tmp_path / "content"
    file.write_bytes(CONTENT)
    disk, bucket = Disk(file), OwnBucket(ObjectBucket(MemoryStore()))
    url = await postgres.create_database()
    async with opened(url, tmp_path) as database, owned_tasks() as tasks:
        tasks.keep(lambda: bucket.see_whose_it_is(database, DICE), name="bucket")
        await bucket.looked()
        sharing = Sharing(
            Common("one", database, bucket, lambda _: False, was_one=False), disk,
            lease=15.0, patience=40.0, list_senders=_nobody, read_private=lambda: {PRIVATE, OTHER},
            read_pinned=set, max_size=2**30, redirects=False, tasks=tasks,
            monotonic=asyncio.get_running_loop().time, random=DICE,
        )  # fmt: skip
        sharing.note_here(PRIVATE, DIGEST)
        await disk.asked.wait()
        sharing.note_here(PUBLIC, DIGEST)
        sharing.note_here(OTHER, DIGEST)
        disk.open.set()

        async def is_done() -> bool:
            return not sharing.unpublished

        await until(is_done)
        rows = await database.fetch("SELECT upstream FROM mirror.blobs WHERE proved_at IS NOT NULL")
        assert {row["upstream"] for row in rows} >= {PRIVATE, PUBLIC}

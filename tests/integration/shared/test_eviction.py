"""What leaves the bucket, what stays, and what is swept: on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random

import obstore
import pytest
from obstore.store import MemoryStore

from mirror.oci.digest import Digest, digest_of
from mirror.shared.bucket import PROBE, ObjectBucket
from mirror.shared.database import Database
from mirror.shared.eviction import Eviction
from mirror.shared.ledger import PostgresLedger
from mirror.shared.pieces import Piece, key
from mirror.shared.ports import Copy
from mirror.shared.sweep import sweep
from tests.support.postgres import Postgres

SIZE = 1000
WORD = "0123456789abcdef"
DICE = Random(14)  # noqa: S311 - for jitter


@dataclass
class Kept:
    """A bucket that is full with `digests`, the first of which was used the longest ago."""

    database: Database
    other_database: Database
    ledger: PostgresLedger
    bucket: ObjectBucket
    store: MemoryStore
    digests: list[Digest] = field(default_factory=list)
    pinned: set[Digest] = field(default_factory=set)

    async def publish(self, number: int, *, age: int, proved: bool = True) -> Digest:
        """A blob of two pieces, last used so many seconds ago."""
        digest = digest_of(str(number).encode())
        turn = await self.ledger.claim("docker.io", digest, 30, 30)
        assert turn is not None
        keys = []
        for start, stop in ((0, 600), (600, SIZE)):
            name = key(digest, turn.epoch, WORD, start)
            await self.bucket.put(name, b"x" * (stop - start))
            assert await self.ledger.record(turn.blob, turn.epoch, Piece(start, stop, name))
            keys.append(name)
        if proved:
            assert await self.ledger.prove(turn.blob, turn.epoch, SIZE, keys)
        await self.database.execute(
            "UPDATE mirror.blobs SET used_at = now() - $2 * interval '1 second' WHERE blob = $1",
            turn.blob, float(age),
        )  # fmt: skip
        self.digests.append(digest)
        return digest

    def eviction(self, *, max_size: int, grace: float = 0.0, other: bool = False) -> Eviction:
        return Eviction(
            self.other_database if other else self.database, self.bucket,
            max_size=max_size, read_pinned=lambda: self.pinned, random=DICE, grace=grace,
        )  # fmt: skip

    async def find(self, digest: Digest) -> Copy | None:
        return await self.ledger.find("docker.io", digest)

    async def there(self) -> list[int]:
        """Which of the blobs are on record, without asking for them."""
        rows = await self.database.fetch("SELECT digest FROM mirror.blobs")
        found = {row["digest"] for row in rows}
        return [number for number, it in enumerate(self.digests) if str(it) in found]

    def objects(self) -> int:
        return sum(len(batch) for batch in obstore.list(self.store))


@pytest.fixture
async def kept(tmp_path: Path, postgres: Postgres) -> AsyncIterator[Kept]:
    file = tmp_path / "database"
    file.write_text(await postgres.create_database())
    async with AsyncExitStack() as stack:

        async def open_one(name: str) -> Database:
            return await stack.enter_async_context(
                Database.open(file, name=name, expected=None, note_fault=_note_fault, dice=DICE)
            )

        one, two = await open_one("one"), await open_one("two")
        ledger = PostgresLedger(
            one, "one", patience=60, read_private=list, had_trouble=lambda _: False
        )
        store = MemoryStore()
        kept = Kept(one, two, ledger, ObjectBucket(store), store)
        for number in range(5):
            await kept.publish(number, age=10_000 - number)
        yield kept


def _note_fault(task: str, error: Exception) -> None:
    raise AssertionError(f"{task}: {error}")


async def test_nothing_leaves_while_there_is_room(kept: Kept) -> None:
    await kept.eviction(max_size=5 * SIZE).look()
    assert await kept.there() == [0, 1, 2, 3, 4]


async def test_what_was_used_the_longest_ago_goes_after_a_grace_row_first_and_then_objects(
    kept: Kept,
) -> None:
    await kept.eviction(max_size=4 * SIZE, grace=60).look()
    assert await kept.there() == [0, 1, 2, 3, 4]
    await kept.database.execute(
        "UPDATE mirror.blobs SET leaving_at = leaving_at - interval '61 seconds'"
    )
    eviction = kept.eviction(max_size=4 * SIZE, grace=60)
    await eviction.look()
    assert await kept.there() == [2, 3, 4]  # some more than had to: not every time for one
    assert kept.objects() == 6
    assert (eviction.evicted_blobs, eviction.evicted_bytes) == (2, 2 * SIZE)


async def test_who_asks_for_what_is_about_to_leave_keeps_it(kept: Kept) -> None:
    await kept.eviction(max_size=4 * SIZE, grace=60).look()
    assert await kept.find(kept.digests[0]) is not None
    await kept.database.execute(
        "UPDATE mirror.blobs SET leaving_at = leaving_at - interval '61 seconds'"
    )
    await kept.eviction(max_size=5 * SIZE, grace=60).look()
    assert await kept.there() == [0, 2, 3, 4]


async def test_what_is_pinned_read_or_still_coming_never_leaves(kept: Kept) -> None:
    kept.pinned = {kept.digests[0]}
    copy = await kept.find(kept.digests[1])
    assert copy is not None
    await kept.ledger.note_used([copy.blob])
    await kept.publish(5, age=20_000, proved=False)
    eviction = kept.eviction(max_size=1)
    for _ in range(3):
        await eviction.look()
    assert await kept.there() == [0, 1, 5]
    assert kept.objects() == 6


async def test_what_nobody_has_gone_on_with_for_a_day_goes(kept: Kept) -> None:
    await kept.publish(5, age=0, proved=False)
    await kept.database.execute(
        "UPDATE mirror.blobs SET until = now() - interval '25 hours' WHERE proved_at IS NULL"
    )
    await kept.eviction(max_size=10 * SIZE).look()
    assert await kept.there() == [0, 1, 2, 3, 4]
    assert kept.objects() == 10


async def test_one_mirror_at_a_time_evicts(kept: Kept) -> None:
    async with kept.other_database.transaction() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", 0x6576696374)
        await kept.eviction(max_size=1).look()
        assert await kept.there() == [0, 1, 2, 3, 4]
    ones = [kept.eviction(max_size=2 * SIZE, other=bool(it % 2)) for it in range(6)]
    for _ in range(2):
        await asyncio.gather(*(one.look() for one in ones))
    assert await kept.there() == [4]
    assert sum(one.evicted_blobs for one in ones) == 4


async def test_orphans_are_swept_and_nothing_else(kept: Kept) -> None:
    orphan = key(kept.digests[0], 99, WORD, 0)
    for name in (orphan, f"{PROBE}1", "mirror-deployment", "somebody/elses.txt"):
        await kept.bucket.put(name, b"12345")
    assert await sweep(kept.database, kept.bucket) == (14, 0, 0)  # it may just have been put
    swept = await sweep(kept.database, kept.bucket, older=timedelta(seconds=-60))
    assert swept == (14, 2, 10)
    assert kept.objects() == 12
    for digest in kept.digests:
        copy = await kept.find(digest)
        assert copy is not None
        for piece in copy.pieces:
            assert await kept.bucket.get(piece.key)

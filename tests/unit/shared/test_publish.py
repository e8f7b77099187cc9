"""What of a blob is put into the bucket, how much of it at once, and by whose turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from random import Random

import pytest

from mirror.oci.digest import digest_of
from mirror.shared.ahead import Memory
from mirror.shared.part import Part
from mirror.shared.ports import Bucket, BucketDown
from mirror.shared.publish import Publisher
from mirror.shared.turns import State, Turn
from tests.support.images import random_bytes
from tests.support.memory_ledger import Book, MemoryLedger
from tests.support.process import until
from tests.unit.shared.kept import Kept

MIB = 2**20
CONTENT = random_bytes(66 * MIB, seed=1406)
DIGEST = digest_of(CONTENT)
UPSTREAM = "docker.io"
ROW = (UPSTREAM, str(DIGEST))


@dataclass(eq=False)
class Tray(Bucket):
    """A bucket that takes nothing before it is `open`, and then what is not `refused`."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    objects: dict[str, bytes] = field(default_factory=dict)
    refused: int = 0
    waiting: int = 0

    async def put(self, key: str, content: bytes) -> None:
        self.waiting += 1
        try:
            await self.open.wait()
        finally:
            self.waiting -= 1
        if self.refused:
            self.refused -= 1
            raise BucketDown("not now")
        assert key not in self.objects
        self.objects[key] = content


@dataclass(eq=False)
class World:
    file: Path
    book: Book = field(default_factory=Book)
    bucket: Tray = field(default_factory=Tray)
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(4))

    @asynccontextmanager
    async def publishing(self, name: str = "one") -> AsyncIterator[Part]:
        """One that has all of it publishes it, until the block ends."""
        part = Part(
            UPSTREAM, DIGEST, Turn(lease=15, patience=40, pause=1),
            ledger=MemoryLedger(self.book, name), bucket=self.bucket, memory=Memory(0),
            is_down=lambda: False, monotonic=lambda: self.book.now,
        )  # fmt: skip
        kept = Kept(DIGEST, len(CONTENT), FileIO(self.file))
        part.offer(kept)
        kept.close()
        publisher = Publisher(
            part, joins=False, slots=self.slots, random=Random(1),  # noqa: S311 - for jitter
            note_put=lambda _: None,
        )  # fmt: skip
        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(publisher.publish())
            tending = tasks.create_task(part.tend())
            yield part
            publishing.cancel()
            tending.cancel()
        await part.finish()

    async def proved(self) -> None:
        async def is_proved() -> bool:
            return ROW in self.book.rows and self.book.rows[ROW].is_proved

        await until(is_proved)

    async def holds(self, waiting: int) -> None:
        async def do() -> bool:
            return self.bucket.waiting == waiting

        await until(do)

    def content(self) -> bytes:
        """What the pieces on record are, one after another."""
        pieces = sorted(self.book.rows[ROW].pieces.values())
        starts = [piece.start for piece in pieces]
        assert starts == [0, *(piece.stop for piece in pieces[:-1])]
        return b"".join(self.bucket.objects[piece.key] for piece in pieces)


@pytest.fixture
def world(tmp_path: Path) -> World:
    file = tmp_path / "blob"
    file.write_bytes(CONTENT)
    return World(file)


async def test_several_pieces_are_put_at_a_time_and_all_of_them_are_the_blob(world: World) -> None:
    async with world.publishing():
        await world.holds(waiting=3)
        world.bucket.open.set()
        await world.proved()
    assert world.content() == CONTENT
    assert len(world.bucket.objects) == len(world.book.rows[ROW].pieces)


async def test_all_blobs_together_have_no_more_at_once_than_there_are_slots(world: World) -> None:
    world.slots = asyncio.Semaphore(1)
    async with world.publishing():
        await world.holds(waiting=1)
        assert world.slots.locked()
        world.bucket.open.set()
        await world.proved()
    assert world.content() == CONTENT
    assert not world.slots.locked()


async def test_what_the_bucket_refuses_is_put_again(world: World) -> None:
    world.bucket.refused = 3
    world.bucket.open.set()
    async with world.publishing():
        await world.proved()
    assert world.content() == CONTENT


async def test_what_was_on_its_way_when_another_took_the_turn_is_on_no_record(
    world: World,
) -> None:
    async with world.publishing() as part:
        await world.holds(waiting=3)
        world.book.now += 16
        assert world.book.claim(*ROW, "two", 15, grace=0, began=0) is not None
        world.bucket.open.set()

        async def is_lost() -> bool:
            return part.turn.state is State.FOLLOWING

        await until(is_lost)
    assert world.book.rows[ROW].pieces == {}


async def test_who_ends_in_the_middle_leaves_nothing_at_work(world: World) -> None:
    async with world.publishing():
        await world.holds(waiting=3)
    assert world.bucket.waiting == 0
    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):  # all slots are free
            tasks.create_task(world.slots.acquire())

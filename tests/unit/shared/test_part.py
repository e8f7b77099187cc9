"""Where the bytes of a fill come from, by whose turn it is: in memory, with a clock of its own."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field

import obstore
import pytest
from obstore.store import MemoryStore

from mirror.aio.slots import Urgency
from mirror.oci.digest import digest_of
from mirror.oci.errors import Unavailable
from mirror.shared.ahead import Memory
from mirror.shared.bucket import ObjectBucket
from mirror.shared.hearing import tell
from mirror.shared.part import Part
from mirror.shared.pieces import Piece, key
from mirror.shared.ports import Copy
from mirror.shared.turns import State, Turn
from mirror.sources.ports import BlobSource, Body
from tests.conformance.blob_source import BlobSourceConformance, Has
from tests.support.bucket import begin_obstore
from tests.support.images import random_bytes
from tests.support.memory_ledger import Book, MemoryLedger
from tests.support.memory_source import MemorySource

CONTENT = random_bytes(50_000, seed=14)
DIGEST = digest_of(CONTENT)
WORD = "0123456789abcdef"
LEASE, PATIENCE, PAUSE = 15.0, 40.0, 1.0
UPSTREAM = "memory"
_NOTHING = MemorySource({}, upstream=UPSTREAM)


@pytest.fixture(scope="module", autouse=True)
def obstore_has_begun() -> None:
    begin_obstore()


@dataclass(eq=False)
class CountingLedger(MemoryLedger):
    """Counts `looks`, and may be held up before each answer."""

    looks: Counter[str] = field(default_factory=Counter)
    held: asyncio.Event | None = None

    async def look(self, blob: int, after: int) -> Copy | None:
        self.looks[self.holder] += 1
        copy = await super().look(blob, after)
        if self.held is not None:
            await self.held.wait()
        return copy


@dataclass
class World:
    """What all mirrors have in common; time passes when a test says so."""

    book: Book = field(default_factory=lambda: Book(patience=PATIENCE))
    store: MemoryStore = field(default_factory=MemoryStore)
    memory: Memory = field(default_factory=lambda: Memory(2**20))
    now: float = 0.0
    looks: Counter[str] = field(default_factory=Counter)  # by mirror

    def part(self, name: str, *, content: bytes = CONTENT, is_private: bool = False) -> Part:
        return Part(
            UPSTREAM, digest_of(content), Turn(LEASE, PATIENCE, PAUSE),
            ledger=CountingLedger(self.book, name, looks=self.looks),
            bucket=ObjectBucket(self.store), memory=self.memory,
            is_down=lambda: self.book.is_down, monotonic=lambda: self.now,
            is_private=is_private,
        )  # fmt: skip

    @asynccontextmanager
    async def tended(self, name: str) -> AsyncIterator[Part]:
        """A mirror's part, that sees to its turn inside the block."""
        part = self.part(name)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(part.tend())
            yield part
            part.ended(None)
        await part.finish()

    async def put(self, part: Part, start: int, stop: int) -> str:
        """A piece of CONTENT, by who has the turn; what is told of it."""
        assert part.blob is not None
        assert part.turn.epoch is not None
        piece = Piece(start, stop, key(DIGEST, part.turn.epoch, WORD, start))
        await part.bucket.put(piece.key, CONTENT[start:stop])
        assert await part.ledger.record(part.blob, part.turn.epoch, piece)
        return tell(part.blob, piece)

    async def pass_time(self, seconds: float, *parts: Part) -> None:
        self.now += seconds
        self.book.now += seconds
        for part in parts:
            part.wake()
        await until_idle()


async def until_idle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def follows(part: Part) -> None:
    while part.turn.state is not State.FOLLOWING:
        await part.news(within=5)


async def leads(part: Part) -> None:
    while part.turn.state is not State.LEADING:
        await part.news(within=5)


async def read(body: Body) -> bytes:
    found = bytearray()
    async with aclosing(body.chunks) as chunks:
        async for chunk in chunks:
            found += chunk
    return bytes(found)


def open_blob(
    source: BlobSource, start: int = 0, stop: int | None = None
) -> AbstractAsyncContextManager[Body]:
    return source.open_blob(DIGEST, start, stop, avoid=None, urgency=Urgency())


class TestPieces(BlobSourceConformance):
    """What is proved is a source like any other."""

    @pytest.fixture
    def has(self) -> Has:
        world, parts = World(), dict[bytes, Part]()

        def has(content: bytes) -> BlobSource:
            if content not in parts:
                part = parts[content] = world.part("one", content=content)
                part.size, part.copied_from = len(content), UPSTREAM
                part.turn.is_proved(0)
                for start in range(0, len(content), 70_000):
                    stop = min(len(content), start + 70_000)
                    obstore.put(world.store, f"piece/{start}", content[start:stop])
                    part.pieces.add(Piece(start, stop, f"piece/{start}"))
            return parts[content].through(_NOTHING)

        return has


async def test_one_asks_upstream_and_the_other_reads_what_it_puts() -> None:
    world = World()
    upstream = MemorySource({DIGEST: CONTENT})
    async with world.tended("one") as one, world.tended("two") as two:  # noqa: SIM117 - two steps
        async with open_blob(one.through(upstream)) as body:
            assert body.copied_from is None
            await leads(one)
            assert one.blob is not None
            assert one.turn.epoch is not None
            await one.ledger.tell_size(one.blob, one.turn.epoch, len(CONTENT))
            await world.put(one, 0, 30_000)
            await world.pass_time(PAUSE, two)
            async with open_blob(two.through(upstream)) as copied:
                assert (copied.size, copied.copied_from) == (len(CONTENT), UPSTREAM)
                reading = asyncio.ensure_future(read(copied))  # noqa: TID251 - awaited below
                await world.put(one, 30_000, len(CONTENT))
                while not reading.done():
                    await world.pass_time(PAUSE, two)
                    await asyncio.sleep(0.01)
                assert await reading == CONTENT
            assert await read(body) == CONTENT
    assert len(upstream.asked) == 1


async def test_whoever_goes_on_after_another_asks_upstream_for_what_is_not_there() -> None:
    world = World()
    upstream = MemorySource({DIGEST: CONTENT})
    async with world.tended("one") as one:
        await leads(one)
        assert one.blob is not None
        assert one.turn.epoch is not None
        await one.ledger.tell_size(one.blob, one.turn.epoch, len(CONTENT))
        await world.put(one, 0, 10_000)
        await world.put(one, 20_000, 30_000)
        await world.pass_time(LEASE + PAUSE)
    async with world.tended("two") as two:
        await leads(two)
        source = two.through(upstream)
        found = bytearray()
        while len(found) < len(CONTENT):
            async with open_blob(source, len(found)) as body:
                assert body.start == len(found)
                found += await read(body)
        assert found == CONTENT
    assert upstream.asked == [(10_000, 20_000), (30_000, None)]


async def test_who_reads_parts_of_what_is_one_object_by_now_reads_on_from_that() -> None:
    world = World()
    upstream = MemorySource({DIGEST: CONTENT})
    async with world.tended("one") as one, world.tended("two") as two:
        await leads(one)
        assert one.blob is not None
        assert one.turn.epoch is not None
        await one.ledger.tell_size(one.blob, one.turn.epoch, len(CONTENT))
        await world.put(one, 0, 10_000)
        await world.put(one, 10_000, 20_000)
        await world.pass_time(PAUSE, two)
        async with open_blob(two.through(upstream)) as copied, aclosing(copied.chunks) as chunks:
            found = bytearray(await anext(chunks))
            # All that follows, and that it is proved, and joined, two learns at once.
            await world.put(one, 20_000, len(CONTENT))
            keys = [piece.key for piece in world.book.rows[UPSTREAM, str(DIGEST)].pieces.values()]
            assert await one.ledger.prove(one.blob, one.turn.epoch, len(CONTENT), keys)
            await one.bucket.put("whole", CONTENT)
            assert await one.ledger.join(one.blob, Piece(0, len(CONTENT), "whole"))
            await world.pass_time(PAUSE, two)
            async with asyncio.timeout(30):
                async for chunk in chunks:
                    found += chunk
    assert found == CONTENT
    assert not upstream.asked


async def test_an_empty_blob_that_is_copied_has_a_sender_like_any_other() -> None:
    """Else it would be nobody's, and upstream be asked whether it has it."""
    world, nothing = World(), digest_of(b"")
    part = world.part("two", content=b"")
    part.size, part.copied_from = 0, "another"
    part.turn.is_proved(0)
    source = part.through(MemorySource({}, upstream=UPSTREAM))
    async with source.open_blob(nothing, 0, None, avoid=None, urgency=Urgency()) as body:
        assert await read(body) == b""
    assert list(part.senders) == ["another"]


@pytest.mark.parametrize("is_private", [False, True])
async def test_of_what_was_all_there_already_nobody_can_tell_who_has_sent_it(
    *, is_private: bool
) -> None:
    """A mirror that has died may have read it from another upstream's copy."""
    world = World()
    part = world.part("one", is_private=is_private)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(part.tend())
        await leads(part)
        part.proved(len(CONTENT))
        # What may be a private upstream's secret stays one.
        assert list(part.senders) == ([UPSTREAM] if is_private else [])
        assert part.turn.state is (State.LEADING if is_private else State.ALONE)
        part.turn.end()
        part.ended(None)
    await part.finish()
    copy = await world.part("two").ledger.find(UPSTREAM, DIGEST)
    assert copy is not None
    assert copy.is_free


async def test_who_has_lost_the_turn_takes_no_more_from_upstream() -> None:
    world = World()
    upstream = MemorySource({DIGEST: CONTENT})
    async with world.tended("one") as one:
        await leads(one)
        async with open_blob(one.through(upstream)) as body, aclosing(body.chunks) as chunks:
            assert await anext(chunks)
            row = world.book.rows[UPSTREAM, str(DIGEST)]
            world.now += LEASE + 1  # this mirror stands still, and time does not
            world.book.now += LEASE + 1
            taken = world.book.claim(UPSTREAM, str(DIGEST), "two", LEASE, grace=0)
            assert taken is row
            with pytest.raises(Unavailable, match="another mirror"):
                await anext(chunks)


async def test_without_the_database_each_asks_upstream_for_itself() -> None:
    world = World()
    world.book.is_down = True
    upstream = MemorySource({DIGEST: CONTENT})
    for name in ("one", "two"):
        async with world.tended(name) as part, open_blob(part.through(upstream)) as body:
            assert await read(body) == CONTENT
            assert part.turn.state is State.ALONE
    assert len(upstream.asked) == 2


async def test_who_leads_goes_on_while_the_database_is_away() -> None:
    world = World()
    upstream = MemorySource({DIGEST: CONTENT})
    async with world.tended("one") as one:
        await leads(one)
        async with open_blob(one.through(upstream)) as body:
            world.book.is_down = True
            await world.pass_time(LEASE + 1, one)
            assert await read(body) == CONTENT
            assert one.turn.state is State.LEADING
        world.book.is_down = False


@asynccontextmanager
async def followed(world: World) -> AsyncIterator[tuple[Part, Part]]:
    """One leads and has put 10,000 bytes, that the other has seen; it has no reason to look."""
    async with world.tended("one") as one, world.tended("two") as two:
        await leads(one)
        await follows(two)
        assert one.blob is not None
        assert one.turn.epoch is not None
        await one.ledger.tell_size(one.blob, one.turn.epoch, len(CONTENT))
        two.heard(await world.put(one, 0, 10_000))
        await until_idle()
        assert two.pieces.reach(0) == 10_000
        await world.pass_time(PAUSE, two)
        await until_idle()
        world.looks.clear()
        yield one, two


async def test_who_is_told_all_that_comes_asks_the_database_nothing() -> None:
    world = World()
    async with followed(world) as (one, two):
        for start in range(10_000, 50_000, 1000):
            two.heard(await world.put(one, start, start + 1000))
            await world.pass_time(0.9 * PAUSE, two)
        assert two.pieces.reach(0) == len(CONTENT)
        assert not world.looks
        await world.pass_time(PAUSE, two)
        assert world.looks == {"two": 1}  # whether it is proved, or its turn has lapsed
        async with open_blob(two.through(_NOTHING)) as body:
            assert await read(body) == CONTENT


async def test_what_was_told_to_nobody_is_found_however_much_is_told_of_the_rest() -> None:
    world = World()
    async with followed(world) as (one, two):
        await world.put(one, 10_000, 11_000)
        for start in range(11_000, 21_000, 1000):
            two.heard(await world.put(one, start, start + 1000))
            await world.pass_time(PAUSE / 8, two)
        assert two.pieces.reach(0) == 21_000


async def test_a_look_that_is_due_is_not_put_off_by_what_is_told() -> None:
    """It may be due since all of it is proved."""
    world = World()
    async with followed(world) as (one, two):
        word = await world.put(one, 10_000, 20_000)
        two.heard(str(two.blob))
        two.heard(word)
        await until_idle()
        assert world.looks == {"two": 1}


async def test_what_nobody_can_have_told_makes_a_mirror_look_and_no_more() -> None:
    world = World()
    async with followed(world) as (one, two):
        forged = Piece(10_000, 50_000, key(DIGEST, 99, "f" * 16, 10_000))
        assert one.blob is not None
        two.heard(tell(one.blob, forged))
        await until_idle()
        assert two.pieces.reach(0) == 10_000
        assert world.looks == {"two": 1}


async def test_what_comes_while_a_mirror_looks_makes_it_look_again() -> None:
    """Its answer may be of before."""
    world = World()
    async with world.tended("one") as one, world.tended("two") as two:
        await leads(one)
        await follows(two)
        assert isinstance(two.ledger, CountingLedger)
        held = two.ledger.held = asyncio.Event()
        two.heard(str(two.blob))
        await until_idle()
        two.heard(await world.put(one, 0, 10_000))
        held.set()
        await until_idle()
        assert two.pieces.reach(0) == 10_000


async def test_who_takes_over_goes_by_what_is_on_record_and_not_by_what_it_was_told() -> None:
    """A database that was set back has lost it."""
    world = World()
    async with followed(world) as (one, two):
        two.heard(await world.put(one, 10_000, 20_000))
        row = world.book.rows[UPSTREAM, str(DIGEST)]
        del row.pieces[10_000]
        await one.ledger.release(row.blob, row.epoch)
        row.epoch = 0  # else one would go on
        await world.pass_time(PAUSE, two)
        await leads(two)
        assert two.pieces.reach(0) == 10_000

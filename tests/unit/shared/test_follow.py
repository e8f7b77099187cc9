"""Reading the pieces of a blob: in order, ahead as far as there is memory, whatever goes wrong."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest

from mirror.oci.digest import Chunk
from mirror.oci.errors import Unavailable
from mirror.shared import ahead
from mirror.shared.ahead import Memory
from mirror.shared.follow import follow
from mirror.shared.pieces import Piece, Pieces
from mirror.shared.ports import BucketDown, NoObject
from mirror.shared.turns import Turn
from tests.support.images import random_bytes
from tests.support.process import until

MIB = 2**20
CONTENT = random_bytes(12 * MIB, seed=1404)
_CHUNK = 2**17


@dataclass(eq=False)
class Shelf:
    """A bucket: `slow` objects give nothing before they are let go, `breaking` ones one chunk."""

    objects: dict[str, bytes] = field(default_factory=dict)
    slow: dict[str, asyncio.Event] = field(default_factory=dict)
    breaking: list[str] = field(default_factory=list)
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    open: int = 0

    async def read(self, key: str, start: int, stop: int) -> AsyncGenerator[Chunk, None]:
        self.asked.append((key, start, stop))
        self.open += 1
        try:
            if key in self.slow:
                await self.slow[key].wait()
            if key not in self.objects:
                raise NoObject
            for position in range(start, stop, _CHUNK):
                yield self.objects[key][position : min(stop, position + _CHUNK)]
                if key in self.breaking:
                    self.breaking.remove(key)
                    raise BucketDown("it broke")
                await asyncio.sleep(0)
        finally:
            self.open -= 1

    async def put(self, key: str, content: bytes) -> None:
        self.objects[key] = content

    async def put_large(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        self.objects[key] = b"".join([chunk async for chunk in chunks])

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)

    async def measure(self, key: str) -> int:
        if key not in self.objects:
            raise NoObject
        return len(self.objects[key])

    async def sign(self, key: str, seconds: float) -> str:
        return f"{key}?{seconds}"


@dataclass(eq=False)
class Copy:
    """What a part knows of a copy; nothing more of it comes."""

    bucket: Shelf = field(default_factory=Shelf)
    blob: int | None = 1
    pieces: Pieces = field(default_factory=Pieces)
    memory: Memory = field(default_factory=lambda: Memory(64 * MIB))
    vouched: set[str] = field(default_factory=set)
    turn: Turn = field(default_factory=lambda: Turn(15, patience=40, pause=1))
    is_given_up: bool = False

    def put(self, length: int, *, content: bytes = CONTENT) -> "Copy":
        """All of it, in pieces of so many bytes."""
        for start in range(0, len(content), length):
            stop = min(len(content), start + length)
            self.bucket.objects[f"at {start}"] = content[start:stop]
            self.pieces.add(Piece(start, stop, f"at {start}"))
        return self

    async def come(self, position: int) -> bool:
        return self.pieces.find(position) is not None

    def unreadable(self, *, is_missing: bool) -> None:  # noqa: ARG002 - both end it here
        self.is_given_up = True

    def follow(self, start: int = 0, stop: int | None = None) -> AsyncGenerator[Chunk, None]:
        return follow(self, self.blob, start, stop)


async def read(chunks: AsyncGenerator[Chunk, None], found: bytearray | None = None) -> bytes:
    """All of it; what came before an error is in `found`."""
    found = bytearray() if found is None else found
    async with aclosing(chunks):
        async for chunk in chunks:
            found += chunk
    return bytes(found)


async def until_so(condition: Callable[[], bool]) -> None:
    async def holds() -> bool:
        return condition()

    await until(holds)


async def take(chunks: AsyncGenerator[Chunk, None]) -> Chunk:
    return await anext(chunks)


@pytest.mark.parametrize("length", [MIB // 4, MIB, len(CONTENT)])
@pytest.mark.parametrize("memory", [0, MIB, 64 * MIB])
async def test_bytes_come_in_order_whatever_the_pieces_and_however_little_memory(
    length: int, memory: int
) -> None:
    copy = Copy(memory=Memory(memory)).put(length)
    assert await read(copy.follow(0, len(CONTENT))) == CONTENT
    assert await read(copy.follow(3 * MIB + 1, 9 * MIB - 1)) == CONTENT[3 * MIB + 1 : 9 * MIB - 1]
    assert copy.memory.left == memory
    assert copy.bucket.open == 0


async def test_the_next_pieces_are_asked_for_before_the_first_has_come() -> None:
    copy = Copy().put(MIB // 4)
    copy.bucket.slow["at 0"] = asyncio.Event()
    async with aclosing(copy.follow(0, len(CONTENT))) as chunks, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(take(chunks))
        await until_so(lambda: len(copy.bucket.asked) >= 4)
        assert [key for key, _, _ in copy.bucket.asked[:4]] == [
            "at 0", f"at {MIB // 4}", f"at {MIB // 2}", f"at {3 * MIB // 4}",
        ]  # fmt: skip
        copy.bucket.slow["at 0"].set()
        assert await first == CONTENT[:_CHUNK]


async def test_no_more_is_asked_for_than_there_is_memory_for_and_who_reads_wants() -> None:
    copy = Copy(memory=Memory(2 * MIB)).put(MIB)
    copy.bucket.slow["at 0"] = asyncio.Event()
    async with aclosing(copy.follow(0, 8 * MIB)) as chunks, asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(take(chunks))
        await until_so(lambda: not copy.memory.left)
        assert copy.bucket.open <= 3
        another = Copy(copy.bucket, pieces=copy.pieces, memory=copy.memory)
        assert await read(another.follow(4 * MIB, 6 * MIB)) == CONTENT[4 * MIB : 6 * MIB]
        assert max(start for _, start, _ in copy.bucket.asked) == 0
        reading.cancel()
    assert (copy.memory.left, copy.bucket.open) == (2 * MIB, 0)


async def test_one_reader_does_not_take_all_of_the_memory() -> None:
    content = random_bytes(48 * MIB, seed=1405)
    copy = Copy().put(16 * MIB, content=content)
    copy.bucket.slow["at 0"] = asyncio.Event()
    async with aclosing(copy.follow(0, len(content))) as chunks, asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(take(chunks))
        await until_so(lambda: copy.memory.left <= 64 * MIB - ahead.MOST_AHEAD)
        assert copy.memory.left == 64 * MIB - ahead.MOST_AHEAD
        reading.cancel()


async def test_who_leaves_in_the_middle_leaves_nothing_behind() -> None:
    copy = Copy().put(MIB)
    async with aclosing(copy.follow(0, len(CONTENT))) as chunks:
        assert await anext(chunks) == CONTENT[:_CHUNK]
        assert copy.bucket.open
    assert (copy.memory.left, copy.bucket.open) == (64 * MIB, 0)


async def test_a_body_that_breaks_is_continued_where_it_broke() -> None:
    copy = Copy().put(2 * MIB)
    copy.bucket.breaking += ["at 0", f"at {4 * MIB}"]
    assert await read(copy.follow(0, len(CONTENT))) == CONTENT
    assert ("at 0", _CHUNK, 2 * MIB) in copy.bucket.asked
    assert len(copy.vouched) == 6


async def test_a_piece_that_is_lost_is_looked_for_in_another_ones_place() -> None:
    copy = Copy().put(2 * MIB)
    lost = Piece(4 * MIB, 6 * MIB, "lost")
    there = copy.pieces.find(4 * MIB)
    assert there is not None
    copy.pieces.add(lost)
    waits = copy.come

    async def come(position: int) -> bool:  # who leads has put it anew
        copy.pieces.add(there)
        return await waits(position)

    copy.come = come  # type: ignore[method-assign]
    assert await read(copy.follow(0, len(CONTENT))) == CONTENT
    assert "lost" not in copy.vouched


async def test_what_is_nowhere_is_given_up_after_what_came_before_it() -> None:
    copy = Copy().put(2 * MIB)
    del copy.bucket.objects[f"at {4 * MIB}"]
    found = bytearray()
    with pytest.raises(Unavailable):
        await read(copy.follow(0, len(CONTENT)), found)
    assert found == CONTENT[: 4 * MIB]
    assert (copy.memory.left, copy.bucket.open) == (64 * MIB, 0)


async def test_a_bucket_that_is_silent_is_given_up_without_more_tries() -> None:
    copy = Copy(turn=Turn(15, patience=0.01, pause=1)).put(MIB)
    copy.bucket.slow[f"at {2 * MIB}"] = asyncio.Event()
    found = bytearray()
    with pytest.raises(Unavailable) as caught:
        await read(copy.follow(0, len(CONTENT)), found)
    assert caught.value.timed_out
    assert copy.is_given_up
    assert found == CONTENT[: 2 * MIB]
    assert (copy.memory.left, copy.bucket.open) == (64 * MIB, 0)


async def test_what_came_early_of_a_copy_that_went_is_not_taken_for_another_ones() -> None:
    copy = Copy().put(MIB)
    chunks = copy.follow(0, len(CONTENT))
    found = bytearray(await anext(chunks))
    copy.blob = 2
    with pytest.raises(Unavailable):
        await read(chunks, found)
    assert found == CONTENT[:MIB]


async def test_only_what_has_been_read_of_one_object_is_vouched_for() -> None:
    copy = Copy().put(len(CONTENT) // 2)
    half = len(CONTENT) // 2
    assert await read(copy.follow(1, len(CONTENT))) == CONTENT[1:]
    assert copy.vouched == {f"at {half}"}
    mixed = Copy(memory=Memory(0)).put(len(CONTENT))
    mixed.bucket.objects["another"] = CONTENT
    async with aclosing(mixed.follow(0, len(CONTENT))) as chunks:
        await anext(chunks)
        mixed.pieces.add(Piece(0, len(CONTENT), "another"))
        async for _ in chunks:
            pass
    assert mixed.vouched == set()

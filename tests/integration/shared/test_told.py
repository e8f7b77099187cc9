"""What PostgreSQL notifies of: who follows has it without asking, and nobody can forge it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest
from obstore.store import MemoryStore

from mirror.oci.digest import digest_of
from mirror.shared.ahead import Memory
from mirror.shared.bucket import ObjectBucket
from mirror.shared.database import Database
from mirror.shared.hearing import is_about, tell
from mirror.shared.ledger import CHANNEL, PostgresLedger
from mirror.shared.part import Part
from mirror.shared.pieces import Piece, key
from mirror.shared.ports import Copy
from mirror.shared.turns import State, Turn
from tests.support.postgres import Postgres, opened
from tests.support.process import until

DIGEST = digest_of(b"told")
UPSTREAM, WORD = "docker.io", "0123456789abcdef"
LEASE, PATIENCE = 3600.0, 7200.0  # seconds: nothing happens by the clock
LENGTH, COUNT = 2**18, 40  # of pieces


class CountingLedger(PostgresLedger):
    """Counts the looks."""

    looks = 0

    async def look(self, blob: int, after: int) -> Copy | None:
        self.looks += 1
        return await super().look(blob, after)


@dataclass(eq=False)
class Mirror:
    """Its part in a fill, tended; hears what is notified, as `mirror.shared.sharing` does."""

    database: Database
    ledger: CountingLedger
    part: Part
    heard: list[str] = field(default_factory=list)

    def hear(self, word: str) -> None:
        self.heard.append(word)
        if is_about(word, self.part.blob):
            self.part.heard(word)

    async def put(self, number: int) -> None:
        """Have a piece on record."""
        assert self.part.blob is not None
        epoch = self.part.turn.epoch
        assert epoch is not None
        start = number * LENGTH
        piece = Piece(start, start + LENGTH, key(DIGEST, epoch, WORD, start))
        assert await self.ledger.record(self.part.blob, epoch, piece)

    async def has(self, size: int) -> None:
        async def do() -> bool:
            return self.part.pieces.reach(0) == size

        await until(do)

    async def is_now(self, state: State) -> None:
        async def do() -> bool:
            return self.part.turn.state is state

        await until(do)


@asynccontextmanager
async def tending(url: str, home: Path, name: str) -> AsyncIterator[Mirror]:
    home.mkdir()  # noqa: ASYNC240 - a moment
    async with opened(url, home, name=name) as database, asyncio.TaskGroup() as tasks:
        ledger = CountingLedger(
            database, name, patience=PATIENCE, read_private=list, had_trouble=lambda _: False
        )
        part = Part(
            UPSTREAM, DIGEST, Turn(LEASE, PATIENCE, pause=LEASE),
            ledger=ledger, bucket=ObjectBucket(MemoryStore()), memory=Memory(0),
            is_down=lambda: not database.is_up, monotonic=time.monotonic,
        )  # fmt: skip
        mirror = Mirror(database, ledger, part)
        database.listen(CHANNEL, mirror.hear)
        task = tasks.create_task(part.tend())
        yield mirror
        task.cancel()
    await part.finish()


@pytest.fixture
async def url(postgres: Postgres) -> str:
    return await postgres.create_database()


@pytest.fixture
async def both(url: str, tmp_path: Path) -> AsyncIterator[tuple[Mirror, Mirror]]:
    """One leads, and has put a piece, that the other has seen."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(tending(url, tmp_path / "one", "one"))
        await one.is_now(State.LEADING)
        two = await stack.enter_async_context(tending(url, tmp_path / "two", "two"))
        await two.is_now(State.FOLLOWING)

        async def hears() -> bool:
            await one.database.execute(f"NOTIFY {CHANNEL}, 'anything'")
            return bool(two.heard)

        await until(hears)
        await one.put(0)
        await two.has(LENGTH)
        yield one, two


async def test_who_follows_has_all_pieces_without_asking_for_them(
    both: tuple[Mirror, Mirror],
) -> None:
    one, two = both
    looks = two.ledger.looks
    for number in range(1, COUNT):
        await one.put(number)
    await two.has(COUNT * LENGTH)
    assert two.ledger.looks == looks
    assert one.part.blob is not None
    copy = await two.ledger.find(UPSTREAM, DIGEST)
    assert copy is not None
    assert tuple(two.part.pieces) == copy.pieces


async def test_that_it_is_proved_makes_who_follows_look(both: tuple[Mirror, Mirror]) -> None:
    one, two = both
    assert one.part.blob is not None
    assert one.part.turn.epoch is not None
    first = next(iter(two.part.pieces))
    assert await one.ledger.prove(one.part.blob, one.part.turn.epoch, LENGTH, [first.key])
    await two.is_now(State.READING)


async def test_who_may_only_connect_can_have_others_look_and_no_more(
    both: tuple[Mirror, Mirror], url: str
) -> None:
    one, two = both
    blob, epoch = one.part.blob, one.part.turn.epoch
    assert blob is not None
    assert epoch is not None
    async with stranger(url) as connection:
        told = asyncio.Queue[str]()
        await connection.add_listener(CHANNEL, lambda *heard: told.put_nowait(heard[-1]))
        await one.put(1)
        word = await told.get()
        assert is_about(word, blob)
        assert WORD not in word
        await two.has(2 * LENGTH)
        _, start, stop, signature = word.split()
        looks = two.ledger.looks
        guess = Piece(2 * LENGTH, 9 * LENGTH, key(DIGEST, epoch, "f" * 16, 2 * LENGTH))
        words = [
            f"{blob} {stop} {9 * LENGTH} {signature}",
            f"{blob} {start} {9 * LENGTH} {signature}",
            tell(blob, guess),
            f"{blob} {'9' * 7000} 1 {signature}",
            f"{blob}",
        ]
        for each in words:
            await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, each)

            async def has_come(each: str = each) -> bool:
                return each in two.heard

            await until(has_come)
        await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, word)  # again

    async def has_looked() -> bool:
        return two.ledger.looks > looks

    await until(has_looked)
    assert two.part.pieces.reach(0) == 2 * LENGTH
    assert len(two.part.pieces) == 2
    await one.put(2)
    await two.has(3 * LENGTH)


@asynccontextmanager
async def stranger(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody who may connect, and may read and write nothing."""
    owner = await asyncpg.connect(url)
    name = f"stranger{random.getrandbits(32)}"
    try:
        await owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'stranger'")
        connection = await asyncpg.connect(url, user=name, password="stranger")  # noqa: S106
        try:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch("SELECT key FROM mirror.pieces")
            yield connection
        finally:
            await connection.close()
            await owner.execute(f"DROP ROLE {name}")
    finally:
        await owner.close()

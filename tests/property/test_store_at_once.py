"""Everything at once: evicting while tidying while writing while reading while dropping.

A seed decides who does what, and a loop that is seeded too, in which order it happens. Whoever
fails here fails again with the same seed.
"""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings, strategies as st

from mirror.oci.digest import Digest, digest_of
from mirror.oci.errors import StoreError
from mirror.storage.errors import NoRoom
from mirror.storage.store import LocalStorage
from mirror.storage.threads import Threads
from mirror.storage.writer import LocalWriter
from tests.support.clock import FakeClock
from tests.support.scheduler import SeededExecutor, seeded_loop
from tests.unit.storage.opening import blob_path, content, on_disk, open_store, read, write

pytestmark = pytest.mark.timeout(900)  # a story is many steps, and machines are busy

MAX_SIZE = 2_500
CONTENTS = [content(size) for size in (0, 300, 700, 1_100, 1_500)]
BLOBS = {digest_of(data): data for data in CONTENTS}
UPSTREAMS = ("docker.io", "quay.io")
KEEP_PARTIAL_FOR = 100.0
PLAYERS, TURNS = 6, 8


class Play:
    """Players who do whatever comes to their minds with one storage."""

    def __init__(self, root: Path, store: LocalStorage, clock: FakeClock, dice: Random) -> None:
        self.root = root
        self.store = store
        self.clock = clock
        self.dice = dice
        self.drops: Counter[Digest] = Counter()
        self.dropping: Counter[Digest] = Counter()

    async def player(self) -> None:
        turns: list[Callable[[], Awaitable[None]]] = [
            self.fill, self.fill, self.fill, self.read, self.read, self.read_all, self.keep,
            self.drop, self.tidy, self.tidy, self.grow_old,
        ]  # fmt: skip
        for _ in range(TURNS):
            turn = self.dice.choice(turns)
            if self.dice.random() < 0.2:
                await self.be_cancelled(turn)
            else:
                await turn()

    async def be_cancelled(self, turn: Callable[[], Awaitable[None]]) -> None:
        async with asyncio.TaskGroup() as tasks:

            async def work() -> None:
                await turn()

            task = tasks.create_task(work())
            await self.pause(30)
            task.cancel()

    async def pause(self, most: int) -> None:
        for _ in range(self.dice.randint(0, most)):
            await asyncio.sleep(0)

    async def fill(self) -> None:
        digest = self.digest()
        data = BLOBS[digest]
        hint = self.dice.choice([None, len(data), len(data), len(data), 7])
        try:
            writer = await self.store.open_writer(self.dice.choice(UPSTREAMS), digest, hint)
        except StoreError:
            return  # no room, or somebody writes it already
        try:
            await self.write(writer, data)
            await self.end(writer)
            await self.pause(5)
        finally:
            assert data.startswith(read_file(writer))
            writer.close()

    async def write(self, writer: LocalWriter, data: bytes) -> None:
        try:
            await writer.expect(len(data))
            pieces = [piece for gap in writer.missing() for piece in in_pieces(*gap)]
            self.dice.shuffle(pieces)
            for start, end in pieces[: self.dice.randint(0, len(pieces) * 2)]:
                await write(writer, start, data[start:end])
        except NoRoom:
            return

    async def end(self, writer: LocalWriter) -> None:
        if writer.is_proved() and self.dice.random() < 0.8:
            await writer.commit(is_manifest=self.dice.random() < 0.3)
        else:
            how = self.dice.choice([writer.suspend, writer.suspend, writer.discard, None])
            if how is not None:
                await how()

    async def read(self) -> None:
        digest = self.digest()
        drops, is_being_dropped = self.drops[digest], self.dropping[digest] > 0
        blob = await self.store.open_blob(digest)
        if blob is None:
            return
        try:
            for _ in range(3):
                assert read(blob) == BLOBS[digest]
                if self.drops[digest] == drops and not is_being_dropped:
                    assert blob_path(self.root, digest).exists()  # it is not evicted
                await self.pause(20)
        finally:
            blob.close()

    async def read_all(self) -> None:
        digest = self.digest()
        assert await self.store.read_blob(digest, limit=MAX_SIZE) in {None, BLOBS[digest]}

    async def keep(self) -> None:
        digest = self.digest()
        with suppress(StoreError):
            await self.store.keep(self.dice.choice(UPSTREAMS), digest, BLOBS[digest])

    async def drop(self) -> None:
        digest = self.digest()
        self.drops[digest] += 1
        self.dropping[digest] += 1  # it may have to wait for a change first
        try:
            await self.store.drop(digest)
        finally:
            self.dropping[digest] -= 1

    async def tidy(self) -> None:
        await self.store.tidy()

    async def grow_old(self) -> None:
        self.clock.advance(self.dice.choice([1.0, KEEP_PARTIAL_FOR * 0.7, -50.0]))

    def digest(self) -> Digest:
        return self.dice.choice(list(BLOBS))

    # Afterwards

    async def check(self) -> None:
        """What is on disk is what is recorded and promised, and nothing is in anybody's way."""
        await asyncio.sleep(1)  # this loop's second: until there is nothing else to do
        blobs = [path.read_bytes() for path in (self.root / "blobs").glob("*/*/*")]
        assert all(digest_of(data) in BLOBS for data in blobs)
        assert (self.store.totals.blobs, self.store.totals.bytes) == (
            len(blobs), sum(map(len, blobs)),
        )  # fmt: skip
        assert sum(map(len, blobs)) + self.store.promised <= MAX_SIZE
        for digest in BLOBS:
            await self.store.drop(digest)
            for upstream in UPSTREAMS:
                writer = await self.store.open_writer(upstream, digest, None)
                assert writer.promised == len_of_partial(writer)
                await writer.discard()
                writer.close()
        assert self.store.promised == 0
        assert self.store.totals.blobs == 0
        assert on_disk(self.root) == set()
        assert list((self.root / "partial").glob("*/*")) == []


def in_pieces(start: int, end: int) -> list[tuple[int, int]]:
    return [(at, min(at + 211, end)) for at in range(start, end, 211)]


def read_file(writer: LocalWriter) -> bytes:
    writer.file.seek(0)
    return writer.file.read(writer.written)


def len_of_partial(writer: LocalWriter) -> int:
    """Bytes that are there, wherever; `missing` says it where the size is known."""
    if writer.size is None:
        return writer.promised
    return writer.size - sum(end - start for start, end in writer.missing())


async def play(seed: int, root: Path) -> None:
    clock, dice = FakeClock(), Random(seed)  # noqa: S311 - not secret
    loop = asyncio.get_running_loop()
    threads = Threads(lambda *_: SeededExecutor(loop))
    async with open_store(
        root, max_size=MAX_SIZE, keep_partial_for=KEEP_PARTIAL_FOR, clock=clock, threads=threads
    ) as store:
        the_play = Play(root, store, clock, dice)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(PLAYERS):
                tasks.create_task(the_play.player())
        await the_play.check()


@example(seed=1)
@given(seed=st.integers(0, 2**32))
@settings(
    max_examples=120,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a smaller seed is no simpler one
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_whatever_happens_at_once_disk_and_index_agree_and_nothing_is_stuck(seed: int) -> None:
    memory = Path("/dev/shm")  # noqa: S108 - not for secrets; thousands of syncs, to see the order
    root = Path(tempfile.mkdtemp(prefix="store-", dir=memory if memory.is_dir() else None))
    try:
        with seeded_loop(seed) as loop:
            loop.run_until_complete(play(seed, root))
    finally:
        shutil.rmtree(root)

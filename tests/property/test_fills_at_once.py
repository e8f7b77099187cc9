"""Everything that can happen to downloads, at once: whoever reads has the right bytes, or an error.

Clients read all of a blob, or ranges, and leave; upstreams send other sizes, other bytes, other
ranges, or nothing; the disk refuses whatever it likes. A seed decides all of it, and in which order
it happens (`tests.support.scheduler`); whoever fails here fails again with the same seed.
"""

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings, strategies as st

from mirror.aio.backoff import Backoff
from mirror.aio.slots import Urgency, client
from mirror.oci.digest import Chunk, Digest, digest_of
from mirror.oci.errors import (
    Denied,
    ErrorCode,
    Missing,
    RangeNotSatisfiable,
    RegistryError,
    StoreError,
    Unavailable,
)
from mirror.oci.ranges import ByteRange
from mirror.pull.answers import Reader, readable
from mirror.pull.fill import admission, fill as fill_module, plan, wants
from mirror.pull.fill.crew import Pace
from mirror.pull.fill.fills import Fills
from mirror.pull.fill.retries import RetryPolicy
from mirror.pull.fill.wants import Want
from mirror.pull.passthrough import seats, transfer, transfers as transfers_module, window
from mirror.pull.passthrough.transfers import Transfers
from mirror.sources.ports import Body, Sender, TooSlow
from mirror.storage import files, partial as partials, space
from mirror.storage.store import LocalStorage
from mirror.storage.threads import Threads
from mirror.telemetry.metrics import Metrics
from tests.support.images import random_bytes
from tests.support.memory_source import MemorySender
from tests.support.scheduler import SeededExecutor, seeded_loop
from tests.support.tasks import nobody_notes, owned_tasks
from tests.unit.storage.opening import open_store

CONTENTS = [random_bytes(size, seed=size) for size in (0, 40, 3_000, 9_000, 20_000)]
BLOBS = {digest_of(content): content for content in CONTENTS}
UPSTREAMS = ("docker.io", "quay.io")
CLIENTS = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
MAX_SIZE = 60_000
READERS = 12
SMALLER = [  # so that blobs of a few thousand bytes meet all that large ones do
    (fill_module, "SMALL", 500), (admission, "SMALL", 500), (admission, "_FIRST", 100),
    (wants, "_AHEAD", 3_000),
    (plan, "_NEAR", 800), (plan, "_CRUMB", 100), (plan, "_GRAIN", 64), (plan, "_MOST_GAPS", 6),
    (space, "_STEP", (500, 2_000)), (window, "MOST", 8_000), (window, "_SMALL", 100),
    (seats, "_BEHIND", 3_000), (transfer, "SMALL", 100), (transfers_module, "SMALL", 100),
    (transfers_module, "_NEAR", 800), (transfers_module, "_CLAIM", (1_500, 4_000)),
]  # fmt: skip


@dataclass(eq=False)
class World:
    """What all of them have to do with."""

    dice: Random
    asked: int = 0  # times that an upstream was asked for a blob
    lied: set[tuple[str, Digest]] = field(default_factory=set)
    refusals: float = 0.0  # of the disk: how likely it is that it has no room
    senders: dict[str, MemorySender] = field(default_factory=dict)

    def chance(self, probability: float) -> bool:
        return self.dice.random() < probability

    async def pause(self, most: int = 20) -> None:
        if self.chance(0.1):
            await asyncio.sleep(self.dice.random() * 3)
        for _ in range(self.dice.randint(0, most)):
            await asyncio.sleep(0)


@dataclass(frozen=True)
class Source:
    """A repository of an upstream, on somebody's authority: equal where these are."""

    upstream: str
    authority: str
    world: World = field(compare=False, repr=False)
    manners: "Manners" = field(compare=False, repr=False)
    is_lasting: bool = True
    repository: str = "docker.io/org/app"

    @asynccontextmanager
    async def open_blob(
        self,
        digest: Digest,
        start: int,
        stop: int | None,
        *,
        avoid: Sender | None,  # noqa: ARG002 - it may come to the same one
        urgency: Urgency,  # noqa: ARG002 - nobody waits here
    ) -> AsyncIterator[Body]:
        world, manners, content = self.world, self.manners, BLOBS[digest]
        world.asked += 1
        if world.asked > MOST_ASKED:
            raise AssertionError("upstream is asked again and again")
        await world.pause()
        if world.chance(manners.refuses):
            raise self._refusal()
        if world.chance(manners.other_size):
            world.lied.add((self.upstream, digest))
            content = world.dice.choice([content[: len(content) // 2], content + b"more" * 400])
        if world.chance(manners.wrong) and content:
            world.lied.add((self.upstream, digest))
            at = world.dice.randrange(len(content))
            content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        yield self._body(content, start, stop)

    def _body(self, content: bytes, start: int, stop: int | None) -> Body:
        world, manners, whole = self.world, self.manners, len(content)
        sender = world.senders[self.upstream]
        is_elsewhere = world.chance(manners.elsewhere)
        if start >= whole and (start or stop is not None):
            return Body(start, start, whole, self._chunks(b""), sender, is_range=False)
        if (start, stop) != (0, None) and not world.chance(manners.ignores_ranges):
            end = min(whole, whole if stop is None else stop)
            if world.chance(manners.other_range):
                end = world.dice.randint(start + 1, whole)
            chunks = self._chunks(content[start:end])
            return Body(start, end, whole, chunks, sender, True, is_elsewhere)
        size = None if world.chance(manners.untold) else whole
        return Body(start, size, size, self._chunks(content[start:]), sender, False, is_elsewhere)

    async def _chunks(self, content: bytes) -> AsyncGenerator[Chunk, None]:
        world, manners = self.world, self.manners
        breaks_at = world.dice.randint(0, len(content)) if world.chance(manners.breaks) else None
        position = 0
        while position < len(content):
            length = world.dice.choice([1, 100, 700, 700, 5_000])
            if breaks_at is not None and position >= breaks_at:
                raise world.dice.choice(
                    [Unavailable("broken"), Unavailable("stalls", timed_out=True), TooSlow("", 50)]
                )
            await world.pause(5)
            yield memoryview(bytearray(content[position : position + length]))
            position += length

    def _refusal(self) -> RegistryError:
        refusals = [
            Unavailable("down"), Missing(ErrorCode.BLOB_UNKNOWN, "no such blob"),
            Denied(ErrorCode.DENIED, "no"), Unavailable("slow", timed_out=True),
        ]  # fmt: skip
        return self.world.dice.choice(refusals)

    def wait(self) -> float:
        return self.world.dice.choice([0.0, 0.0, 5.0])

    def distrust(self, digest: Digest, senders: Collection[Sender], *, is_disproved: bool) -> None:
        pass


MOST_ASKED = 4_000


@dataclass(frozen=True)
class Manners:
    """How likely an upstream does what it should not."""

    refuses: float
    other_size: float
    wrong: float
    elsewhere: float
    ignores_ranges: float
    other_range: float
    untold: float
    breaks: float

    @classmethod
    def of(cls, dice: Random) -> "Manners":
        """Each of them now and then, often, always, or never."""
        return cls(*(dice.choice([0, 0, 0, 0.1, 0.5, often]) for often in (0.5, *[1.0] * 6, 0.8)))


class Play:
    """Readers of a few blobs, and what they got."""

    def __init__(self, world: World, fills: Fills, transfers: Transfers) -> None:
        self.world = world
        self.fills = fills
        self.transfers = transfers
        self.sources = [
            Source(upstream, authority, world, manners, is_lasting=authority != "a client's")
            for upstream in UPSTREAMS
            for manners in [Manners.of(world.dice)]
            for authority in ("ours", "a client's")
        ]

    async def reader(self) -> None:
        world, dice = self.world, self.world.dice
        client.set(dice.choice(CLIENTS))
        await world.pause(200)
        source, digest = dice.choice(self.sources), dice.choice(list(BLOBS))
        if world.chance(0.2):
            await self.leave_early(source, digest)
        else:
            await self.read(source, digest)

    async def leave_early(self, source: Source, digest: Digest) -> None:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.read(source, digest))
            await self.world.pause(300)
            task.cancel()

    async def read(self, source: Source, digest: Digest) -> None:
        wanted = self.ranges(len(BLOBS[digest]))
        try:
            await self.answer(source, digest, wanted)
        except RegistryError:
            pass  # the response is an error, or breaks off
        except OSError as error:
            if "truncated" not in str(error):
                raise

    def ranges(self, size: int) -> list[ByteRange]:
        dice = self.world.dice
        if dice.random() < 0.5:
            return []
        at = [dice.randint(0, size + 200) for _ in range(dice.choice([1, 1, 1, 3]))]
        return [
            dice.choice([
                ByteRange(first, first + dice.choice([0, 50, 900, 5_000])), ByteRange(first, None),
                ByteRange(None, 1 + first),
            ])
            for first in at
        ]  # fmt: skip

    async def answer(self, source: Source, digest: Digest, wanted: list[ByteRange]) -> None:
        dice = self.world.dice
        promised = dice.choice([None, len(BLOBS[digest]), len(BLOBS[digest]), 17, 30_000])
        want = Want(wanted) if wanted else None
        try:
            fill = await self.fills.join(source, digest, promised, want)
        except StoreError:
            async with self.transfers.open(source, digest) as stream:
                for start, stop in spans(wanted, stream.size):
                    got = bytearray()
                    async for chunk in stream.chunks(start, stop):
                        got += chunk
                        await self.world.pause()
                    self.check(source, digest, start, stop, got, size=stream.size)
                    break  # as the API: who asks for several is sent all
            return
        try:
            size = fill.readers.size
            for start, stop in spans(wanted, size):
                await self.send(source, digest, fill.readers, start, stop, size)
        finally:
            fill.leave(client.get(), want)

    async def send(  # noqa: PLR0917 - as a response has them
        self,
        source: Source,
        digest: Digest,
        reader: Reader,
        start: int,
        stop: int | None,
        size: int | None,
    ) -> None:
        """As `mirror.front.api.responses` does."""
        got, position = bytearray(), start
        is_whole = start == 0 and stop in {None, size}
        try:
            while position != stop:
                limit = await readable(reader, position, stop, is_whole=is_whole)
                if limit <= position:
                    break
                block = os.pread(reader.file.fileno(), limit - position, position)
                if len(block) < limit - position:
                    raise OSError("somebody else has truncated the file")
                got += block
                position = limit
                await self.world.pause()
        except StoreError:
            find_cut = partial(self.fills.find_cut, source.upstream, digest)
            async with self.transfers.go_on(source, digest, find_cut) as rest:
                async for chunk in rest.chunks(position, None if is_whole else stop):
                    got += chunk
                    await self.world.pause()
        self.check(source, digest, start, stop, got, size=size)

    def check(
        self,
        source: Source,
        digest: Digest,
        start: int,
        stop: int | None,
        got: bytearray,
        *,
        size: int | None,
    ) -> None:
        """Somebody has been sent all that it was promised."""
        content = BLOBS[digest]
        if start == 0 and stop in {None, size}:
            assert bytes(got) == content
        elif (source.upstream, digest) not in self.world.lied:
            assert bytes(got) == content[start:stop]


def spans(wanted: Sequence[ByteRange], size: int | None) -> list[tuple[int, int | None]]:
    """What the API makes of ranges."""
    if not wanted or size is None:
        return [(0, size)]
    found: list[tuple[int, int | None]] = []
    for one in wanted:
        try:
            found.append(one.resolve(size))
        except RangeNotSatisfiable:
            continue
    return found


async def play(seed: int, root: Path) -> None:
    dice = Random(seed)  # noqa: S311 - not secret
    loop = asyncio.get_running_loop()
    world = World(dice)
    world.senders = {upstream: MemorySender(upstream) for upstream in UPSTREAMS}
    world.refusals = dice.choice([0, 0, 0.01, 0.2])
    before = _count_open()
    threads = Threads(lambda *_: SeededExecutor(loop))
    metrics, faults = Metrics(), list[Exception]()
    retries = RetryPolicy(dice.choice([1, 3, 6]), Backoff(first=0.1, most=1))
    max_size = dice.choice([10**6, MAX_SIZE, 25_000, 10_000])
    async with open_store(root, max_size=max_size, threads=threads) as store:
        async with owned_tasks() as tasks:
            fills = Fills(
                store,
                Pace(
                    dice.choice([1, 2, 4]), 1_000, retries,
                    whole=dice.choice([True, False]), lingers=dice.choice([0.5, 2]),
                ),
                max_active=dice.choice([1, 2, 8]), is_shared=True, patience=30, tasks=tasks,
                metrics=metrics, note_fault=lambda _, error: faults.append(error), random=dice,
                note_sent=nobody_notes, clock=loop.time,
            )  # fmt: skip
            transfers = Transfers(
                retries, patience=30, tasks=tasks, metrics=metrics,
                note_fault=lambda _, error: faults.append(error), proved=fills.note_size,
                random=dice, clock=loop.time,
            )  # fmt: skip
            the_play = Play(world, fills, transfers)
            with refusing(world):
                async with asyncio.TaskGroup() as readers:
                    for _ in range(READERS):
                        readers.create_task(the_play.reader())
                if world.chance(0.5):
                    while fills.running:  # noqa: ASYNC110 - nobody tells
                        await asyncio.sleep(1)
            world.refusals = 0
        if faults:
            raise faults[0]
        assert not fills.running
        assert fills.waiting == 0
        await check(store, root, metrics)
    assert _count_open() == before


async def check(store: LocalStorage, root: Path, metrics: Metrics) -> None:
    """Nobody has anything open, and the ledger is of what is on disk."""
    await asyncio.sleep(1)  # this loop's second: until there is nothing else to do
    assert metrics.registry.get_sample_value("mirror_fill_readers") == 0
    assert metrics.registry.get_sample_value("mirror_fills_active") == 0
    found = _contents(root / "blobs")
    assert all(digest_of(content) in BLOBS for content in found)
    for digest in BLOBS:
        await store.drop(digest)
        for upstream in UPSTREAMS:
            writer = await store.open_writer(upstream, digest, None)
            await writer.discard()
            writer.close()
    assert store.promised == 0
    assert _contents(root / "blobs") + _contents(root / "partial") == []


def _contents(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in directory.rglob("*") if path.is_file()]


def _count_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@contextmanager
def refusing(world: World) -> Iterator[None]:
    """A disk that is full now and then, inside the block."""

    def refuse() -> None:
        if world.chance(world.refusals):
            raise OSError(errno.ENOSPC, "No space left on device")

    write, sync, record = partials._write, files._sync_directory, partials.Partial._record  # noqa: SLF001 - where the kernel refuses

    def write_some(descriptor: int, offset: int, chunks: Sequence[Chunk]) -> int:
        if world.chance(world.refusals):
            write(descriptor, offset, [chunk[: len(chunk) // 2] for chunk in chunks])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, offset, chunks)

    def sync_directory(path: Path) -> None:
        refuse()
        sync(path)

    def record_ranges(self: partials.Partial) -> None:
        if self._ranges is not None:
            refuse()
        record(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partials, "_write", write_some)
        patch.setattr(files, "_sync_directory", sync_directory)
        patch.setattr(partials.Partial, "_record", record_ranges)
        yield


@example(seed=1)
@given(seed=st.integers(0, 2**32))
@settings(
    max_examples=25,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a smaller seed is no simpler one
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_whatever_happens_at_once_who_has_all_has_the_right_bytes_and_nothing_is_left(
    seed: int,
) -> None:
    memory = Path("/dev/shm")  # noqa: S108 - not for secrets; thousands of syncs, to see the order
    root = Path(tempfile.mkdtemp(prefix="fills-", dir=memory if memory.is_dir() else None))
    try:
        with pytest.MonkeyPatch.context() as patch:
            for module, name, value in SMALLER:
                patch.setattr(module, name, value)
            with seeded_loop(seed) as loop:
                loop.run_until_complete(play(seed, root))
    finally:
        shutil.rmtree(root)

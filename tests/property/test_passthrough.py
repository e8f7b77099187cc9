"""Whatever goes wrong on the way, and whoever reads along: each has its bytes, or an error."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from hypothesis import given, settings, strategies as st

from mirror.aio.backoff import Backoff
from mirror.aio.slots import Urgency
from mirror.oci.digest import Chunk, Digest, digest_of
from mirror.oci.errors import RegistryError, Unavailable
from mirror.pull.fill.retries import RetryPolicy
from mirror.pull.passthrough import seats, window
from mirror.pull.passthrough.transfers import Transfers
from mirror.sources.ports import Body, Sender
from mirror.telemetry.metrics import Metrics
from tests.support.images import random_bytes
from tests.support.memory_source import MemorySender
from tests.support.tasks import owned_tasks

SIZE = 200_000
CONTENT = random_bytes(SIZE, seed=5)
WRONG = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
DIGEST = digest_of(CONTENT)


@dataclass(eq=False)
class Source:
    """Sends as the script says: pieces of a size, so many bytes before each break."""

    piece: int
    breaks: list[int]
    has_ranges: bool
    tells_size: bool
    is_wrong: bool
    is_from_elsewhere: bool
    is_lasting: bool
    upstream: str = "upstream"
    repository: str = "library/app"
    sender: Sender = field(default_factory=lambda: MemorySender("sender"))

    @asynccontextmanager
    async def open_blob(
        self,
        digest: Digest,  # noqa: ARG002 - there is one
        start: int,
        stop: int | None,
        *,
        avoid: Sender | None,  # noqa: ARG002 - there is no other
        urgency: Urgency,  # noqa: ARG002 - nobody waits here
    ) -> AsyncIterator[Body]:
        content = WRONG if self.is_wrong else CONTENT
        is_range = self.has_ranges and (start, stop) != (0, None)
        end = min(stop or SIZE, SIZE) if is_range else SIZE
        size = SIZE if self.tells_size or is_range else None
        chunks = self._chunks(content[start:end])
        told = end if size is not None else None
        yield Body(start, told, size, chunks, self.sender, is_range, self.is_from_elsewhere)

    async def _chunks(self, content: bytes) -> AsyncGenerator[Chunk, None]:
        left = self.breaks.pop() if self.breaks else SIZE
        for start in range(0, len(content), self.piece):
            if start >= left:
                raise Unavailable("the line broke")
            await asyncio.sleep(0)
            yield memoryview(bytearray(content[start : start + self.piece]))

    def wait(self) -> float:
        return 0.0

    def distrust(self, digest: Digest, senders: Collection[Sender], *, is_disproved: bool) -> None:
        pass


@dataclass
class Got:
    """What a reader has asked for, and was given."""

    start: int = 0
    stop: int | None = None
    content: bytes = b""
    is_complete: bool = False


@dataclass
class Reader:
    """Comes after some turns of the loop, and takes so many turns for each piece."""

    start: int
    length: int | None
    comes: int
    pause: int

    async def read(self, transfers: Transfers, source: Source) -> "Got":
        """What it gets."""
        for _ in range(self.comes):
            await asyncio.sleep(0)
        got = Got()
        try:
            async with transfers.open(source, DIGEST) as stream:
                got.start, got.stop = self.wanted(stream.size)
                async for chunk in stream.chunks(got.start, got.stop):
                    got.content += chunk
                    for _ in range(self.pause):
                        await asyncio.sleep(0)
            got.is_complete = True
        except RegistryError:
            pass
        return got

    def wanted(self, size: int | None) -> tuple[int, int | None]:
        """As the API: who tells no size is asked for all."""
        if size is None:
            return 0, None
        return self.start, size if self.length is None else min(size, self.start + self.length)


positions = st.integers(0, SIZE - 1)
readers = st.builds(
    Reader,
    start=st.just(0) | positions,
    length=st.none() | st.integers(1, SIZE),
    comes=st.integers(0, 300),
    pause=st.sampled_from([0, 0, 1, 5, 50]),
)
sources = st.builds(
    Source,
    piece=st.sampled_from([2_000, 8_000, 30_000, SIZE]),
    breaks=st.lists(st.integers(1, SIZE), max_size=6),
    has_ranges=st.booleans(),
    tells_size=st.booleans(),
    is_wrong=st.booleans(),
    is_from_elsewhere=st.booleans(),
    is_lasting=st.booleans(),
)


@settings(max_examples=30, deadline=None)
@given(source=sources, crowd=st.lists(readers, min_size=1, max_size=6))
def test_each_reader_has_its_bytes_and_nobody_all_of_what_is_wrong(
    source: Source, crowd: list[Reader]
) -> None:
    metrics = Metrics()
    proved = list[int]()
    faults = list[BaseException]()

    async def play() -> list[Got]:
        async with owned_tasks() as tasks:
            transfers = Transfers(
                RetryPolicy(8, Backoff(first=0, most=0)),
                patience=60,
                tasks=tasks,
                metrics=metrics,
                note_fault=lambda _, error: faults.append(error),
                proved=lambda _, __, size: proved.append(size),
                random=Random(1),  # noqa: S311 - for jitter
            )
            return await asyncio.gather(*(one.read(transfers, source) for one in crowd))

    most, behind = window.MOST, seats._BEHIND  # noqa: SLF001 - small, so that some are left behind
    window.MOST, seats._BEHIND = 110_000, 70_000  # noqa: SLF001 - as above
    try:
        results = asyncio.run(play())
    finally:
        window.MOST, seats._BEHIND = most, behind  # noqa: SLF001 - as above
    assert not faults
    for got in results:
        expected = (WRONG if source.is_wrong else CONTENT)[got.start : got.stop]
        assert expected.startswith(got.content)
        assert not got.is_complete or got.content == expected
        if source.is_wrong:
            assert not (got.is_complete and len(expected) == SIZE)
        else:
            assert got.is_complete
    assert not (source.is_wrong and proved)

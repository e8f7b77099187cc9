import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

import pytest

from mirror.aio.backoff import Backoff
from mirror.aio.slots import Urgency
from mirror.aio.tasks import Tasks
from mirror.oci.digest import Chunk, Digest, digest_of
from mirror.oci.errors import Unavailable
from mirror.pull.fill.retries import RetryPolicy
from mirror.pull.passthrough.transfers import Transfers
from mirror.pull.prefix import Cut, Prefix
from mirror.sources.ports import Body, Sender
from mirror.telemetry.metrics import Metrics
from tests.support.images import random_bytes
from tests.support.memory_source import MemorySource
from tests.support.tasks import owned_tasks

SMALL = random_bytes(1_000, seed=7)
LARGE = random_bytes(300_000, seed=8)
MOST_ASKED = 20


@dataclass(eq=False)
class Source(MemorySource):
    """Sends whatever it likes for a digest: `sends`, by ranges or, without a size, all of it."""

    sends: bytes = b""
    is_chunked: bool = False
    is_from_elsewhere: bool = False

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
        self.asked.append((start, stop))
        assert len(self.asked) < MOST_ASKED
        size = len(self.sends)
        end = size if stop is None or self.is_chunked else min(stop, size)
        is_range = (start, stop) != (0, None) and not self.is_chunked
        chunks = _pieces(self.sends[start:end])
        yield Body(
            start, None if self.is_chunked else end, None if self.is_chunked else size,
            chunks, self.sender, is_range, self.is_from_elsewhere,
        )  # fmt: skip


async def _pieces(content: bytes) -> AsyncGenerator[Chunk, None]:
    for start in range(0, len(content), 70_000):
        await asyncio.sleep(0)
        yield content[start : start + 70_000]


def _transfers(tasks: Tasks) -> Transfers:
    return Transfers(
        RetryPolicy(3, Backoff(first=0, most=0)), patience=60, tasks=tasks, metrics=Metrics(),
        note_fault=lambda *_: None, proved=lambda *_: None,
        random=Random(1),  # noqa: S311 - for jitter
    )  # fmt: skip


async def test_what_is_longer_than_was_told_is_never_complete_at_the_size_that_was() -> None:
    digest = digest_of(LARGE)
    source = Source({}, sends=LARGE)
    async with owned_tasks() as tasks:
        transfers = _transfers(tasks)
        async with transfers.open(source, digest) as stream:
            assert b"".join([it async for it in stream.chunks(0, stream.size)]) == LARGE
        source.sends, source.is_chunked = random_bytes(400_000, seed=9), True
        async with transfers.open(source, digest) as stream:
            with pytest.raises(Unavailable):
                async for _ in stream.chunks(0, len(LARGE)):
                    pass


async def test_the_rest_of_a_blob_of_another_size_than_its_readers_were_told_is_an_error() -> None:
    digest = digest_of(LARGE)
    source = Source({}, sends=LARGE)
    read, told = 100_000, 200_000  # by whoever sent the first part
    prefix = Prefix.empty(digest).extended(LARGE[:read], source.sender)
    async with owned_tasks() as tasks:
        cut = Cut(read, told, prefix, "no room")
        async with _transfers(tasks).go_on(source, digest, lambda _: cut) as rest:
            with pytest.raises(Unavailable):
                async for _ in rest.chunks(read, None):
                    pass


async def test_the_rest_of_what_cannot_be_proved_any_more_is_an_error() -> None:
    source = Source({}, sends=LARGE)
    async with owned_tasks() as tasks:
        going_on = _transfers(tasks).go_on(source, digest_of(LARGE), lambda _: None)
        async with going_on as rest:
            with pytest.raises(Unavailable):
                async for _ in rest.chunks(100_000, None):
                    pass


@pytest.mark.parametrize("start", [0, 50])
async def test_a_part_of_what_is_small_and_from_elsewhere_is_asked_for_twice_and_no_more(
    start: int,
) -> None:
    digest = digest_of(SMALL)
    source = Source({}, sends=SMALL, is_from_elsewhere=True)
    cut = Cut(50, len(SMALL), Prefix.empty(digest).extended(SMALL[:50], source.sender), "no room")
    async with owned_tasks() as tasks:
        find_cut = {50: cut}.get
        async with _transfers(tasks).go_on(source, digest, find_cut) as rest:
            got = b"".join([it async for it in rest.chunks(start, 100)])
    assert got == SMALL[start:100]
    assert source.asked[1:] in ([], [(0, None)])

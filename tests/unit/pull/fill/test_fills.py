import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest

from mirror.aio.backoff import Backoff
from mirror.aio.slots import Urgency, client
from mirror.oci.digest import Chunk, Digest, digest_of
from mirror.oci.errors import Denied, DigestMismatch, ErrorCode, Missing, Unavailable
from mirror.oci.ranges import ByteRange
from mirror.pull.answers import readable
from mirror.pull.fill.crew import Pace
from mirror.pull.fill.fill import Fill
from mirror.pull.fill.fills import Fills
from mirror.pull.fill.retries import RetryPolicy
from mirror.pull.fill.wants import Want
from mirror.sources.ports import Body, Sender
from mirror.storage.errors import TooLarge
from mirror.storage.ports import Writer, Writers
from mirror.storage.store import LocalStorage
from mirror.telemetry.metrics import Metrics
from tests.support.images import random_bytes
from tests.support.memory_source import MemorySource
from tests.support.tasks import owned_tasks
from tests.unit.storage.opening import open_store

CONTENT = random_bytes(50_000, seed=91)
DIGEST = digest_of(CONTENT)
NO = Denied(ErrorCode.DENIED, "no")


@dataclass(eq=False)
class Gated(MemorySource):
    """Opens a blob when it is let, and may refuse."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: Exception | None = None
    opened: int = 0

    @asynccontextmanager
    async def open_blob(
        self,
        digest: Digest,
        start: int,
        stop: int | None,
        *,
        avoid: Sender | None,
        urgency: Urgency,
    ) -> AsyncIterator[Body]:
        self.opened += 1
        await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal
        async with super().open_blob(digest, start, stop, avoid=avoid, urgency=urgency) as body:
            yield body


@dataclass(eq=False)
class Stalling(Gated):
    """Sends a piece, and the rest when it is let."""

    rest: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def open_blob(
        self,
        digest: Digest,
        start: int,
        stop: int | None,
        *,
        avoid: Sender | None,
        urgency: Urgency,
    ) -> AsyncIterator[Body]:
        async with super().open_blob(digest, start, stop, avoid=avoid, urgency=urgency) as body:
            yield replace(body, chunks=self._stalled(body.chunks))

    async def _stalled(self, chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
        async for chunk in chunks:
            yield chunk
            await self.rest.wait()


@dataclass
class House:
    """Fills, and what they are built of."""

    storage: LocalStorage
    metrics: Metrics
    sent: list[tuple[str, Digest]]
    make: Callable[..., Fills]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_store(tmp_path) as storage, owned_tasks() as tasks:
        metrics, sent = Metrics(), list[tuple[str, Digest]]()

        async def note_sent(upstream: str, digest: Digest) -> None:
            sent.append((upstream, digest))

        def make(
            *,
            max_active: int = 8,
            is_shared: bool = False,
            patience: float = 30,
            whole: bool = True,
            storage: Writers = storage,
        ) -> Fills:
            return Fills(
                storage,
                Pace(2, 100_000, RetryPolicy(2, Backoff(first=0, most=0)), whole=whole, lingers=0),
                max_active=max_active,
                is_shared=is_shared,
                patience=patience,
                tasks=tasks,
                metrics=metrics,
                note_fault=metrics.faults.note,
                note_sent=note_sent,
                random=Random(0),  # noqa: S311 - for jitter
            )

        yield House(storage, metrics, sent, make)


def _source(upstream: str = "hub", content: bytes = CONTENT, *, opens: bool = True) -> Gated:
    source = Gated({DIGEST: content}, upstream=upstream)
    if opens:
        source.gate.set()
    return source


async def _read(fill: Fill) -> bytes:
    """As a response does; the reader leaves at the end."""
    readers, content = fill.readers, bytearray()
    try:
        while (limit := await readable(readers, len(content), readers.size)) > len(content):
            content += os.pread(readers.file.fileno(), limit - len(content), len(content))
        return bytes(content)
    finally:
        readers.leave()


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


async def test_who_asks_for_what_is_coming_joins_it(house: House) -> None:
    fills, source = house.make(), _source(opens=False)
    async with asyncio.TaskGroup() as tasks:
        joins = [tasks.create_task(fills.join(source, DIGEST, None)) for _ in range(5)]
        await _until(lambda: source.opened == 1)
        assert fills.is_running("hub", DIGEST)
        source.gate.set()
    assert {await _read(join.result()) for join in joins} == {CONTENT}
    assert source.opened == 1
    await _until(lambda: not fills.is_running("hub", DIGEST))
    assert house.sent == [("hub", DIGEST)]


async def test_a_neighbours_fill_is_not_joined(house: House) -> None:
    fills, hub, other = house.make(), _source("hub", opens=False), _source("other")
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(fills.join(hub, DIGEST, None))
        await _until(lambda: hub.opened == 1)
        assert not fills.is_running("other", DIGEST)
        assert await _read(await fills.join(other, DIGEST, None)) == CONTENT
        hub.gate.set()
    assert await _read(waiting.result()) == CONTENT
    await _until(lambda: not fills.is_running("hub", DIGEST))
    assert sorted(house.sent) == [("hub", DIGEST), ("other", DIGEST)]


async def test_each_is_told_what_upstream_told_them_and_the_others_go_on(house: House) -> None:
    fills, refused, let_in = house.make(), _source(opens=False), _source()
    refused.refusal = NO
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(_outcome(fills, refused))
        await _until(lambda: refused.opened == 1)
        second = tasks.create_task(_outcome(fills, let_in))
        await _until(lambda: house.metrics.registry.get_sample_value("mirror_fill_readers") == 2)
        refused.gate.set()
    assert isinstance(first.result(), Denied)
    assert second.result() == CONTENT


@pytest.mark.parametrize("error", [NO, Missing(ErrorCode.BLOB_UNKNOWN, "no"), Unavailable("no")])
async def test_what_ends_a_fill_is_told_to_all_who_wait_and_the_next_one_begins_anew(
    house: House, error: Exception
) -> None:
    fills, source = house.make(), _source(opens=False)
    source.refusal = error
    async with asyncio.TaskGroup() as tasks:
        outcomes = [tasks.create_task(_outcome(fills, source)) for _ in range(3)]
        await _until(lambda: source.opened == 1)
        source.gate.set()
    assert [type(outcome.result()) for outcome in outcomes] == [type(error)] * 3
    source.refusal = None
    assert await _outcome(fills, source) == CONTENT


async def _outcome(fills: Fills, source: MemorySource) -> bytes | Exception:
    try:
        return await _read(await fills.join(source, DIGEST, None))
    except (Denied, DigestMismatch, Missing, Unavailable) as error:
        return error


LARGE = random_bytes(2_000_000, seed=92)
LARGE_DIGEST = digest_of(LARGE)


async def _read_range(fills: Fills, source: MemorySource, start: int, stop: int) -> bytes:
    want = Want([ByteRange(start, stop - 1)])
    fill = await fills.join(source, LARGE_DIGEST, len(LARGE), want)
    try:
        position = start
        while position < stop:
            position = await readable(fill.readers, position, stop, is_whole=False)
            assert fill.written >= position - start  # as operators are shown
        return os.pread(fill.readers.file.fileno(), stop - start, start)
    finally:
        fill.leave(None, want)


async def test_a_part_is_kept_when_nobody_waits_for_more_and_continued_for_who_does(
    house: House,
) -> None:
    fills, source = house.make(whole=False), MemorySource({LARGE_DIGEST: LARGE}, upstream="hub")
    for start, stop in ((1_500_000, 1_500_100), (700_000, 720_000)):
        assert await _read_range(fills, source, start, stop) == LARGE[start:stop]
        await _until(lambda: not fills.is_running("hub", LARGE_DIGEST))
    assert not await house.storage.is_stored(LARGE_DIGEST)
    so_far = [stop - start for start, stop in source.asked if stop is not None]
    assert sum(so_far) <= 20_100 + 4 * 4096
    labels = {"upstream": "hub", "outcome": "rested"}
    registry = house.metrics.registry
    await _until(lambda: registry.get_sample_value("mirror_fills_total", labels) == 2)
    source.asked.clear()
    assert await _read(await fills.join(source, LARGE_DIGEST, len(LARGE))) == LARGE
    assert (0, None) not in source.asked
    await _until(lambda: not fills.is_running("hub", LARGE_DIGEST))
    assert await house.storage.is_stored(LARGE_DIGEST)


async def test_what_is_begun_before_anybody_asks_is_fetched_whole(house: House) -> None:
    fills, source = house.make(whole=False), MemorySource({LARGE_DIGEST: LARGE}, upstream="hub")
    fills.prefetch(source, LARGE_DIGEST, len(LARGE))
    await _until(lambda: not fills.is_running("hub", LARGE_DIGEST))
    assert await house.storage.is_stored(LARGE_DIGEST)


async def test_wrong_bytes_are_no_ones_and_whoever_sent_them_is_distrusted(house: House) -> None:
    fills, source = house.make(), _source(content=CONTENT[::-1])
    assert isinstance(await _outcome(fills, source), DigestMismatch)
    assert source.distrusted == {DIGEST}
    assert house.sent == []
    assert await _outcome(fills, _source()) == CONTENT


class _SlowToDiscard:
    """Gives writers that discard when they are let."""

    def __init__(self, storage: LocalStorage) -> None:
        self._storage = storage
        self.discarding, self.may = asyncio.Event(), asyncio.Event()

    async def open_writer(
        self,
        upstream: str,
        digest: Digest,
        size: int | None,
        *,
        is_size_proved: bool = False,
    ) -> Writer:
        writer = await self._storage.open_writer(
            upstream, digest, size, is_size_proved=is_size_proved
        )
        discard = writer.discard

        async def wait() -> None:
            self.discarding.set()
            await self.may.wait()
            await discard()

        writer.discard = wait  # type: ignore[method-assign]  # of this one alone
        return writer


async def test_who_comes_while_a_fill_puts_away_wrong_bytes_begins_anew(house: House) -> None:
    writers = _SlowToDiscard(house.storage)
    fills = house.make(storage=writers)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(_outcome(fills, _source(content=CONTENT[::-1])))
        await writers.discarding.wait()
        second = tasks.create_task(_outcome(fills, _source()))
        await asyncio.sleep(0)
        writers.may.set()
    assert isinstance(first.result(), DigestMismatch)
    assert second.result() == CONTENT


async def test_what_waits_for_others_is_given_up_in_time_and_not_fetched_for_nobody(
    house: House,
) -> None:
    fills, waiting = house.make(max_active=1, patience=0.2), _source()
    slow = Stalling({DIGEST: CONTENT}, upstream="slow")
    slow.gate.set()
    waiting.content = {digest_of(b"x"): b"x"}
    fill = await fills.join(slow, DIGEST, None)
    with pytest.raises(Unavailable) as refusal:
        await fills.join(waiting, digest_of(b"x"), 1)
    assert refusal.value.timed_out
    slow.rest.set()
    assert await _read(fill) == CONTENT
    await _until(lambda: not fills.is_running("hub", digest_of(b"x")))
    assert waiting.opened == 0


async def test_what_is_expected_is_fetched_though_nobody_waits(house: House) -> None:
    fills, source = house.make(), _source()
    fills.prefetch(source, DIGEST, 5)
    fills.prefetch(source, DIGEST, 5)
    await _until(lambda: not fills.is_running("hub", DIGEST))
    assert await house.storage.is_stored(DIGEST)


async def test_a_fault_in_a_fill_is_noted_and_its_readers_are_told(house: House) -> None:
    fills, source = house.make(), _source()
    source.refusal = ZeroDivisionError()
    assert isinstance(await _outcome(fills, source), Unavailable)
    assert house.metrics.faults.counts == {"fill": 1}


async def test_what_is_too_large_by_its_senders_word_is_not_asked_for_again_soon(
    tmp_path: Path,
) -> None:
    async with open_store(tmp_path, max_size=1000) as storage, owned_tasks() as tasks:
        metrics = Metrics()
        fills = Fills(
            storage, Pace(1, 1000, RetryPolicy(1)), max_active=1, is_shared=False, patience=30,
            tasks=tasks, metrics=metrics, note_fault=metrics.faults.note, note_sent=_nothing,
            random=Random(0),  # noqa: S311 - for jitter
        )  # fmt: skip
        source = _source()
        for _ in range(3):
            with pytest.raises(TooLarge):
                await fills.join(source, DIGEST, None)
        assert source.opened == 1
        assert not fills.is_running("hub", DIGEST)


async def test_a_promise_that_is_too_large_is_believed_until_the_blob_has_proved_its_size(
    house: House,
) -> None:
    fills, source = house.make(), _source()
    for _ in range(2):
        with pytest.raises(TooLarge):
            await fills.join(source, DIGEST, 2**60)
    assert source.opened == 0
    fills.note_size("hub", DIGEST, len(CONTENT))
    assert await _read(await fills.join(source, DIGEST, 2**60)) == CONTENT


async def _nothing(upstream: str, digest: Digest) -> None:
    pass


async def _left(fills: Fills, source: Gated) -> None:
    """A fill begun, which upstream never starts to send, and whose client has left."""
    opened = source.opened
    async with asyncio.TaskGroup() as tasks:
        joining = tasks.create_task(fills.join(source, DIGEST, None))
        await _until(lambda: source.opened > opened)
        joining.cancel()


async def test_fills_whose_clients_have_left_stop_nobody_else(house: House) -> None:
    fills = house.make(max_active=2)
    for name in ("slow", "slower"):
        await _left(fills, _source(name, opens=False))
    fill = await fills.join(_source("healthy"), DIGEST, None)
    assert await _read(fill) == CONTENT
    assert not fills.is_running("slow", DIGEST)
    assert fills.is_running("slower", DIGEST)


async def test_a_fill_that_has_given_way_begins_anew_when_somebody_asks(house: House) -> None:
    fills, slow = house.make(max_active=1), _source("slow", opens=False)
    await _left(fills, slow)
    assert await _read(await fills.join(_source("healthy"), DIGEST, None)) == CONTENT
    slow.gate.set()
    assert await _read(await fills.join(slow, DIGEST, None)) == CONTENT


async def test_a_fill_that_somebody_waits_for_does_not_give_way(house: House) -> None:
    fills, slow, other = house.make(max_active=1), _source("slow", opens=False), _source("other")
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(fills.join(slow, DIGEST, None))
        await _until(lambda: slow.opened == 1)
        following = tasks.create_task(fills.join(other, DIGEST, None))
        await _until(lambda: fills.is_running("other", DIGEST))
        slow.gate.set()
    assert await _read(waiting.result()) == CONTENT
    assert await _read(following.result()) == CONTENT


async def test_a_fill_whose_last_client_leaves_while_another_waits_gives_way(house: House) -> None:
    fills, slow, other = house.make(max_active=1), _source("slow", opens=False), _source("other")
    async with asyncio.TaskGroup() as tasks:
        leaving = tasks.create_task(fills.join(slow, DIGEST, None))
        await _until(lambda: slow.opened == 1)
        following = tasks.create_task(_outcome(fills, other))
        await _until(lambda: fills.is_running("other", DIGEST))
        leaving.cancel()
    assert following.result() == CONTENT


async def test_a_prefetch_that_becomes_urgent_while_it_waits_is_given_way(house: House) -> None:
    fills, slow, other = house.make(max_active=1), _source("slow", opens=False), _source("other")
    fills.prefetch(slow, DIGEST, len(CONTENT))
    await _until(lambda: slow.opened == 1)
    fills.prefetch(other, DIGEST, len(CONTENT))
    await asyncio.sleep(0)
    assert other.opened == 0
    assert await _outcome(fills, other) == CONTENT


async def test_one_fill_gives_way_for_each_client_that_waits_and_no_more(house: House) -> None:
    fills = house.make(max_active=3)
    for name in ("one", "two", "three"):
        await _left(fills, _source(name, opens=False))
    others = [_source(name, opens=False) for name in ("four", "five")]
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(_outcome(fills, source)) for source in others]
        await _until(lambda: all(source.opened for source in others))
        assert [fills.is_running(name, DIGEST) for name in ("one", "two", "three")] == [
            False, False, True,
        ]  # fmt: skip
        for source in others:
            source.gate.set()
    assert [task.result() for task in waiting] == [CONTENT] * 2


async def test_a_slow_upstream_whose_clients_wait_leaves_slots_to_its_neighbours(
    house: House,
) -> None:
    fills, slow = house.make(max_active=8, is_shared=True), _source("slow", opens=False)
    wanted = [digest_of(b"%d" % number) for number in range(12)]
    slow.content = {digest: b"%d" % number for number, digest in enumerate(wanted)}
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(fills.join(slow, digest, None)) for digest in wanted]
        await _until(lambda: slow.opened == 4)
        assert await _outcome(fills, _source("healthy")) == CONTENT
        assert await _outcome(fills, _source("other")) == CONTENT
        assert slow.opened == 4
        slow.gate.set()
    for task in waiting:
        assert len(await _read(task.result())) <= 2


async def test_clients_of_the_only_upstream_have_every_slot(house: House) -> None:
    fills, slow = house.make(max_active=8), _source("slow", opens=False)
    wanted = [digest_of(b"%d" % number) for number in range(8)]
    slow.content = {digest: b"%d" % number for number, digest in enumerate(wanted)}
    async with asyncio.TaskGroup() as tasks:
        waiting = []
        for number, digest in enumerate(wanted):
            client.set(f"192.0.2.{max(0, number - 5)}")  # one alone has six
            waiting.append(tasks.create_task(fills.join(slow, digest, None)))
        await _until(lambda: slow.opened == 8)
        slow.gate.set()
    for task in waiting:
        await _read(task.result())


@dataclass(eq=False)
class Hooked(MemorySource):
    """Does something each time that it is asked, before it sends."""

    hook: Callable[[int], None] = lambda _: None

    @asynccontextmanager
    async def open_blob(
        self,
        digest: Digest,
        start: int,
        stop: int | None,
        *,
        avoid: Sender | None,
        urgency: Urgency,
    ) -> AsyncIterator[Body]:
        async with super().open_blob(digest, start, stop, avoid=avoid, urgency=urgency) as body:
            self.hook(len(self.asked))
            yield body


async def test_a_fill_that_is_stopped_just_as_it_would_start_over_is_stopped(house: House) -> None:
    writer = await house.storage.open_writer("hub", DIGEST, None)
    async with writer.pen() as pen:
        await pen.write(0, [CONTENT[:10_000]])
    await writer.suspend()
    writer.close()
    fills, source = house.make(), Hooked({DIGEST: b"short"}, upstream="hub")

    def stop(times: int) -> None:
        if times == 2:  # the first that sends less than is there is left for another
            tasks = (task for task in asyncio.all_tasks() if task.get_name() == "fill")
            asyncio.get_running_loop().call_soon(next(tasks).cancel)

    source.hook = stop
    with pytest.raises(Unavailable, match="stopped"):
        await fills.join(source, DIGEST, None)
    await _until(lambda: not fills.is_running("hub", DIGEST))
    assert len(source.asked) == 2
    assert house.metrics.faults.counts == {}


@dataclass(eq=False)
class Disputed(MemorySource):
    """Breaks off without having told a size; the next two, at once, tell `sizes` in this order."""

    sizes: tuple[int, int] = (0, 0)
    both: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def open_blob(
        self,
        digest: Digest,
        start: int,
        stop: int | None,
        *,
        avoid: Sender | None,
        urgency: Urgency,
    ) -> AsyncIterator[Body]:
        async with super().open_blob(digest, start, stop, avoid=avoid, urgency=urgency) as body:
            number = len(self.asked)
            if number == 1:
                chunks = _broken(body.chunks)
                yield replace(body, start=0, stop=None, size=None, is_range=False, chunks=chunks)
            elif number <= 3:
                if number == 3:
                    self.both.set()
                await self.both.wait()
                yield replace(body, size=self.sizes[3 - number])  # who sets it goes first
            else:
                yield body


async def _broken(chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
    async for chunk in chunks:
        yield chunk
        raise Unavailable("broken")


@pytest.mark.parametrize("is_first_right", [True, False])
async def test_of_two_bodies_at_once_that_tell_different_sizes_the_first_is_believed(
    house: House, *, is_first_right: bool
) -> None:
    size, content = 1_000_000, random_bytes(1_000_000, seed=93)
    digest = digest_of(content)
    sizes = (size, size - 1) if is_first_right else (size - 1, size)
    source = Disputed({digest: content}, upstream="hub", sizes=sizes)
    fills = house.make()
    fill = await fills.join(source, digest, None)
    if is_first_right:
        assert await _read(fill) == content
    else:
        with pytest.raises((Unavailable, DigestMismatch)):
            await _read(fill)
    await _until(lambda: not fills.is_running("hub", digest))
    assert source.both.is_set()
    assert house.metrics.faults.counts == {}
    assert max(stop for _, stop in source.asked if stop is not None) <= size

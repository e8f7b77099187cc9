import asyncio
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from mirror.aio.waiting import to_the_end
from mirror.oci.errors import StoreError
from mirror.storage.threads import Threads


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads()
    yield threads
    threads.close()


async def test_work_is_done_off_the_event_loop(threads: Threads) -> None:
    names = {
        (await threads.quick(threading.current_thread)).name,
        (await threads.slow(threading.current_thread)).name,
    }
    assert {name.rpartition("_")[0] for name in names} == {"store-quick", "store-slow"}


async def test_a_disk_that_takes_its_time_to_sync_delays_no_reads_and_writes(
    threads: Threads,
) -> None:
    synced = threading.Event()
    try:
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            for _ in range(40):
                tasks.create_task(threads.slow(synced.wait))
            await asyncio.sleep(0)
            assert await threads.quick(lambda: "read") == "read"
            synced.set()
    finally:
        synced.set()


async def test_who_is_cancelled_waits_for_the_thread_and_is_cancelled_then(
    threads: Threads,
) -> None:
    begun, may_end, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait()
        done.set()

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(threads.slow(work))
        await threads.quick(begun.wait)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        may_end.set()
        await asyncio.wait([task])
        assert done.is_set()
        assert task.cancelled()


async def test_what_is_opened_for_nobody_is_closed(threads: Threads) -> None:
    class Opened:
        is_closed = False

        def close(self) -> None:
            self.is_closed = True

    opened = Opened()
    begun, may_end = threading.Event(), threading.Event()

    def opening() -> Opened:
        begun.set()
        may_end.wait()
        return opened

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(threads.open(opening))
        await threads.quick(begun.wait)
        task.cancel()
        await asyncio.sleep(0)
        may_end.set()
    assert opened.is_closed


async def test_several_steps_are_done_to_the_end_for_who_is_cancelled() -> None:
    steps: list[int] = []

    async def work() -> None:
        for step in range(5):
            await asyncio.sleep(0)
            steps.append(step)

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(to_the_end(work()))
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()
    assert steps == [0, 1, 2, 3, 4]


async def test_what_work_raises_reaches_who_waits(threads: Threads) -> None:
    with pytest.raises(ZeroDivisionError):
        await threads.quick(lambda: 1 // 0)


async def test_a_lane_keeps_its_order(threads: Threads) -> None:
    done: list[int] = []
    told: list[int] = []
    lane = threads.lane(lambda: told.append(len(done)))
    waiting = [lane.do(partial(done.append, number)) for number in range(50)]
    await asyncio.wait(waiting)
    assert done == list(range(50))
    assert len(told) == 50


async def test_a_piece_of_work_that_fails_is_told_of_and_followed_by_the_next(
    threads: Threads,
) -> None:
    names: list[str] = []
    lane = threads.lane(lambda: None)
    failing = lane.do(lambda: names.append(str(1 // 0)))
    following = lane.do(lambda: names.append(threading.current_thread().name))
    with pytest.raises(ZeroDivisionError):
        await failing
    await following
    assert [name.rpartition("_")[0] for name in names] == ["store-busy"]


async def test_a_busy_lane_lets_others_have_their_turn(threads: Threads) -> None:
    may_begin, may_end = threading.Event(), threading.Event()
    waiting: list[asyncio.Future[None]] = []
    try:
        for _ in range(100):  # more than there are threads
            lane = threads.lane(lambda: None)
            waiting += map(lane.do, [may_begin.wait, *[time.perf_counter] * 100, may_end.wait])
        last = threads.lane(lambda: None).do(may_end.set)
        may_begin.set()
        async with asyncio.timeout(10):
            await last
            await asyncio.wait(waiting)
    finally:
        may_begin.set()
        may_end.set()


async def test_a_closed_store_says_so() -> None:
    threads = Threads()
    threads.close()
    with pytest.raises(StoreError, match="closed"):
        await threads.quick(threading.current_thread)
    with pytest.raises(StoreError, match="closed"):
        await threads.lane(lambda: None).do(lambda: None)

"""What is asked of a disk: a thread at a time, and an answer in time, whatever it does."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import pytest

from mirror.storage.asking import Asking, DoesNotAnswer


class Disk:
    """Says what it is told to, once it `answers`."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.answers = Event()
        self.asked = 0
        self.error: OSError | None = None
        self._pool = pool

    def ask(self) -> Future[int]:
        self.asked += 1
        return self._pool.submit(self._say, self.asked)

    def _say(self, number: int) -> int:
        self.answers.wait()
        if self.error is not None:
            raise self.error
        return number


@pytest.fixture
def disk() -> Iterator[Disk]:
    with ThreadPoolExecutor(4) as pool:
        disk = Disk(pool)
        yield disk
        disk.answers.set()


async def test_all_who_want_to_know_wait_for_one_answer(disk: Disk) -> None:
    asking = Asking(disk.ask)
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(asking.answer()) for _ in range(8)]
        await asyncio.sleep(0)
        disk.answers.set()
    assert [task.result() for task in waiting] == [1] * 8
    assert await asking.answer() == 2


async def test_a_disk_that_does_not_answer_is_asked_nothing_more_until_it_does(disk: Disk) -> None:
    asking = Asking(disk.ask, patience=0.01)
    for _ in range(8):
        with pytest.raises(DoesNotAnswer):
            await asking.answer()
    assert disk.asked == 1
    disk.answers.set()

    async def is_back() -> int:
        while True:
            try:
                return await asking.answer()
            except DoesNotAnswer:
                await asyncio.sleep(0.01)

    async with asyncio.timeout(30):
        assert await is_back()
    assert disk.asked <= 2


async def test_what_went_wrong_is_told_and_asked_again(disk: Disk) -> None:
    asking = Asking(disk.ask)
    disk.answers.set()
    disk.error = OSError("it is broken")
    with pytest.raises(OSError, match="it is broken"):
        await asking.answer()
    disk.error = None
    assert await asking.answer() == 2


async def test_who_leaves_takes_the_answer_from_nobody(disk: Disk) -> None:
    asking = Asking(disk.ask)
    async with asyncio.TaskGroup() as tasks:
        leaving, staying = (tasks.create_task(asking.answer()) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        disk.answers.set()
    assert staying.result() == 1

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from mirror.aio.tasks import Tasks, owned_tasks

Noted = list[tuple[str, str]]


@asynccontextmanager
async def _owner() -> AsyncIterator[tuple[Tasks, Noted]]:
    noted: Noted = []
    async with owned_tasks(lambda task, fault: noted.append((task, str(fault)))) as tasks:
        yield tasks, noted


async def _fail(why: str) -> None:
    raise ValueError(why)


async def test_a_fault_is_noted_and_takes_down_nobody() -> None:
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.set()

    async with _owner() as (tasks, noted):
        other = tasks.create_task(work(), name="other")
        faulty = tasks.create_task(_fail("broken"), name="faulty")
        await asyncio.wait([other, faulty])
        await asyncio.sleep(0)
        assert done.is_set()
        assert noted == [("faulty", "broken")]


async def test_what_is_kept_is_started_again_after_a_fault_until_it_returns() -> None:
    turns = 0
    done = asyncio.Event()

    async def work() -> None:
        nonlocal turns
        turns += 1
        if turns < 3:
            raise ValueError(turns)
        done.set()

    async with _owner() as (tasks, noted):
        tasks.keep(work, name="tidy")
        async with asyncio.timeout(10):
            await done.wait()
        assert noted == [("tidy", "1"), ("tidy", "2")]


async def test_nothing_is_left_behind_even_by_an_owner_that_is_cancelled_while_it_waits() -> None:
    saved = asyncio.Event()
    ending = asyncio.Event()
    go_on = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            with suppress(asyncio.CancelledError):
                await go_on.wait()
            saved.set()

    async def own() -> None:
        async with _owner() as (tasks, _):
            tasks.keep(work, name="work")
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        owner = group.create_task(own())
        await ending.wait()
        owner.cancel()
        await asyncio.sleep(0)
        assert not owner.done()
        go_on.set()
        await asyncio.wait([owner])
    assert owner.cancelled()
    assert saved.is_set()


async def test_what_fails_in_the_block_comes_out_as_it_is() -> None:
    async def own() -> None:
        async with _owner() as (tasks, _):
            _ = tasks.create_task(asyncio.sleep(60), name="work")
            raise KeyError

    with pytest.raises(KeyError):
        await own()


async def test_nothing_is_begun_for_an_owner_that_has_ended() -> None:
    async with _owner() as (tasks, _):
        pass
    with pytest.raises(RuntimeError):
        _ = tasks.create_task(_fail("late"), name="late")

import asyncio

import pytest

from mirror.aio.group import Group


async def test_it_waits_for_all_and_for_what_they_start() -> None:
    done: list[str] = []
    tasks = Group()

    async def child() -> None:
        await asyncio.sleep(0)
        done.append("child")

    async def parent() -> None:
        done.append("parent")
        tasks.create_task(child())

    tasks.create_task(parent())
    await tasks.wait()
    assert done == ["parent", "child"]


async def test_the_first_that_fails_ends_the_others_and_is_what_is_raised() -> None:
    ended = asyncio.Event()
    tasks = Group()

    async def fail() -> None:
        raise KeyError("first")

    async def go_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
            raise ValueError("while it is put away")

    tasks.create_task(go_on())
    tasks.create_task(fail())
    with pytest.raises(KeyError, match="first"):
        await tasks.wait()
    assert ended.is_set()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_being_cancelled_while_a_failure_is_put_away_is_not_forgotten() -> None:
    leaving, may_leave = asyncio.Event(), asyncio.Event()

    async def fail() -> None:
        raise KeyError

    async def leave_slowly() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            leaving.set()
            await may_leave.wait()

    async def work() -> None:
        tasks = Group()
        tasks.create_task(leave_slowly())
        tasks.create_task(fail())
        await tasks.wait()

    task = asyncio.get_running_loop().create_task(work())
    await leaving.wait()
    task.cancel()
    may_leave.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_nothing_begins_once_all_is_over() -> None:
    begun: list[str] = []
    tasks = Group()

    async def begin() -> None:
        begun.append("late")

    async def fail() -> None:
        raise KeyError

    async def start_another() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            tasks.create_task(begin())

    tasks.create_task(start_another())
    tasks.create_task(fail())
    with pytest.raises(KeyError):
        await tasks.wait()
    assert begun == []

import asyncio
from contextlib import AsyncExitStack

import pytest

from mirror.aio.slots import Slots, Urgency


class Crowd:
    """Tasks that want a place; who has one stands in `inside`."""

    def __init__(self, places: Slots, tasks: asyncio.TaskGroup) -> None:
        self._places = places
        self._tasks = tasks
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks_by_name: dict[str, asyncio.Task[None]] = {}
        self.inside: list[str] = []

    async def come(self, name: str, urgency: Urgency) -> None:
        self._leave[name] = asyncio.Event()
        self._tasks_by_name[name] = self._tasks.create_task(self._stay(name, urgency))
        await settle()

    def give_up(self, name: str) -> None:
        self._tasks_by_name[name].cancel()

    async def go(self, name: str) -> None:
        self._leave[name].set()
        await settle()

    async def _stay(self, name: str, urgency: Urgency) -> None:
        async with self._places.take(urgency):
            self.inside.append(name)
            await self._leave[name].wait()
            self.inside.remove(name)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


URGENT = Urgency(is_urgent=True)
LATER = Urgency(is_urgent=False)


async def test_no_more_than_the_limit_get_in_and_the_first_to_come_is_the_next() -> None:
    async with asyncio.TaskGroup() as tasks:
        crowd = Crowd(Slots(2), tasks)
        for name in ("a", "b", "c", "d"):
            await crowd.come(name, URGENT)
        assert crowd.inside == ["a", "b"]
        await crowd.go("b")
        assert crowd.inside == ["a", "c"]
        for name in ("a", "c", "d"):
            await crowd.go(name)


async def test_what_a_client_waits_for_goes_before_what_nobody_waits_for_yet() -> None:
    async with asyncio.TaskGroup() as tasks:
        crowd = Crowd(Slots(1), tasks)
        await crowd.come("running", LATER)
        await crowd.come("prefetch", LATER)
        await crowd.come("pull", URGENT)
        await crowd.go("running")
        assert crowd.inside == ["pull"]
        for name in ("pull", "prefetch"):
            await crowd.go(name)


async def test_what_becomes_urgent_while_it_waits_is_treated_so() -> None:
    async with asyncio.TaskGroup() as tasks:
        crowd = Crowd(Slots(1), tasks)
        joined = Urgency(is_urgent=False)
        await crowd.come("running", URGENT)
        await crowd.come("first", LATER)
        await crowd.come("joined", joined)
        joined.is_urgent = True
        await crowd.go("running")
        assert crowd.inside == ["joined"]
        for name in ("joined", "first"):
            await crowd.go(name)


async def test_whoever_gives_up_waiting_takes_no_place() -> None:
    async with asyncio.TaskGroup() as tasks:
        crowd = Crowd(Slots(1), tasks)
        await crowd.come("running", URGENT)
        await crowd.come("impatient", URGENT)
        await crowd.come("patient", URGENT)
        crowd.give_up("impatient")
        await settle()
        await crowd.go("running")
        assert crowd.inside == ["patient"]
        await crowd.go("patient")


async def test_a_place_given_to_somebody_who_has_just_left_is_handed_on() -> None:
    async with asyncio.TaskGroup() as tasks:
        places = Slots(1)
        crowd = Crowd(places, tasks)
        async with AsyncExitStack() as holding:
            await holding.enter_async_context(places.take(URGENT))
            await crowd.come("leaving", URGENT)
            await crowd.come("next", URGENT)
        crowd.give_up("leaving")  # in the same turn of the loop in which it got the place
        await settle()
        assert crowd.inside == ["next"]
        await crowd.go("next")


async def test_without_a_limit_everyone_gets_in() -> None:
    async with asyncio.TaskGroup() as tasks:
        crowd = Crowd(Slots(None), tasks)
        names = [str(number) for number in range(50)]
        for name in names:
            await crowd.come(name, LATER)
        assert crowd.inside == names
        for name in names:
            await crowd.go(name)


async def test_whoever_waits_for_a_slot_may_say_for_how_long() -> None:
    slots = Slots(1)
    async with slots.take(URGENT):
        with pytest.raises(TimeoutError):
            async with slots.take(URGENT, within=0.01):
                pass
    async with asyncio.timeout(10), slots.take(URGENT, within=0):
        pass  # whoever gave up has taken nothing


async def test_a_slot_that_comes_in_time_is_held_for_as_long_as_it_takes() -> None:
    async with asyncio.TaskGroup() as tasks:
        slots, entered = Slots(1), asyncio.Event()

        async def wait() -> None:
            async with slots.take(URGENT, within=60):
                entered.set()

        async with slots.take(URGENT):
            tasks.create_task(wait())
            await settle()
            assert not entered.is_set()
        async with asyncio.timeout(10):
            await entered.wait()


@pytest.mark.parametrize(
    ("limit", "alone", "beside"),
    [(1, 1, 0), (2, 1, 1), (3, 2, 1), (4, 3, 1), (8, 6, 1), (32, 24, 6)],
)
async def test_who_shares_leaves_some_to_whoever_comes_next(
    limit: int, alone: int, beside: int
) -> None:
    slots = Slots(limit)
    async with AsyncExitStack() as stack:
        for name, most in (("one", alone), ("two", beside)):
            for _ in range(most):
                await stack.enter_async_context(slots.take(URGENT, within=10, sharer=name))
            with pytest.raises(TimeoutError):
                await stack.enter_async_context(slots.take(URGENT, within=0, sharer=name))
        if limit > alone + beside:
            await stack.enter_async_context(slots.take(URGENT, within=10, sharer="three"))


async def test_a_share_that_has_room_again_is_given_to_who_waits_for_it() -> None:
    slots, one = Slots(4), AsyncExitStack()
    for _ in range(3):
        await one.enter_async_context(slots.take(URGENT, sharer="one"))
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(_hold(slots, "one"))
        await settle()
        assert slots.waiting == 1
        async with slots.take(URGENT, sharer="two"):
            pass
        assert not waiting.done()
        await one.aclose()


async def _hold(slots: Slots, sharer: str) -> None:
    async with slots.take(URGENT, sharer=sharer):
        pass

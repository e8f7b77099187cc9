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


async def test_some_are_kept_for_clients_that_have_none() -> None:
    slots = Slots(8, kept=2)
    async with AsyncExitStack() as stack:
        for _ in range(6):
            await _take(stack, slots, "many")
        with pytest.raises(TimeoutError):
            await _take(stack, slots, "many")
        for newcomer in ("one", "two"):
            await _take(stack, slots, newcomer)
        with pytest.raises(TimeoutError):
            await _take(stack, slots, "three")


async def test_a_client_that_has_nothing_is_not_behind_another_clients_share_of_an_upstream() -> (
    None
):
    slots = Slots(8, kept=2)
    async with AsyncExitStack() as stack:
        for _ in range(4):
            await _take(stack, slots, "many", sharer="hub")
        with pytest.raises(TimeoutError):
            await _take(stack, slots, "many", sharer="hub")
        await _take(stack, slots, "one", sharer="hub")
        await _take(stack, slots, "many", sharer="other")


async def test_of_those_who_wait_the_client_that_has_the_fewest_is_next() -> None:
    async with asyncio.TaskGroup() as tasks:
        crowd = Crowd(Slots(3), tasks)
        for name in ("many 1", "many 2", "one 1", "many 3", "many 4", "one 2", "new"):
            await crowd.come(name, _of(name.split()[0]))
        assert crowd.inside == ["many 1", "many 2", "one 1"]
        await crowd.go("many 1")
        assert crowd.inside[-1] == "new"
        await crowd.go("new")
        assert crowd.inside[-1] == "many 3"  # as many as "one" has: who came first
        await crowd.go("many 3")
        await crowd.go("many 2")
        assert crowd.inside == ["one 1", "many 4", "one 2"]
        for name in ("one 1", "many 4", "one 2"):
            await crowd.go(name)


async def test_what_another_client_waits_for_too_may_have_a_slot_of_that_one() -> None:
    async with asyncio.TaskGroup() as tasks:
        slots = Slots(4, kept=1)
        crowd = Crowd(slots, tasks)
        for number in range(3):
            await crowd.come(f"many {number}", _of("many"))
        waited_for = _of("many")
        await crowd.come("waited for by both", waited_for)
        assert len(crowd.inside) == 3
        waited_for.join("new")
        slots.reconsider(waited_for)
        await settle()
        assert crowd.inside[-1] == "waited for by both"
        assert waited_for.account == "new"
        for name in [*crowd.inside]:
            await crowd.go(name)


async def test_whoever_has_left_has_its_slot_on_the_account_of_another_who_still_waits() -> None:
    urgency = _of("first")
    urgency.join("second")
    urgency.leave("first")
    assert urgency.account == "second"
    urgency.leave("second")
    assert urgency.account == "second"  # nobody waits: it is still theirs


def _of(client: str) -> Urgency:
    urgency = Urgency()
    urgency.join(client)
    return urgency


async def _take(
    stack: AsyncExitStack, slots: Slots, client: str, sharer: str | None = None
) -> None:
    await stack.enter_async_context(slots.take(_of(client), within=0.01, sharer=sharer))


async def test_a_slot_goes_past_one_who_was_cancelled_at_the_same_moment() -> None:
    async with asyncio.TaskGroup() as tasks:
        crowd = Crowd(Slots(1), tasks)
        for name in ("has it", "is cancelled", "waits on"):
            await crowd.come(name, URGENT)
        asyncio.get_running_loop().call_soon(crowd.give_up, "is cancelled")
        await crowd.go("has it")
        assert crowd.inside == ["waits on"]
        await crowd.go("waits on")


async def test_who_was_cancelled_a_moment_ago_is_not_given_a_kept_slot() -> None:
    slots, first, second = Slots(2, kept=1), Urgency(), Urgency()
    first.join("a")
    second.join("a")
    async with asyncio.TaskGroup() as tasks:
        crowd = Crowd(slots, tasks)
        await crowd.come("has it", first)
        await crowd.come("is cancelled", second)
        crowd.give_up("is cancelled")
        second.join("b")
        slots.reconsider(second)
        await crowd.go("has it")
        assert crowd.inside == []
        await crowd.come("comes later", first)
        assert crowd.inside == ["comes later"]
        await crowd.go("comes later")

import asyncio

import pytest

from mirror.aio.single_flight import SingleFlight
from mirror.aio.tasks import Tasks
from mirror.oci.errors import Unavailable


class _Work:
    """Counts how often it was begun; ends when it is told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.has_begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def __call__(self) -> str:
        self.begun += 1
        self.has_begun.set()
        await self.may_end.wait()
        return f"answer {self.begun}"


async def test_everyone_who_asks_meanwhile_gets_the_same_answer() -> None:
    work = _Work()
    async with asyncio.TaskGroup() as tasks:
        flights: SingleFlight[str, str] = SingleFlight(tasks)
        waiters = [tasks.create_task(flights.join("key", work)) for _ in range(5)]
        other = tasks.create_task(flights.join("other", work))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert flights.is_running("key")
        work.may_end.set()
    assert {waiter.result() for waiter in waiters} == {other.result()} == {"answer 2"}
    assert work.begun == 2
    assert not flights.is_running("key")


async def test_what_has_landed_is_begun_anew() -> None:
    work = _Work()
    work.may_end.set()
    async with asyncio.TaskGroup() as tasks:
        flights: SingleFlight[str, str] = SingleFlight(tasks)
        assert await flights.join("key", work) == "answer 1"
        assert await flights.join("key", work) == "answer 2"


async def test_a_waiter_that_leaves_neither_ends_the_work_nor_disturbs_the_others() -> None:
    work = _Work()
    async with asyncio.TaskGroup() as tasks:
        flights: SingleFlight[str, str] = SingleFlight(tasks)
        first = tasks.create_task(flights.join("key", work))
        second = tasks.create_task(flights.join("key", work))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        assert not second.done()
        work.may_end.set()
        assert await second == "answer 1"


async def test_an_error_reaches_every_waiter_and_ends_nothing_else() -> None:
    async def fail() -> str:
        raise Unavailable("down")

    async with asyncio.TaskGroup() as tasks:
        flights: SingleFlight[str, str] = SingleFlight(tasks)
        outcomes = await asyncio.gather(
            *(flights.join("key", fail) for _ in range(3)), return_exceptions=True
        )
        assert [str(outcome) for outcome in outcomes] == ["down"] * 3
        assert await flights.join("key", _landed) == "landed"


async def test_who_is_out_of_patience_leaves_while_the_work_goes_on() -> None:
    work = _Work()
    async with asyncio.TaskGroup() as tasks:
        flights: SingleFlight[str, str] = SingleFlight(tasks)
        with pytest.raises(TimeoutError):
            await flights.join("key", work, within=0)
        assert flights.is_running("key")
        work.may_end.set()
        assert await flights.join("key", work) == "answer 1"


async def test_waiters_are_told_when_the_mirror_stops() -> None:
    ready: asyncio.Future[SingleFlight[str, str]] = asyncio.get_running_loop().create_future()

    async def application() -> None:
        async with asyncio.TaskGroup() as tasks:
            ready.set_result(SingleFlight(tasks))
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(application())
        work = _Work()
        waiter = tasks.create_task(_outcome(await ready, work))
        await work.has_begun.wait()
        running.cancel()
    assert isinstance(waiter.result(), Unavailable)


async def test_nobody_waits_for_what_the_mirror_stops_before_it_has_begun() -> None:
    tasks = Tasks(lambda *_: None)
    flights: SingleFlight[str, str] = SingleFlight(tasks)
    async with asyncio.timeout(10), asyncio.TaskGroup() as waiting:
        waiter = waiting.create_task(_outcome(flights, _Work()))
        waiting.create_task(tasks.end())
    assert isinstance(waiter.result(), Unavailable)
    assert not flights.is_running("key")


async def test_whoever_asks_too_late_is_told_and_so_is_the_next() -> None:
    tasks = Tasks(lambda *_: None)
    flights: SingleFlight[str, str] = SingleFlight(tasks)
    await tasks.end()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await flights.join("key", _Work(), within=10)


async def _landed() -> str:
    return "landed"


async def _outcome(flights: SingleFlight[str, str], work: _Work) -> Exception | None:
    try:
        await flights.join("key", work)
    except Unavailable as error:
        return error
    return None

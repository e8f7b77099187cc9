"""Single flight: whoever asks for what is already being fetched waits for that answer."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from mirror.aio.tasks import Starter
from mirror.oci.errors import Unavailable

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class SingleFlight(Generic[Key, Value]):
    """Work that is under way, by key; it belongs to `tasks`: no waiter that leaves ends it."""

    def __init__(self, tasks: Starter) -> None:
        self._tasks = tasks
        self._running: dict[Key, asyncio.Future[Value]] = {}

    def is_running(self, key: Key) -> bool:
        """Whether somebody is at it already."""
        return key in self._running

    async def join(
        self, key: Key, start: Callable[[], Coroutine[Any, Any, Value]], within: float | None = None
    ) -> Value:
        """The outcome of `start()`, run once however many ask meanwhile; all get the same.

        Raises:
            TimeoutError: It is not there `within` so many seconds; the work goes on.
            Unavailable: The mirror is being stopped.
        """
        outcome = self._running.get(key)
        if outcome is None:
            outcome = asyncio.get_running_loop().create_future()
            task = self._tasks.create_task(self._run(key, start, outcome), name="single flight")
            self._running[key] = outcome
            # A task that is cancelled before it has begun runs nothing of itself.
            task.add_done_callback(lambda _: self._land(key, outcome))
        # Not `await outcome`: a waiter that is cancelled would cancel it for everyone.
        await asyncio.wait([outcome], timeout=within)
        if not outcome.done():
            raise TimeoutError
        if outcome.cancelled():
            raise Unavailable("the mirror is being stopped")
        return outcome.result()

    async def _run(
        self,
        key: Key,
        start: Callable[[], Coroutine[Any, Any, Value]],
        outcome: "asyncio.Future[Value]",
    ) -> None:
        try:
            outcome.set_result(await start())
        except Exception as error:  # noqa: BLE001 - it is raised again by every waiter
            outcome.set_exception(error)
            outcome.exception()  # seen, even where every waiter has left
        finally:
            self._land(key, outcome)

    def _land(self, key: Key, outcome: "asyncio.Future[Value]") -> None:
        """The work has ended: the next to ask begins anew, and nobody waits for ever."""
        if self._running.get(key) is outcome:
            del self._running[key]
            outcome.cancel()  # unless it has come

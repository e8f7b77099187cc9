"""Tasks that belong to somebody: none is left behind when its owner ends, and none takes it down.

    create_task   a piece of work, with an end
    keep          what the mirror cannot be without (tidying, probing, accepting): after a fault it
                  is started again, a little later each time

What comes out of either as an exception is a fault, and is noted. It costs the piece of work, or
the turn, that it happened in; never the process.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from mirror.aio.backoff import Backoff

_T = TypeVar("_T")

_BACKOFF = Backoff(first=0.5, most=60.0)

NoteFault = Callable[[str, Exception], None]
"""Told of each fault, and of the task that it happened in."""


class Starter(Protocol):
    """What starts work that somebody owns: `Tasks`, or an `asyncio.TaskGroup`."""

    def create_task(self, work: Coroutine[Any, Any, None], /, *, name: str) -> asyncio.Task[None]:
        """Start a piece of work."""


class Tasks:
    """Work that is cancelled when its owner ends. Use `owned_tasks`."""

    def __init__(self, note_fault: NoteFault) -> None:
        self._note_fault = note_fault
        self._running: set[asyncio.Task[Any]] = set()
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Tasks: {sorted(task.get_name() for task in self._running)}>"

    def create_task(
        self, work: Coroutine[Any, Any, _T], /, *, name: str = "task"
    ) -> asyncio.Task[_T]:
        """Start a piece of work; a fault in it is noted under `name`.

        Raises:
            RuntimeError: The owner has ended.
        """
        if self._is_over:
            work.close()
            raise RuntimeError(f"too late for {name}: its owner has ended")
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def keep(self, work: Callable[[], Awaitable[None]], *, name: str) -> None:
        """Do `work` until it returns; after a fault, again."""
        _ = self.create_kept_task(work, name=name)

    def create_kept_task(
        self, work: Callable[[], Awaitable[None]], *, name: str
    ) -> asyncio.Task[None]:
        """As `keep`, for what may be cancelled before its owner ends. Raises as `create_task`."""
        return self.create_task(self._keep(work, name), name=name)

    async def end(self) -> None:
        """Cancel what runs, and wait until it has seen to its own end, even when cancelled."""
        self._is_over = True
        cancelled: asyncio.CancelledError | None = None
        for task in self._running:
            task.cancel()
        while self._running:
            try:
                await asyncio.wait(self._running)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    async def _keep(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - whatever it is, the mirror goes on
                self._note_fault(name, error)
            else:
                return
            failures = 1 if time.monotonic() - began > _BACKOFF.most else failures + 1
            await asyncio.sleep(_BACKOFF.delay(failures, roll=random.random()))  # noqa: S311 - jitter

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Exception):
            self._note_fault(task.get_name(), error)


@asynccontextmanager
async def owned_tasks(note_fault: NoteFault) -> AsyncIterator[Tasks]:
    """Tasks that live until the block ends, and are cancelled then."""
    tasks = Tasks(note_fault)
    try:
        yield tasks
    finally:
        await tasks.end()

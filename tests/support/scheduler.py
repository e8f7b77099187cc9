"""An event loop that lets a seed decide what runs next, so that races are found, and found again.

Whatever is ready runs in an order that nobody would think of, and what threads would do is done in
the loop, at some moment after it was asked for. Time passes only where nothing else is left to do;
where that does not help, everybody waits for somebody else.
"""

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from random import Random
from typing import Any, TypeVar

import aiosqlite.core
import pytest

_T = TypeVar("_T")

_LONG = 3600.0  # seconds of the loop's own time, in which everything has an end


class Deadlock(BaseException):
    """Everybody waits for somebody else."""


class SeededLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self, seed: int) -> None:
        self._now = 0.0
        self._dice = Random(seed)  # noqa: S311 - not secret
        super().__init__(selectors.SelectSelector())

    def time(self) -> float:
        """Seconds that have passed because there was nothing to do."""
        return self._now

    def run_in_executor(
        self, _: object, func: Callable[..., _T], *args: object
    ) -> "asyncio.Future[_T]":
        """Run it in the loop, at some moment."""
        return asyncio.wrap_future(SeededExecutor(self).submit(func, *args), loop=self)

    def _run_once(self) -> None:
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]  # asyncio's own
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # too
        if not ready:
            if not timers or self._now > _LONG:
                raise Deadlock
            self._now = max(self._now, timers[0].when())
        waiting = list(ready)
        self._dice.shuffle(waiting)
        now = self._dice.randint(1, len(waiting)) if waiting else 0
        ready.clear()
        ready.extend(waiting[:now])
        super()._run_once()  # type: ignore[misc]  # asyncio's own
        ready.extend(waiting[now:])


class SeededExecutor(Executor):
    """Does what it is given in the loop, at some moment."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> "Future[_T]":
        done: Future[_T] = Future()

        def run() -> None:
            try:
                done.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - it is for whoever waits
                done.set_exception(error)

        self._loop.call_soon(run)
        return done


class _Queue:
    """What aiosqlite would have a thread do, one after another."""

    def __init__(self) -> None:
        self._todo: deque[tuple[asyncio.Future[Any] | None, Callable[[], Any]]] = deque()

    def put_nowait(self, item: tuple["asyncio.Future[Any] | None", Callable[[], Any]]) -> None:
        self._todo.append(item)
        asyncio.get_event_loop().call_soon(self._run)

    def _run(self) -> None:
        future, function = self._todo.popleft()
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - it is for whoever waits
            if future is not None and not future.done():
                future.set_exception(error)
        else:
            if future is not None and not future.done():
                future.set_result(result)


class _NoThread:
    def __init__(self, **_: object) -> None:
        pass

    def start(self) -> None:
        pass


@contextmanager
def seeded_loop(seed: int) -> Iterator[SeededLoop]:
    """The loop, and SQLite without threads inside the block."""
    loop = SeededLoop(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aiosqlite.core, "SimpleQueue", _Queue)
        patch.setattr(aiosqlite.core, "Thread", _NoThread)
        asyncio.set_event_loop(loop)
        try:
            yield loop
        finally:
            asyncio.set_event_loop(None)
            loop.close()

"""The threads in which the store waits for the disk, and how it waits for them."""

import asyncio
import functools
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from threading import Lock
from typing import ParamSpec, Protocol, TypeVar

from mirror.aio.waiting import finish
from mirror.oci.errors import StoreError

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Closable(Protocol):
    def close(self) -> None: ...


_C = TypeVar("_C", bound=_Closable)

_QUICK = 8  # page cache and hashing: a few per core keep it busy
_BUSY = 32  # write and hash for as long as there is something; many so that all get on
_TURN = 16  # pieces of work, before a lane lets others have its thread
_SLOW = 64  # mostly asleep in fsync and unlink; more than `fill.max_active` by default


class Threads:
    """Two pools, so that a file that takes seconds to sync delays no read and no write."""

    def __init__(self, make_pool: Callable[[int, str], Executor] = ThreadPoolExecutor) -> None:
        self._quick = make_pool(_QUICK, "store-quick")
        self._busy = make_pool(_BUSY, "store-busy")
        self._slow = make_pool(_SLOW, "store-slow")
        self._closed = False

    async def quick(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run what the page cache answers: opening, reading, writing, hashing.

        Raises:
            StoreError: The threads have ended; else, what `function` raises.
        """
        return await finish(self._submit(self._quick, function, *args, **kwargs))

    async def slow(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run what waits for the disk itself: syncing, deleting, scanning. Raises as `quick`."""
        return await finish(self._submit(self._slow, function, *args, **kwargs))

    def begin(
        self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> "Future[_T]":
        """Begin what `slow` would wait for; who asks for `over` of it may come later, or never.

        Raises:
            StoreError: The threads have ended.
        """
        return self._start(self._slow, function, *args, **kwargs)

    async def over(self, work: "Future[_T]") -> _T:
        """What has come of it, once it is over. Raises what it has raised."""
        return await finish(asyncio.wrap_future(work))

    async def open(self, function: Callable[_P, _C], *args: _P.args, **kwargs: _P.kwargs) -> _C:
        """Run what opens something; where nobody waits for it any more, it is closed again."""
        opening = self._submit(self._quick, function, *args, **kwargs)
        try:
            return await finish(opening)
        except asyncio.CancelledError:
            if not opening.cancelled() and opening.exception() is None:
                opening.result().close()
            raise

    def lane(self, after: Callable[[], None]) -> "Lane":
        """Bring order into quick work."""
        return Lane(functools.partial(self._start, self._busy), after)

    def close(self) -> None:
        """Let the threads end; what runs in them still is what a disk that hangs was asked.

        Every other caller has waited.
        """
        self._closed = True
        self._quick.shutdown(wait=False)
        self._busy.shutdown(wait=False)
        self._slow.shutdown(wait=False)

    def _submit(
        self,
        pool: Executor,
        function: Callable[_P, _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> asyncio.Future[_T]:
        return asyncio.wrap_future(self._start(pool, function, *args, **kwargs))

    def _start(
        self,
        pool: Executor,
        function: Callable[_P, _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Future[_T]:
        if self._closed:
            raise StoreError("the store is closed")
        return pool.submit(function, *args, **kwargs)


class Lane:
    """Quick work, done in the order in which it is given, one piece after another.

    A piece that is given while another is under way follows it without waiting for the event loop
    to get round to it, but takes its turn among other lanes. `after` is called on the loop after
    each piece.
    """

    def __init__(
        self, start: Callable[[Callable[[], None]], object], after: Callable[[], None]
    ) -> None:
        self._start = start  # in a thread
        self._after = after
        self._loop = asyncio.get_running_loop()
        self._todo: deque[tuple[asyncio.Future[None], Callable[[], object]]] = deque()
        self._lock = Lock()  # of `_todo`; the first one of it has been started

    def do(self, work: Callable[[], object]) -> "asyncio.Future[None]":
        """Queue a piece of work; the future ends with it.

        Raises:
            StoreError: The threads have ended.
        """
        done = self._loop.create_future()
        with self._lock:
            if not self._todo:
                self._start(self._run)
            self._todo.append((done, work))
        return done

    def _run(self) -> None:
        for _ in range(_TURN):
            with self._lock:
                done, work = self._todo[0]
            error = None
            try:
                work()
            except BaseException as raised:  # noqa: BLE001 - it is for whoever waits
                error = raised
            self._loop.call_soon_threadsafe(self._settle, done, error)
            with self._lock:
                self._todo.popleft()
                if not self._todo:
                    return
        self._start(self._run)

    def _settle(self, done: "asyncio.Future[None]", error: BaseException | None) -> None:
        self._after()
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

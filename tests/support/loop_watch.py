"""Sees that no callback of the mirror's holds the event loop for long.

    with watching_the_loop(limit=0.05) as holds:
        ...
    assert not holds

What counts is the CPU time of the loop's thread, not the time on the wall: a busy machine is not
the mirror's fault, and a collection of garbage, or a fork, is the test's, whose process is large.
Nor does it count while a mirror starts or stops: there are no clients yet, or no longer. uvloop
tells of no callback, so another thread asks the loop for a turn again and again, and looks at what
it does until there is one. A call into C that keeps the interpreter's lock is seen as it returns.
On a busy machine, that thread may itself be kept from looking: so the loop has a beat of its own,
and whatever was before the last one is not laid at the door of the callback that is seen then.
While a test traces what is allocated, nothing is judged: then it is the tracing that takes most of
the time.
"""

import gc
import os
import sys
import threading
import time
import traceback
import tracemalloc
from asyncio import AbstractEventLoop, TimerHandle, get_running_loop
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

_OFTEN = 0.002  # seconds between two looks
_BEAT = 0.002  # seconds between two beats of the loop
_OURS = str(Path(__file__).parents[2] / "mirror") + "/"
_COMMANDS = f"{_OURS}operate/"  # what has a loop of its own, in which nobody else waits
_STARTS = (f"{_OURS}app.py", "run")  # and stops


@dataclass(frozen=True, slots=True)
class Hold:
    """A callback that has held the loop for so many seconds of CPU time, and where it was seen."""

    seconds: float
    stack: str

    def __repr__(self) -> str:
        return f"{1000 * self.seconds:.0f} ms:\n{self.stack}"


@contextmanager
def watching_the_loop(*, limit: float, of: str = _OURS) -> Iterator[list[Hold]]:
    """Gather, inside the block, what holds the running loop for more than `limit` seconds.

    Only callbacks with code of files that begin with `of` on their stack count, and none of a
    command's, which tests run in their own loop.
    """
    watch = _Watch(get_running_loop(), limit, of)
    thread = threading.Thread(target=watch.run, name="loop watch", daemon=True)
    gc.callbacks.append(watch.on_collection)
    _watches.append(watch)
    watch.beat()
    thread.start()
    try:
        yield watch.holds
    finally:
        watch.is_over.set()
        watch.stop_beating()
        gc.callbacks.remove(watch.on_collection)
        _watches.remove(watch)
        thread.join()


@dataclass
class _Watch:
    loop: AbstractEventLoop
    limit: float
    of: str
    holds: list[Hold] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._thread)
        self._seen = 0.0  # seconds that had been used at the last look
        self._beaten = 0.0  # seconds that had been used at the last beat
        self._next: TimerHandle | None = None
        # Seconds that collections and forks took, and when the one that runs began. One value: a
        # collection lets others look in its midst, where it calls back.
        self._excused: tuple[float, float | None] = (0.0, None)

    def on_collection(self, phase: str, _: object) -> None:
        """Python collects garbage, in whichever thread it is time to."""
        self.excuse(begins=phase == "start")

    def excuse(self, *, begins: bool) -> None:
        """What this thread does until it ends is not the mirror's."""
        if threading.get_ident() != self._thread:
            return
        excused, since = self._excused
        now = time.clock_gettime(self._clock)
        if begins:
            self._excused = (excused, now)
        elif since is not None:
            self._excused = (excused + now - since, None)

    def beat(self) -> None:
        """The loop gets on: in its own thread, and again soon."""
        self._beaten = self._used()
        self._next = self.loop.call_later(_BEAT, self.beat)

    def stop_beating(self) -> None:
        if self._next is not None:
            self._next.cancel()

    def run(self) -> None:
        self._seen = self._used()
        used: dict[FrameType, float] = {}
        while not self.is_over.wait(_OFTEN):
            self._look(used)
            turn = threading.Event()
            try:
                self.loop.call_soon_threadsafe(turn.set)
            except RuntimeError:  # it has been closed
                return
            while not turn.wait(_OFTEN) and not self.is_over.is_set():
                self._look(used)
            used = {}
            # A call that keeps the interpreter to itself has kept this thread from seeing the turn.
            self._look(used)

    def _look(self, used: dict[FrameType, float]) -> None:
        """Add what has been `used` since the last look to the callback that runs."""
        seen, self._seen = max(self._seen, self._beaten), self._used()
        top = sys._current_frames().get(self._thread)  # noqa: SLF001 - there is no other way
        callback = self._callback(top)
        if top is None or callback is None or tracemalloc.is_tracing():
            return
        used[callback] = used.get(callback, 0.0) + self._seen - seen
        if used[callback] > self.limit:
            stack = "".join(traceback.format_stack(top)[-8:])
            self.holds.append(Hold(used.pop(callback), stack))

    def _used(self) -> float:
        """CPU seconds of the loop's thread, without those that are excused."""
        now = time.clock_gettime(self._clock)
        excused, since = self._excused
        return (now if since is None else min(now, since)) - excused

    def _callback(self, top: FrameType | None) -> FrameType | None:
        """The first frame of what the loop has called, if any of it is of the code in question."""
        is_ours = is_others = False
        # Read once: the other thread runs on, and returns from what we look at.
        while top is not None and (caller := top.f_back) is not None:
            file, name = top.f_code.co_filename, top.f_code.co_name
            is_ours = is_ours or file.startswith(self.of)
            is_others = is_others or file.startswith(_COMMANDS) or (file, name) == _STARTS
            if caller.f_code.co_filename.endswith("/asyncio/runners.py"):
                return top if is_ours and not is_others else None
            top = caller
        return None


_watches: list[_Watch] = []


def excuse(*, begins: bool) -> None:
    """Blame nobody for what this thread does until it ends."""
    for watch in _watches:
        watch.excuse(begins=begins)


os.register_at_fork(
    before=lambda: excuse(begins=True), after_in_parent=lambda: excuse(begins=False)
)

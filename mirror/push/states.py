"""The states of a course, and who waits for something to change.

state      means                                               next
resting    nothing is to be sent, or nobody sees to it         sending, done, failed
sending    they are being sent, or asked after, or ended       resting, waiting, denied, done,
failed
waiting    the line broke: it is tried again in a moment       sending, resting, failed
denied     the registry wants other credentials                sending, resting, failed
done       the registry has all of it, as one blob             -
failed     it never will; nothing is kept                      -
"""

import asyncio
from collections.abc import Callable
from enum import Enum


class CourseState(Enum):
    """See the table at the top of this module."""

    RESTING = "resting"
    SENDING = "sending"
    WAITING = "waiting"
    DENIED = "denied"
    DONE = "done"
    FAILED = "failed"


_NEXT = {
    CourseState.RESTING: {CourseState.SENDING, CourseState.DONE, CourseState.FAILED},
    CourseState.SENDING: {
        CourseState.RESTING, CourseState.WAITING, CourseState.DENIED, CourseState.DONE,
        CourseState.FAILED,
    },
    CourseState.WAITING: {CourseState.SENDING, CourseState.RESTING, CourseState.FAILED},
    CourseState.DENIED: {CourseState.SENDING, CourseState.RESTING, CourseState.FAILED},
    CourseState.DONE: set[CourseState](),
    CourseState.FAILED: set[CourseState](),
}  # fmt: skip


class Stateful:
    """Has a state, since a moment of its `clock`, and is waited for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.state = CourseState.RESTING
        self.since = clock()  # of its last change
        self._clock = clock
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it."""
        return not _NEXT[self.state]

    def _move(self, state: CourseState) -> None:
        if state is not self.state:
            assert state in _NEXT[self.state], f"{self.state} -> {state}"  # noqa: S101
            self.state = state
            self.since = self._clock()
        self.tell()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Return once it is so: looked at whenever somebody tells."""
        while not is_so():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def tell(self) -> None:
        """Something may have changed."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

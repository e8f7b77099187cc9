"""A bounded number of slots, given to what clients wait for before anything else.

Where they are shared, who has one already gets no more than three times as many as would then be
free: one alone has three quarters of them, two have three sevenths each, and whoever comes next
finds one.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_SHARE = 3  # times what is free


@dataclass(eq=False, slots=True)
class Urgency:
    """Whether a client waits for some piece of work; may change while it waits for its slot."""

    is_urgent: bool = True


@dataclass(eq=False, slots=True)
class _Waiter:
    urgency: Urgency
    sharer: str | None
    turn: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


def _nobody() -> None:
    """Nobody has to know."""


class Slots:
    """`limit` slots (None: no end of them). First come, first served, but urgent ones first.

    `noticed` is called whenever somebody begins to wait.
    """

    def __init__(self, limit: int | None, noticed: Callable[[], None] = _nobody) -> None:
        self._limit = limit
        self._noticed = noticed
        self._taken = 0
        self._held: Counter[str] = Counter()
        self._waiting: deque[_Waiter] = deque()

    def __repr__(self) -> str:
        return f"<Slots: {self._taken} of {self._limit} taken, {self.waiting} waiting>"

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._waiting)

    @asynccontextmanager
    async def take(
        self, urgency: Urgency, *, within: float | None = None, sharer: str | None = None
    ) -> AsyncIterator[None]:
        """Hold a slot inside the block; wait for one first, if need be.

        `sharer`: on whose share it is; None: on nobody's.

        Raises:
            TimeoutError: There is none within so many seconds (None: as long as it takes).
        """
        await self._wait(urgency, within, sharer)
        try:
            yield
        finally:
            self._give_back(sharer)

    async def _wait(self, urgency: Urgency, within: float | None, sharer: str | None) -> None:
        if self._may_take(sharer):
            self._take(sharer)
            return
        waiter = _Waiter(urgency, sharer)
        self._waiting.append(waiter)
        self._noticed()
        try:
            async with asyncio.timeout(within):
                await waiter.turn
        except BaseException:
            if waiter.turn.done() and not waiter.turn.cancelled():
                self._give_back(sharer)  # it had just been given to us
            else:
                self._waiting.remove(waiter)
            raise

    def _may_take(self, sharer: str | None) -> bool:
        if self._limit is None:
            return True
        free = self._limit - self._taken
        held = 0 if sharer is None else self._held[sharer]
        return free > 0 and (not held or held < _SHARE * (free - 1))

    def _take(self, sharer: str | None) -> None:
        self._taken += 1
        if sharer is not None:
            self._held[sharer] += 1

    def _give_back(self, sharer: str | None) -> None:
        """Hand slots on to those who wait, and may have one."""
        self._taken -= 1
        if sharer is not None:
            self._held[sharer] -= 1
            self._held += Counter()  # forgets who has none
        while (following := self._find_next()) is not None:
            self._waiting.remove(following)
            self._take(following.sharer)
            following.turn.set_result(None)

    def _find_next(self) -> _Waiter | None:
        waiting = [
            waiter for waiter in self._waiting
            if not waiter.turn.done() and self._may_take(waiter.sharer)
        ]  # fmt: skip
        return next((w for w in waiting if w.urgency.is_urgent), next(iter(waiting), None))

"""A bounded number of slots, given to what clients wait for before anything else."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Urgency:
    """Whether a client waits for some piece of work; may change while it waits for its slot."""

    is_urgent: bool = True


@dataclass(eq=False, slots=True)
class _Waiter:
    urgency: Urgency
    turn: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Slots:
    """`limit` slots (None: no end of them). First come, first served, but urgent ones first."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._taken = 0
        self._waiting: deque[_Waiter] = deque()

    def __repr__(self) -> str:
        return f"<Slots: {self._taken} of {self._limit} taken, {len(self._waiting)} waiting>"

    @asynccontextmanager
    async def take(self, urgency: Urgency, *, within: float | None = None) -> AsyncIterator[None]:
        """Hold a slot inside the block; wait for one first, if need be.

        Raises:
            TimeoutError: There is none within so many seconds (None: as long as it takes).
        """
        await self._wait(urgency, within)
        try:
            yield
        finally:
            self._give_back()

    async def _wait(self, urgency: Urgency, within: float | None) -> None:
        if self._limit is None or self._taken < self._limit:
            self._taken += 1
            return
        waiter = _Waiter(urgency)
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(within):
                await waiter.turn
        except BaseException:
            if waiter.turn.done() and not waiter.turn.cancelled():
                self._give_back()  # it had just been given to us
            else:
                self._waiting.remove(waiter)
            raise

    def _give_back(self) -> None:
        """Hand a slot on: it stays taken where somebody waits."""
        waiting = [waiter for waiter in self._waiting if not waiter.turn.done()]
        if not waiting:
            self._taken -= 1
            return
        following = next((w for w in waiting if w.urgency.is_urgent), waiting[0])
        self._waiting.remove(following)
        following.turn.set_result(None)

"""A bounded number of slots, given to what clients wait for before anything else.

Some may be kept for clients that have none: however much one wants, another's first is not behind
that. Where the others are shared, who has one already gets no more than three times as many as
would then be free: one alone has three quarters of them, two have three sevenths each, and whoever
comes next finds one. Of those who wait, the client that has the fewest is next.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

_SHARE = 3  # times what is free
_SEVERAL = 2

client: ContextVar[str | None] = ContextVar("client", default=None)
"""The client (an address) whose request is being answered; None where nobody's is."""


@dataclass(eq=False, slots=True)
class Urgency:
    """Whether clients wait for some piece of work, and which; may change at any time.

    `account` is the client whose slots its slots are: of those who wait for it, or of those who
    have left, the last.
    """

    is_urgent: bool = True
    clients: Counter[str] = field(default_factory=Counter)
    account: str | None = None

    @classmethod
    def of_client(cls) -> "Urgency":
        """Of what the client waits for whose request is being answered."""
        urgency = cls()
        urgency.join(client.get())
        return urgency

    def join(self, one: str | None) -> None:
        """One more waits for it."""
        self.is_urgent = True
        if one is not None:
            self.clients[one] += 1
            self._settle()

    def leave(self, one: str | None) -> None:
        """One less; it stays as urgent as it was."""
        if one is not None:
            self.clients[one] -= 1
            self.clients += Counter()  # forgets who has left
            self._settle()

    def _settle(self) -> None:
        if self.account not in self.clients and self.clients:
            self.account = next(iter(self.clients))


@dataclass(eq=False, slots=True)
class _Place:
    """Of one who waits for a slot, or has it."""

    urgency: Urgency
    sharer: str | None
    is_kept: bool = False  # it is one of those that are kept for clients which have none
    turn: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def has_left(self) -> bool:
        """Whether it has been cancelled a moment ago, and has not come to say so."""
        return self.turn.cancelled()


def _nobody() -> None:
    """Nobody has to know."""


class Slots:
    """`limit` slots (None: no end of them), of which `kept` are for clients that have none.

    `noticed` is called whenever somebody begins to wait.
    """

    def __init__(
        self, limit: int | None, noticed: Callable[[], None] = _nobody, *, kept: int = 0
    ) -> None:
        self._limit = limit
        self._kept = kept
        self._noticed = noticed
        self._taken = dict[_Place, None]()
        self._waiting = dict[_Place, None]()

    def __repr__(self) -> str:
        return f"<Slots: {len(self._taken)} of {self._limit} taken, {self.waiting} waiting>"

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
        if self._limit is None:
            yield
            return
        place = _Place(urgency, sharer)
        await self._wait(place, within)
        try:
            yield
        finally:
            del self._taken[place]
            self._hand_on()

    def resize(self, limit: int, *, kept: int) -> None:
        """Have more of them, or fewer: nobody loses one that it has."""
        self._limit, self._kept = limit, kept
        self._hand_on()

    def reconsider(self, urgency: Urgency) -> None:
        """Others wait for this now: if it waits for a slot, it may have one of theirs."""
        waiting = (it for it in self._waiting if it.urgency is urgency and not it.has_left)
        place = next(waiting, None)
        if place is not None and (use := self._use()).may_take(place):
            self._hand_to(place, use)

    def _hand_on(self) -> None:
        """Give free slots to those who wait and may have one."""
        while self._waiting and len(self._taken) < (self._limit or 0):
            use = self._use()
            places = [it for it in self._first_of_each() if use.may_take(it)]
            if not places:
                return
            self._hand_to(min(places, key=use.turn_of), use)  # the first, where it is the same

    def _first_of_each(self) -> Iterator[_Place]:
        """Of those who wait alike, whoever came first: one client may have thousands waiting."""
        seen = set[object]()
        for place in self._waiting:
            if place.has_left:
                continue
            urgency = place.urgency
            whose = urgency.account if len(urgency.clients) < _SEVERAL else place
            alike = (whose, place.sharer, urgency.is_urgent)
            if alike not in seen:
                seen.add(alike)
                yield place

    def _hand_to(self, place: _Place, use: "_Use") -> None:
        del self._waiting[place]
        self._give(place, use)
        place.turn.set_result(None)

    async def _wait(self, place: _Place, within: float | None) -> None:
        use = self._use()
        if use.may_take(place):
            self._give(place, use)
            return
        self._waiting[place] = None
        self._noticed()
        try:
            async with asyncio.timeout(within):
                await place.turn
        except BaseException:
            self._waiting.pop(place, None)
            if place in self._taken:  # it had just been given to us
                del self._taken[place]
                self._hand_on()
            raise

    def _give(self, place: _Place, use: "_Use") -> None:
        place.is_kept = not use.is_open_to(place)
        place.urgency.account = use.poorest(place)
        self._taken[place] = None

    def _use(self) -> "_Use":
        kept = sum(place.is_kept for place in self._taken)
        general = (self._limit or 0) - self._kept - (len(self._taken) - kept)
        return _Use(
            general, self._kept - kept,
            Counter(place.sharer for place in self._taken if not place.is_kept),
            Counter(place.urgency.account for place in self._taken),
        )  # fmt: skip


@dataclass(slots=True)
class _Use:
    """Who has slots at a moment, and how many are free: in general, and of those that are kept."""

    free: int
    free_of_kept: int
    by_sharer: Counter[str | None]
    by_client: Counter[str | None]

    def may_take(self, place: _Place) -> bool:
        """Whether one is free for it."""
        if self.is_open_to(place):
            return True
        return self.free_of_kept > 0 and any(
            one not in self.by_client for one in place.urgency.clients
        )

    def is_open_to(self, place: _Place) -> bool:
        """Whether one is that is not kept for others."""
        held = 0 if place.sharer is None else self.by_sharer[place.sharer]
        return self.free > 0 and (not held or held < _SHARE * (self.free - 1))

    def turn_of(self, place: _Place) -> tuple[bool, int]:
        """What sorts those who wait."""
        return not place.urgency.is_urgent, self.by_client[self.poorest(place)]

    def poorest(self, place: _Place) -> str | None:
        """Of the clients that wait for it, the one with the fewest slots."""
        urgency = place.urgency
        if len(urgency.clients) < _SEVERAL:  # which is nearly always so
            return urgency.account
        return min(urgency.clients, key=lambda one: self.by_client[one])

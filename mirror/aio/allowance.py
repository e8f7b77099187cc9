"""How often somebody may do something: so many times at once, and again as time passes. Pure."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from cachetools import LRUCache

_Who = TypeVar("_Who", bound=Hashable)

_REMEMBERED = 16384  # of them; who is forgotten has not done it for long


class Allowances(Generic[_Who]):
    """Each may do it `most` times at once, and `most` times more in each `period` (seconds)."""

    def __init__(self, most: int, period: float, clock: Callable[[], float]) -> None:
        self._most = most
        self._rate = most / period
        self._clock = clock
        self._full_at: LRUCache[_Who, float] = LRUCache(_REMEMBERED)

    def wait(self, who: _Who) -> float:
        """Seconds until they may; 0 if they may now."""
        left = self._most - self._owed(who)
        return max(0.0, (1 - left) / self._rate)

    def use(self, who: _Who) -> None:
        """They have done it."""
        owed = min(self._owed(who) + 1, float(self._most))
        self._full_at[who] = self._clock() + owed / self._rate

    def take(self, who: _Who) -> bool:
        """Do it, if they may; whether they may."""
        if self.wait(who):
            return False
        self.use(who)
        return True

    def give_back(self, who: _Who) -> None:
        """It does not count."""
        self._full_at[who] = self._clock() + max(0.0, self._owed(who) - 1) / self._rate

    def _owed(self, who: _Who) -> float:
        return max(0.0, (self._full_at.get(who, 0.0) - self._clock()) * self._rate)

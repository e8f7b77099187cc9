"""When blobs were last used, until it is written down in a batch. Pure.

What is evicted first depends on it, so these times never go back, whatever the clock does: where
it was set back they only count on, in the smallest steps from the latest one there is. Where it
turns out that it had been ahead, `settle` has them count from now on (`mirror.storage.upkeep`).
"""

import math
from collections.abc import Callable

from mirror.oci.digest import Digest


class Accesses:
    """`clock` gives seconds since the epoch; `latest` is the latest time on record."""

    def __init__(self, clock: Callable[[], float], *, latest: float) -> None:
        self._clock = clock
        self._latest = latest
        self._noted: dict[Digest, float] = {}

    def now(self) -> float:
        """A time for something that is used now: later than all before it."""
        self._latest = max(self._clock(), math.nextafter(self._latest, math.inf))
        return self._latest

    @property
    def ahead(self) -> float:
        """How many seconds the latest time is ahead of the clock; not positive where it is not."""
        return self._latest - self._clock()

    def settle(self, now: float) -> None:
        """Count on from `now`, what is not written down yet included."""
        self._latest = now
        self._noted = dict.fromkeys(self._noted, now)

    def note(self, digest: Digest) -> None:
        """A blob is used."""
        self._noted[digest] = self.now()

    def take(self) -> dict[Digest, float]:
        """What is to be written down."""
        noted, self._noted = self._noted, {}
        return noted

    def put_back(self, noted: dict[Digest, float]) -> None:
        """It could not be written down; later."""
        self._noted = noted | self._noted

"""How long a tag's meaning is believed. Pure.

since upstream last said so       upstream has not been asked        upstream cannot be asked
under tags.fresh_for              serve                              serve
under tags.stale_for              ask                                serve, marked stale
longer, or never                  ask                                fail
longer, and a bundle says it      ask                                serve, marked stale
"""

from dataclasses import dataclass
from enum import Enum, auto


class Freshness(Enum):
    """What a remembered answer is worth."""

    FRESH = auto()  # serve it
    EXPIRED = auto()  # ask first; serve it, marked stale, if upstream cannot be asked
    DEAD = auto()  # ask; there is nothing to fall back on


@dataclass(frozen=True, slots=True)
class Policy:
    """`tags.fresh_for` and `tags.stale_for`, in seconds."""

    fresh_for: float
    stale_for: float

    def decide(self, checked_at: float, *, now: float, is_imported: bool = False) -> Freshness:
        """What an answer of `checked_at` is worth now (both in seconds since the epoch).

        An answer from the future is one that the clock was set back under: ask. What an operator
        has imported (`is_imported`) is there to be fallen back on, however old it is.
        """
        age = now - checked_at
        if 0 <= age < self.fresh_for:
            return Freshness.FRESH
        return Freshness.EXPIRED if age < self.stale_for or is_imported else Freshness.DEAD

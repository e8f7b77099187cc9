"""When a fill tries again, and when it gives up. Pure.

    what went wrong                before any body     after one
    nobody sends                   give up             again, after a wait
    a body broke                   -                   again, elsewhere, after a wait
    a body of another size         again, elsewhere    again, elsewhere, after a wait

Before any body has been accepted, somebody waits for an answer that lets them turn to the origin.
After that, readers hold a part of the blob, and it is continued until `attempts` in a row have
brought not one byte, or have dripped.
"""

from dataclasses import dataclass, field
from enum import Enum

from mirror.aio.backoff import Backoff


class Failure(Enum):
    """What went wrong with a try."""

    REFUSED = "nobody sends"
    BROKEN = "a body broke"
    ODD = "a body of another size"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often to try again, and how long to wait before it; in seconds."""

    attempts: int  # without any progress, then give up
    backoff: Backoff = field(default_factory=lambda: Backoff(first=0.4, most=15.0))
    longest_wait: float = 60.0  # readers are not kept waiting for an upstream that wants more

    def decide(
        self, failure: Failure, failures: int, *, has_begun: bool, wait: float, roll: float
    ) -> float | None:
        """After how many seconds to try again; None: give up.

        `failures` is how many there have been without a byte between them, with this one;
        `has_begun`: a body has been accepted; `wait` is what the source asks for; `roll` is random
        in [0, 1).
        """
        if not has_begun:
            return 0.0 if failure is Failure.ODD else None
        if failures >= self.attempts or wait > self.longest_wait:
            return None
        return max(self.backoff.delay(failures, roll=roll), min(wait, self.backoff.most))


@dataclass(slots=True)
class Streak:
    """Failures of one connection in a row; `enough` bytes for the blob, over whichever, end it."""

    received: int  # bytes, when it began
    failures: int = 0

    def add(self, received: int, *, enough: int = 1) -> int:
        """One more failure, at so many bytes in all; how many there are in a row."""
        self.failures = self.failures + 1 if received - self.received < enough else 0
        self.received = received
        return self.failures

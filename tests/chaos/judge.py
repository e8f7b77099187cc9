"""What was seen, and what of it is wrong.

While there is trouble, and for a while after it, a client may be refused, and may be cut off. What
is complete must be right at any time, and no answer may say that the mirror has a fault.
"""

import math
import time
from collections import Counter
from dataclasses import dataclass

SETTLED = 12.0
"""Seconds without trouble after which everything has to work."""

_REFUSALS = frozenset({401, 403, 404, 416, 429, 502, 503, 504, 507})
_DISTRUSTED_FOR = 75.0  # seconds for which a registry is not asked again that has sent wrong bytes
_SHOWN = 300  # characters of an answer


@dataclass(frozen=True, slots=True)
class Moment:
    """When something was begun, and whether all was well then."""

    at: float
    was_calm: bool


class Judge:
    """Counts, and prints what it objects to."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self.problems: list[str] = []
        self._began = time.monotonic()
        self._calm_since: float | None = None
        self._restarted = self._began
        self._lied = -math.inf
        self.is_cramped = False  # the disk has less room than all that is pushed at once

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    @property
    def is_troubled(self) -> bool:
        """Whether there may be trouble now."""
        return self._calm_since is None

    def calm_down(self) -> None:
        """There is no trouble from now on."""
        self._calm_since = time.monotonic()

    def stir_up(self) -> None:
        """There may be, again."""
        self._calm_since = None

    def restarts(self) -> None:
        """The mirror is about to be stopped, or is there again."""
        self._restarted = time.monotonic()

    def lies(self) -> None:
        """A registry is about to send wrong bytes, or has."""
        self._lied = time.monotonic()

    @property
    def may_be_lied_to(self) -> bool:
        """Whether a registry has sent wrong bytes lately."""
        return time.monotonic() - self._lied < _DISTRUSTED_FOR

    def begin(self) -> Moment:
        """Something is begun now."""
        now, calm = time.monotonic(), self._calm_since
        return Moment(now, calm is not None and now - calm >= SETTLED)

    def must_succeed(self, moment: Moment) -> bool:
        """Whether what was begun then has no excuse."""
        return moment.was_calm and self._restarted < moment.at - 1

    def saw(self, what: str) -> None:
        """Count it."""
        self.counts[what] += 1

    def object(self, what: str) -> None:
        """That was wrong."""
        print(f"[{self.elapsed:7.1f}] WRONG: {what}", flush=True)
        self.problems.append(what)

    def refused(self, moment: Moment, what: str, status: int, body: bytes) -> None:
        """Somebody was refused."""
        self.saw(f"{what.partition(' ')[0]} {status}")
        if status == 404 and self.may_be_lied_to:
            return
        if status == 507 and self.is_cramped:
            return
        if self.must_succeed(moment) or status not in _REFUSALS:
            self.object(f"{what}: {status} {body[:_SHOWN]!r}")

    def broke(self, moment: Moment, what: str, error: BaseException) -> None:
        """Somebody was cut off."""
        self.saw(f"{what.partition(' ')[0]} cut off")
        if self.must_succeed(moment):
            self.object(f"{what}: {error!r} after {time.monotonic() - moment.at:.1f} s")

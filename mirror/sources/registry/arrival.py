"""Whether a body arrives, or only drips. Pure.

It drips where it brings less than the least rate, over a window of waiting for its bytes: what our
own disk, readers and `max_bandwidth` take is not upstream's time. It is not to blame where the line
may be full of our own: where the others on it get hardly more than that either, but do get it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

_PLENTY = 16  # times the least rate for each of the others: then the line is not the reason


class Line:
    """All that comes to this host from registries. `least` in bytes a second; 0: as it may be.

    `window` is how many seconds of waiting are judged at a time.
    """

    def __init__(self, *, least: int, window: float) -> None:
        self.least = least
        self.window = window
        self.received = 0  # bytes, ever
        self._bodies = 0

    @contextmanager
    def arriving(self, now: float) -> Iterator["Arrival"]:
        """One more body comes over it inside the block."""
        self._bodies += 1
        try:
            yield Arrival(self, now)
        finally:
            self._bodies -= 1

    def is_crowded(self, others_received: int, seconds: float) -> bool:
        """Whether it may be full, by what all but one body have received in so many seconds."""
        each = others_received / max(1, self._bodies - 1) / max(seconds, self.window)
        return self.least <= each < _PLENTY * self.least


class Arrival:
    """One body."""

    def __init__(self, line: Line, now: float) -> None:
        self._line = line
        self._begin(now)

    def drips(self, received: int, waited: float, now: float) -> bool:
        """Note bytes that were waited for, in seconds; whether it has dripped for a window."""
        line = self._line
        line.received += received
        self._received += received
        self._waited += waited
        if self._waited < line.window:
            return False
        is_slow = self._received < line.least * self._waited
        others = line.received - self._line_received - self._received
        drips = is_slow and not line.is_crowded(others, now - self._began)
        self._begin(now)
        return drips

    def _begin(self, now: float) -> None:
        self._began = now
        self._received = 0
        self._waited = 0.0
        self._line_received = self._line.received

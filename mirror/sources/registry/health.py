"""Whether an endpoint is worth asking: a circuit breaker, and how long to wait. Pure.

    state     asked?          success    failure
    up        yes             up         up, and down from the third in a row (at once if grave)
    down      no              up         down, for longer
    probing   one request     up         down, for longer

"Down" has an end; whoever asks first after it makes the probe, and until that one has reported
(or has had its time) nobody else does. So an outage costs one request its timeout, and all the
others nothing.
"""

from mirror.aio.backoff import Backoff

_TOLERATED = 3  # failures in a row that tell of an outage; one answer of 503 does not
_PROBE_PATIENCE = 10.0  # seconds for a probe to report; it may have been cancelled


class Health:
    """What is thought of one endpoint. Times are of any one steady clock."""

    def __init__(self, backoff: Backoff | None = None) -> None:
        self._backoff = backoff or Backoff()
        self._failures = 0
        self._down_until: float | None = None
        self._probing_until = 0.0
        self._paused_until = 0.0

    def __repr__(self) -> str:
        return f"<Health: {self._failures} failures, down until {self._down_until}>"

    @property
    def is_up(self) -> bool:
        """Whether it is thought to work."""
        return self._down_until is None

    def pause_left(self, now: float) -> float:
        """Seconds for which it has asked to be left alone."""
        return max(0.0, self._paused_until - now)

    def may_ask(self, now: float) -> bool:
        """Whether to send a request now. True may make that request the probe: report on it."""
        if self.pause_left(now):
            return False
        if self._down_until is None:
            return True
        if now < max(self._down_until, self._probing_until):
            return False
        self._probing_until = now + _PROBE_PATIENCE
        return True

    def wait(self, now: float) -> float:
        """Seconds until `may_ask` may say yes again; 0 if it would now, or when a probe reports."""
        return max(self.pause_left(now), (self._down_until or 0.0) - now)

    def succeeded(self) -> None:
        """It has answered, and sensibly."""
        self._failures = 0
        self._down_until = None
        self._probing_until = 0.0

    def failed(self, now: float, *, roll: float, grave: bool) -> None:
        """It has not. `grave`: it could not even be reached, or was silent for too long."""
        if self._down_until is not None and not self._probing_until:
            return  # asked before that was known: one outage is not ten because ten were under way
        self._failures = max(self._failures + 1, _TOLERATED if grave else 0)
        excess = self._failures - _TOLERATED + 1
        if excess > 0:
            self._down_until = now + self._backoff.delay(excess, roll=roll)
            self._probing_until = 0.0

    def pause(self, until: float) -> None:
        """It has asked to be left alone (429 with `Retry-After`); that is no fault of its own."""
        self._paused_until = max(self._paused_until, until)

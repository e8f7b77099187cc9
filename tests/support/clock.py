"""Time that passes when a test says so."""


class FakeClock:
    """Seconds since the epoch, as `time.time` gives them; stands still between `advance`s.

    `monotonic` is the clock that nobody sets back.
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._set_by = 0.0  # seconds

    def __call__(self) -> float:
        return self._now + self._set_by

    def monotonic(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def set_back(self, seconds: float) -> None:
        """Somebody corrects this machine's clock."""
        self._set_by -= seconds

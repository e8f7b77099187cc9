"""Time that passes when a test says so."""


class FakeClock:
    """Seconds since the epoch, as `time.time` gives them; stands still between `advance`s."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds

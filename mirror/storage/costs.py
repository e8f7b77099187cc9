"""How dear it is to fetch from each upstream: measured as blobs arrive. Pure.

What comes over a slow line is worth more (`worth.rank`). Only how slow one upstream is beside the
fastest counts, and up to a bound: whoever drips its bytes gains little by it.
"""

MOST = 4.0  # times as slow as the fastest

_SMALLEST = 2**20  # bytes; what is smaller tells of round trips, not of the line
_WEIGHT = 1 / 8  # of a new measurement


class Costs:
    """Rates of the upstreams, in bytes per second."""

    def __init__(self) -> None:
        self._rates: dict[str, float] = {}

    def note(self, upstream: str, size: int, seconds: float) -> None:
        """So many bytes have come in so long a time."""
        if size < _SMALLEST or seconds <= 0:
            return
        rate = size / seconds
        before = self._rates.get(upstream, rate)
        self._rates[upstream] = before + (rate - before) * _WEIGHT

    def slowness(self, upstream: str) -> float:
        """How many times longer it takes than from the fastest; 1 where nothing is known."""
        rate = self._rates.get(upstream)
        if rate is None:
            return 1.0
        return min(max(self._rates.values()) / rate, MOST)

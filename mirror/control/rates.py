"""How fast numbers that only grow do so, of late."""

from collections import deque
from collections.abc import Hashable, Mapping

_WINDOW = 5  # samples


class Rates:
    """Rates of counters, by key, over the latest samples; times are of any one steady clock."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Mapping[Hashable, float]]] = deque(maxlen=_WINDOW)

    def sample(self, now: float, values: Mapping[Hashable, float]) -> None:
        """What the counters are now; who is not among them has gone."""
        self._samples.append((now, values))

    def of(self, key: Hashable) -> float:
        """Per second; 0 where there is one sample at most."""
        seen = [(when, values[key]) for when, values in self._samples if key in values]
        if len(seen) <= 1:
            return 0.0
        (began, first), (ended, last) = seen[0], seen[-1]
        return max(0.0, last - first) / (ended - began) if ended > began else 0.0

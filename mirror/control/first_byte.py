"""How long endpoints take to their first byte, of late: of the metric that counts it anyway."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from prometheus_client import Metric

from mirror.control.models import FirstByte

_STEP = 300.0  # seconds between what is remembered
_STEPS = 12
_EVERY = 10.0  # seconds between looks
_ELSEWHERE = frozenset({"token", "ping"})  # kinds that tell nothing of what a pull waits for
_MEDIAN, _MOST = 0.5, 0.9

_Key = tuple[str, str]  # upstream, endpoint
_Counts = dict[_Key, dict[float, float]]  # answers by the bound that they came within


class Histogram(Protocol):
    """A metric of seconds, by upstream, endpoint and kind."""

    def collect(self) -> Iterable[Metric]:
        """Its samples."""


class FirstBytes:
    """Looks at `histogram` now and then, and tells of the last hour."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._now: tuple[float, _Counts] = (float("-inf"), {})
        self._before: deque[tuple[float, _Counts]] = deque(maxlen=_STEPS)

    def sample(self, now: float) -> None:
        """Look; `now` is of any one steady clock, in seconds."""
        if now - self._now[0] < _EVERY:
            return
        self._now = now, self._read()
        if not self._before or now - self._before[-1][0] >= _STEP:
            self._before.append(self._now if self._before else (now, {}))

    def of(self, upstream: str, endpoint: str) -> FirstByte | None:
        """What there is to say; None where nothing was answered."""
        key = upstream, endpoint
        before = self._before[0][1].get(key, {}) if self._before else {}
        within = sorted(
            (bound, count - before.get(bound, 0.0))
            for bound, count in self._now[1].get(key, {}).items()
        )
        if not within or not (answers := round(within[-1][1])):
            return None
        return FirstByte(
            median=quantile(within, _MEDIAN), p90=quantile(within, _MOST), answers=answers
        )

    def _read(self) -> _Counts:
        found: _Counts = {}
        for metric in self._histogram.collect():
            for one in metric.samples:
                labels = one.labels
                if not one.name.endswith("_bucket") or labels["kind"] in _ELSEWHERE:
                    continue
                counts = found.setdefault((labels["upstream"], labels["endpoint"]), {})
                bound = float(labels["le"])
                counts[bound] = counts.get(bound, 0.0) + one.value
        return found


def quantile(within: Sequence[tuple[float, float]], share: float) -> float:
    """The time, in seconds, within which a share of the answers came; as Prometheus has it.

    `within`: how many came within a bound, the lowest first, infinity last. Between two bounds they
    are thought to be spread evenly; beyond the last, to be at it.
    """
    rank, bound_before, count_before = share * within[-1][1], 0.0, 0.0
    for bound, count in within:
        if count >= rank and count > count_before:
            if bound == float("inf"):
                return bound_before
            part = (rank - count_before) / (count - count_before)
            return bound_before + (bound - bound_before) * part
        bound_before, count_before = bound, count
    return bound_before

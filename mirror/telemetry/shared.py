"""Figures of what several mirrors have in common; only where there are several."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

_GAUGES = {
    "database_up": "1 where the shared database answers.",
    "database_hears": "1 where it notifies; else mirrors look for what is new (PgBouncer).",
    "untold": "What this mirror has learnt, and not told the others yet.",
}
_COUNTERS = {
    "told": "What this mirror has learnt, and told the others.",
    "lost": "What it could not tell: there was no room to keep it for so long.",
    "heard": "What others have told.",
}


class SharedFigures(Collector):
    """Reads them at each scrape."""

    def __init__(self, read: Callable[[], Mapping[str, float]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        figures = self._read()
        for name, about in _GAUGES.items():
            yield GaugeMetricFamily(f"mirror_shared_{name}", about, figures[name])
        for name, about in _COUNTERS.items():
            yield CounterMetricFamily(f"mirror_shared_{name}", about, figures[name])

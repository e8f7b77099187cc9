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
_BLOB_GAUGES = {
    "bucket_up": "1 where the bucket has done what it was last asked.",
    "bucket_bytes": "Bytes of blobs in the bucket, when this mirror last saw to eviction.",
    "leading": "Blobs that this mirror fetches for all.",
    "following": "Blobs that it reads from the bucket.",
    "unpublished": "Blobs that it has, and could not publish yet.",
}
_BLOB_COUNTERS = {
    "published_blobs": "Blobs that this mirror has published.",
    "published_bytes": "Bytes that it has put into the bucket.",
    "followed_blobs": "Blobs that it had from others.",
    "evicted_blobs": "Blobs that this mirror has evicted from the bucket.",
    "evicted_bytes": "Their bytes.",
}
_COUNTERS = {
    "told": "What this mirror has learnt, and told the others.",
    "lost": "What it could not tell: there was no room to keep it for so long.",
    "heard": "What others have told.",
}
TABLES = (_GAUGES, _COUNTERS, _BLOB_GAUGES, _BLOB_COUNTERS)
"""Names of figures, and what each is."""


class SharedFigures(Collector):
    """Reads them at each scrape."""

    def __init__(self, read: Callable[[], Mapping[str, float]]) -> None:
        self._read = read
        self._gauges, self._counters = self._tables()

    def _tables(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        return _GAUGES, _COUNTERS

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        figures = self._read()
        for name, about in self._gauges.items():
            yield GaugeMetricFamily(f"mirror_shared_{name}", about, figures[name])
        for name, about in self._counters.items():
            yield CounterMetricFamily(f"mirror_shared_{name}", about, figures[name])


class BlobFigures(SharedFigures):
    """The same of blobs."""

    def _tables(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        return _BLOB_GAUGES, _BLOB_COUNTERS

"""The mirror's Prometheus metrics.

One instance belongs to one application; nothing is global. Label values come from the
configuration and from the closed sets below: a request can never mint a new one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mirror.telemetry.traffic import Traffic, TrafficCollector


class Outcome(StrEnum):
    """How a fill ended."""

    COMMITTED = "committed"
    MISMATCH = "mismatch"
    MISSING = "missing"
    DENIED = "denied"
    UNAVAILABLE = "unavailable"
    NO_ROOM = "no_room"
    STOPPED = "stopped"  # with the mirror; the partial waits for the next start
    FAILED = "failed"


# A gauge beside every counter that says when it began: twice the series, and no rule asks for it.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library types it so

_UPSTREAM_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)


@dataclass(frozen=True, slots=True)
class StoreTotals:
    """What the store holds; sizes are in bytes."""

    blobs: int = 0
    bytes: int = 0
    referenced_bytes: int = 0


class Metrics:
    """Every metric, ready to be counted on."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.traffic = Traffic()
        self._shown = TrafficCollector(self.traffic)
        self.registry.register(self._shown)
        counter, gauge, histogram = self._counter, self._gauge, self._histogram

        self.upstream_requests = counter(
            "upstream_requests",
            "Requests made to registries, their token servers and storage.",
            "upstream", "endpoint", "kind", "method", "status",
        )  # fmt: skip
        self.upstream_bytes = counter(
            "upstream_bytes", "Body bytes received from upstream.", "upstream", "endpoint"
        )
        self.upstream_seconds = histogram(
            "upstream_seconds", "Upstream's time to first byte.", _UPSTREAM_SECONDS,
            "upstream", "endpoint", "kind",
        )  # fmt: skip
        self.upstream_up = gauge(
            "upstream_up", "1 where the endpoint is thought to work.", "upstream", "endpoint"
        )
        self.ratelimit_limit = gauge(
            "upstream_ratelimit_limit", "Pulls allowed per window, by upstream's word.",
            "upstream", "endpoint",
        )  # fmt: skip
        self.ratelimit_remaining = gauge(
            "upstream_ratelimit_remaining", "Pulls left in this window, by upstream's word.",
            "upstream", "endpoint",
        )  # fmt: skip
        self.fills_active = gauge("fills_active", "Downloads in flight.")
        self.fill_readers = gauge("fill_readers", "Clients reading from downloads in flight.")
        self.fills = counter("fills", "Downloads ended.", "upstream", "outcome")
        self.fill_resumes = counter(
            "fill_resumes", "Broken downloads continued.", "upstream", "endpoint"
        )
        self.evicted_blobs = counter("evicted_blobs", "Blobs removed to make room.")
        self.evicted_bytes = counter("evicted_bytes", "Bytes removed to make room.")

    def announce(self, upstream: str, endpoints: Iterable[str]) -> None:
        """Show an upstream's counters at zero, before anything has happened to it.

        Prometheus sees no increase in a series that begins at 1: what is not announced loses its
        first event, and an alert on rare events (a digest mismatch) would sleep through it.
        """
        self._shown.upstreams.append(upstream)
        for outcome in Outcome:
            self.fills.labels(upstream, outcome)
        for endpoint in endpoints:
            self.upstream_bytes.labels(upstream, endpoint)
            self.fill_resumes.labels(upstream, endpoint)

    def watch_store(self, read: Callable[[], StoreTotals], *, limit_bytes: int) -> None:
        """Report the store's totals, read at each scrape."""
        self.registry.register(_StoreCollector(read, limit_bytes))

    def exposition(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"mirror_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"mirror_{name}", help_text, labels, registry=self.registry)

    def _histogram(
        self, name: str, help_text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"mirror_{name}", help_text, labels, buckets=buckets, registry=self.registry
        )


class _StoreCollector(Collector):
    def __init__(self, read: Callable[[], StoreTotals], limit_bytes: int) -> None:
        self._read = read
        self._limit_bytes = limit_bytes

    def collect(self) -> list[Metric]:
        totals = self._read()
        return [
            GaugeMetricFamily("mirror_store_blobs", "Blobs on disk.", totals.blobs),
            GaugeMetricFamily("mirror_store_bytes", "Bytes of blobs on disk.", totals.bytes),
            GaugeMetricFamily(
                "mirror_store_referenced_bytes",
                "Bytes there would be without deduplication.",
                totals.referenced_bytes,
            ),
            GaugeMetricFamily(
                "mirror_store_limit_bytes",
                "Bytes that blobs may take (store.max_size).",
                self._limit_bytes,
            ),
        ]

"""Metrics read at each scrape from what knows them: traffic, the store, the process, faults."""

from collections import Counter as Count
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from mirror.telemetry.faults import TASKS, Faults
from mirror.telemetry.traffic import SECONDS, Kind, Result, Tally, Traffic

_BOUNDS = (*(f"{bound:.16g}" for bound in SECONDS[:-1]), "+Inf")


@dataclass(frozen=True, slots=True)
class StoreTotals:
    """What the store holds; sizes are in bytes."""

    blobs: int = 0
    bytes: int = 0


class ProcessFigures(Collector):
    """The library's, which looks while nobody waits for it."""

    def __init__(self) -> None:
        self._seen: list[Metric] = []

    def look(self) -> None:
        """See what it takes now. It reads files."""
        self._seen = [*ProcessCollector(registry=None).collect()]

    def collect(self) -> list[Metric]:
        """As of the last look."""
        return self._seen


class FaultsCollector(Collector):
    """Counts what has gone wrong inside, by task."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def collect(self) -> list[Metric]:
        """One family; each of TASKS stands in it from the start."""
        help_text = "Faults of the mirror's own; each is in the log."
        counts: dict[tuple[str, ...], int] = {
            (task,): self._faults.counts[task] for task in (*TASKS, *self._faults.counts)
        }
        return [_counted("internal_errors", help_text, "task", counts)]


class StoreCollector(Collector):
    """Tells what the store holds, and may."""

    def __init__(
        self,
        read: Callable[[], StoreTotals],
        read_disk: Callable[[], int],
        read_limit: Callable[[], int],
    ) -> None:
        self._read = read
        self._read_disk = read_disk
        self._read_limit = read_limit

    def collect(self) -> list[Metric]:
        """As of this moment."""
        totals = self._read()
        return [
            GaugeMetricFamily("mirror_store_blobs", "Blobs on disk.", totals.blobs),
            GaugeMetricFamily("mirror_store_bytes", "Bytes of blobs on disk.", totals.bytes),
            GaugeMetricFamily(
                "mirror_store_disk_bytes",
                "Bytes of the disk that all of the store takes, or may take any moment: blobs,"
                " downloads, databases, directories.",
                self._read_disk(),
            ),
            GaugeMetricFamily(
                "mirror_store_limit_bytes",
                "Bytes that all of the store may take of the disk (store.max_size).",
                self._read_limit(),
            ),
        ]


class TrafficCollector(Collector):
    """Makes metrics of it. `announced`: series that begin at zero (see `Metrics.announce`)."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self.upstreams: list[str] = []

    def collect(self) -> list[Metric]:
        """Every family, for a scrape."""
        requests: Count[tuple[str, ...]] = Count()
        lookups: Count[tuple[str, ...]] = Count(
            {
                (name, kind, result): 0
                for name in self.upstreams
                for kind in Kind
                for result in Result
            }
        )
        served: Count[tuple[str, ...]] = Count(
            {(name, result): 0 for name in self.upstreams for result in Result}
        )
        durations: dict[tuple[str, ...], Tally] = {}
        answers: dict[tuple[str, ...], Tally] = {}
        for sort, tally in self._traffic:
            number = sum(tally.counts)
            requests[sort.upstream, sort.kind or "none", sort.method, str(sort.status)] += number
            if sort.kind is None or not sort.upstream or sort.result is None:
                continue
            lookups[sort.upstream, sort.kind, sort.result] += number
            served[sort.upstream, sort.result] += tally.sent
            _add(durations.setdefault((sort.kind, sort.result), Tally()), tally)
            _add(answers.setdefault((sort.upstream, sort.result), Tally()), tally)
        return [
            _counted("requests", "Requests answered.", "upstream kind method status", requests),
            _counted("lookups", "How lookups went.", "upstream kind result", lookups),
            _counted("served_bytes", "Body bytes sent to clients.", "upstream result", served),
            _timed("request_seconds", "Time to answer, whole body.", "kind result", durations),
            _timed(
                "answer_seconds", "The same, by upstream and result.", "upstream result", answers
            ),
        ]


def _add(total: Tally, more: Tally) -> None:
    total.counts = [sum(both) for both in zip(total.counts, more.counts, strict=True)]
    total.seconds += more.seconds


def _counted(
    name: str, help_text: str, labels: str, values: Mapping[tuple[str, ...], int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"mirror_{name}", help_text, labels=labels.split())
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _timed(
    name: str, help_text: str, labels: str, durations: Mapping[tuple[str, ...], Tally]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(f"mirror_{name}", help_text, labels=labels.split())
    for key, tally in durations.items():
        buckets = list(zip(_BOUNDS, accumulate(tally.counts), strict=True))
        family.add_metric(key, buckets, tally.seconds)
    return family

"""What clients asked for and were given: counted in each worker, shown by the mirror's process.

A request is counted in one entry for all that is told of it; the metrics that are made of the
entries are worked out when Prometheus comes, and not with every request.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Kind(StrEnum):
    """What a lookup was for."""

    TAG = "tag"
    MANIFEST = "manifest"
    BLOB = "blob"
    REFERRERS = "referrers"
    TAGS = "tags"


class Result(StrEnum):
    """How a lookup went (glossary in mirror/README.md)."""

    HIT = "hit"
    MISS = "miss"
    JOINED = "joined"
    REVALIDATED = "revalidated"
    STALE = "stale"
    LINKED = "linked"
    NEGATIVE = "negative"
    DENIED = "denied"
    ERROR = "error"


# Pulls range from a manifest out of memory to a layer over a slow line.
_SECONDS = (0.001, 0.0025, 0.01, 0.05, 0.25, 1, 2.5, 5, 15, 60, 300, 1800, float("inf"))
_BOUNDS = (*(f"{bound:.16g}" for bound in _SECONDS[:-1]), "+Inf")


class Sort(NamedTuple):
    """What requests are told apart by; every value comes from a closed set, or from us.

    `kind` and `result` are None where no lookup was made, or where the client left too early.
    """

    upstream: str
    kind: Kind | None
    method: str
    status: int
    result: Result | None


@dataclass(slots=True)
class _Tally:
    """Of one sort of requests: how many took how long, and how many bytes of content they sent."""

    counts: list[int] = field(default_factory=lambda: [0] * len(_SECONDS))
    seconds: float = 0.0
    sent: int = 0


class Traffic:
    """Counts requests."""

    def __init__(self) -> None:
        self._tallies: dict[Sort, _Tally] = {}

    def count(self, sort: Sort, seconds: float, sent: int) -> None:
        """Count a request that took so long, and sent so many bytes of content."""
        tally = self._tallies.get(sort)
        if tally is None:
            tally = self._tallies[sort] = _Tally()
        tally.counts[bisect_left(_SECONDS, seconds)] += 1
        tally.seconds += seconds
        tally.sent += sent

    def add(self, other: "Traffic") -> None:
        """Count what another has counted."""
        for sort, more in other:
            tally = self._tallies.setdefault(sort, _Tally())
            tally.counts = [sum(both) for both in zip(tally.counts, more.counts, strict=True)]
            tally.seconds += more.seconds
            tally.sent += more.sent

    def take(self) -> "Traffic":
        """What has been counted; counting begins anew."""
        taken = Traffic()
        taken._tallies, self._tallies = self._tallies, {}
        return taken

    def __iter__(self) -> Iterator[tuple[Sort, _Tally]]:
        return iter(self._tallies.items())


class TrafficCollector(Collector):
    """Makes metrics of it. `announced`: series that begin at zero (see `Metrics.announce`)."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self.upstreams: list[str] = []

    def collect(self) -> list[Metric]:
        """Every family, for a scrape."""
        requests: Counter[tuple[str, ...]] = Counter()
        lookups: Counter[tuple[str, ...]] = Counter(
            {
                (name, kind, result): 0
                for name in self.upstreams
                for kind in Kind
                for result in Result
            }
        )
        served: Counter[tuple[str, ...]] = Counter(
            {(name, result): 0 for name in self.upstreams for result in Result}
        )
        durations: dict[tuple[str, ...], _Tally] = {}
        for sort, tally in self._traffic:
            number = sum(tally.counts)
            requests[sort.upstream, sort.kind or "none", sort.method, str(sort.status)] += number
            if sort.kind is None or not sort.upstream or sort.result is None:
                continue
            lookups[sort.upstream, sort.kind, sort.result] += number
            served[sort.upstream, sort.result] += tally.sent
            total = durations.setdefault((sort.kind, sort.result), _Tally())
            total.counts = [sum(both) for both in zip(total.counts, tally.counts, strict=True)]
            total.seconds += tally.seconds
        return [
            _counter("requests", "Requests answered.", "upstream kind method status", requests),
            _counter("lookups", "How lookups went.", "upstream kind result", lookups),
            _counter("served_bytes", "Body bytes sent to clients.", "upstream result", served),
            _histogram(durations),
        ]


def _counter(
    name: str, help_text: str, labels: str, values: Mapping[tuple[str, ...], int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"mirror_{name}", help_text, labels=labels.split())
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(durations: Mapping[tuple[str, ...], _Tally]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(
        "mirror_request_seconds", "Time to answer, whole body.", labels=("kind", "result")
    )
    for key, tally in durations.items():
        buckets = list(zip(_BOUNDS, accumulate(tally.counts), strict=True))
        family.add_metric(key, buckets, tally.seconds)
    return family

"""Metrics of pushes: what clients bring, what goes out for it, and what need not."""

from collections.abc import Callable, Iterable
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge


class PushKind(StrEnum):
    """What a request of a push is for."""

    BEGIN = "begin"
    STATUS = "status"
    BYTES = "bytes"
    FINISH = "finish"
    CANCEL = "cancel"
    BLOB = "blob"  # whether it is there
    MANIFEST = "manifest"


class PushOutcome(StrEnum):
    """How it went."""

    DONE = "done"
    REFUSED = "refused"
    DENIED = "denied"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"


class PushCounts:
    """Counted in the mirror's process. Labels come from the configuration and closed sets."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"mirror_push_{name}", about, labels, registry=registry)

        self._registry = registry
        self._requests = counter(
            "requests", "Requests of pushes answered.", "upstream", "kind", "outcome"
        )
        self._received = counter("received_bytes", "Bytes that clients have brought.", "upstream")
        self._sent = counter("sent_bytes", "Bytes sent to the registry, also again.", "upstream")
        self._resumed = counter("resumes", "Broken uploads continued.", "upstream")
        self._spared = counter(
            "spared_bytes", "Bytes pushed that did not have to be sent.", "upstream"
        )

    def announce(self, upstreams: Iterable[str]) -> None:
        """Show at zero what is counted of these, before anything has happened to them."""
        for upstream in upstreams:
            for counted in (self._received, self._sent, self._resumed, self._spared):
                counted.labels(upstream)
            for kind in PushKind:
                for outcome in PushOutcome:
                    self._requests.labels(upstream, kind, outcome)

    def watch(self, uploads: Callable[[], int], spooled: Callable[[], int]) -> None:
        """Report how many uploads there are, and what is spooled of them, read at each scrape."""
        for name, about, read in (
            ("uploads", "Uploads that were begun and not ended.", uploads),
            ("spool_bytes", "Bytes of the disk that they take.", spooled),
        ):
            Gauge(f"mirror_push_{name}", about, registry=self._registry).set_function(read)

    def answered(self, upstream: str, kind: PushKind, outcome: PushOutcome) -> None:
        """A request was answered."""
        self._requests.labels(upstream, kind, outcome).inc()

    def received(self, upstream: str, size: int) -> None:
        """A client has brought so many bytes."""
        self._received.labels(upstream).inc(size)

    def sent(self, upstream: str, size: int) -> None:
        """So many have gone to the registry."""
        self._sent.labels(upstream).inc(size)

    def resumed(self, upstream: str) -> None:
        """An upload goes on where it broke."""
        self._resumed.labels(upstream).inc()

    def spared(self, upstream: str, size: int) -> None:
        """So many bytes have not had to be sent: they were on their way, or there, already."""
        self._spared.labels(upstream).inc(size)

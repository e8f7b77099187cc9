"""The mirror's Prometheus metrics.

One instance belongs to one application; nothing is global. Label values come from the
configuration and from the closed sets below: a request can never mint a new one.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import StrEnum

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from mirror import __version__
from mirror.telemetry.asked import Entry
from mirror.telemetry.collectors import (
    FaultsCollector,
    ProcessFigures,
    StoreCollector,
    StoreTotals,
    TrafficCollector,
)
from mirror.telemetry.faults import Faults
from mirror.telemetry.mismatches import Mismatches
from mirror.telemetry.traffic import Traffic


class FillOutcome(StrEnum):
    """How a fill ended."""

    COMMITTED = "committed"
    MISMATCH = "mismatch"
    MISSING = "missing"
    DENIED = "denied"
    UNAVAILABLE = "unavailable"
    NO_ROOM = "no_room"
    RESTED = "rested"  # nobody waits for what is lacking (fill.whole = "never")
    STOPPED = "stopped"  # with the mirror; or nobody waited for it when its turn came
    FAILED = "failed"


class PassedThrough(StrEnum):
    """What of a blob a client was given past the disk."""

    ALL = "all"  # it could not be kept
    REST = "rest"  # the disk refused in the middle


# A gauge beside every counter that says when it began: twice the series, and no rule asks for it.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library types it so

_UPSTREAM_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)


class ReloadOutcome(StrEnum):
    """How reading certificates and passwords anew went; `failed`: some of the old stay in use."""

    DONE = "done"
    FAILED = "failed"


class NoticeOutcome(StrEnum):
    """How telling somebody went; `dropped`: too many wait to be told."""

    DELIVERED = "delivered"
    FAILED = "failed"
    DROPPED = "dropped"


class Database(StrEnum):
    """What is on this disk, and what registries have said."""

    INDEX = "index"
    RECORDS = "records"


class PinState(StrEnum):
    """How a pinned image stands; `refused`: it is too large."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    REFUSED = "refused"


class Metrics:
    """Every metric, ready to be counted on."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.traffic = Traffic()
        self.faults = Faults()
        self.mismatches = Mismatches()
        self._shown = TrafficCollector(self.traffic)
        self.registry.register(self._shown)
        self.registry.register(FaultsCollector(self.faults))
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
        self.upstream_credential_failures = counter(
            "upstream_credential_failures",
            "The mirror's own credentials were refused, or could not be had.",
            "upstream", "endpoint",
        )  # fmt: skip
        self.upstream_slow_bodies = counter(
            "upstream_slow_bodies",
            "Bodies of blobs that were left since they brought less than fill.min_rate.",
            "upstream", "endpoint",
        )  # fmt: skip
        self.upstream_fallback_answers = counter(
            "upstream_fallback_answers",
            'Answers about tags by endpoints with tags = "fallback".',
            "upstream", "endpoint",
        )  # fmt: skip
        self.repositories_unrecorded = counter(
            "repositories_unrecorded",
            "Answers about repositories that were not put on record: too many are new.",
            "upstream",
        )  # fmt: skip
        self.ratelimit_limit = gauge(
            "upstream_ratelimit_limit", "Pulls allowed per window, by upstream's word.",
            "upstream", "endpoint",
        )  # fmt: skip
        self.ratelimit_remaining = gauge(
            "upstream_ratelimit_remaining", "Pulls left in this window, by upstream's word.",
            "upstream", "endpoint",
        )  # fmt: skip
        self.connections_refused = counter(
            "connections_refused", "Connections closed at once: their client has too many."
        )
        self.fills_active = gauge("fills_active", "Downloads in flight.")
        self.fill_readers = gauge("fill_readers", "Clients reading from downloads in flight.")
        self.fills = counter("fills", "Downloads ended.", "upstream", "outcome")
        self.fill_resumes = counter(
            "fill_resumes", "Broken downloads continued.", "upstream", "endpoint"
        )
        self.passed_through = counter(
            "passed_through", "Answers for which bytes went past the disk.", "upstream", "part"
        )
        self.reloads = counter(
            "reloads", "Settings, certificates and passwords read anew while serving.", "outcome"
        )
        self.certificate_ends = gauge(
            "certificate_expiry_timestamp_seconds",
            "When the first certificate of a file ends, in seconds since the epoch.",
            "setting",
        )
        self._process = ProcessFigures()
        self.registry.register(self._process)
        self._count_on_disk()

        self._count_rest()

    def note_asked(self, entries: Iterable[Entry]) -> None:
        """Count why requests went as they did, of what workers tell of them now and then."""
        for asked, answers in entries:
            self.reasons.labels(asked.upstream, asked.why).inc(answers.count)

    def _count_rest(self) -> None:
        self.reasons = self._counter("reasons", "Why requests went as they did.", "upstream", "why")
        about = "1; which mirror this is."
        self.upstream_paused = self._gauge(
            "upstream_paused", "1 where an operator has it asked nothing.", "upstream", "endpoint"
        )
        self.upstream_credentials_refused = self._gauge(
            "upstream_credentials_refused",
            "1 while the mirror's own credentials are refused, or cannot be had.",
            "upstream", "endpoint",
        )  # fmt: skip
        self._gauge("build_info", about, "version").labels(__version__).set(1)
        for reload_outcome in ReloadOutcome:
            self.reloads.labels(reload_outcome)
        self.notices = self._counter("notices", "Notices for webhooks ([[notify]]).", "outcome")
        for outcome in NoticeOutcome:
            self.notices.labels(outcome)

    def _count_on_disk(self) -> None:
        counter, gauge = self._counter, self._gauge
        self.evicted_blobs = counter("evicted_blobs", "Blobs removed to make room.")
        self.evicted_bytes = counter("evicted_bytes", "Bytes removed to make room.")
        self.forgotten_digests = counter(
            "forgotten_digests",
            "Digests not here, and not pulled for long: all about them is forgotten.",
        )
        self.catalog_bytes = gauge(
            "catalog_bytes", "Bytes of the databases, without their WAL.", "database"
        )
        for database in Database:
            self.catalog_bytes.labels(database)
        self.damaged_blobs = counter(
            "damaged_blobs", "Blobs that were not what they should be; set aside."
        )
        self.pins = gauge("pins", "Pinned images.", "state")
        for pin_state in PinState:
            self.pins.labels(pin_state)
        self.scrubbed_blobs = counter("scrubbed_blobs", "Blobs hashed again.")
        self.scrubbed_bytes = counter("scrubbed_bytes", "Bytes of blobs hashed again.")
        self.scrub_overdue = gauge(
            "scrub_overdue_blobs", "Blobs that were not hashed within store.scrub_interval."
        )

    def announce(self, upstream: str, endpoints: Iterable[str]) -> None:
        """Show an upstream's counters at zero, before anything has happened to it.

        Prometheus sees no increase in a series that begins at 1: what is not announced loses its
        first event, and an alert on rare events (a digest mismatch) would sleep through it.
        """
        if upstream not in self._shown.upstreams:
            self._shown.upstreams.append(upstream)
        for outcome in FillOutcome:
            self.fills.labels(upstream, outcome)
        self.repositories_unrecorded.labels(upstream)
        for part in PassedThrough:
            self.passed_through.labels(upstream, part)
        for endpoint in endpoints:
            self.upstream_bytes.labels(upstream, endpoint)
            self.upstream_paused.labels(upstream, endpoint)
            self.upstream_credential_failures.labels(upstream, endpoint)
            self.upstream_fallback_answers.labels(upstream, endpoint)
            self.upstream_slow_bodies.labels(upstream, endpoint)
            self.fill_resumes.labels(upstream, endpoint)

    def forget_endpoint(self, upstream: str, endpoint: str) -> None:
        """It is configured no longer: whether it is up concerns nobody."""
        for gauge in (
            self.upstream_up, self.upstream_paused, self.ratelimit_limit, self.ratelimit_remaining,
            self.upstream_credentials_refused,
        ):  # fmt: skip
            with suppress(KeyError):
                gauge.remove(upstream, endpoint)

    def watch_store(
        self,
        read: Callable[[], StoreTotals],
        *,
        read_disk: Callable[[], int],
        read_limit: Callable[[], int],
    ) -> None:
        """Report the store's totals, read at each scrape."""
        self.registry.register(StoreCollector(read, read_disk, read_limit))

    def watch_connections(self, read: Callable[[], int]) -> None:
        """Report how many connections clients have, read at each scrape."""
        Gauge("mirror_connections", "Connections of clients.", registry=self.registry).set_function(
            read
        )

    def watch_waiting(self, read: Callable[[], int]) -> None:
        """Report how many downloads wait for a slot, read at each scrape."""
        Gauge(
            "mirror_fills_waiting", "Downloads that wait for a slot.", registry=self.registry
        ).set_function(read)

    def watch_disk(self, read_free: Callable[[], int], read_min_free: Callable[[], int]) -> None:
        """Report what is free of the file system, and what shall be, read at each scrape."""
        for name, about, read in (
            ("free", "Bytes free on the store's file system.", read_free),
            ("min_free", "Bytes that shall stay free there (store.min_free).", read_min_free),
        ):
            Gauge(f"mirror_store_{name}_bytes", about, registry=self.registry).set_function(read)

    def watch_referenced(self, read: Callable[[], int]) -> None:
        """Report what the store would take without deduplication, read at each scrape."""
        Gauge(
            "mirror_store_referenced_bytes",
            "Bytes there would be without deduplication; counted every few minutes.",
            registry=self.registry,
        ).set_function(read)

    def look_at_process(self) -> None:
        """See what this process takes, for the next scrape. It reads files: not for event loops."""
        self._process.look()

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

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mirror.telemetry.collectors import StoreTotals
from mirror.telemetry.metrics import Metrics
from mirror.telemetry.traffic import Kind, Result, Sort

# The contract with dashboards and alerts: name, type, labels.
CONTRACT = {
    "mirror_requests_total": ("counter", "upstream kind method status"),
    "mirror_request_seconds": ("histogram", "kind result"),
    "mirror_answer_seconds": ("histogram", "upstream result"),
    "mirror_lookups_total": ("counter", "upstream kind result"),
    "mirror_served_bytes_total": ("counter", "upstream result"),
    "mirror_upstream_requests_total": ("counter", "upstream endpoint kind method status"),
    "mirror_upstream_bytes_total": ("counter", "upstream endpoint"),
    "mirror_upstream_seconds": ("histogram", "upstream endpoint kind"),
    "mirror_upstream_paused": ("gauge", "upstream endpoint"),
    "mirror_reasons_total": ("counter", "upstream why"),
    "mirror_notices_total": ("counter", "outcome"),
    "mirror_reloads_total": ("counter", "outcome"),
    "mirror_upstream_credential_failures_total": ("counter", "upstream endpoint"),
    "mirror_upstream_credentials_refused": ("gauge", "upstream endpoint"),
    "mirror_upstream_fallback_answers_total": ("counter", "upstream endpoint"),
    "mirror_upstream_slow_bodies_total": ("counter", "upstream endpoint"),
    "mirror_repositories_unrecorded_total": ("counter", "upstream"),
    "mirror_upstream_up": ("gauge", "upstream endpoint"),
    "mirror_upstream_ratelimit_limit": ("gauge", "upstream endpoint"),
    "mirror_upstream_ratelimit_remaining": ("gauge", "upstream endpoint"),
    "mirror_fills_active": ("gauge", ""),
    "mirror_fill_readers": ("gauge", ""),
    "mirror_fills_total": ("counter", "upstream outcome"),
    "mirror_fill_resumes_total": ("counter", "upstream endpoint"),
    "mirror_passed_through_total": ("counter", "upstream part"),
    "mirror_store_blobs": ("gauge", ""),
    "mirror_store_bytes": ("gauge", ""),
    "mirror_store_disk_bytes": ("gauge", ""),
    "mirror_store_referenced_bytes": ("gauge", ""),
    "mirror_store_limit_bytes": ("gauge", ""),
    "mirror_evicted_blobs_total": ("counter", ""),
    "mirror_evicted_bytes_total": ("counter", ""),
    "mirror_forgotten_digests_total": ("counter", ""),
    "mirror_catalog_bytes": ("gauge", "database"),
    "mirror_damaged_blobs_total": ("counter", ""),
    "mirror_scrubbed_blobs_total": ("counter", ""),
    "mirror_scrubbed_bytes_total": ("counter", ""),
    "mirror_scrub_overdue_blobs": ("gauge", ""),
    "mirror_pins": ("gauge", "state"),
    "mirror_connections": ("gauge", ""),
    "mirror_connections_refused_total": ("counter", ""),
    "mirror_internal_errors_total": ("counter", "task"),
    "mirror_build_info": ("gauge", "version"),
    "mirror_certificate_expiry_timestamp_seconds": ("gauge", "setting"),
    "mirror_fills_waiting": ("gauge", ""),
    "mirror_store_free_bytes": ("gauge", ""),
    "mirror_store_min_free_bytes": ("gauge", ""),
}


@pytest.fixture
def metrics() -> Metrics:
    """Each metric, touched once."""
    metrics = Metrics()
    where = {"upstream": "docker.io", "endpoint": "registry-1.docker.io"}
    asked = {"kind": "blob", "method": "GET", "status": "200"}
    metrics.traffic.count(Sort("docker.io", Kind.BLOB, "GET", 200, Result.HIT), 0.1, 100)
    metrics.upstream_requests.labels(**where, **asked).inc()
    metrics.upstream_bytes.labels(**where).inc()
    metrics.upstream_fallback_answers.labels(**where).inc()
    metrics.upstream_slow_bodies.labels(**where).inc()
    metrics.repositories_unrecorded.labels(upstream="docker.io").inc()
    metrics.upstream_credential_failures.labels(**where).inc()
    metrics.upstream_seconds.labels(**where, kind="blob").observe(0.1)
    for gauge in (
        metrics.upstream_up,
        metrics.upstream_paused,
        metrics.upstream_credentials_refused,
        metrics.ratelimit_limit,
        metrics.ratelimit_remaining,
    ):
        gauge.labels(**where).set(1)
    metrics.reasons.labels(upstream="docker.io", why="never-seen").inc()
    metrics.fills_active.inc()
    metrics.fill_readers.inc()
    metrics.fills.labels(upstream="docker.io", outcome="committed").inc()
    metrics.fill_resumes.labels(**where).inc()
    metrics.passed_through.labels(upstream="docker.io", part="all").inc()
    metrics.evicted_blobs.inc()
    metrics.evicted_bytes.inc(7)
    metrics.watch_store(
        lambda: StoreTotals(2, 300), read_disk=lambda: 4096, read_limit=lambda: 1000
    )
    metrics.watch_referenced(lambda: 500)
    metrics.watch_connections(lambda: 3)
    metrics.watch_waiting(lambda: 2)
    metrics.watch_disk(read_free=lambda: 5, read_min_free=lambda: 3)
    metrics.certificate_ends.labels(setting="tls_certificate_file").set(1)
    return metrics


def samples(metrics: Metrics) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


def test_the_metrics_are_those_that_dashboards_rely_on(metrics: Metrics) -> None:
    found = {}
    metrics.look_at_process()
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        assert family.documentation.endswith("."), family.name
        counted = [each for each in family.samples if not each.name.endswith("_created")]
        labels = set(counted[0].labels) - {"le"}
        name = counted[0].name if family.type == "counter" else family.name
        found[name] = (family.type, labels)
    process = {name for name in found if name.startswith("process_")}
    assert {"process_resident_memory_bytes", "process_open_fds"} <= process
    ours = {name: it for name, it in found.items() if name not in process}
    assert ours == {name: (kind, set(labels.split())) for name, (kind, labels) in CONTRACT.items()}


def test_the_store_is_asked_at_each_scrape() -> None:
    metrics = Metrics()
    totals = StoreTotals()
    metrics.watch_store(lambda: totals, read_disk=lambda: 8192, read_limit=lambda: 1000)
    metrics.watch_referenced(lambda: 500)
    assert samples(metrics)["mirror_store_blobs"] == 0
    totals = StoreTotals(blobs=2, bytes=300)
    found = samples(metrics)
    assert found["mirror_store_blobs"] == 2
    assert found["mirror_store_bytes"] == 300
    assert found["mirror_store_disk_bytes"] == 8192
    assert found["mirror_store_referenced_bytes"] == 500
    assert found["mirror_store_limit_bytes"] == 1000


def test_two_mirrors_in_one_process_count_apart() -> None:
    one, two = Metrics(), Metrics()
    one.evicted_blobs.inc()
    assert samples(one)["mirror_evicted_blobs_total"] == 1
    assert samples(two)["mirror_evicted_blobs_total"] == 0


def test_kinds_and_results_are_the_closed_sets_of_the_glossary() -> None:
    assert " ".join(Kind) == "tag manifest blob referrers tags"
    assert " ".join(Result) == "hit miss joined revalidated stale linked negative denied error"

"""Counting requests in one place, adding them up in another, and what Prometheus is shown."""

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mirror.telemetry.metrics import Metrics
from mirror.telemetry.traffic import Kind, Result, Sort, Tally, Traffic
from tests.support.mirror import sample

HIT = Sort("docker.io", Kind.BLOB, "GET", 200, Result.HIT)
MISS = Sort("docker.io", Kind.BLOB, "GET", 200, Result.MISS)
PING = Sort("", None, "GET", 200, None)
LEFT = Sort("docker.io", Kind.BLOB, "GET", 499, None)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def shown(metrics: Metrics, name: str, **labels: str) -> float:
    return sample(metrics.exposition().decode(), f"mirror_{name}", **labels)


def test_a_request_counts_in_everything_that_it_is_part_of(metrics: Metrics) -> None:
    metrics.traffic.count(HIT, 0.5, 100)
    metrics.traffic.count(HIT, 0.25, 20)
    metrics.traffic.count(MISS, 2.0, 3)
    hub = {"upstream": "docker.io"}
    lookup = hub | {"kind": "blob"}
    assert shown(metrics, "requests_total", **lookup, method="GET", status="200") == 3
    assert shown(metrics, "lookups_total", **lookup, result="hit") == 2
    assert shown(metrics, "lookups_total", **lookup, result="miss") == 1
    assert shown(metrics, "served_bytes_total", **hub, result="hit") == 120
    assert shown(metrics, "served_bytes_total", **hub) == 123
    assert shown(metrics, "request_seconds_count", kind="blob", result="hit") == 2
    assert shown(metrics, "request_seconds_sum", kind="blob", result="hit") == 0.75


def test_requests_of_several_upstreams_are_told_apart_but_for_their_time(metrics: Metrics) -> None:
    metrics.traffic.count(HIT, 1, 10)
    metrics.traffic.count(HIT._replace(upstream="ghcr.io"), 2, 20)
    assert shown(metrics, "lookups_total", upstream="ghcr.io") == 1
    assert shown(metrics, "served_bytes_total", upstream="docker.io") == 10
    assert shown(metrics, "request_seconds_count", kind="blob", result="hit") == 2
    assert shown(metrics, "request_seconds_sum", kind="blob", result="hit") == 3


@pytest.mark.parametrize("sort", [PING, LEFT, HIT._replace(upstream="")])
def test_a_request_without_a_lookup_is_a_request_and_nothing_more(
    metrics: Metrics, sort: Sort
) -> None:
    metrics.traffic.count(sort, 1, 10)
    asked = {"upstream": sort.upstream, "kind": sort.kind or "none", "status": str(sort.status)}
    assert shown(metrics, "requests_total", **asked) == 1
    for other in ("lookups_total", "served_bytes_total", "request_seconds_count"):
        assert shown(metrics, other) == 0


def test_a_bucket_holds_all_that_took_no_longer(metrics: Metrics) -> None:
    for seconds in (0.0, 0.001, 0.0011, 0.04, 0.05, 1800.0, 5000.0):
        metrics.traffic.count(HIT, seconds, 0)
    expected = {
        "0.001": 2, "0.0025": 3, "0.01": 3, "0.05": 5, "0.25": 5, "1": 5, "2.5": 5, "5": 5,
        "15": 5, "60": 5, "300": 5, "1800": 6, "+Inf": 7,
    }  # fmt: skip
    assert {
        bound: shown(metrics, "request_seconds_bucket", le=bound, kind="blob", result="hit")
        for bound in expected
    } == expected
    assert metrics.exposition().count(b"mirror_request_seconds_bucket{") == len(expected)


def test_an_upstreams_counters_begin_at_zero(metrics: Metrics) -> None:
    assert b"docker.io" not in metrics.exposition()
    metrics.announce("docker.io", ["registry-1.docker.io"])
    metrics.announce("ghcr.io", [])
    series = {
        (found.name, *(found.labels.get(label) for label in ("upstream", "kind", "result")))
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for found in family.samples
        if found.value == 0
    }
    for upstream in ("docker.io", "ghcr.io"):
        for result in Result:
            assert ("mirror_served_bytes_total", upstream, None, result) in series
            for kind in Kind:
                assert ("mirror_lookups_total", upstream, kind, result) in series


def test_what_is_announced_counts_on_from_zero_with_all_others_where_they_were(
    metrics: Metrics,
) -> None:
    metrics.announce("docker.io", [])
    metrics.traffic.count(HIT, 1, 10)
    for _ in range(2):  # showing changes nothing
        assert shown(metrics, "lookups_total") == 1
        assert shown(metrics, "served_bytes_total") == 10
    assert metrics.exposition().count(b"mirror_lookups_total{") == len(Kind) * len(Result)


def test_what_several_have_counted_adds_up(metrics: Metrics) -> None:
    one, other = Traffic(), Traffic()
    one.count(HIT, 0.5, 10)
    one.count(PING, 0.1, 2)
    other.count(HIT, 0.25, 20)
    other.count(MISS, 100, 30)
    for counted in (one, other):
        metrics.traffic.add(counted)
    other.count(HIT, 1, 1000)  # is not told of yet
    assert shown(metrics, "requests_total") == 4
    assert shown(metrics, "lookups_total", result="hit") == 2
    assert shown(metrics, "lookups_total", result="miss") == 1
    assert shown(metrics, "served_bytes_total") == 60
    assert shown(metrics, "request_seconds_sum", result="hit") == 0.75
    assert shown(metrics, "request_seconds_bucket", result="hit", le="0.25") == 1
    assert shown(metrics, "request_seconds_bucket", result="hit", le="1") == 2


def test_adding_up_leaves_what_is_added_as_it_was(metrics: Metrics) -> None:
    counted = Traffic()
    counted.count(HIT, 1, 10)
    metrics.traffic.add(counted)
    metrics.traffic.count(HIT, 1, 10)
    metrics.traffic.add(counted)
    assert shown(metrics, "requests_total") == 3
    assert shown(metrics, "served_bytes_total") == 30


def test_what_is_taken_is_counted_once(metrics: Metrics) -> None:
    traffic = Traffic()
    traffic.count(HIT, 1, 10)
    taken = traffic.take()
    traffic.count(HIT, 1, 7)
    metrics.traffic.add(taken)
    assert shown(metrics, "served_bytes_total") == 10
    metrics.traffic.add(traffic.take())
    metrics.traffic.add(traffic.take())  # there is nothing left
    assert shown(metrics, "served_bytes_total") == 17
    assert shown(metrics, "requests_total") == 2


def test_counts_are_the_same_in_another_process(metrics: Metrics) -> None:
    traffic = Traffic()
    traffic.count(HIT, 0.25, 10)
    report = msgspec.msgpack.decode(
        msgspec.msgpack.encode([*traffic]), type=list[tuple[Sort, Tally]]
    )
    metrics.traffic.add(report)
    assert shown(metrics, "lookups_total", upstream="docker.io", kind="blob", result="hit") == 1
    assert shown(metrics, "request_seconds_sum", kind="blob", result="hit") == 0.25

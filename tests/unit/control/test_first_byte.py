"""Quantiles of upstream's time to first byte, out of the metric's own buckets."""

import pytest

from mirror.control.first_byte import FirstBytes, quantile
from mirror.telemetry.metrics import Metrics

INF = float("inf")


@pytest.mark.parametrize(
    ("within", "share", "expected"),
    [
        ([(1.0, 10.0), (INF, 10.0)], 0.5, 0.5),
        ([(1.0, 5.0), (2.0, 10.0), (INF, 10.0)], 0.9, 1.8),
        ([(1.0, 0.0), (2.0, 0.0), (INF, 4.0)], 0.5, 2.0),
        ([(1.0, 0.0), (2.0, 4.0), (INF, 4.0)], 0.0, 1.0),
    ],
)
def test_a_quantile_is_where_prometheus_has_it(
    within: list[tuple[float, float]], share: float, expected: float
) -> None:
    found = quantile(within, share)
    assert found == pytest.approx(expected) or (share == 0.0 and found <= expected)


def test_it_is_of_the_last_hour_and_of_what_a_pull_waits_for() -> None:
    metrics = Metrics()
    told = FirstBytes(metrics.upstream_seconds)
    told.sample(0)
    assert told.of("docker.io", "hub") is None
    blobs = metrics.upstream_seconds.labels("docker.io", "hub", "blob")
    metrics.upstream_seconds.labels("docker.io", "hub", "token").observe(15)
    for _ in range(9):
        blobs.observe(0.2)
    told.sample(20)
    found = told.of("docker.io", "hub")
    assert found is not None
    assert (found.answers, 0.1 < found.median <= 0.25) == (9, True)
    assert told.of("docker.io", "other") is None
    for number in range(1, 14):
        told.sample(20 + number * 300)
    assert told.of("docker.io", "hub") is None  # of late, nothing was asked
    blobs.observe(3)
    told.sample(5000)
    late = told.of("docker.io", "hub")
    assert late is not None
    assert late.answers == 1
    assert late.median > 2

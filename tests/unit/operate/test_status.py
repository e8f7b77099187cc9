"""`mirror status` as a person reads it."""

from io import StringIO

import pytest
from rich.console import Console

from mirror.control.acts import WarmSchedule
from mirror.control.models import (
    Endpoint,
    Fill,
    Health,
    Pause,
    Problem,
    PullQuota,
    Served,
    Status,
    Store,
)
from mirror.operate.status import show

MIB = 2**20


NOW = 1000 + 3 * 86400 + 7200


def endpoint(
    *, is_up: bool = True, pauses: list[Pause] | None = None, certificate_ends: float | None = None
) -> Endpoint:
    return Endpoint(
        upstream="docker.io", name="hub", url="https://hub", is_up=is_up,
        trouble=None if is_up else "hub cannot be reached", retry_seconds=0 if is_up else 61,
        pauses=pauses or [], quota=PullQuota(limit=100, remaining=76), received=3 * MIB,
        rate=1.5 * MIB, max_rate=2 * MIB,
        certificate_ends=certificate_ends,
    )  # fmt: skip


def status(*endpoints: Endpoint, problems: list[Problem] | None = None) -> Status:
    fill = Fill(
        upstream="docker.io", repository="docker.io/library/tomcat", digest=f"sha256:{'ab' * 32}",
        state="streaming", size=200 * MIB, written=50 * MIB, rate=1.5 * MIB, seconds_left=100,
        seconds=33, readers=2, endpoint="mirror.example",
    )  # fmt: skip
    return Status(
        version="1.0", started_at=1000, connections=7, waiting=1,
        health=Health(status="degraded" if problems else "ok", problems=problems or []),
        served=Served(
            requests=12, lookups=10, hits=9, bytes=9 * MIB, fetched=3 * MIB, saved=6 * MIB
        ),
        store=Store(
            root="/var/lib/mirror", blobs=42, bytes=3 * MIB, disk=4 * MIB,
                limit=100 * 2**30, free=2**40,
            min_free=2**31,
        ),
        endpoints=list(endpoints), fills=[fill], sealed=["old.example"],
        schedules=[
            WarmSchedule(
                image="docker.io/library/python:3.*-slim", at="30 3 * * *", next_at=346600,
                is_running=False, last_at=1000, last_failed=["python:3.9-slim: no"],
                last_done=4, last_fetched=3 * MIB,
            )
        ],
    )  # fmt: skip


def text(told: Status) -> str:
    written = StringIO()
    Console(file=written, width=140).print(show(told, now=NOW))
    return written.getvalue()


def test_it_is_told_in_units_that_people_use() -> None:
    shown = text(status(endpoint()))
    assert "up 3 d 2 h, ok" in shown
    assert "9.0 MiB in 12 requests, hits 90 %; fetched 3.0 MiB, saved 6.0 MiB" in shown
    assert "4.0 MiB of 100.0 GiB with 42 blobs at /var/lib/mirror; 1.0 TiB free" in shown
    assert "7 connections, 1 downloads (1 wait for a slot)" in shown
    assert "76 of 100" in shown
    assert "1.5 MiB/s of 2.0 MiB/s" in shown


def test_a_download_has_its_bar_rate_and_time_left() -> None:
    (line,) = [it for it in text(status(endpoint())).splitlines() if "tomcat" in it]
    assert line.split()[0] == "sha256:abababababab"
    assert {"━━━━━", "200.0", "1.5", "MiB/s", "1", "min", "40"} <= {*line.replace("╸", "").split()}


def test_an_endpoint_that_is_down_is_told_with_the_reason() -> None:
    problem = Problem(what="https://hub (docker.io) does not answer", why="hub cannot be reached")
    shown = text(status(endpoint(is_up=False), problems=[problem]))
    assert "degraded" in shown
    assert "! https://hub (docker.io) does not answer: hub cannot be reached" in shown
    assert "down, again in 1 min 1 s" in shown


def test_an_endpoint_that_limits_us_says_for_what_and_how_long() -> None:
    pauses = [Pause(requests="manifests", seconds=30)]
    assert "limited: manifests 30 s" in text(status(endpoint(pauses=pauses)))


@pytest.mark.parametrize(
    ("days", "says"),
    [(13.9, "ends in 13 days: 1970-01-"), (0.5, "ends in 0 days: 1970-01-"), (-1, "has ended")],
)
def test_a_certificate_of_an_endpoint_that_ends_soon_is_told_of(days: float, says: str) -> None:
    shown = text(status(endpoint(certificate_ends=NOW + days * 86400)))
    assert f"! the certificate of https://hub (docker.io) {says}" in shown


@pytest.mark.parametrize("ends", [None, NOW + 14 * 86400])
def test_a_certificate_that_lasts_is_not_told_of(ends: float | None) -> None:
    assert "certificate" not in text(status(endpoint(certificate_ends=ends)))


def test_what_is_fetched_by_the_clock_is_told_with_what_came_of_it() -> None:
    shown = text(status(endpoint()))
    assert "docker.io/library/python:3.*-slim" in shown
    assert "4 images, 3.0 MiB came; 1 failed" in shown
    assert "in 22 h 0 min" in shown


def test_an_upstream_that_is_never_asked_is_told_so() -> None:
    (line,) = [it for it in text(status(endpoint())).splitlines() if "old.example" in it]
    assert "sealed: never asked" in line

"""What workers report: labels of metrics come from the configuration, whoever sends them."""

from typing import Any

import pytest

from mirror.front.ports import Report
from mirror.front.wire.interface import Violation
from mirror.front.workers.reports import check_report
from mirror.telemetry.traffic import SECONDS, Kind, Result, Sort, Tally

SORT = Sort("docker.io", Kind.BLOB, "GET", 200, Result.HIT)
UPSTREAMS = {"docker.io"}


def report(sort: Sort = SORT, tally: Tally | None = None, **faults: int) -> Report:
    return Report([(sort, tally or Tally())], set(), faults, [])


def test_what_a_worker_counts_is_taken() -> None:
    check_report(report(answer=1), UPSTREAMS)
    check_report(report(SORT._replace(upstream="", kind=None, result=None)), UPSTREAMS)


@pytest.mark.parametrize(
    "wrong", [{"upstream": "made-up"}, {"method": "MADE-UP"}, {"status": 7}, {"status": 1000}]
)
def test_no_worker_mints_a_label(wrong: dict[str, Any]) -> None:
    with pytest.raises(Violation):
        check_report(report(SORT._replace(**wrong)), UPSTREAMS)


@pytest.mark.parametrize(
    "tally",
    [
        Tally(counts=[1]),
        Tally(counts=[-1] * len(SECONDS)),
        Tally(seconds=float("nan")),
        Tally(seconds=-1.0),
        Tally(sent=-1),
    ],
)
def test_no_worker_takes_counts_back(tally: Tally) -> None:
    with pytest.raises(Violation):
        check_report(report(tally=tally), UPSTREAMS)


def test_faults_are_in_tasks_that_there_are() -> None:
    with pytest.raises(Violation):
        check_report(report(mischief=1), UPSTREAMS)

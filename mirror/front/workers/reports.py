"""What workers tell of their work, held to what can be: labels of metrics are a closed set."""

import math
from collections.abc import Collection

from mirror.front.ports import Report
from mirror.front.wire.interface import Violation
from mirror.telemetry.asked import MOST_ENTRIES, Answers, Asked
from mirror.telemetry.faults import TASKS
from mirror.telemetry.traffic import METHODS, SECONDS, Result, Sort, Tally, Why

_FIRST_STATUS, _LAST_STATUS = 100, 599


def check_report(report: Report, upstreams: Collection[str]) -> None:
    """See that a report tells of nothing that cannot have happened.

    Raises:
        Violation: It does; whoever sent it is not what it should be.
    """
    if not all(_is_sort(sort, upstreams) and _is_tally(tally) for sort, tally in report.traffic):
        raise Violation("a report of requests that cannot have been")
    if not report.faults.keys() <= {*TASKS}:
        raise Violation("a report of faults in tasks that there are not")
    if not all(_is_entry(asked, answers, upstreams) for asked, answers in report.asked):
        raise Violation("a report of pulls that cannot have been")
    lumps = len(upstreams) * len(Result) * len(Why)
    if len(report.asked) > MOST_ENTRIES + lumps:
        raise Violation("a report of more pulls than are told at a time")


def _is_sort(sort: Sort, upstreams: Collection[str]) -> bool:
    return (
        (not sort.upstream or sort.upstream in upstreams)
        and sort.method in METHODS
        and _FIRST_STATUS <= sort.status <= _LAST_STATUS
    )


def _is_entry(asked: Asked, answers: Answers, upstreams: Collection[str]) -> bool:
    is_of_upstream = asked.repository is None or asked.repository.namespace == asked.upstream
    is_sound = math.isfinite(answers.began) and math.isfinite(answers.ended)
    return asked.upstream in upstreams and is_of_upstream and is_sound


def _is_tally(tally: Tally) -> bool:
    return (
        len(tally.counts) == len(SECONDS)
        and min(tally.counts) >= 0
        and tally.sent >= 0
        and math.isfinite(tally.seconds)
        and tally.seconds >= 0
    )

"""What workers tell of their work, held to what can be: labels of metrics are a closed set."""

import math
from collections.abc import Collection

from mirror.front.ports import Report
from mirror.front.wire.interface import Violation
from mirror.telemetry.faults import TASKS
from mirror.telemetry.traffic import METHODS, SECONDS, Sort, Tally

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


def _is_sort(sort: Sort, upstreams: Collection[str]) -> bool:
    return (
        (not sort.upstream or sort.upstream in upstreams)
        and sort.method in METHODS
        and _FIRST_STATUS <= sort.status <= _LAST_STATUS
    )


def _is_tally(tally: Tally) -> bool:
    return (
        len(tally.counts) == len(SECONDS)
        and min(tally.counts) >= 0
        and tally.sent >= 0
        and math.isfinite(tally.seconds)
        and tally.seconds >= 0
    )

"""Faults inside: logged with their traceback, and counted by the task that they happened in.

A fault is what nobody expected. It fails the request, or the turn of a task, that it happened in,
and nothing more; so somebody must be told of it (`mirror_internal_errors_total`).
"""

import logging
from collections import Counter
from collections.abc import Mapping

from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

TASKS = (
    "adopt", "answer", "api", "count references", "dispatch", "fill", "forget", "history",
    "notify", "passthrough", "pin", "prefetch", "probe", "push", "request", "scrub",
    "single flight",
    "supervise", "tidy", "watch",
)  # fmt: skip
"""What faults may happen in; the metric shows each from the start."""


class Faults:
    """Takes note of faults, in each process; `counts` are by task."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def note(self, task: str, error: BaseException) -> None:
        """Something has gone wrong in `task`; the mirror goes on."""
        self.counts[task] += 1
        _logger.error("a fault of the mirror's own", exc_info=error, extra=fields(task=task))

    def add(self, counts: Mapping[str, int]) -> None:
        """Count what another process has counted (and logged)."""
        self.counts.update(counts)

    def take(self) -> dict[str, int]:
        """What has been counted; counting begins anew."""
        taken, self.counts = dict(self.counts), Counter()
        return taken

"""`[[warm]]`: jobs that begin by the clock on the wall.

One that still runs when its time comes again is left to end. What was missed while the mirror did
not run is not made up for; what was in its middle goes on.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mirror.aio.tasks import Tasks
from mirror.config import Warm
from mirror.oci.errors import StoreError
from mirror.pull.not_done import NotDone
from mirror.pull.warm.fetching import Bounds
from mirror.pull.warm.warming import Job, Warming, bounds_of

_logger = logging.getLogger(__name__)

_TICK = 1.0  # seconds between looks at the clock: it may be set
_SET_BACK = 60.0  # seconds by which it has to be set back, for the next times to be others


@dataclass(slots=True, eq=False)
class Entry:
    """One `[[warm]]`, and when it is next (seconds since the epoch)."""

    warm: Warm
    name: str
    bounds: Bounds
    next_at: float


class Schedule:
    """Begins them. `clock` in seconds since the epoch."""

    def __init__(
        self,
        warms: Sequence[Warm],
        warming: Warming,
        *,
        tasks: Tasks,
        clock: Callable[[], float],
    ) -> None:
        self._warming = warming
        self._tasks = tasks
        self._clock = clock
        self.entries = [
            Entry(
                warm,
                f"schedule:{warm.image}",
                bounds_of(warm.max_bandwidth, warm.leave_quota),
                warm.at.next_after(clock()),
            )
            for warm in warms
        ]

    def last_of(self, entry: Entry) -> Job | None:
        """Its last job, or the one that runs."""
        return next((job for job in self._warming.jobs if job.name == entry.name), None)

    async def begin(self) -> None:
        """Go on with what was not ended. Raises StoreError."""
        await self._warming.resume({entry.name: entry.bounds for entry in self.entries})

    async def look_forever(self) -> None:
        """Begin what is due, for ever."""
        before = self._clock()
        while self.entries:
            now = self._clock()
            if now < before - _SET_BACK:
                for entry in self.entries:
                    entry.next_at = entry.warm.at.next_after(now)
            before = now
            for entry in self.entries:
                if entry.next_at <= now:
                    entry.next_at = entry.warm.at.next_after(now)
                    _ = self._tasks.create_task(self._run(entry), name="warm")
            await asyncio.sleep(_TICK)

    async def _run(self, entry: Entry) -> None:
        warm = entry.warm
        try:
            await self._warming.run_scheduled(entry.name, warm.images, warm.platforms, entry.bounds)
        except (NotDone, StoreError) as error:
            _logger.error(  # noqa: TRY400 - the message says it all
                "%s was not warmed when it was time: %s", warm.image, error
            )

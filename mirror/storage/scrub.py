"""Scrubbing: every blob is hashed again now and then, so that damage is found before it is served.

    a blob was last proved       and clients read or write      then
    under half an interval ago   -                              it is left alone
    longer ago                   no                             it is hashed, at `rate` and idle
                                                                priority (`hashing`)
    longer ago                   yes                            it waits for a quiet moment
    nine tenths ago, or never    -                              it is hashed all the same

A mirror that is never quiet has what is urgent proved all the same: that comes first in each round,
and what waits for a quiet moment has no longer than the day.

When each was last proved is on record (by days, which costs two bytes): a restart begins where the
last process stopped, but for the blob that it was at.
"""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from aiolimiter import AsyncLimiter

from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.storage.damage import Damage, Finding
from mirror.storage.hashing import PIECE, HashingProcess, Pace
from mirror.storage.index import DAY, Index
from mirror.storage.states import States
from mirror.telemetry.metrics import Metrics

_logger = logging.getLogger(__name__)

_DUE, _URGENT = 0.5, 0.9  # of the interval
_AFTER_START = 60.0  # seconds; others have enough to do then
_REST = 600.0  # seconds between rounds
_QUIET = 0.25  # seconds between looks at whether it has become quiet
_BATCH = 100  # blobs, after which what was proved is put on record
_MOST_UNRECORDED = 2**30  # ... or bytes


@dataclass(frozen=True, slots=True)
class ScrubPace:
    """`store.scrub_interval` in seconds (0: never) and `store.scrub_rate` in bytes per second."""

    interval: float
    rate: int


class _DayOver(Exception):
    """What can wait has waited for long enough: a new round begins with what is urgent."""


class Scrub:
    """Does it. `clock` in seconds since the epoch."""

    def __init__(
        self,
        index: Index,
        states: States,
        damage: Damage,
        pace: ScrubPace,
        *,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._index = index
        self._states = states
        self._damage = damage
        self._interval = pace.interval / DAY  # in days
        # So many pieces at once, and one whole piece at a slow rate.
        self._limiter = AsyncLimiter(max(PIECE, pace.rate), max(1.0, PIECE / pace.rate))
        self._metrics = metrics
        self._clock = clock

    async def run_forever(self) -> None:
        """Scrub for as long as the mirror runs."""
        if not self._interval:
            return
        await asyncio.sleep(_AFTER_START)
        while True:
            try:
                await self.round()
            except StoreError as error:
                _logger.error("store: %s", error)  # noqa: TRY400 - the message says it all
            await asyncio.sleep(_REST)

    async def round(self) -> None:
        """Prove every blob that is due, once; what is urgent first. Raises StoreError."""
        today = self._today()
        hashing = HashingProcess(is_idle=True)
        try:
            overdue = await self._index.count_overdue(before=today - self._interval, today=today)
            self._metrics.scrub_overdue.set(overdue)
            urgent = math.floor(today - self._interval * _URGENT)
            await self._prove_all(urgent, hashing, self._limiter.acquire, today)
            self._metrics.scrub_overdue.set(0)
            due = today - max(1, int(self._interval * _DUE))
            with suppress(_DayOver):
                await self._prove_all(due, hashing, partial(self._in_quiet, today), today)
        finally:
            await hashing.close()

    def _today(self) -> int:
        return int(self._clock() // DAY)

    async def _prove_all(
        self, before: int, hashing: HashingProcess, pace: Pace, today: int
    ) -> None:
        after: Digest | None = None
        while due := await self._index.list_due(
            before=before, today=today, after=after, limit=_BATCH
        ):
            await self._prove(due, hashing, pace, today)
            after = due[-1][0]

    async def _prove(
        self, due: list[tuple[Digest, int, int]], hashing: HashingProcess, pace: Pace, today: int
    ) -> None:
        proved: list[Digest] = []
        unrecorded = 0
        try:
            for digest, size, _ in due:
                finding = await self._check(digest, size, hashing, pace)
                if finding is not Finding.RIGHT:
                    continue
                proved.append(digest)
                unrecorded += size
                if unrecorded > _MOST_UNRECORDED:
                    await self._index.record_proved(proved, on=today)
                    proved, unrecorded = [], 0
        finally:
            await self._index.record_proved(proved, on=today)

    async def verify(
        self, digests: Collection[Digest] | None
    ) -> AsyncGenerator[tuple[Digest, int, Finding]]:
        """Prove these at once, or all there are; each with its size and what was found.

        Raises StoreError.
        """
        hashing = HashingProcess(is_idle=False)
        today = self._today()
        proved: list[Digest] = []
        try:
            async for batch in self._batches(digests):
                for digest, size in batch:
                    finding = await self._check(digest, size, hashing, _at_once)
                    if finding is Finding.RIGHT:
                        proved.append(digest)
                    yield digest, size, finding
                await self._index.record_proved(proved, on=today)
                proved = []
        finally:
            await hashing.close()
            await self._index.record_proved(proved, on=today)

    async def _batches(
        self, digests: Collection[Digest] | None
    ) -> AsyncIterator[list[tuple[Digest, int]]]:
        if digests is None:
            async for batch in self._index.list_stored():
                yield batch
        else:
            yield list((await self._index.find_sizes(list(digests))).items())

    async def _check(
        self, digest: Digest, size: int, hashing: HashingProcess, pace: Pace
    ) -> Finding:
        finding = await self._damage.check(digest, size, hashing=hashing, pace=pace)
        if finding is not Finding.UNREADABLE:
            self._metrics.scrubbed_blobs.inc()
            self._metrics.scrubbed_bytes.inc(size)
        return finding

    async def _in_quiet(self, today: int, length: int) -> None:
        """The pace of what can wait. Raises _DayOver: more may have become urgent by then."""
        while self._states.are_busy():
            self._require(today)
            await asyncio.sleep(_QUIET)
        self._require(today)
        await self._limiter.acquire(length)

    def _require(self, today: int) -> None:
        if self._today() != today:
            raise _DayOver


async def _at_once(_: int) -> None:
    """The pace of what somebody waits for."""

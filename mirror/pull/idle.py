"""What nobody has asked for since `max_idle` of the upstream that it came through: it goes.

A store that has room to spare would keep for years what was pulled once. Looked at now and then, in
the background, in batches: only what has been idle for so long is asked about at all.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.records.ports import Records
from mirror.storage.ports import Storage
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_LOOKS = 10  # in the shortest `max_idle`
_SET_BY = 60.0  # seconds; NTP slews what is less
_SETTLED = 600.0  # seconds after a start, or the clock was set, until the next look, at most
_INTERVALS = (60.0, 6 * 3600.0)  # seconds between two looks: at least, at most


class Idle:
    """Has what is idle removed. `limits` in seconds by upstream; the others' content stays.

    `clock` in seconds since the epoch; `monotonic` is never set.
    """

    def __init__(
        self,
        store: Storage,
        records: Records,
        limits: Mapping[str, float],
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._records = records
        self._limits = limits
        self._clock = clock
        self._monotonic = monotonic
        self._seen = clock(), monotonic()

    async def look_forever(self) -> None:
        """Look now and then, while there is anything to look for."""
        least, most = _INTERVALS
        pause = _SETTLED
        while True:
            shortest = min(self._limits.values(), default=most)
            await asyncio.sleep(min(max(shortest / _LOOKS, least), most, pause))
            try:
                pause = most if await self.look_if_steady() else _SETTLED
            except StoreError as error:
                _logger.error("store: %s", error)  # noqa: TRY400 - the message says it all

    async def look_if_steady(self) -> bool:
        """Look once, unless the clock was set since the last time. Raises StoreError.

        One that is years ahead for a moment, as at a start without a battery, is no reason to
        remove all that there is. Where it stays so, it is believed the next time.
        """
        before, self._seen = self._seen, (self._clock(), self._monotonic())
        set_by = (self._seen[0] - before[0]) - (self._seen[1] - before[1])
        if abs(set_by) >= _SET_BY:
            return False
        if self._limits:
            await self.look()
        return True

    async def look(self) -> None:
        """Look once. Raises StoreError."""
        now = self._clock()
        count = 0
        async for batch in self._store.list_unused(since=now - min(self._limits.values())):
            idle = [
                digest for digest, used_at in batch
                if now - used_at > await self._find_limit(digest)
            ]  # fmt: skip
            count += await self._store.remove_unused(idle)
        if count:
            _logger.info("what nobody asked for has gone", extra=fields(blobs=count))

    async def _find_limit(self, digest: Digest) -> float:
        """That of the upstream that keeps it longest; for ever, if nobody knows who has sent it."""
        senders = await self._records.list_senders(digest)
        forever = float("inf")
        return max((self._limits.get(sender, forever) for sender in senders), default=forever)

"""`max_bandwidth` of an endpoint: what is not read is not sent either.

As long as clients wait for bytes from there, what nobody waits for gets none.
"""

import asyncio
from collections.abc import Callable

from aiolimiter import AsyncLimiter

from mirror.aio.slots import Urgency
from mirror.config.bandwidth import Bandwidth

_BURST = 0.25  # seconds' worth of it that may come at once
_YIELD = 1.0  # seconds after a client's bytes for which what nobody waits for stands back
_STEPS = 16  # of what may come at once, for what nobody waits for


class Throttle:
    """`clock` gives seconds since the epoch: a limit may be for a time of the day."""

    def __init__(self, bandwidth: Bandwidth | None, clock: Callable[[], float]) -> None:
        self._bandwidth = bandwidth or Bandwidth()
        self._clock = clock
        self._limiters: dict[int, AsyncLimiter] = {}  # by what they let through in a second
        self._yield_until = 0.0  # by the loop's clock

    @property
    def limit(self) -> int | None:
        """Bytes that may come in a second, now; None: as many as do."""
        return self._bandwidth.at(self._clock())

    async def take(self, size: int, urgency: Urgency) -> None:
        """Wait until `size` bytes fit in; the limit may become another one meanwhile."""
        now = asyncio.get_running_loop().time
        while size > 0 and (limiter := self._limiter()) is not None:
            if urgency.is_urgent:
                self._yield_until = now() + _YIELD
            elif now() < self._yield_until:
                await asyncio.sleep(_YIELD)
                continue
            # In small steps where nobody waits: a client that comes does not wait for a large one.
            most = limiter.max_rate / (1 if urgency.is_urgent else _STEPS)
            part = min(size, max(1, int(most)))
            await limiter.acquire(part)
            size -= part

    def _limiter(self) -> AsyncLimiter | None:
        if (limit := self.limit) is None:
            return None
        if limit not in self._limiters:
            self._limiters[limit] = AsyncLimiter(max(1, limit * _BURST), time_period=_BURST)
        return self._limiters[limit]

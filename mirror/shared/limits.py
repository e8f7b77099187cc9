"""What endpoints say of how often they want to be asked: one mirror is told, and all heed it.

What is told is told to all that are there, and kept as long as it holds for those that come later.
While the database is away each mirror heeds what it is told itself; what still holds is told then.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from mirror.oci.errors import StoreError
from mirror.shared.database import Database
from mirror.shared.events import Event, Paused, QuotaTold, emit

_QUOTA_EVERY = 5.0  # seconds; each pull is told what is left
_LONGEST = 6 * 3600.0  # seconds

_PAUSE = (
    "INSERT INTO mirror.pauses AS p (upstream, endpoint, what, until)"
    " VALUES ($1, $2, $3, to_timestamp($4)) ON CONFLICT (upstream, endpoint, what) DO UPDATE"
    " SET until = excluded.until WHERE p.until < excluded.until"
)
_PAUSES = (
    "SELECT upstream, endpoint, what, extract(epoch FROM until)::float8 FROM mirror.pauses"
    " WHERE until > now()"
)


class SharedLimits:
    """Implements `sources.ports.NoteLimits`: for the other mirrors."""

    def __init__(self, database: Database, *, origin: str, monotonic: Callable[[], float]) -> None:
        self._database = database
        self._origin = origin
        self._monotonic = monotonic
        self._pauses: dict[tuple[str, str, str], float] = {}  # until, by our own clock
        self._quotas: dict[tuple[str, str], tuple[int | None, int | None]] = {}
        self._wake = asyncio.Event()
        self._quotas_told_at = float("-inf")

    def paused(self, upstream: str, endpoint: str, requests: str, seconds: float) -> None:
        """This mirror was told so."""
        until = self._monotonic() + seconds
        key = upstream, endpoint, requests
        self._pauses[key] = max(until, self._pauses.get(key, 0.0))
        self._wake.set()

    def told_quota(
        self, upstream: str, endpoint: str, limit: int | None, remaining: int | None
    ) -> None:
        """This mirror was told so."""
        self._quotas[upstream, endpoint] = limit, remaining
        self._wake.set()

    async def tell_forever(self) -> None:
        """Tell the others, for ever."""
        self._database.subscribe_up(self._wake.set)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_QUOTA_EVERY if self._quotas or self._pauses else None):
                    await self._wake.wait()
            self._wake.clear()
            with suppress(StoreError):
                await self._tell_pauses()
                await self._tell_quotas()

    async def list_pauses(self) -> list[Paused]:
        """What all were told, and still holds. Raises StoreError."""
        return [Paused(*row) for row in await self._database.fetch(_PAUSES)]

    def left(self, paused: Paused) -> float:
        """How many seconds of it are left."""
        return min(paused.until - self._database.now(), _LONGEST)

    async def _tell_pauses(self) -> None:
        """Raises StoreError; what is not told is told the next time."""
        for key, until in [*self._pauses.items()]:
            left = until - self._monotonic()
            if left > 0:
                there = self._database.now() + left
                await self._tell(Paused(*key, there), _PAUSE, *key, there)
            if self._pauses.get(key) == until:
                del self._pauses[key]

    async def _tell_quotas(self) -> None:
        """Raises StoreError."""
        now = self._monotonic()
        if now - self._quotas_told_at < _QUOTA_EVERY:
            return
        self._quotas_told_at = now
        quotas, self._quotas = self._quotas, {}
        for key, told in quotas.items():
            await self._tell(QuotaTold(*key, *told))

    async def _tell(self, event: Event, sql: str | None = None, *values: object) -> None:
        async with self._database.transaction() as connection:
            if sql is not None:
                await connection.execute(sql, *values)
            await emit(connection, self._origin, event)

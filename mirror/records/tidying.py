"""Forgets in the shared records what is of no use to anybody: one mirror at a time does that.

what                                     is kept
a digest that some mirror has or had     for `forget_after`: each notes what is on its disk
lately                                   (`pull.retention`), and a margin for those that are away
what manifests name, and their bytes     the latest of it, in bounds
lists of referrers                       the same
events                                   tags: as long as anybody believes an old one; removals:
                                         as long as a mirror may be away
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from mirror.oci.errors import StoreError
from mirror.records.postgres import PostgresRecords
from mirror.shared.database import Database
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_INTERVAL = 300.0  # seconds
_LOCK = 0x6D6974696479  # "mitidy"
_AT_LENGTH = 60.0  # seconds for all of it
_FORGETTING = 20.0  # seconds of those; the rest goes another time
_BATCH = 500  # digests
_REPOSITORIES = 1000
_MARGIN = 7 * 86400.0  # seconds
_YOUNG = 3600.0
_MOST_NAMED = 10_000_000  # digests that manifests name, all together: some 1 GB
_MOST_CONTENT = 4 * 2**30  # bytes of manifests
_MOST_REFERRERS = 2**28  # bytes of lists
_TAGS_FOR = 3600  # seconds
_REMOVALS_FOR = 30 * 86400  # seconds

_MANIFESTS_GO = (
    "WITH gone AS (DELETE FROM mirror.manifests WHERE digest IN (SELECT digest FROM ("
    "  SELECT digest, sum(children + 1) OVER (ORDER BY recorded DESC) AS total"
    "  FROM mirror.manifests) AS counted WHERE total > $1::bigint) RETURNING digest)"
    " SELECT array_agg(digest) FROM gone"
)
_NAMED_GO = (
    "DELETE FROM mirror.links AS l USING mirror.edges AS e WHERE e.parent = ANY($1::bigint[])"
    " AND l.digest = e.child AND NOT l.is_confirmed AND NOT EXISTS (SELECT 1 FROM mirror.edges AS o"
    "  WHERE o.child = l.digest AND o.parent <> ALL($1::bigint[]))"
)
_CONTENT_GOES = (
    "UPDATE mirror.manifests SET content = NULL WHERE digest IN (SELECT digest FROM ("
    "  SELECT digest, sum(length(content)) OVER (ORDER BY recorded DESC) AS total"
    "  FROM mirror.manifests WHERE content IS NOT NULL) AS counted WHERE total > $1::bigint)"
)
_REFERRERS_GO = (
    "DELETE FROM mirror.referrers WHERE (repository, digest) IN (SELECT repository, digest FROM ("
    "  SELECT repository, digest, sum(length(content) + 1024) OVER (ORDER BY checked_at DESC)"
    "  AS total FROM mirror.referrers) AS counted WHERE total > $1::bigint)"
)
_EVENTS_GO = (
    "DELETE FROM mirror.events WHERE at < now() - make_interval(secs => $2)"
    " OR (at < now() - make_interval(secs => $1) AND event NOT LIKE '[\"no %')"
)


class Tidying:
    """Does so. `forget_after` in seconds."""

    def __init__(
        self,
        database: Database,
        shared: PostgresRecords,
        *,
        forget_after: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._shared = shared
        self._forget_after = max(forget_after, _YOUNG) + _MARGIN
        self._clock = clock
        self._monotonic = monotonic

    async def tidy_forever(self) -> None:
        """Tidy up every now and then."""
        while True:
            await asyncio.sleep(_INTERVAL)
            try:
                await self.tidy()
            except StoreError as error:
                _logger.debug("not tidied: %s", error, extra=fields())

    async def tidy(self) -> bool:
        """Tidy up once, unless another mirror is about it. Raises StoreError."""
        async with self._database.transaction(within=_AT_LENGTH) as connection:
            # Of this transaction: whoever dies in it lets go of it.
            if not await connection.fetchval(f"SELECT pg_try_advisory_xact_lock({_LOCK})"):
                return False
            await self._keep_within_bounds(connection)
            await self._forget_unseen()
        return True

    async def _keep_within_bounds(self, connection: Any) -> None:
        await connection.execute(_EVENTS_GO, _TAGS_FOR, _REMOVALS_FOR)
        await connection.execute("DELETE FROM mirror.checks WHERE until < now() - interval '1 h'")
        await connection.execute(
            "DELETE FROM mirror.mirrors WHERE seen_at < now() - interval '1 d'"
        )
        await connection.execute("DELETE FROM mirror.pauses WHERE until < now()")
        await connection.execute(_REFERRERS_GO, _MOST_REFERRERS)
        await connection.execute(_CONTENT_GOES, _MOST_CONTENT)
        gone = await connection.fetchval(_MANIFESTS_GO, _MOST_NAMED)
        if gone:
            await connection.execute(_NAMED_GO, gone)
            await connection.execute(
                "DELETE FROM mirror.edges WHERE parent = ANY($1::bigint[])", gone
            )

    async def _forget_unseen(self) -> None:
        """On connections of their own, a little at a time: nobody waits for it."""
        before, after, count = self._clock() - self._forget_after, None, 0
        until = self._monotonic() + _FORGETTING
        while self._monotonic() < until and (
            batch := await self._shared.list_unseen(before=before, after=after, limit=_BATCH)
        ):
            after = batch[-1]
            digests = [seen.digest for seen in batch]
            count += len(await self._shared.forget_unseen(digests, before=before))
        if not count:
            return
        _logger.info("forgot what was of no use to any mirror", extra=fields(digests=count))
        path: str | None = ""
        while path is not None:
            path = await self._shared.forget_empty(after=path, limit=_REPOSITORIES)

"""Eviction from the bucket, by one mirror at a time.

    proved      in use, or may be                         leaving, where there is too much
    leaving     was used the longest ago                  proved again, as soon as somebody reads it
    gone        its row first, and then its objects       -

What is being read is said to be, every half minute, and so never leaves; and whoever has begun to
read what leaves has a grace that is longer than the longest response, or the life of a link. What
is pinned stays, and so does what is still coming, unless nobody has gone on with it for a day. A
mirror that dies between rows and objects leaves orphans (`sweep.py`).
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from random import Random

from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.shared.database import Database
from mirror.shared.ports import Bucket, BucketDown
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_EVERY = 10.0  # seconds
_GRACE = 3600.0  # seconds, after which nobody reads what has begun to leave
_IDLE = 120.0  # seconds; who reads says so more often
_FORSAKEN = 86400.0  # seconds after which nobody goes on with what is not all there
_LOW = 0.95  # of max_size; so much is kept when something has to go
_AT_ONCE = 200  # blobs
_LOCK = 0x6576696374  # "evict"
_AT_LENGTH = 30.0  # seconds for a statement

_TRY_LOCK = "SELECT pg_try_advisory_xact_lock($1)"

_MEASURE = """
  SELECT coalesce(sum(size), 0)::bigint FROM mirror.blobs
  WHERE proved_at IS NOT NULL AND leaving_at IS NULL
"""

_MARK = """
  WITH oldest AS (
    SELECT blob, size, sum(size) OVER (ORDER BY used_at, blob) - size AS before FROM (
      SELECT blob, size, used_at FROM mirror.blobs
      WHERE proved_at IS NOT NULL AND leaving_at IS NULL
        AND used_at < now() - $3::float8 * interval '1 second' AND NOT digest = ANY($2::text[])
      ORDER BY used_at LIMIT $4 FOR UPDATE SKIP LOCKED
    ) first
  )
  UPDATE mirror.blobs SET leaving_at = now()
  WHERE blob IN (SELECT blob FROM oldest WHERE before < $1) RETURNING size
"""

_REMOVE = """
  WITH gone AS (
    SELECT blob, size FROM mirror.blobs
    WHERE leaving_at < now() - $1::float8 * interval '1 second'
      OR (proved_at IS NULL AND until < now() - $2::float8 * interval '1 second')
    ORDER BY leaving_at LIMIT $3 FOR UPDATE SKIP LOCKED
  ), keys AS (
    SELECT array_agg(key) AS keys FROM mirror.pieces WHERE blob IN (SELECT blob FROM gone)
  ), removed AS (
    DELETE FROM mirror.blobs WHERE blob IN (SELECT blob FROM gone) RETURNING size
  )
  SELECT keys, (SELECT count(*) FROM removed) AS blobs,
    (SELECT coalesce(sum(size), 0)::bigint FROM removed) AS bytes
  FROM keys
"""


class Eviction:
    """Keeps the bucket within `max_size` bytes, softly. `read_pinned` gives what stays.

    `grace` and `idle` in seconds.
    """

    def __init__(
        self,
        database: Database,
        bucket: Bucket,
        *,
        max_size: int,
        read_pinned: Callable[[], Collection[Digest]],
        random: Random,
        grace: float = _GRACE,
        idle: float = _IDLE,
    ) -> None:
        self._database = database
        self._bucket = bucket
        self._max_size = max_size
        self._read_pinned = read_pinned
        self._random = random
        self._grace = grace
        self._idle = idle
        self.evicted_blobs = self.evicted_bytes = 0
        self.size = 0  # bytes in the bucket, when this mirror last looked

    async def look_forever(self) -> None:
        """Look now and then, where no other mirror does."""
        while True:
            await asyncio.sleep(_EVERY * (0.5 + self._random.random()))
            try:
                while await self.look():
                    pass
            except (StoreError, BucketDown) as error:
                _logger.debug("nothing is evicted: %s", error)

    async def look(self) -> bool:
        """Have what is too much leave, and remove what has left; whether there is more of it.

        Raises:
            StoreError, BucketDown: One of them cannot be asked. What is begun, others finish.
        """
        pinned = [str(digest) for digest in self._read_pinned()]
        async with self._database.transaction(within=_AT_LENGTH) as connection:
            if not await connection.fetchval(_TRY_LOCK, _LOCK):
                return False  # another mirror sees to it
            self.size = await connection.fetchval(_MEASURE)
            if self.size > self._max_size:
                excess = self.size - int(self._max_size * _LOW)
                await connection.execute(_MARK, excess, pinned, self._idle, _AT_ONCE)
            row = await connection.fetchrow(_REMOVE, self._grace, _FORSAKEN, _AT_ONCE)
        if not row["blobs"]:
            return False
        self.evicted_blobs += row["blobs"]
        self.evicted_bytes += row["bytes"]
        _logger.info(
            "evicted from the bucket", extra=fields(blobs=row["blobs"], bytes=row["bytes"])
        )
        await self._bucket.delete(row["keys"] or ())
        return bool(row["blobs"] == _AT_ONCE)

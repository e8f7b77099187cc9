"""Orphans in the bucket, objects that are no piece of anything on record: swept once a day.

They come of mirrors that died between putting a piece and recording it, or between removing a row
and its objects, and of pieces that another has put anew; and there is what was put to see whether
anything can be. Only what is older than a day is one:
until then somebody may be about to record it. What else there may be in the bucket is nobody's
business here.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import NamedTuple, Protocol

from mirror.oci.errors import StoreError
from mirror.shared.bucket import PROBE
from mirror.shared.database import Database
from mirror.shared.pieces import is_piece
from mirror.shared.ports import BucketDown
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_EVERY = timedelta(days=1)
_OLD = timedelta(days=1)
_LOOK_EVERY = 600.0  # seconds
_AT_LENGTH = 30.0  # seconds for a statement

_BEGIN = """
  INSERT INTO mirror.chores AS c (chore, begun_at) VALUES ('sweep', now())
  ON CONFLICT (chore) DO UPDATE SET begun_at = now() WHERE c.begun_at < now() - $1::interval
  RETURNING chore
"""

_NOW = "SELECT now()"

_FIND_ORPHANS = """
  SELECT key FROM unnest($1::text[]) AS objects (key)
  WHERE NOT EXISTS (SELECT FROM mirror.pieces p WHERE p.key = objects.key)
"""


class Listed(Protocol):
    """A bucket that tells what is in it (`mirror.shared.bucket.ObjectBucket`)."""

    def list(self) -> AsyncIterator[list[tuple[str, int, datetime]]]:
        """All objects, in batches: key, bytes, and when it was written, by the bucket's clock."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Have these no more."""


class Swept(NamedTuple):
    """How many objects were looked at, and how many of them are removed, with their bytes."""

    looked_at: int
    removed: int
    removed_bytes: int


async def sweep(database: Database, bucket: Listed, *, older: timedelta = _OLD) -> Swept:
    """Remove orphans that are `older`. Raises StoreError, BucketDown."""
    now: datetime = await database.fetchval(_NOW)
    looked_at = removed = removed_bytes = 0
    async for batch in bucket.list():
        old = {key: size for key, size, at in batch if now - at > older and _is_ours(key)}
        looked_at += len(batch)
        if not old:
            continue
        rows = await database.fetch(_FIND_ORPHANS, list(old), within=_AT_LENGTH)
        orphans = [row["key"] for row in rows]
        await bucket.delete(orphans)
        removed += len(orphans)
        removed_bytes += sum(old[key] for key in orphans)
    return Swept(looked_at, removed, removed_bytes)


def _is_ours(key: str) -> bool:
    return is_piece(key) or key.startswith(PROBE)


async def sweep_forever(database: Database, bucket: Listed, random: Random) -> None:
    """Sweep once a day, where no other mirror has."""
    while True:
        await asyncio.sleep(_LOOK_EVERY * (0.5 + random.random()))
        try:
            if await database.fetchval(_BEGIN, _EVERY) is None:
                continue
            swept = await sweep(database, bucket)
        except (StoreError, BucketDown) as error:
            _logger.warning("the bucket is not swept: %s", error)
        else:
            _logger.info("the bucket is swept", extra=fields(**swept._asdict()))

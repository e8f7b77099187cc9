"""What becomes of the rows where the database's clock is set back: by hand, or by a failover.

Leases, turns and what has been said are all timed by it. What was written by a clock that was hours
ahead would hold for hours: the turn of a mirror that died, a tag that nobody may check, a removal
that whatever is said now seems to be older than. A row that every mirror keeps up to date tells
when the clock has gone back; then whatever is from the future is counted as of now, once.

    turns               end in a lease, unless their holders renew them
    who asks for a tag  nobody
    tags, referrers     were checked now
    what was said       was said now; but for pauses, of which nobody knows when they would end
    pauses              end in a minute: who needs one for longer is told so again
    use, leaving        now

What a mirror has heard of, it sees to by itself (`events.py`).
"""

import asyncio
import logging
from random import Random

from mirror.oci.errors import StoreError
from mirror.shared.database import Database
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_EVERY = 10.0  # seconds
_SLACK = 60.0  # seconds that it may go back, and nothing is done about it
_AT_LENGTH = 30.0  # seconds for a statement: it goes through all blobs

_BEGIN = (
    "INSERT INTO mirror.chores (chore, begun_at) VALUES ('clock', now()) ON CONFLICT DO NOTHING"
)
_READ = (
    "SELECT extract(epoch FROM begun_at - now())::float8 FROM mirror.chores WHERE chore = 'clock'"
)
_NOTE = "UPDATE mirror.chores SET begun_at = now() WHERE chore = 'clock'"

_SETTLE_BLOBS = (
    "UPDATE mirror.blobs SET until = least(until, now() + $1::float8 * interval '1 second'),"
    " moved_at = least(moved_at, now()), used_at = least(used_at, now()),"
    " leaving_at = CASE WHEN leaving_at > now() THEN now() ELSE leaving_at END"
    " WHERE now() < greatest(until, moved_at, used_at, leaving_at)"
)
_SETTLE_AGES = (
    "UPDATE mirror.{} SET checked_at = extract(epoch FROM now())"
    " WHERE checked_at > extract(epoch FROM now())"
)
_SETTLE_OTHERS = (
    "DELETE FROM mirror.checks WHERE until > now()",
    "DELETE FROM mirror.events WHERE at > now() AND event LIKE '[\"pause\"%'",
    "UPDATE mirror.events SET at = now() WHERE at > now()",
    "UPDATE mirror.pauses SET until = least(until, now() + interval '1 minute')",
    _SETTLE_AGES.format("tags"),
    _SETTLE_AGES.format("referrers"),
    "UPDATE mirror.chores SET begun_at = now() WHERE begun_at > now()",
)


async def settle_forever(database: Database, lease: float, random: Random) -> None:
    """See to it, for ever. `lease` in seconds."""
    while True:
        try:
            await settle(database, lease)
        except StoreError as error:
            _logger.debug("the database's clock is not looked at: %s", error)
        await asyncio.sleep(_EVERY * (0.5 + random.random()))


async def settle(database: Database, lease: float) -> None:
    """See whether the clock was set back since any mirror looked; if so, settle. Raises StoreError.

    Of several mirrors, one finds it so.
    """
    ahead = await database.fetchval(_READ)
    if ahead is None:
        await database.execute(_BEGIN)
    elif ahead < -_EVERY / 2:
        await database.execute(_NOTE)
    if ahead is None or ahead <= _SLACK:
        return
    async with database.transaction(within=_AT_LENGTH) as connection:
        ahead = await connection.fetchval(f"{_READ} FOR UPDATE")
        if ahead is None or ahead <= _SLACK:
            return  # another mirror has seen to it
        await connection.execute(_SETTLE_BLOBS, lease)
        for statement in _SETTLE_OTHERS:
            await connection.execute(statement)
    _logger.warning(
        "the database's clock was set back by %.0f s: what is from the future counts as of now",
        ahead, extra=fields(),
    )  # fmt: skip

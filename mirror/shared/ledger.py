"""The ledger of turns and pieces, in PostgreSQL.

Every statement is by itself a whole change, fenced by the turn's epoch: a mirror that was stopped
for a while, and comes back believing that it has the turn, touches no row. Times are the
database's.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from mirror.oci.digest import Digest
from mirror.shared.database import Database
from mirror.shared.hearing import tell
from mirror.shared.pieces import Piece
from mirror.shared.ports import Claimed, Copy

CHANNEL = "mirror_pieces"
"""Where it is told that something has changed about a blob: its number, and of a piece what
`hearing.py` says."""

_COPY = """
  b.blob, b.upstream, b.size, b.proved_at IS NOT NULL AS is_proved,
  b.proved_at IS NULL AND (
    b.holder IS NULL OR b.holder = $3 AND b.epoch < $5 OR b.until < now()
    OR b.moved_at < now() - $4::float8 * interval '1 second'
  ) AS is_free
"""

_PIECES = """
  LEFT JOIN LATERAL (
    SELECT array_agg(p.start ORDER BY p.start) AS starts,
      array_agg(p.stop ORDER BY p.start) AS stops,
      array_agg(p.key ORDER BY p.start) AS keys
    FROM mirror.pieces p WHERE p.blob = b.blob AND p.stop > $2
  ) p ON true
"""

_FIND = f"""
  SELECT {_COPY}, b.leaving_at IS NOT NULL AS is_leaving, p.*
  FROM mirror.blobs b {_PIECES}
  WHERE b.digest = $6
    AND (b.upstream = $1 OR b.proved_at IS NOT NULL AND NOT b.upstream = ANY($7::text[]))
  ORDER BY b.proved_at IS NULL, b.upstream <> $1 LIMIT 1
"""  # noqa: S608 - nothing of anybody's is in it

_RESCUE = """
  UPDATE mirror.blobs SET leaving_at = NULL, used_at = now()
  WHERE blob = $1 AND proved_at IS NOT NULL RETURNING blob
"""

_LOOK = f"SELECT {_COPY}, p.* FROM mirror.blobs b {_PIECES} WHERE b.blob = $1"  # noqa: S608

# Where the database was not there, nobody could renew: what has lapsed by that is not free yet.
# A row that was there has been locked (`xmax`), and may have pieces; they are looked for once the
# turn is taken, since one that is recorded at the same time is in no snapshot of this statement.
_CLAIM = """
  INSERT INTO mirror.blobs AS b (upstream, digest, epoch, holder, until)
  VALUES ($1, $2, nextval('mirror.epochs'), $3, now() + $4::float8 * interval '1 second')
  ON CONFLICT (upstream, digest) DO UPDATE SET
    epoch = nextval('mirror.epochs'), holder = excluded.holder, until = excluded.until,
    moved_at = now()
  WHERE b.proved_at IS NULL AND (
    b.holder IS NULL OR b.holder = excluded.holder AND b.epoch < $8
    OR b.until < now() - interval '1 second' * CASE
      WHEN $6 OR pg_postmaster_start_time() > now() - 2 * $5::float8 * interval '1 second'
      THEN $5::float8 ELSE 0
    END OR b.moved_at < now() - $7::float8 * interval '1 second'
  )
  RETURNING b.blob, b.epoch, b.xmax = 0 AS is_new
"""

_RENEW = """
  UPDATE mirror.blobs SET until = now() + $3::float8 * interval '1 second'
  WHERE blob = $1 AND epoch = $2 AND proved_at IS NULL RETURNING blob
"""

_TELL = f"""
  WITH t AS (
    UPDATE mirror.blobs SET size = $3, moved_at = now()
    WHERE blob = $1 AND epoch = $2 AND proved_at IS NULL RETURNING blob
  )
  SELECT pg_notify('{CHANNEL}', blob::text) FROM t
"""  # noqa: S608

_RECORD = f"""
  WITH t AS (
    UPDATE mirror.blobs SET moved_at = now()
    WHERE blob = $1 AND epoch = $2 AND proved_at IS NULL RETURNING blob
  ), i AS (
    INSERT INTO mirror.pieces (blob, start, stop, key, epoch) SELECT $1, $3, $4, $5, $2 FROM t
    ON CONFLICT (blob, start) DO UPDATE
      SET stop = excluded.stop, key = excluded.key, epoch = excluded.epoch
    RETURNING blob
  )
  SELECT pg_notify('{CHANNEL}', $6) FROM i
"""  # noqa: S608

_PROVE = f"""
  WITH t AS (
    UPDATE mirror.blobs SET
      proved_at = now(), size = $3, holder = NULL, until = now(), used_at = now(), leaving_at = NULL
    WHERE blob = $1 AND epoch = $2 AND proved_at IS NULL AND (
      SELECT coalesce(bool_and(p.key = ANY($4::text[]) AND p.start = p.follows), true)
        AND coalesce(max(p.stop), 0) = $3
      FROM (
        SELECT key, start, stop, coalesce(lag(stop) OVER (ORDER BY start), 0) AS follows
        FROM mirror.pieces WHERE blob = $1
      ) p
    )
    RETURNING blob
  )
  SELECT pg_notify('{CHANNEL}', blob::text) FROM t
"""  # noqa: S608

_RELEASE = f"""
  WITH t AS (
    UPDATE mirror.blobs SET holder = NULL, until = now()
    WHERE blob = $1 AND epoch = $2 AND proved_at IS NULL RETURNING blob
  )
  SELECT pg_notify('{CHANNEL}', blob::text) FROM t
"""  # noqa: S608

_ABANDON = f"""
  WITH t AS (
    DELETE FROM mirror.blobs
    WHERE blob = $1 AND CASE WHEN $2::bigint IS NULL THEN proved_at IS NOT NULL
      ELSE epoch = $2 AND proved_at IS NULL END
    RETURNING blob
  )
  SELECT pg_notify('{CHANNEL}', blob::text) FROM t
"""  # noqa: S608

_LOCK = "SELECT blob FROM mirror.blobs WHERE blob = $1 AND proved_at IS NOT NULL FOR UPDATE"

_FORGET_PIECES = "DELETE FROM mirror.pieces WHERE blob = $1"

_PUT_WHOLE = """
  INSERT INTO mirror.pieces (blob, start, stop, key, epoch) VALUES ($1, $2, $3, $4, 0)
"""

_NOTE_USED = """
  UPDATE mirror.blobs SET used_at = now(), leaving_at = NULL
  WHERE blob = ANY($1::bigint[]) AND proved_at IS NOT NULL
"""

_FIND_PROVED = """
  SELECT DISTINCT digest FROM mirror.blobs WHERE digest = ANY($1::text[]) AND proved_at IS NOT NULL
"""

_FIND_READABLE = """
  SELECT DISTINCT digest FROM mirror.blobs
  WHERE digest = ANY($1::text[]) AND proved_at IS NOT NULL
    AND (upstream = $2 OR NOT upstream = ANY($3::text[]))
"""

_LAST = 2**63 - 1  # no epoch comes after it
_REMEMBERED = 1000  # claims

_BEGIN = "SELECT nextval('mirror.epochs')"


class PostgresLedger:
    """A `mirror.shared.ports.Ledger`. `holder` names this mirror, also after it was restarted.

    A turn that this mirror had before it was started is its own, and so anybody's; one that it has
    taken since is that of whoever took it here. Two who would take each other's turns for their own
    (a cloned disk has its mirror's name, too) would go on taking them from each other. But where
    the answer to a claim was lost, or that on the pieces there are, nobody here has heard of that
    turn: the next claim takes it.

    `patience`: seconds after which a turn is over that has got nowhere, however alive its holder
    is. `read_private` gives the upstreams whose bytes no other upstream's fill may take;
    `had_trouble` says whether the database could not be asked a moment ago.
    """

    def __init__(
        self,
        database: Database,
        holder: str,
        *,
        patience: float,
        read_private: Callable[[], Collection[str]],
        had_trouble: Callable[[float], bool],
    ) -> None:
        self._database = database
        self._holder = holder
        self._patience = patience
        self._read_private = read_private
        self._had_trouble = had_trouble
        self._began: int | None = None  # epochs from there on are of this run, or of others
        self._unanswered: dict[tuple[str, Digest], None] = {}  # claims that may have been granted

    async def find(self, upstream: str, digest: Digest) -> Copy | None:
        """As `Ledger.find`."""
        private, began = sorted(self._read_private()), await self._began_for(upstream, digest)
        row = await self._database.fetchrow(
            _FIND, upstream, 0, self._holder, self._patience, began, str(digest), private
        )
        if row is None:
            return None
        if row["is_leaving"] and await self._database.fetchrow(_RESCUE, row["blob"]) is None:
            return None  # too late: its pieces go
        return _copy(row)

    async def look(self, blob: int, after: int) -> Copy | None:
        """As `Ledger.look`."""
        row = await self._database.fetchrow(
            _LOOK, blob, after, self._holder, self._patience, await self.begin()
        )
        return None if row is None else _copy(row)

    async def claim(
        self, upstream: str, digest: Digest, term: float, lease: float
    ) -> Claimed | None:
        """As `Ledger.claim`."""
        began = await self._began_for(upstream, digest)
        try:
            claimed = await self._claim(upstream, digest, term, lease, began)
        except BaseException:
            self._unanswered[upstream, digest] = None
            if len(self._unanswered) > _REMEMBERED:
                del self._unanswered[next(iter(self._unanswered))]
            raise
        self._unanswered.pop((upstream, digest), None)
        return claimed

    async def _claim(
        self, upstream: str, digest: Digest, term: float, lease: float, began: int
    ) -> Claimed | None:
        row = await self._database.fetchrow(
            _CLAIM,
            upstream,
            str(digest),
            self._holder,
            term,
            lease,
            self._had_trouble(lease),
            self._patience,
            began,
        )
        if row is None:
            return None
        copy = None if row["is_new"] else await self.look(row["blob"], 0)
        return Claimed(row["blob"], row["epoch"], () if copy is None else copy.pieces)

    async def renew(self, blob: int, epoch: int, term: float) -> bool:
        """As `Ledger.renew`."""
        return await self._touches(_RENEW, blob, epoch, term)

    async def tell_size(self, blob: int, epoch: int, size: int) -> bool:
        """As `Ledger.tell_size`."""
        return await self._touches(_TELL, blob, epoch, size)

    async def record(self, blob: int, epoch: int, piece: Piece) -> bool:
        """As `Ledger.record`."""
        return await self._touches(
            _RECORD, blob, epoch, piece.start, piece.stop, piece.key, tell(blob, piece)
        )

    async def prove(self, blob: int, epoch: int, size: int, keys: Collection[str]) -> bool:
        """As `Ledger.prove`."""
        return await self._touches(_PROVE, blob, epoch, size, list(keys))

    async def join(self, blob: int, whole: Piece) -> bool:
        """As `Ledger.join`."""
        async with self._database.transaction() as connection:
            if await connection.fetchval(_LOCK, blob) is None:
                return False
            await connection.execute(_FORGET_PIECES, blob)
            await connection.execute(_PUT_WHOLE, blob, whole.start, whole.stop, whole.key)
        return True

    async def release(self, blob: int, epoch: int) -> None:
        """As `Ledger.release`."""
        await self._touches(_RELEASE, blob, epoch)

    async def abandon(self, blob: int, epoch: int | None) -> None:
        """As `Ledger.abandon`."""
        await self._touches(_ABANDON, blob, epoch)

    async def note_used(self, blobs: Sequence[int]) -> None:
        """These have been read."""
        await self._database.execute(_NOTE_USED, list(blobs))

    async def find_proved(self, digests: Sequence[Digest]) -> set[str]:
        """Which of these are in the bucket, whole."""
        rows = await self._database.fetch(_FIND_PROVED, [str(digest) for digest in digests])
        return {row["digest"] for row in rows}

    async def find_readable(self, upstream: str, digests: Sequence[Digest]) -> set[str]:
        """The same, of what a fill from this upstream may read."""
        texts, private = [str(digest) for digest in digests], sorted(self._read_private())
        rows = await self._database.fetch(_FIND_READABLE, texts, upstream, private)
        return {row["digest"] for row in rows}

    async def begin(self) -> int:
        """Draw the line between turns of before and of this run, once: the sooner, the better.

        What another of this name has claimed by then counts as left over. Raises StoreError.
        """
        began = self._began
        if began is None:
            drawn = int(await self._database.fetchval(_BEGIN))
            # Whoever was first may have the turn by now: what it goes by holds.
            began = self._began = drawn if self._began is None else self._began
        return began

    async def _began_for(self, upstream: str, digest: Digest) -> int:
        """The epoch before which a turn of this mirror's is left over. Raises StoreError."""
        began = await self.begin()
        return _LAST if (upstream, digest) in self._unanswered else began

    async def _touches(self, statement: str, *arguments: object) -> bool:
        return await self._database.fetchrow(statement, *arguments) is not None


def _copy(row: Mapping[str, Any]) -> Copy:
    spans = zip(row["starts"] or (), row["stops"] or (), row["keys"] or (), strict=True)
    pieces = tuple(Piece(start, stop, key) for start, stop, key in spans)
    return Copy(
        row["blob"], row["upstream"], row["size"],
        is_proved=row["is_proved"], is_free=row["is_free"], pieces=pieces,
    )  # fmt: skip

"""What mirrors that share records do for each other. Implements `ports.Fleet`.

    asking upstream what a tag means                    this mirror
    somebody has asked lately                           takes that
    nobody has, nobody is about to                      asks, for all (a row with an end to it)
    another mirror is asking                            waits for what it finds out
    that one was refused                                asks itself: an error is nobody else's
    that one was told nothing at all                    asks itself, unless it has waited for long:
                                                        then its client is told to go elsewhere
    that one does not report in time, or the database   asks itself
    is away

Whoever waits here has its client wait no longer than its own patience with upstream allows
(`pull.manifests`): what is stale is served meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from mirror.oci.compact import pack, unpack
from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError, Unavailable
from mirror.oci.reference import Repository
from mirror.records import postgres_writes as writes
from mirror.records.ports import Shelved, TagRecord
from mirror.records.postgres import PostgresRecords
from mirror.records.untold import ContentSaid, Untold
from mirror.shared.database import Database

_LOOK = (0.02, 0.5)  # seconds between looks at how far another is: the first, and the longest
_LONG = 1.0  # seconds; a client waits for upstream's own timeout, and not much longer
_SILENT_FOR = 10.0  # seconds for which those who wait can see that upstream is silent
_OWN_DEADLINE = 2.0  # times the row's life: by its own clock, whatever the database's says

# Both at once: what is known, and the turn where that is too old.
_TAKE = (
    "WITH known AS (SELECT d.digest, t.checked_at, t.is_fallback, t.is_imported, t.told_by"
    "  FROM mirror.tags AS t JOIN mirror.digests AS d ON d.id = t.digest"
    "  JOIN mirror.repositories AS r ON r.id = t.repository"
    "  WHERE r.path = $1 AND t.name = $2 AND t.checked_at > $4),"
    " mine AS (INSERT INTO mirror.checks AS c (path, tag, holder, until)"
    "  SELECT $1, $2, $3, now() + make_interval(secs => $5)"
    "  WHERE NOT EXISTS (SELECT 1 FROM known)"
    "  ON CONFLICT (path, tag) DO UPDATE SET holder = excluded.holder, until = excluded.until,"
    "  is_silent = false"
    "  WHERE c.until < now() OR c.is_silent OR c.holder = excluded.holder RETURNING 1)"
    " SELECT EXISTS (SELECT 1 FROM mine), k.* FROM (SELECT 1) AS one LEFT JOIN known AS k ON true"
)
_LOOK_AT = (
    "SELECT (SELECT is_silent FROM mirror.checks WHERE path = $1 AND tag = $2 AND until > now()),"
    " k.* FROM (SELECT 1) AS one LEFT JOIN ("
    "  SELECT d.digest, t.checked_at, t.is_fallback, t.is_imported, t.told_by"
    "  FROM mirror.tags AS t JOIN mirror.digests AS d ON d.id = t.digest"
    "  JOIN mirror.repositories AS r ON r.id = t.repository"
    "  WHERE r.path = $1 AND t.name = $2 AND t.checked_at > $3) AS k ON true"
)
_SILENT = (
    "UPDATE mirror.checks SET is_silent = true, until = now() + make_interval(secs => $4)"
    " WHERE path = $1 AND tag = $2 AND holder = $3"
)


class Together:
    """One of several mirrors. `lease`: seconds for which one may ask before another does."""

    def __init__(
        self,
        database: Database,
        shared: PostgresRecords,
        untold: Untold,
        *,
        name: str,
        lease: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._shared = shared
        self._untold = untold
        self._name = name
        self._lease = lease
        self._monotonic = monotonic

    @asynccontextmanager
    async def turn(
        self, repository: Repository, tag: str, *, since: float
    ) -> AsyncIterator[TagRecord | None]:
        """As the port says."""
        since = self._shared.to_there(since)
        is_ours, found = await self._take(repository, tag, since)
        if found is None and not is_ours:
            found = await self._wait(repository, tag, since)
        try:
            yield found
        except BaseException as error:
            if is_ours:  # what is recorded ends it otherwise, with what it tells (`telling.py`)
                await self._give_up(repository, tag, is_silent=isinstance(error, Unavailable))
            raise

    async def _take(
        self, repository: Repository, tag: str, since: float
    ) -> tuple[bool, TagRecord | None]:
        """Whether it is this mirror's turn, or what is known: neither, and another one asks."""
        try:
            is_ours, *known = await self._database.fetchrow(
                _TAKE, str(repository), tag, self._name, since, self._lease
            )
        except StoreError:
            return True, None
        return is_ours, self._record(known)

    async def _wait(self, repository: Repository, tag: str, since: float) -> TagRecord | None:
        """What another finds out; None where that is nothing, or does not come.

        Raises:
            Unavailable: It has waited for upstream in vain, and so has who asks here.
        """
        pause, longest = _LOOK
        began = self._monotonic()
        until = began + self._lease * _OWN_DEADLINE
        while self._monotonic() < until:
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
            try:
                is_silent, *known = await self._database.fetchrow(
                    _LOOK_AT, str(repository), tag, since
                )
            except StoreError:
                return None
            found = self._record(known)
            if is_silent and self._monotonic() - began >= _LONG:
                raise Unavailable("another mirror waits for upstream in vain", timed_out=True)
            if found is not None or is_silent is not False:  # None: it is not asking any more
                return found
        return None

    async def _give_up(self, repository: Repository, tag: str, *, is_silent: bool) -> None:
        with suppress(StoreError):
            if is_silent:
                await self._database.execute(_SILENT, str(repository), tag, self._name, _SILENT_FOR)
                return
            async with self._database.transaction() as connection:
                await writes.end_check(connection, repository, tag, self._name)

    def _record(self, known: list[object]) -> TagRecord | None:
        match known:
            case [
                bytes() as digest,
                float() as at,
                bool() as fallback,
                bool() as imported,
                str(by),
            ]:
                return TagRecord(unpack(digest), self._shared.to_here(at), fallback, imported, by)
            case _:
                return None

    async def find_manifest(self, digest: Digest) -> Shelved | None:
        """As the port says."""
        try:
            content = await self._database.fetchval(
                "SELECT m.content FROM mirror.manifests AS m"
                " JOIN mirror.digests AS d ON d.id = m.digest WHERE d.digest = $1",
                pack(digest),
            )
            if content is None or not digest.names(bytes(content)):
                return None
            senders = await self._shared.list_senders(digest)
        except StoreError:
            return None
        # Of whom it is not known who has sent it, it may be anybody's secret.
        return Shelved(bytes(content), senders) if senders else None

    async def find_manifests(self, digests: Sequence[Digest]) -> set[Digest]:
        """As the port says."""
        if not digests:
            return set()
        try:
            rows = await self._database.fetch(
                "SELECT d.digest FROM mirror.manifests AS m"
                " JOIN mirror.digests AS d ON d.id = m.digest"
                " WHERE d.digest = ANY($1::bytea[]) AND m.content IS NOT NULL",
                [pack(digest) for digest in digests],
            )
        except StoreError:
            return set()
        return {unpack(digest) for (digest,) in rows}

    async def put_manifest(self, digest: Digest, content: bytes) -> None:
        """As the port says."""
        with suppress(StoreError):
            await self._untold.add(ContentSaid(digest, content))

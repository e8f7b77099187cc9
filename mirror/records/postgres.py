"""What registries have said, in a PostgreSQL database that several mirrors have in common.

Times are by the database's clock: what a mirror's own clock says is never compared with another's.
"""

# ruff: noqa: S608 - all that is ever put into a statement's text is ours

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from operator import itemgetter
from typing import Any

from mirror.oci.compact import pack, unpack
from mirror.oci.digest import Digest
from mirror.oci.reference import Repository
from mirror.records import postgres_writes as writes
from mirror.records.ports import Link, Listed, Named, ReferrersRecord, Seen, TagRecord
from mirror.records.postgres_writes import DIGEST, HOUR, REPOSITORY, UPSTREAM
from mirror.shared.database import Database
from mirror.sqlite import Extent

_LATEST = 4  # links of a repository
_AT_LENGTH = 30.0  # seconds, for walks


class PostgresRecords:
    """Implements `records.ports.Records`.

    `clock` is this mirror's, in seconds since the epoch, and `there` the database's.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float],
        there: Callable[[], float] | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self.now_there = there or database.now

    def to_there(self, time: float) -> float:
        """What our clock says of a time, by the database's clock."""
        return time + self._ahead

    def said_there(self, time: float) -> float:
        """The same of when something was said: no later than now, however our clock has been set.

        What is from the future would count as the newest, and as fresh, until that has come.
        """
        return min(self.to_there(time), self.now_there())

    def to_here(self, time: float) -> float:
        """What the database's clock says of a time, by ours."""
        return time - self._ahead

    @property
    def _ahead(self) -> float:
        """By how much the clock there is ahead of ours, in seconds."""
        return self.now_there() - self._clock()

    @property
    def hour(self) -> int:
        """The hour there."""
        return int(self.now_there() // HOUR)

    async def knows(self, repository: Repository) -> bool:
        """Whether anything of this repository is on record, or was."""
        return bool(
            await self._value(f"SELECT {REPOSITORY.format('$1')} IS NOT NULL", str(repository))
        )

    # Links

    async def find_link(self, repository: Repository, digest: Digest) -> Link | None:
        """What is known of the repository's having this digest."""
        rows = await self._rows(
            "SELECT l.size, l.is_confirmed, EXISTS (SELECT 1 FROM mirror.sent AS s"
            "  WHERE s.digest = l.digest AND s.upstream = r.upstream)"
            " FROM mirror.repositories AS r JOIN mirror.links AS l ON l.repository = r.id"
            f" WHERE r.path = $1 AND l.digest = {DIGEST.format('$2')}",
            str(repository), pack(digest),
        )  # fmt: skip
        return Link(*rows[0]) if rows else None

    async def record_link(self, repository: Repository, digest: Digest, size: int) -> None:
        """Upstream has confirmed that the repository has this digest."""
        async with self._writing() as connection:
            await writes.put_link(connection, repository, digest, size, self.hour)

    async def record_manifest(
        self,
        repository: Repository,
        digest: Digest,
        size: int,
        children: Sequence[Named],
        *,
        sent_as: str | None = None,
        is_durable: bool = False,  # noqa: ARG002 - whatever is committed there is
    ) -> None:
        """Upstream has confirmed a manifest, and sent it where `sent_as` says what it called it."""
        async with self._writing() as connection:
            await writes.put_manifest(
                connection, repository, digest, size, children, sent_as=sent_as, hour=self.hour
            )

    async def list_children(self, digest: Digest) -> list[Digest]:
        """What a manifest names, in its order."""
        rows = await self._rows(
            "SELECT d.digest FROM mirror.edges AS e JOIN mirror.digests AS d ON d.id = e.child"
            f" WHERE e.parent = {DIGEST.format('$1')} ORDER BY e.position",
            pack(digest),
        )
        return [unpack(child) for (child,) in rows]

    async def list_edges(
        self, parents: Collection[Digest], *, limit: int
    ) -> list[tuple[Digest, Digest]]:
        """What these manifests name: (manifest, what it names), so many pairs at most."""
        return await self._edges("p", parents, limit)

    async def list_parents(
        self, children: Collection[Digest], *, limit: int
    ) -> list[tuple[Digest, Digest]]:
        """The manifests that name these: (manifest, what it names), so many pairs at most."""
        return await self._edges("c", children, limit)

    async def _edges(
        self, given: str, digests: Collection[Digest], limit: int
    ) -> list[tuple[Digest, Digest]]:
        rows = await self._rows(
            "SELECT p.digest, c.digest FROM mirror.edges AS e"
            " JOIN mirror.digests AS p ON p.id = e.parent"
            " JOIN mirror.digests AS c ON c.id = e.child"
            f" WHERE {given}.digest = ANY($1::bytea[]) LIMIT $2",
            list(map(pack, digests)), limit,
        )  # fmt: skip
        return [(unpack(parent), unpack(child)) for parent, child in rows]

    async def count_links(self, digests: Collection[Digest]) -> Mapping[Digest, int]:
        """How many repositories each of these is linked to; only what is linked at all."""
        rows = await self._rows(
            "SELECT d.digest, count(*) FROM mirror.digests AS d"
            " JOIN mirror.links AS l ON l.digest = d.id"
            " WHERE d.digest = ANY($1::bytea[]) GROUP BY d.id",
            list(map(pack, digests)),
        )
        return {unpack(digest): count for digest, count in rows}

    # Who sent what

    async def record_sent(
        self,
        upstream: str,
        digest: Digest,
        *,
        media_type: str | None = None,
        is_durable: bool = False,  # noqa: ARG002 - whatever is committed there is
    ) -> None:
        """This upstream has sent these bytes, and they are what the digest says."""
        async with self._writing() as connection:
            await writes.put_sent(connection, upstream, digest, media_type, self.hour)

    async def find_media_type(self, upstream: str, digest: Digest) -> str | None:
        """What this upstream called a manifest."""
        found = await self._value(
            f"SELECT media_type FROM mirror.sent WHERE digest = {DIGEST.format('$1')}"
            f" AND upstream = {UPSTREAM.format('$2')}",
            pack(digest), upstream,
        )  # fmt: skip
        return None if found is None else str(found)

    async def list_senders(self, digest: Digest) -> frozenset[str]:
        """The upstreams that have sent these bytes."""
        rows = await self._rows(
            "SELECT u.name FROM mirror.sent AS s JOIN mirror.upstreams AS u ON u.id = s.upstream"
            f" WHERE s.digest = {DIGEST.format('$1')}",
            pack(digest),
        )
        return frozenset(name for (name,) in rows)

    # Tags

    async def find_tag(self, repository: Repository, tag: str) -> TagRecord | None:
        """What the tag was last known to mean."""
        rows = await self._rows(
            "SELECT d.digest, t.checked_at, t.is_fallback, t.is_imported, t.told_by"
            " FROM mirror.tags AS t JOIN mirror.digests AS d ON d.id = t.digest"
            f" WHERE t.repository = {REPOSITORY.format('$1')} AND t.name = $2",
            str(repository), tag,
        )  # fmt: skip
        if not rows:
            return None
        digest, checked_at, *others = rows[0]
        # Clocks are compared to some milliseconds: nothing was said in the future.
        at = min(self.to_here(checked_at), self._clock())
        return TagRecord(unpack(digest), at, *others)

    async def list_tags_of(self, repository: Repository, digest: Digest) -> list[str]:
        """The tags of the repository that mean this, as far as is known."""
        rows = await self._rows(
            f"SELECT name FROM mirror.tags WHERE repository = {REPOSITORY.format('$1')}"
            f" AND digest = {DIGEST.format('$2')}",
            str(repository), pack(digest),
        )  # fmt: skip
        return [name for (name,) in rows]

    async def record_tag(self, repository: Repository, tag: str, record: TagRecord) -> None:
        """Upstream has said what a tag means."""
        async with self._writing() as connection:
            await writes.put_tag(connection, repository, tag, self.tag_there(record), self.hour)

    def tag_there(self, record: TagRecord) -> TagRecord:
        """As it is kept there."""
        return TagRecord(
            record.digest, self.said_there(record.checked_at), record.is_fallback,
            record.is_imported, record.told_by,
        )  # fmt: skip

    async def list_tags(
        self, repository: Repository, *, after: str | None, limit: int | None
    ) -> list[str]:
        """The known tags of a repository, in lexical order, from the first one `after`."""
        rows = await self._rows(
            f"SELECT name FROM mirror.tags WHERE repository = {REPOSITORY.format('$1')}"
            " AND name > $2 ORDER BY name LIMIT $3",
            str(repository), after or "", limit,
        )  # fmt: skip
        return [name for (name,) in rows]

    # Referrers

    async def find_referrers(
        self, repository: Repository, digest: Digest
    ) -> ReferrersRecord | None:
        """Upstream's last word on what refers to this."""
        rows = await self._rows(
            "SELECT content, checked_at, is_imported FROM mirror.referrers"
            f" WHERE repository = {REPOSITORY.format('$1')} AND digest = {DIGEST.format('$2')}",
            str(repository), pack(digest),
        )  # fmt: skip
        if not rows:
            return None
        content, checked_at, is_imported = rows[0]
        return ReferrersRecord(bytes(content), self.to_here(checked_at), is_imported)

    async def record_referrers(
        self, repository: Repository, digest: Digest, record: ReferrersRecord
    ) -> None:
        """Upstream has said what refers to this."""
        at = self.said_there(record.checked_at)
        told = ReferrersRecord(record.content, at, record.is_imported)
        async with self._writing() as connection:
            await writes.put_referrers(connection, repository, digest, told, self.hour)

    # Lists

    async def list_repositories(
        self, upstreams: Collection[str], *, after: str | None, limit: int
    ) -> list[Listed]:
        """Repositories of these upstreams, in the order of `<namespace>/<name>`, `after` one."""
        rows = await self._rows(
            "SELECT u.name, r.path, d.digest FROM ("
            "  SELECT it.id, it.path, it.upstream FROM mirror.repositories AS it WHERE path > $1"
            "  AND upstream IN (SELECT id FROM mirror.upstreams WHERE name = ANY($2::text[]))"
            "  AND EXISTS (SELECT 1 FROM mirror.links WHERE repository = it.id)"
            "  ORDER BY path LIMIT $3"
            " ) AS r JOIN mirror.upstreams AS u ON u.id = r.upstream CROSS JOIN LATERAL ("
            "  SELECT digest FROM mirror.links WHERE repository = r.id"
            "  ORDER BY digest DESC LIMIT $4"
            " ) AS l JOIN mirror.digests AS d ON d.id = l.digest ORDER BY r.path",
            after or "", list(upstreams), limit, _LATEST,
        )  # fmt: skip
        return [
            Listed(
                Repository(upstream, path.removeprefix(f"{upstream}/")),
                tuple(unpack(digest) for _, _, digest in links),
            )
            for (upstream, path), links in groupby(rows, key=itemgetter(0, 1))
        ]

    async def list_links(
        self, repository: Repository, *, after: Digest | None, limit: int
    ) -> list[Digest]:
        """Digests that are linked to a repository, in a stable order."""
        rows = await self._rows(
            "SELECT d.digest FROM mirror.links AS l JOIN mirror.digests AS d ON d.id = l.digest"
            f" WHERE l.repository = {REPOSITORY.format('$1')}"
            f" AND l.digest > coalesce({DIGEST.format('$2')}, 0) ORDER BY l.digest LIMIT $3",
            str(repository), None if after is None else pack(after), limit,
        )  # fmt: skip
        return [unpack(digest) for (digest,) in rows]

    # What is no longer so

    async def forget_links(self, repository: Repository, digests: Collection[Digest]) -> None:
        """The repository is not known any more to have these."""
        async with self._writing() as connection:
            await writes.remove_links(connection, repository, digests)

    async def forget_tag(self, repository: Repository, tag: str) -> None:
        """The tag is to be asked for anew."""
        async with self._writing() as connection:
            await writes.remove_tag(connection, repository, tag)

    async def forget_referrers(self, repository: Repository, digest: Digest) -> None:
        """What refers to this is to be asked for anew."""
        async with self._writing() as connection:
            await writes.remove_referrers(connection, repository, digest)

    # What has become of no use

    async def list_unseen(self, *, before: float, after: Seen | None, limit: int) -> list[Seen]:
        """Digests that were last seen `before`: the longest ago first, `after` one."""
        hour, number = (-1, 0) if after is None else (after.hour, after.number)
        rows = await self._rows(
            "SELECT digest, seen, id FROM mirror.digests"
            " WHERE (seen, id) > ($1, $2) AND seen <= $3 ORDER BY seen, id LIMIT $4",
            hour, number, self._last_hour(before), limit,
        )  # fmt: skip
        return [Seen(unpack(digest), seen, its) for digest, seen, its in rows]

    async def note_seen(self, digests: Collection[Digest]) -> None:
        """These are of use."""
        async with self._writing() as connection:
            await writes.put_seen(connection, digests, self.hour)

    async def forget_unseen(self, digests: Sequence[Digest], *, before: float) -> set[Digest]:
        """Forget all that is known of these, unless they were seen since; what is forgotten."""
        packed, last = [pack(digest) for digest in digests], self._last_hour(before)
        rows = [(digest, last) for digest in packed]
        async with self._writing() as connection:
            # One after another: what a manifest names can go once that has gone.
            await connection.executemany(
                "DELETE FROM mirror.digests AS d WHERE digest = $1 AND seen <= $2"
                " AND NOT EXISTS (SELECT 1 FROM mirror.edges WHERE child = d.id)",
                rows,
            )
            await connection.executemany(
                "UPDATE mirror.digests AS d SET seen = greatest(d.seen, named.seen) FROM ("
                "  SELECT e.child, max(p.seen) AS seen FROM mirror.edges AS e"
                "  JOIN mirror.digests AS p ON p.id = e.parent GROUP BY e.child) AS named"
                " WHERE named.child = d.id AND d.digest = $1 AND d.seen <= $2",
                rows,
            )
            kept = await connection.fetch(
                "SELECT digest FROM mirror.digests WHERE digest = ANY($1::bytea[])", packed
            )
        return set(digests) - {unpack(digest) for (digest,) in kept}

    async def forget_empty(self, *, after: str, limit: int) -> str | None:
        """Forget those of `limit` repositories `after` one of which nothing is known; the last."""
        last = await self._value(
            "SELECT max(path) FROM (SELECT path FROM mirror.repositories WHERE path > $1"
            " ORDER BY path LIMIT $2) AS page",
            after, limit,
        )  # fmt: skip
        if last is None:
            return None
        async with self._writing() as connection:
            await connection.execute(
                "DELETE FROM mirror.repositories AS r WHERE path > $1 AND path <= $2"
                " AND NOT EXISTS (SELECT 1 FROM mirror.links WHERE repository = r.id)"
                " AND NOT EXISTS (SELECT 1 FROM mirror.tags WHERE repository = r.id)"
                " AND NOT EXISTS (SELECT 1 FROM mirror.referrers WHERE repository = r.id)",
                after, last,
            )  # fmt: skip
        return str(last)

    async def measure(self) -> Extent:
        """What the records take there; what PostgreSQL could give back, it knows itself."""
        size = await self._value(
            "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class"
            " WHERE relnamespace = 'mirror'::regnamespace AND relkind = 'r'"
        )
        return Extent(size, size)

    async def give_back(self, most: int) -> None:
        """PostgreSQL sees to that (autovacuum)."""

    def _last_hour(self, before: float) -> int:
        """The last hour that is over `before`."""
        return int(self.to_there(before) // HOUR) - 1

    async def _rows(self, sql: str, *values: object) -> list[Any]:
        return await self._database.fetch(sql, *values)

    async def _value(self, sql: str, *values: object) -> Any:
        return await self._database.fetchval(sql, *values)

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[Any]:
        async with self._database.transaction(within=_AT_LENGTH) as connection:
            yield connection

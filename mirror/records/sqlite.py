"""What registries have said, in an SQLite file (`records.sql`, and what follows it)."""

# ruff: noqa: S608 - all that is ever put into a statement's text is ours (`statements`), and
# question marks

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from mirror.oci.compact import pack, unpack
from mirror.oci.digest import Digest
from mirror.oci.reference import Repository
from mirror.records import queries, statements
from mirror.records.from_catalog import take_over
from mirror.records.ports import (
    Link,
    Listed,
    Named,
    ReferrersRecord,
    Seen,
    TagRecord,
)
from mirror.records.queries import batches
from mirror.records.statements import DIGEST, REPOSITORY, UPSTREAM, marks
from mirror.records.wishes import SqliteWishes
from mirror.sqlite import Database, Extent, Schema, Statement

SCHEMA = Schema(
    name="records",
    application_id=0x6D697273,  # "mirs"
    package="mirror.records",
    scripts=(
        "records.sql",
        "records-2.sql",
        "records-3.sql",
        "records-4.sql",
        "records-5.sql",
        "records-6.sql",
        "records-7.sql",
    ),
    loss=(
        "the blobs are not affected: upstream is asked anew what each repository may have; what was"
        " imported, or is of a sealed registry, has to be imported again, what was pinned by"
        " command has to be pinned again, or a backup restored"
    ),
)

FIND_LINK = (
    "SELECT l.size, l.is_confirmed, EXISTS ("
    " SELECT 1 FROM sent AS s WHERE s.digest = l.digest AND s.upstream = r.upstream)"
    " FROM repositories AS r, digests AS d"
    " JOIN links AS l ON l.repository = r.id AND l.digest = d.id"
    " WHERE r.path = ? AND d.digest = ?"
)
"""Asked for each pull of what is not in memory."""

_REFERRERS_UNTIDIED = 2**20  # bytes more of referrers than are kept there may be for a while

MOST_NAMED = 1_000_000
"""Digests that manifests name, all together: some 100 MB. Anybody may write a manifest of many."""

_NAMED_UNTIDIED = 16  # part of them that there may be more for a while


class SqliteRecords:
    """Implements `records.ports.Records`. Use `SqliteRecords.open`."""

    def __init__(
        self, database: Database, clock: Callable[[], float], most_named: int = MOST_NAMED
    ) -> None:
        self.wishes = SqliteWishes(database)
        self._database = database
        self._clock = clock
        self._most_named = most_named
        self._named = most_named  # digests, since the oldest manifests have gone
        self._untidied = _REFERRERS_UNTIDIED  # bytes of lists since the oldest have gone

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: Path,
        *,
        clock: Callable[[], float],
        catalog: Path | None = None,
        most_named: int = MOST_NAMED,
    ) -> AsyncIterator["SqliteRecords"]:
        """Open the file, and make it where need be; everything asked for is written at exit.

        `clock` in seconds since the epoch. Of what manifests name, the latest `most_named` digests
        are on record, or a little more.

        What an older mirror has kept in its `catalog` is taken over into records that are new.

        Raises:
            StoreError: The file is damaged, not ours, or from a newer mirror.
        """
        async with Database.open(path, SCHEMA) as database:
            if catalog is not None:
                await take_over(catalog, database, path, SCHEMA)
            hour = int(clock() // statements.HOUR)  # the clock may have been ahead once
            await database.write(
                Statement("UPDATE digests SET seen = ? WHERE seen > ?", [(hour, hour)])
            )
            yield cls(database, clock, most_named)

    async def knows(self, repository: Repository) -> bool:
        """Whether anything of this repository is on record, or was."""
        found = await self._database.first(
            f"SELECT {REPOSITORY} IS NOT NULL", (str(repository),), bool
        )
        return bool(found)

    # Links

    async def find_link(self, repository: Repository, digest: Digest) -> Link | None:
        """What is known of the repository's having this digest."""
        return await self._database.first(
            FIND_LINK,
            (str(repository), pack(digest)),
            lambda size, is_confirmed, is_sent: Link(size, bool(is_confirmed), bool(is_sent)),
        )

    async def record_link(self, repository: Repository, digest: Digest, size: int) -> None:
        """Upstream has confirmed that the repository has this digest."""
        await self._write(
            *statements.repository(repository),
            self._seen(digest),
            statements.confirmed(repository, digest, size),
        )

    async def record_manifest(
        self,
        repository: Repository,
        digest: Digest,
        size: int,
        children: Sequence[Named],
        *,
        sent_as: str | None = None,
        is_durable: bool = False,
    ) -> None:
        """Upstream has confirmed a manifest, and sent it where `sent_as` says what it called it."""
        await self._database.write(
            *statements.repository(repository),
            self._seen(digest, *(it.digest for it in children)),
            statements.confirmed(repository, digest, size),
            *(
                [statements.sent(repository.namespace, digest, sent_as)]
                if sent_as is not None
                else ()
            ),
            *statements.names(repository, digest, children),
            *self._oldest_manifests_go(len(children) + 1),
            is_durable=is_durable,
        )

    def _oldest_manifests_go(self, named: int) -> tuple[Statement, ...]:
        """What is to be done about too many, now that so many more are `named`."""
        self._named += named
        if self._named < self._most_named // _NAMED_UNTIDIED:
            return ()
        self._named = 0
        return (statements.oldest_manifests_go(self._most_named),)

    async def list_children(self, digest: Digest) -> list[Digest]:
        """What a manifest names, in its order."""
        return await self._database.page(
            f"SELECT d.digest FROM edges AS e JOIN digests AS d ON d.id = e.child"
            f" WHERE e.parent = {DIGEST} ORDER BY e.position",
            (pack(digest),),
            unpack,
        )

    async def list_edges(
        self, parents: Collection[Digest], *, limit: int
    ) -> list[tuple[Digest, Digest]]:
        """What these manifests name: (manifest, what it names), so many pairs at most."""
        return await queries.edges(self._database, "parent", parents, limit)

    async def list_parents(
        self, children: Collection[Digest], *, limit: int
    ) -> list[tuple[Digest, Digest]]:
        """The manifests that name these: (manifest, what it names), so many pairs at most."""
        return await queries.edges(self._database, "child", children, limit)

    async def count_links(self, digests: Collection[Digest]) -> Mapping[Digest, int]:
        """How many repositories each of these is linked to; only what is linked at all."""
        counts: dict[Digest, int] = {}
        for batch in batches(list(map(pack, digests))):
            rows = await self._database.page(
                "SELECT d.digest, count(*) FROM digests AS d JOIN links AS l ON l.digest = d.id"
                f" WHERE d.digest IN ({marks(batch)}) GROUP BY d.id",
                batch,
                lambda digest, count: (unpack(digest), count),
            )
            counts.update(rows)
        return counts

    # Who sent what

    async def record_sent(
        self,
        upstream: str,
        digest: Digest,
        *,
        media_type: str | None = None,
        is_durable: bool = False,
    ) -> None:
        """This upstream has sent these bytes, and they are what the digest says."""
        await self._database.write(
            statements.upstream(upstream),
            self._seen(digest),
            statements.sent(upstream, digest, media_type),
            is_durable=is_durable,
        )

    async def find_media_type(self, upstream: str, digest: Digest) -> str | None:
        """What this upstream called a manifest."""
        return await self._database.first(
            f"SELECT media_type FROM sent WHERE digest = {DIGEST} AND upstream = {UPSTREAM}",
            (pack(digest), upstream),
            statements.unpack_media_type,
        )

    async def list_senders(self, digest: Digest) -> frozenset[str]:
        """The upstreams that have sent these bytes."""
        names = await self._database.rows(
            "SELECT u.name FROM sent AS s JOIN upstreams AS u ON u.id = s.upstream"
            f" WHERE s.digest = {DIGEST}",
            (pack(digest),),
            str,
        )
        return frozenset(names)

    # Tags

    async def find_tag(self, repository: Repository, tag: str) -> TagRecord | None:
        """What the tag was last known to mean."""
        return await self._database.first(
            "SELECT d.digest, t.checked_at, t.is_fallback, t.is_imported, t.told_by"
            " FROM tags AS t JOIN digests AS d ON d.id = t.digest"
            f" WHERE t.repository = {REPOSITORY} AND t.name = ?",
            (str(repository), tag),
            lambda digest, checked_at, is_fallback, is_imported, told_by: TagRecord(
                unpack(digest), checked_at, bool(is_fallback), bool(is_imported), told_by
            ),
        )

    async def list_tags_of(self, repository: Repository, digest: Digest) -> list[str]:
        """The tags of the repository that mean this, as far as is known."""
        return await self._database.page(
            f"SELECT name FROM tags WHERE repository = {REPOSITORY} AND digest = {DIGEST}",
            (str(repository), pack(digest)),
            str,
        )

    async def record_tag(self, repository: Repository, tag: str, record: TagRecord) -> None:
        """Upstream has said what a tag means."""
        await self._write(
            *statements.repository(repository),
            self._seen(record.digest),
            statements.tag(repository, tag, record),
        )

    async def list_tags(
        self, repository: Repository, *, after: str | None, limit: int | None
    ) -> list[str]:
        """The known tags of a repository, in lexical order, from the first one `after`."""
        return await self._database.page(
            f"SELECT name FROM tags WHERE repository = {REPOSITORY} AND name > ?"
            " ORDER BY name LIMIT ?",
            (str(repository), after or "", -1 if limit is None else limit),
            str,
        )

    # Referrers

    async def find_referrers(
        self, repository: Repository, digest: Digest
    ) -> ReferrersRecord | None:
        """Upstream's last word on what refers to this."""
        return await self._database.first(
            "SELECT content, checked_at, is_imported FROM referrers"
            f" WHERE repository = {REPOSITORY} AND digest = {DIGEST}",
            (str(repository), pack(digest)),
            lambda content, checked_at, is_imported: ReferrersRecord(
                content, checked_at, bool(is_imported)
            ),
        )

    async def record_referrers(
        self, repository: Repository, digest: Digest, record: ReferrersRecord
    ) -> None:
        """Upstream has said what refers to this; the oldest of such lists go where need be."""
        self._untidied += len(record.content) + statements.REFERRERS_OVERHEAD
        is_due = self._untidied >= _REFERRERS_UNTIDIED
        if is_due:
            self._untidied = 0
        await self._write(
            *statements.repository(repository),
            self._seen(digest),
            statements.referrers(repository, digest, record),
            *([statements.OLDEST_REFERRERS_GO] if is_due else ()),
        )

    # Lists

    async def list_repositories(
        self, upstreams: Collection[str], *, after: str | None, limit: int
    ) -> list[Listed]:
        """Repositories of these upstreams, in the order of `<namespace>/<name>`, `after` one."""
        return await queries.repositories(self._database, upstreams, after=after, limit=limit)

    async def list_links(
        self, repository: Repository, *, after: Digest | None, limit: int
    ) -> list[Digest]:
        """Digests that are linked to a repository, in a stable order."""
        return await self._database.page(
            "SELECT d.digest FROM links AS l JOIN digests AS d ON d.id = l.digest"
            f" WHERE l.repository = {REPOSITORY} AND l.digest > coalesce({DIGEST}, 0)"
            " ORDER BY l.digest LIMIT ?",
            (str(repository), None if after is None else pack(after), limit),
            unpack,
        )

    # What is no longer so

    async def forget_links(self, repository: Repository, digests: Collection[Digest]) -> None:
        """The repository is not known any more to have these."""
        await self._remove(
            Statement(
                f"DELETE FROM links WHERE repository = {REPOSITORY} AND digest = {DIGEST}",
                [(str(repository), pack(digest)) for digest in digests],
            )
        )

    async def forget_tag(self, repository: Repository, tag: str) -> None:
        """The tag is to be asked for anew."""
        await self._remove(
            Statement(
                f"DELETE FROM tags WHERE repository = {REPOSITORY} AND name = ?",
                [(str(repository), tag)],
            )
        )

    async def forget_referrers(self, repository: Repository, digest: Digest) -> None:
        """What refers to this is to be asked for anew."""
        await self._remove(
            Statement(
                f"DELETE FROM referrers WHERE repository = {REPOSITORY} AND digest = {DIGEST}",
                [(str(repository), pack(digest))],
            )
        )

    # What has become of no use

    async def list_unseen(self, *, before: float, after: Seen | None, limit: int) -> list[Seen]:
        """Digests that were last seen `before`: the longest ago first, `after` one."""
        return await queries.unseen(
            self._database, last_hour=_last_hour(before), after=after, limit=limit
        )

    async def note_seen(self, digests: Collection[Digest]) -> None:
        """These are of use."""
        await self._write(statements.seen(digests, self._clock()))

    async def forget_unseen(self, digests: Sequence[Digest], *, before: float) -> set[Digest]:
        """Forget all that is known of these, unless they were seen since; what is forgotten."""
        packed = [pack(digest) for digest in digests]
        await self._write(*statements.unseen_go(packed, _last_hour(before)))
        kept: set[Digest] = set()
        for batch in batches(packed):
            sql = f"SELECT digest FROM digests WHERE digest IN ({marks(batch)})"
            kept.update(await self._database.page(sql, batch, unpack))
        return set(digests) - kept

    async def forget_empty(self, *, after: str, limit: int) -> str | None:
        """Forget those of `limit` repositories `after` one of which nothing is known; the last."""
        paths = await self._database.page(
            "SELECT path FROM repositories WHERE path > ? ORDER BY path LIMIT ?",
            (after, limit),
            str,
        )
        if not paths:
            return None
        await self._write(statements.empty_go(paths[0], paths[-1]))
        return paths[-1]

    async def measure(self) -> Extent:
        """What the records take on disk."""
        return await self._database.measure()

    async def give_back(self, most: int) -> None:
        """Have the file shrink by so many bytes, as far as they are of no use."""
        await self._database.give_back(most)

    def _seen(self, *digests: Digest) -> Statement:
        return statements.seen(digests, self._clock())

    async def _write(self, *todo: Statement) -> None:
        # What is lost in a power cut is learnt anew, by a question.
        await self._database.write(*todo, is_durable=False)

    async def _remove(self, todo: Statement) -> None:
        # Somebody has decided it: a power cut must not bring it back.
        await self._database.write(todo, is_durable=True)


def _last_hour(before: float) -> int:
    """The last hour that is over `before`."""
    return int(before // statements.HOUR) - 1

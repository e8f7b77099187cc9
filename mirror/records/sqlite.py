"""What registries have said, in an SQLite file (`records.sql`, and what follows it)."""

# ruff: noqa: S608 - all that is ever put into a statement's text is _REPOSITORY, columns and question marks

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from mirror.oci.digest import Digest
from mirror.oci.reference import Repository
from mirror.records.compact import pack, unpack
from mirror.records.from_catalog import take_over
from mirror.records.ports import Link, Named, ReferrersRecord, TagRecord
from mirror.sqlite import Database, Row, Schema, Statement

SCHEMA = Schema(
    name="records",
    application_id=0x6D697273,  # "mirs"
    package="mirror.records",
    scripts=("records.sql", "records-2.sql"),
    remedy=(
        ". The blobs are not affected: move the file (with its -wal and -shm) aside and start"
        " again, and what it held is learnt anew from the registries"
    ),
)

FIND_LINK = (
    "SELECT l.size, l.is_confirmed, EXISTS ("
    " SELECT 1 FROM sent AS s WHERE s.digest = l.digest AND s.upstream = r.upstream)"
    " FROM repositories AS r JOIN links AS l ON l.repository = r.id"
    " WHERE r.path = ? AND l.digest = ?"
)
"""Asked for each pull of what is not in memory."""

_REPOSITORY = "(SELECT id FROM repositories WHERE path = ?)"
_UPSTREAM = "(SELECT id FROM upstreams WHERE name = ?)"
_BATCH = 500  # digests asked about in one query

# Anyone may ask for the referrers of anything: of all the lists, the latest are kept.
_REFERRERS = 16 * 2**20  # bytes
_REFERRERS_OVERHEAD = 1024  # bytes that a list costs beyond its content
_REFERRERS_UNTIDIED = 2**20  # bytes more than that there may be for a while

MOST_NAMED = 1_000_000
"""Digests that manifests name, all together: some 100 MB. Anybody may write a manifest of many."""

_NAMED_UNTIDIED = 16  # part of them that there may be more for a while


_OLDEST_REFERRERS_GO = Statement(
    "DELETE FROM referrers WHERE (repository, digest) IN (SELECT repository, digest FROM ("
    " SELECT repository, digest, sum(size + ?) OVER ("
    "  ORDER BY checked_at DESC ROWS UNBOUNDED PRECEDING) AS total FROM referrers)"
    " WHERE total > ?)",
    [(_REFERRERS_OVERHEAD, _REFERRERS)],
)


class SqliteRecords:
    """Implements `records.ports.Records`. Use `SqliteRecords.open`."""

    def __init__(self, database: Database, most_named: int = MOST_NAMED) -> None:
        self._database = database
        self._most_named = most_named
        self._named = most_named  # digests, since the oldest manifests have gone
        self._untidied = _REFERRERS_UNTIDIED  # bytes of lists since the oldest have gone

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path, *, catalog: Path | None = None, most_named: int = MOST_NAMED
    ) -> AsyncIterator["SqliteRecords"]:
        """Open the file, and make it where need be; everything asked for is written at exit.

        Of what manifests name, the latest `most_named` digests are on record, or a little more.

        What an older mirror has kept in its `catalog` is taken over into records that are new.

        Raises:
            StoreError: The file is damaged, not ours, or from a newer mirror.
        """
        async with Database.open(path, SCHEMA) as database:
            if catalog is not None:
                await take_over(catalog, database, path, SCHEMA)
            yield cls(database, most_named)

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
        await self._database.write(*_repository(repository), _confirmed(repository, digest, size))

    async def record_manifest(
        self,
        repository: Repository,
        digest: Digest,
        size: int,
        children: Sequence[Named],
        *,
        sent_as: str | None = None,
    ) -> None:
        """Upstream has confirmed a manifest, and sent it where `sent_as` says what it called it."""
        path, parent = str(repository), pack(digest)
        await self._database.write(
            *_repository(repository),
            _confirmed(repository, digest, size),
            *([_sent(repository.namespace, digest, sent_as)] if sent_as is not None else ()),
            # What an earlier manifest promised of a size is no better than what this one does.
            Statement(
                f"INSERT INTO links VALUES ({_REPOSITORY}, ?, ?, 0) ON CONFLICT DO UPDATE SET"
                " size = excluded.size WHERE is_confirmed = 0 AND links.size <> excluded.size",
                [(path, pack(it.digest), it.size) for it in children if not it.is_foreign],
            ),
            Statement(
                "INSERT INTO edges VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                [(parent, position, pack(it.digest)) for position, it in enumerate(children)],
            ),
            Statement(
                "INSERT INTO manifests (digest, children) VALUES (?, ?) ON CONFLICT (digest)"
                " DO UPDATE SET id = (SELECT max(id) + 1 FROM manifests)",
                [(parent, len(children))],
            ),
            *self._oldest_manifests_go(len(children) + 1),
        )

    def _oldest_manifests_go(self, named: int) -> tuple[Statement, ...]:
        """What is to be done about too many, now that so many more are `named`."""
        self._named += named
        if self._named < self._most_named // _NAMED_UNTIDIED:
            return ()
        self._named = 0
        return (
            Statement(
                "DELETE FROM manifests WHERE id IN (SELECT id FROM (SELECT id, sum(children + 1)"
                " OVER (ORDER BY id DESC ROWS UNBOUNDED PRECEDING) AS total FROM manifests)"
                " WHERE total > ?)",
                [(self._most_named,)],
            ),
        )

    async def list_children(self, digest: Digest) -> list[Digest]:
        """What a manifest names, in its order."""
        return await self._database.page(
            "SELECT child FROM edges WHERE parent = ? ORDER BY position", (pack(digest),), unpack
        )

    async def list_edges(
        self, parents: Collection[Digest], *, limit: int
    ) -> list[tuple[Digest, Digest]]:
        """What these manifests name: (manifest, what it names), so many pairs at most."""
        return await self._pairs("parent", parents, limit)

    async def list_parents(
        self, children: Collection[Digest], *, limit: int
    ) -> list[tuple[Digest, Digest]]:
        """The manifests that name these: (manifest, what it names), so many pairs at most."""
        return await self._pairs("child", children, limit)

    async def _pairs(
        self, column: str, digests: Collection[Digest], limit: int
    ) -> list[tuple[Digest, Digest]]:
        found: list[tuple[Digest, Digest]] = []
        for batch in _batches(list(map(pack, digests))):
            found += await self._database.page(
                f"SELECT parent, child FROM edges WHERE {column} IN ({_marks(batch)}) LIMIT ?",
                (*batch, limit - len(found)),
                lambda parent, child: (unpack(parent), unpack(child)),
            )
        return found

    async def count_links(self, digests: Collection[Digest]) -> Mapping[Digest, int]:
        """How many repositories each of these is linked to; only what is linked at all."""
        counts: dict[Digest, int] = {}
        for batch in _batches(list(map(pack, digests))):
            rows = await self._database.page(
                f"SELECT digest, count(*) FROM links WHERE digest IN ({_marks(batch)})"
                " GROUP BY digest",
                batch,
                lambda digest, count: (unpack(digest), count),
            )
            counts.update(rows)
        return counts

    # Who sent what

    async def record_sent(
        self, upstream: str, digest: Digest, *, media_type: str | None = None
    ) -> None:
        """This upstream has sent these bytes, and they are what the digest says."""
        await self._database.write(_upstream(upstream), _sent(upstream, digest, media_type))

    async def find_media_type(self, upstream: str, digest: Digest) -> str | None:
        """What this upstream called a manifest."""
        return await self._database.first(
            f"SELECT media_type FROM sent WHERE digest = ? AND upstream = {_UPSTREAM}",
            (pack(digest), upstream),
            lambda media_type: media_type,
        )

    async def list_senders(self, digest: Digest) -> frozenset[str]:
        """The upstreams that have sent these bytes."""
        names = await self._database.rows(
            "SELECT u.name FROM sent AS s JOIN upstreams AS u ON u.id = s.upstream"
            " WHERE s.digest = ?",
            (pack(digest),),
            str,
        )
        return frozenset(names)

    # Tags

    async def find_tag(self, repository: Repository, tag: str) -> TagRecord | None:
        """What the tag was last known to mean."""
        return await self._database.first(
            "SELECT digest, checked_at, is_fallback FROM tags"
            f" WHERE repository = {_REPOSITORY} AND name = ?",
            (str(repository), tag),
            lambda digest, checked_at, is_fallback: TagRecord(
                unpack(digest), checked_at, bool(is_fallback)
            ),
        )

    async def is_tagged(self, repository: Repository, digest: Digest) -> bool:
        """Whether any tag of the repository means this, as far as is known."""
        found = await self._database.page(
            f"SELECT 1 FROM tags WHERE repository = {_REPOSITORY} AND digest = ? LIMIT 1",
            (str(repository), pack(digest)),
            bool,
        )
        return bool(found)

    async def record_tag(self, repository: Repository, tag: str, record: TagRecord) -> None:
        """Upstream has said what a tag means."""
        await self._database.write(
            *_repository(repository),
            Statement(
                "INSERT INTO tags (repository, name, digest, checked_at, is_fallback)"
                f" VALUES ({_REPOSITORY}, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " digest = excluded.digest, checked_at = excluded.checked_at,"
                " is_fallback = excluded.is_fallback",
                [
                    (
                        str(repository),
                        tag,
                        pack(record.digest),
                        record.checked_at,
                        int(record.is_fallback),
                    )
                ],
            ),
        )

    async def list_tags(
        self, repository: Repository, *, after: str | None, limit: int | None
    ) -> list[str]:
        """The known tags of a repository, in lexical order, from the first one `after`."""
        return await self._database.page(
            f"SELECT name FROM tags WHERE repository = {_REPOSITORY} AND name > ?"
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
            "SELECT content, checked_at FROM referrers"
            f" WHERE repository = {_REPOSITORY} AND digest = ?",
            (str(repository), pack(digest)),
            ReferrersRecord,
        )

    async def record_referrers(
        self, repository: Repository, digest: Digest, record: ReferrersRecord
    ) -> None:
        """Upstream has said what refers to this; the oldest of such lists go where need be."""
        self._untidied += len(record.content) + _REFERRERS_OVERHEAD
        is_due = self._untidied >= _REFERRERS_UNTIDIED
        if is_due:
            self._untidied = 0
        await self._database.write(
            *_repository(repository),
            Statement(
                "INSERT INTO referrers (repository, digest, checked_at, content)"
                f" VALUES ({_REPOSITORY}, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " content = excluded.content, checked_at = excluded.checked_at",
                [(str(repository), pack(digest), record.checked_at, record.content)],
            ),
            *([_OLDEST_REFERRERS_GO] if is_due else ()),
        )

    # Lists

    async def list_repositories(
        self, upstreams: Collection[str], *, after: str | None, limit: int
    ) -> list[Repository]:
        """Repositories of these upstreams, in the order of `<namespace>/<name>`."""
        names = list(upstreams)
        return await self._database.page(
            "SELECT r.path FROM repositories AS r JOIN upstreams AS u ON u.id = r.upstream"
            f" WHERE r.path > ? AND u.name IN ({_marks(names)}) ORDER BY r.path LIMIT ?",
            (after or "", *names, limit),
            _parse_path,
        )

    async def list_links(
        self, repository: Repository, *, after: Digest | None, limit: int
    ) -> list[Digest]:
        """Digests that are linked to a repository, in a stable order."""
        return await self._database.page(
            f"SELECT digest FROM links WHERE repository = {_REPOSITORY} AND digest > ?"
            " ORDER BY digest LIMIT ?",
            (str(repository), b"" if after is None else pack(after), limit),
            unpack,
        )

    # What is no longer so

    async def forget_link(self, repository: Repository, digest: Digest) -> None:
        """Upstream has said that the repository does not have it (any more)."""
        await self._database.write(
            Statement(
                f"DELETE FROM links WHERE repository = {_REPOSITORY} AND digest = ?",
                [(str(repository), pack(digest))],
            )
        )

    async def forget_tag(self, repository: Repository, tag: str) -> None:
        """The tag is to be asked for anew."""
        await self._database.write(
            Statement(
                f"DELETE FROM tags WHERE repository = {_REPOSITORY} AND name = ?",
                [(str(repository), tag)],
            )
        )


def _upstream(name: str) -> Statement:
    return Statement("INSERT INTO upstreams (name) VALUES (?) ON CONFLICT DO NOTHING", [(name,)])


def _repository(repository: Repository) -> tuple[Statement, ...]:
    return (
        _upstream(repository.namespace),
        Statement(
            f"INSERT INTO repositories (upstream, path) VALUES ({_UPSTREAM}, ?)"
            " ON CONFLICT DO NOTHING",
            [(repository.namespace, str(repository))],
        ),
    )


def _confirmed(repository: Repository, digest: Digest, size: int) -> Statement:
    return Statement(
        f"INSERT INTO links VALUES ({_REPOSITORY}, ?, ?, 1) ON CONFLICT DO UPDATE SET"
        " size = excluded.size, is_confirmed = 1",
        [(str(repository), pack(digest), size)],
    )


def _sent(upstream: str, digest: Digest, media_type: str | None) -> Statement:
    return Statement(
        f"INSERT INTO sent VALUES (?, {_UPSTREAM}, ?) ON CONFLICT DO UPDATE SET"
        " media_type = coalesce(excluded.media_type, sent.media_type)",
        [(pack(digest), upstream, media_type)],
    )


def _parse_path(path: str) -> Repository:
    namespace, _, name = path.partition("/")
    return Repository(namespace, name)


def _batches(values: Row) -> list[Row]:
    return [values[start : start + _BATCH] for start in range(0, len(values), _BATCH)]


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))

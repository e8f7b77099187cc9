"""What is written into the shared records, in SQL: on a connection that is in a transaction.

Several mirrors write at once. Whoever comes with several rows brings them in one order (that of
their bytes), or two would wait for each other; and what is old never takes the place of what is
newer, whichever comes first.
"""

# ruff: noqa: S608 - all that is ever put into a statement's text are the constants below

from collections.abc import Iterable, Sequence
from typing import Any

from mirror.oci.compact import pack
from mirror.oci.digest import Digest
from mirror.oci.reference import Repository
from mirror.records.ports import Named, ReferrersRecord, TagRecord

HOUR = 3600
"""Seconds; in hours it is known when a digest was last seen."""

REPOSITORY = "(SELECT id FROM mirror.repositories WHERE path = {})"
DIGEST = "(SELECT id FROM mirror.digests WHERE digest = {})"
UPSTREAM = "(SELECT id FROM mirror.upstreams WHERE name = {})"

_SEEN = (
    "INSERT INTO mirror.digests AS d (digest, seen)"
    " SELECT DISTINCT given, $2::int FROM unnest($1::bytea[]) AS given ORDER BY given"
    " ON CONFLICT (digest) DO UPDATE SET seen = excluded.seen WHERE d.seen < excluded.seen"
)

# Asked for first: a number that was drawn for what is there already is drawn in vain.
_UPSTREAM_IS = (
    "INSERT INTO mirror.upstreams (name) SELECT $1"
    " WHERE NOT EXISTS (SELECT 1 FROM mirror.upstreams WHERE name = $1) ON CONFLICT DO NOTHING"
)
_REPOSITORY_IS = (
    f"INSERT INTO mirror.repositories (upstream, path) SELECT {UPSTREAM.format('$1')}, $2"
    " WHERE NOT EXISTS (SELECT 1 FROM mirror.repositories WHERE path = $2) ON CONFLICT DO NOTHING"
)

_CONFIRMED = (
    "INSERT INTO mirror.links AS l (repository, digest, size, is_confirmed)"
    f" VALUES ({REPOSITORY.format('$1')}, {DIGEST.format('$2')}, $3, true)"
    " ON CONFLICT (repository, digest) DO UPDATE SET size = excluded.size, is_confirmed = true"
    " WHERE NOT l.is_confirmed OR l.size <> excluded.size"
)

_SENT = (
    "INSERT INTO mirror.sent AS s (digest, upstream, media_type)"
    f" VALUES ({DIGEST.format('$1')}, {UPSTREAM.format('$2')}, $3)"
    " ON CONFLICT (digest, upstream) DO UPDATE SET media_type = excluded.media_type"
    " WHERE excluded.media_type IS NOT NULL"
    " AND excluded.media_type IS DISTINCT FROM s.media_type"
)

# What an earlier manifest promised of a size is no better than what this one does.
_NAMED = (
    "INSERT INTO mirror.links AS l (repository, digest, size, is_confirmed)"
    f" SELECT {REPOSITORY.format('$1')}, d.id, given.size, false"
    " FROM unnest($2::bytea[], $3::bigint[]) AS given (digest, size)"
    " JOIN mirror.digests AS d ON d.digest = given.digest ORDER BY given.digest"
    " ON CONFLICT (repository, digest) DO UPDATE SET size = excluded.size"
    " WHERE NOT l.is_confirmed AND l.size <> excluded.size"
)
_EDGES = (
    "INSERT INTO mirror.edges (parent, position, child)"
    f" SELECT {DIGEST.format('$1')}, given.position - 1, d.id"
    " FROM unnest($2::bytea[]) WITH ORDINALITY AS given (digest, position)"
    " JOIN mirror.digests AS d ON d.digest = given.digest ON CONFLICT DO NOTHING"
)
_MANIFEST = (
    f"INSERT INTO mirror.manifests (digest, children) VALUES ({DIGEST.format('$1')}, $2)"
    " ON CONFLICT (digest) DO UPDATE SET recorded = nextval('mirror.manifests_recorded'),"
    " children = excluded.children"
)
_CONTENT = (
    f"INSERT INTO mirror.manifests AS m (digest, children, content)"
    f" VALUES ({DIGEST.format('$1')}, 0, $2)"
    " ON CONFLICT (digest) DO UPDATE SET content = excluded.content WHERE m.content IS NULL"
)

_TAG = (
    f"WITH was AS (SELECT digest FROM mirror.tags"
    f"  WHERE repository = {REPOSITORY.format('$1')} AND name = $2)"
    " INSERT INTO mirror.tags AS t"
    " (repository, name, digest, checked_at, is_fallback, is_imported, told_by)"
    f" VALUES ({REPOSITORY.format('$1')}, $2, {DIGEST.format('$3')}, $4, $5, $6, $7)"
    " ON CONFLICT (repository, name) DO UPDATE SET digest = excluded.digest,"
    " checked_at = excluded.checked_at, is_fallback = excluded.is_fallback,"
    " is_imported = excluded.is_imported, told_by = excluded.told_by"
    " WHERE t.checked_at <= excluded.checked_at"
    " RETURNING digest IS DISTINCT FROM (SELECT digest FROM was)"
)

_REFERRERS = (
    "INSERT INTO mirror.referrers AS r (repository, digest, checked_at, content, is_imported)"
    f" VALUES ({REPOSITORY.format('$1')}, {DIGEST.format('$2')}, $3, $4, $5)"
    " ON CONFLICT (repository, digest) DO UPDATE SET content = excluded.content,"
    " checked_at = excluded.checked_at, is_imported = excluded.is_imported"
    " WHERE r.checked_at <= excluded.checked_at"
)

Connection = Any  # asyncpg has no types


async def put_seen(connection: Connection, digests: Iterable[Digest], hour: int) -> None:
    """There are these digests, and they are of use."""
    await connection.execute(_SEEN, sorted(map(pack, digests)), hour)


async def put_repository(connection: Connection, repository: Repository) -> None:
    """There is this repository."""
    await connection.execute(_UPSTREAM_IS, repository.namespace)
    await connection.execute(_REPOSITORY_IS, repository.namespace, str(repository))


async def put_link(
    connection: Connection, repository: Repository, digest: Digest, size: int, hour: int
) -> None:
    """Upstream has confirmed a link."""
    await put_repository(connection, repository)
    await put_seen(connection, [digest], hour)
    await connection.execute(_CONFIRMED, str(repository), pack(digest), size)


async def put_sent(
    connection: Connection, upstream: str, digest: Digest, media_type: str | None, hour: int
) -> None:
    """An upstream has sent this."""
    await connection.execute(_UPSTREAM_IS, upstream)
    await put_seen(connection, [digest], hour)
    await connection.execute(_SENT, pack(digest), upstream, media_type)


async def put_manifest(
    connection: Connection,
    repository: Repository,
    digest: Digest,
    size: int,
    children: Sequence[Named],
    *,
    sent_as: str | None,
    hour: int,
) -> None:
    """A manifest of the repository names `children`."""
    parent, path = pack(digest), str(repository)
    await put_repository(connection, repository)
    await put_seen(connection, (digest, *(it.digest for it in children)), hour)
    await connection.execute(_CONFIRMED, path, parent, size)
    if sent_as is not None:
        await connection.execute(_SENT, parent, repository.namespace, sent_as)
    named = {pack(it.digest): it.size for it in children if not it.is_foreign}
    await connection.execute(_NAMED, path, [*named], [*named.values()])
    await connection.execute(_EDGES, parent, [pack(it.digest) for it in children])
    await connection.execute(_MANIFEST, parent, len(children))


async def put_content(connection: Connection, digest: Digest, content: bytes, hour: int) -> None:
    """What a manifest says, as it was proved."""
    await put_seen(connection, [digest], hour)
    await connection.execute(_CONTENT, pack(digest), content)


async def put_tag(
    connection: Connection, repository: Repository, tag: str, record: TagRecord, hour: int
) -> bool:
    """Upstream has said what a tag means (`checked_at` there); whether that is another meaning."""
    await put_repository(connection, repository)
    await put_seen(connection, [record.digest], hour)
    return bool(
        await connection.fetchval(
            _TAG, str(repository), tag, pack(record.digest), record.checked_at,
            record.is_fallback, record.is_imported, record.told_by,
        )
    )  # fmt: skip


async def put_referrers(
    connection: Connection,
    repository: Repository,
    digest: Digest,
    record: ReferrersRecord,
    hour: int,
) -> None:
    """Upstream has said what refers to this (`checked_at` there)."""
    await put_repository(connection, repository)
    await put_seen(connection, [digest], hour)
    await connection.execute(
        _REFERRERS,
        str(repository),
        pack(digest),
        record.checked_at,
        record.content,
        record.is_imported,
    )


async def remove_links(
    connection: Connection, repository: Repository, digests: Iterable[Digest]
) -> None:
    """The repository is not known any more to have these."""
    await connection.execute(
        f"DELETE FROM mirror.links WHERE repository = {REPOSITORY.format('$1')} AND digest IN"
        " (SELECT id FROM mirror.digests WHERE digest = ANY($2::bytea[]))",
        str(repository), list(map(pack, digests)),
    )  # fmt: skip


async def remove_tag(connection: Connection, repository: Repository, tag: str) -> None:
    """The tag is to be asked for anew."""
    await connection.execute(
        f"DELETE FROM mirror.tags WHERE repository = {REPOSITORY.format('$1')} AND name = $2",
        str(repository), tag,
    )  # fmt: skip


async def remove_referrers(connection: Connection, repository: Repository, digest: Digest) -> None:
    """What refers to this is to be asked for anew."""
    await connection.execute(
        f"DELETE FROM mirror.referrers WHERE repository = {REPOSITORY.format('$1')}"
        f" AND digest = {DIGEST.format('$2')}",
        str(repository), pack(digest),
    )  # fmt: skip


async def end_check(connection: Connection, repository: Repository, tag: str, holder: str) -> None:
    """This mirror does not ask upstream any more what the tag means."""
    await connection.execute(
        "DELETE FROM mirror.checks WHERE path = $1 AND tag = $2 AND holder = $3",
        str(repository), tag, holder,
    )  # fmt: skip


async def put_pin(connection: Connection, image: str, platforms: str, refresh: float) -> None:
    """An operator has pinned an image."""
    await connection.execute(
        "INSERT INTO mirror.pins (image, platforms, refresh) VALUES ($1, $2, $3)"
        " ON CONFLICT (image) DO UPDATE SET platforms = excluded.platforms,"
        " refresh = excluded.refresh",
        image, platforms, refresh,
    )  # fmt: skip


async def remove_pin(connection: Connection, image: str) -> None:
    """An operator has pinned it no longer."""
    await connection.execute("DELETE FROM mirror.pins WHERE image = $1", image)

"""What is written into the records, in SQL."""

# ruff: noqa: S608 - all that is ever put into a statement's text are the constants below

from collections.abc import Iterable, Sequence

from mirror.oci.compact import pack
from mirror.oci.digest import Digest
from mirror.oci.manifest import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from mirror.oci.reference import Repository
from mirror.records.ports import Named, ReferrersRecord, TagRecord
from mirror.sqlite import Statement

REPOSITORY = "(SELECT id FROM repositories WHERE path = ?)"
UPSTREAM = "(SELECT id FROM upstreams WHERE name = ?)"
DIGEST = "(SELECT id FROM digests WHERE digest = ?)"

HOUR = 3600
"""Seconds; in hours it is known when a digest was last seen."""

# Anyone may ask for the referrers of anything: of all the lists, the latest are kept.
_REFERRERS = 16 * 2**20  # bytes

REFERRERS_OVERHEAD = 1024
"""Bytes that a list costs beyond its content."""

OLDEST_REFERRERS_GO = Statement(
    "DELETE FROM referrers WHERE (repository, digest) IN (SELECT repository, digest FROM ("
    " SELECT repository, digest, sum(size + ?) OVER ("
    "  ORDER BY checked_at DESC ROWS UNBOUNDED PRECEDING) AS total FROM referrers)"
    " WHERE total > ?)",
    [(REFERRERS_OVERHEAD, _REFERRERS)],
)

# Nearly all manifests are of these: a byte for each, and not sixty. The numbers are in files.
_MEDIA_TYPES = {OCI_MANIFEST: 1, OCI_INDEX: 2, DOCKER_MANIFEST: 3, DOCKER_LIST: 4}
_NAMES = {number: name for name, number in _MEDIA_TYPES.items()}


def unpack_media_type(value: int | str | None) -> str | None:
    """A media type, from how it is kept."""
    return _NAMES[value] if isinstance(value, int) else value


def upstream(name: str) -> Statement:
    """There is this upstream."""
    return Statement("INSERT INTO upstreams (name) VALUES (?) ON CONFLICT DO NOTHING", [(name,)])


def repository(its: Repository) -> tuple[Statement, ...]:
    """There is this repository."""
    return (
        upstream(its.namespace),
        Statement(
            f"INSERT INTO repositories (upstream, path) VALUES ({UPSTREAM}, ?)"
            " ON CONFLICT DO NOTHING",
            [(its.namespace, str(its))],
        ),
    )


def seen(digests: Iterable[Digest], now: float) -> Statement:
    """There are these digests, and they are of use."""
    hour = int(now // HOUR)
    return Statement(
        "INSERT INTO digests (digest, seen) VALUES (?, ?) ON CONFLICT (digest) DO UPDATE"
        " SET seen = excluded.seen WHERE seen <> excluded.seen",
        [(pack(digest), hour) for digest in digests],
    )


def confirmed(repository: Repository, digest: Digest, size: int) -> Statement:
    """Upstream has confirmed a link."""
    return Statement(
        f"INSERT INTO links VALUES ({REPOSITORY}, {DIGEST}, ?, 1) ON CONFLICT DO UPDATE SET"
        " size = excluded.size, is_confirmed = 1"
        " WHERE is_confirmed = 0 OR links.size <> excluded.size",
        [(str(repository), pack(digest), size)],
    )


def sent(upstream: str, digest: Digest, media_type: str | None) -> Statement:
    """An upstream has sent this."""
    kept = None if media_type is None else _MEDIA_TYPES.get(media_type, media_type)
    return Statement(
        f"INSERT INTO sent VALUES ({DIGEST}, {UPSTREAM}, ?) ON CONFLICT DO UPDATE SET"
        " media_type = excluded.media_type"
        " WHERE excluded.media_type IS NOT NULL AND excluded.media_type IS NOT sent.media_type",
        [(pack(digest), upstream, kept)],
    )


def names(
    repository: Repository, digest: Digest, children: Sequence[Named]
) -> tuple[Statement, ...]:
    """A manifest of the repository names `children`."""
    path, parent = str(repository), pack(digest)
    return (
        # What an earlier manifest promised of a size is no better than what this one does.
        Statement(
            f"INSERT INTO links VALUES ({REPOSITORY}, {DIGEST}, ?, 0) ON CONFLICT DO UPDATE SET"
            " size = excluded.size WHERE is_confirmed = 0 AND links.size <> excluded.size",
            [(path, pack(it.digest), it.size) for it in children if not it.is_foreign],
        ),
        Statement(
            f"INSERT INTO edges VALUES ({DIGEST}, ?, {DIGEST}) ON CONFLICT DO NOTHING",
            [(parent, position, pack(it.digest)) for position, it in enumerate(children)],
        ),
        Statement(
            f"INSERT INTO manifests (digest, children) VALUES ({DIGEST}, ?) ON CONFLICT (digest)"
            " DO UPDATE SET id = (SELECT max(id) + 1 FROM manifests)",
            [(parent, len(children))],
        ),
    )


def oldest_manifests_go(most_named: int) -> Statement:
    """What manifests name is forgotten, but for what the latest do."""
    return Statement(
        "DELETE FROM manifests WHERE id IN (SELECT id FROM (SELECT id, sum(children + 1)"
        " OVER (ORDER BY id DESC ROWS UNBOUNDED PRECEDING) AS total FROM manifests)"
        " WHERE total > ?)",
        [(most_named,)],
    )


def tag(repository: Repository, name: str, record: TagRecord) -> Statement:
    """Upstream has said what a tag means."""
    row = (
        str(repository), name, pack(record.digest), record.checked_at, int(record.is_fallback),
        int(record.is_imported), record.checked_at, record.told_by,
    )  # fmt: skip
    return Statement(
        "INSERT INTO tags (repository, name, digest, checked_at, is_fallback, is_imported, since,"
        f" told_by) VALUES ({REPOSITORY}, ?, {DIGEST}, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " since = iif(digest = excluded.digest, since, excluded.since),"
        " digest = excluded.digest, checked_at = excluded.checked_at,"
        " is_fallback = excluded.is_fallback, is_imported = excluded.is_imported,"
        " told_by = excluded.told_by",
        [row],
    )


def referrers(repository: Repository, digest: Digest, record: ReferrersRecord) -> Statement:
    """Upstream has said what refers to this."""
    return Statement(
        "INSERT INTO referrers (repository, digest, checked_at, content, is_imported)"
        f" VALUES ({REPOSITORY}, {DIGEST}, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " content = excluded.content, checked_at = excluded.checked_at,"
        " is_imported = excluded.is_imported",
        [
            (
                str(repository),
                pack(digest),
                record.checked_at,
                record.content,
                int(record.is_imported),
            )
        ],
    )


def unseen_go(digests: Sequence[bytes], last_hour: int) -> tuple[Statement, ...]:
    """Forget what was not seen after that hour, and all that is known of it.

    What a manifest on record names stays as long as that: it is as old as the latest of those.
    """
    rows = [(digest, last_hour) for digest in digests]
    return (
        Statement(
            "DELETE FROM digests WHERE digest = ? AND seen <= ?"
            " AND NOT EXISTS (SELECT 1 FROM edges WHERE child = digests.id)",
            rows,
        ),
        Statement(
            "UPDATE digests SET seen = (SELECT max(p.seen, digests.seen) FROM edges AS e"
            "  JOIN digests AS p ON p.id = e.parent WHERE e.child = digests.id"
            "  ORDER BY p.seen DESC LIMIT 1)"
            " WHERE digest = ? AND seen <= ?"
            " AND EXISTS (SELECT 1 FROM edges WHERE child = digests.id)",
            rows,
        ),
    )


def empty_go(first: str, last: str) -> Statement:
    """Forget repositories of which nothing is known, by their whole names."""
    return Statement(
        "DELETE FROM repositories WHERE path BETWEEN ? AND ?"
        " AND NOT EXISTS (SELECT 1 FROM links WHERE repository = repositories.id)"
        " AND NOT EXISTS (SELECT 1 FROM tags WHERE repository = repositories.id)"
        " AND NOT EXISTS (SELECT 1 FROM referrers WHERE repository = repositories.id)",
        [(first, last)],
    )


def marks(values: Sequence[object]) -> str:
    """A question mark for each."""
    return ",".join("?" * len(values))

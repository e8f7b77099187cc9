"""What is written into the index, in SQL.

`asked`, `settled` and `rank` are those of `worth.py`. `rank` is kept in its column whenever one of
the values that it is made of changes.
"""

from collections.abc import Iterable

from mirror.oci.compact import pack
from mirror.oci.digest import Digest, parse_digest
from mirror.sqlite import Row

# Manifests may be fetched as blobs, too; they stay what they are.
UPSERT_BLOB = (
    "INSERT INTO blobs (digest, size, is_manifest, accessed_at, proved_on,"
    "  is_superseded, slowness, score, rank)"
    " SELECT ?1, ?2, ?3, ?4, ?5, coalesce(r.is_superseded, 0), ?7, asked(r.score, ?4),"
    "  rank(asked(r.score, ?4), ?2, coalesce(r.is_superseded, 0), 0, ?7)"
    " FROM (SELECT 1) LEFT JOIN remembered AS r ON r.name = ?6 WHERE true"
    " ON CONFLICT DO UPDATE SET leaving = 0, size = excluded.size, is_broken = 0,"
    " is_manifest = max(is_manifest, excluded.is_manifest),"
    " proved_on = iif(excluded.proved_on, excluded.proved_on, proved_on),"
    " accessed_at = max(accessed_at, excluded.accessed_at),"
    " slowness = max(slowness, excluded.slowness),"
    " score = asked(score, excluded.accessed_at),"
    " rank = rank(asked(score, excluded.accessed_at), excluded.size, is_superseded, 0,"
    "  max(slowness, excluded.slowness))"
)

# What the index knows already, it knows better.
ADOPT_BLOB = (
    "INSERT INTO blobs (digest, size, is_manifest, accessed_at, proved_on, score, rank)"
    " VALUES (?1, ?2, ?3, ?4, ?5, asked(NULL, ?4), rank(asked(NULL, ?4), ?2))"
    " ON CONFLICT DO NOTHING"
)

RECORD_ACCESS = (
    "UPDATE blobs SET accessed_at = max(accessed_at, ?1), score = asked(score, ?1), is_broken = 0,"
    " rank = rank(asked(score, ?1), size, is_superseded, 0, slowness) WHERE digest = ?2"
)
# `ahead` of the time it is now, as far as each was noted.
SETTLE_ACCESS = (
    "UPDATE blobs SET accessed_at = ?1, score = settled(score, accessed_at - ?1),"
    " rank = rank(settled(score, accessed_at - ?1), size, is_superseded, is_broken, slowness)"
    " WHERE digest = ?2 AND accessed_at > ?1"
)
SETTLE_LATEST = "UPDATE totals SET latest = ?"
SETTLE_REMEMBERED = "UPDATE remembered SET score = settled(score, ?) WHERE score > ?"
RECORD_MEANING = (
    "UPDATE blobs SET is_superseded = ?1, rank = rank(score, size, ?1, is_broken, slowness)"
    " WHERE digest = ?2 AND is_superseded <> ?1"
)
RECORD_BROKEN = (
    "UPDATE blobs SET is_broken = 1, rank = rank(score, size, is_superseded, 1, slowness)"
    " WHERE digest = ? AND NOT is_broken"
)
NOTE_LATEST = "UPDATE totals SET latest = max(latest, ?)"

REMEMBER = (
    "INSERT INTO remembered SELECT ?2, score, is_superseded FROM blobs WHERE digest = ?1"
    " ON CONFLICT DO UPDATE SET"
    " score = max(score, excluded.score), is_superseded = excluded.is_superseded"
)
FORGET_SCORES = (
    "DELETE FROM remembered WHERE score < max(?, coalesce((SELECT score FROM remembered"
    " ORDER BY score DESC LIMIT 1 OFFSET ?), 0))"
)

UPSERT_PARTIAL = (
    "INSERT INTO partials VALUES (?, ?, ?)"
    " ON CONFLICT DO UPDATE SET touched_at = excluded.touched_at"
)
FORGET_PARTIAL = "DELETE FROM partials WHERE upstream = ? AND digest = ?"

COUNT_IN_BLOCKS = (
    "UPDATE totals SET block = ?1,"
    " taken = (SELECT coalesce(sum((size + ?1 - 1) / ?1 * ?1), 0) FROM blobs),"
    " pinned = (SELECT coalesce(sum((size + ?1 - 1) / ?1 * ?1), 0) FROM blobs"
    "  WHERE pins AND NOT leaving)"
)


def names(digests: Iterable[Digest]) -> list[Row]:
    """A row for each of these, with nothing else in it."""
    return [(pack(digest),) for digest in digests]


def packed(digest: object) -> bytes:
    """The compact form of a digest as text. Raises RegistryError for what is none."""
    return pack(parse_digest(str(digest)))

"""Repositories and images: what each takes of the disk, alone and with others. All of it is SQL.

    a repository   has the digests that it is linked to
    an image       is a manifest and all below it; it is shared as far as a manifest that is here
                   and is none of its own names it, or another repository's tag means it

Counted is what is here, by the index.
"""

# ruff: noqa: S608 - what is put into a query's text are the constants of this module

import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from mirror.contents.models import (
    Blob,
    Blobs,
    Images,
    ImageSummary,
    Repositories,
    RepositorySummary,
    Sizes,
)
from mirror.contents.questions import ListBlobs, ListImages, ListRepositories
from mirror.oci.compact import pack, unpack
from mirror.oci.digest import Digest

_MOST = 20_000  # of what an image consists of; anybody may write a manifest
_TAGS = 20  # that are named of an image
_NAMES = 20  # of the images that share something
_ABOVE = 1_000  # manifests above a layer that are looked at

_HERE = "disk.blobs AS b ON b.digest = d.digest AND NOT b.leaving"

_REPOSITORIES = f"""
SELECT r.path, u.name, count(b.digest), coalesce(sum(b.size), 0),
  coalesce(sum(iif(EXISTS (SELECT 1 FROM links AS o
    WHERE o.digest = l.digest AND o.repository <> l.repository), 0, b.size)), 0),
  coalesce(max(iif(b.is_manifest, b.accessed_at, NULL)), max(b.accessed_at)),
  (SELECT count(*) FROM tags AS t WHERE t.repository = r.id)
FROM (SELECT id, path, upstream FROM repositories
  WHERE path > ? AND instr(path, ?) ORDER BY path LIMIT ?) AS r
CROSS JOIN upstreams AS u ON u.id = r.upstream
LEFT JOIN links AS l ON l.repository = r.id
LEFT JOIN digests AS d ON d.id = l.digest
LEFT JOIN {_HERE}
GROUP BY r.path ORDER BY r.path"""

# A tag is an image's first one where it comes before all others that mean the same.
_TAGGED = """
SELECT t.name, t.digest, d.digest, t.checked_at,
  (SELECT count(*) FROM tags AS o WHERE o.repository = t.repository AND o.digest = t.digest)
FROM tags AS t JOIN digests AS d ON d.id = t.digest
WHERE t.repository = ? AND t.name > ? AND NOT EXISTS (SELECT 1 FROM tags AS o
  WHERE o.digest = t.digest AND o.repository = t.repository AND o.name < t.name)
ORDER BY t.name LIMIT ?"""

_UNTAGGED = f"""
SELECT d.id, d.digest FROM links AS l
JOIN digests AS d ON d.id = l.digest JOIN {_HERE} AND b.is_manifest
WHERE l.repository = ?1 AND d.digest > ?2
  AND NOT EXISTS (SELECT 1 FROM tags AS t WHERE t.digest = d.id AND t.repository = ?1)
  AND NOT EXISTS (SELECT 1 FROM edges AS e
    JOIN links AS p ON p.digest = e.parent AND p.repository = ?1 WHERE e.child = d.id)
ORDER BY d.digest LIMIT ?3"""

_TREE = f"""tree (id) AS MATERIALIZED (
  SELECT ?1 UNION SELECT e.child FROM tree JOIN edges AS e ON e.parent = tree.id LIMIT {_MOST})"""

_SIZES = f"""
WITH RECURSIVE {_TREE},
shared (id) AS (
  SELECT id FROM tree WHERE EXISTS (
      SELECT 1 FROM edges AS e JOIN digests AS d ON d.id = e.parent JOIN {_HERE}
      WHERE e.child = tree.id AND e.parent NOT IN (SELECT id FROM tree))
    OR EXISTS (SELECT 1 FROM tags AS t
      WHERE t.digest = tree.id AND (t.repository <> ?2 OR t.digest <> ?1))
  UNION SELECT e.child FROM shared JOIN edges AS e ON e.parent = shared.id LIMIT {_MOST})
SELECT count(*), count(b.digest), coalesce(sum(b.size), 0),
  coalesce(sum(iif(tree.id IN (SELECT id FROM shared), 0, b.size)), 0),
  coalesce(max(iif(b.is_manifest, b.accessed_at, NULL)), max(b.accessed_at))
FROM tree JOIN digests AS d ON d.id = tree.id LEFT JOIN {_HERE}"""

_HAS = """
SELECT 1 FROM links AS l
JOIN repositories AS r ON r.id = l.repository
JOIN digests AS d ON d.id = l.digest
WHERE r.path = ?1 AND d.digest = ?2 AND (
  l.is_confirmed
  OR EXISTS (SELECT 1 FROM sent AS s WHERE s.digest = d.id AND s.upstream = r.upstream))
"""

_SHARING = f"""
WITH RECURSIVE above (id) AS (
  SELECT id FROM digests WHERE digest = ?1
  UNION SELECT e.parent FROM above JOIN edges AS e ON e.child = above.id LIMIT {_ABOVE})
SELECT DISTINCT r.path, t.name FROM above
JOIN tags AS t ON t.digest = above.id JOIN repositories AS r ON r.id = t.repository
WHERE NOT (t.digest = (SELECT id FROM digests WHERE digest = ?2) AND r.path = ?3)
ORDER BY r.path, t.name LIMIT {_ABOVE}"""

_BLOBS = """
SELECT b.digest, b.size, b.is_manifest, b.accessed_at,
  (SELECT count(*) FROM digests AS d JOIN links AS l ON l.digest = d.id WHERE d.digest = b.digest)
FROM disk.blobs AS b WHERE b.digest > ? AND NOT b.leaving ORDER BY b.digest LIMIT ?"""


class TagRow(NamedTuple):
    """What is on record of a tag."""

    digest: Digest
    checked_at: float
    since: float | None
    is_fallback: bool
    told_by: str
    is_imported: bool


def list_repositories(
    question: ListRepositories, personal: Collection[str]
) -> Callable[[sqlite3.Connection], Repositories]:
    """A page of them; those of which nothing is here are left out."""

    def look(connection: sqlite3.Connection) -> Repositories:
        values = (question.after, question.search, question.limit)
        rows = connection.execute(_REPOSITORIES, values).fetchall()
        return Repositories(
            repositories=[
                RepositorySummary(
                    name=path, upstream=upstream, is_personal=upstream in personal, tags=tags,
                    sizes=Sizes(blobs=blobs, bytes=size, only_here=only), last_pull=used,
                )
                for path, upstream, blobs, size, only, used, tags in rows
                if blobs
            ],
            after=rows[-1][0] if len(rows) == question.limit else None,
        )  # fmt: skip

    return look


def list_images(
    path: str, question: ListImages, after_digest: Digest | None, *, is_personal: bool
) -> Callable[[sqlite3.Connection], Images | None]:
    """A page of a repository's images; None: nothing is known of it.

    `after_digest` is what `after` says, where that is no tag: those without a tag come last.
    """

    def look(connection: sqlite3.Connection) -> Images | None:
        found = connection.execute("SELECT id FROM repositories WHERE path = ?", (path,)).fetchone()
        if found is None:
            return None
        repository, limit = found[0], question.limit
        rows: list[tuple[str, int, bytes, float | None, int]] = []
        if after_digest is None:
            rows = connection.execute(_TAGGED, (repository, question.after, limit)).fetchall()
        if len(rows) < limit:
            start = b"" if after_digest is None else pack(after_digest)
            untagged = connection.execute(_UNTAGGED, (repository, start, limit - len(rows)))
            rows += [("", number, packed, None, 0) for number, packed in untagged]
        images = [_summary(connection, repository, row) for row in rows]
        last = (rows[-1][0] or images[-1].digest) if len(rows) == limit else None
        return Images(repository=path, is_personal=is_personal, images=images, after=last)

    return look


def _summary(
    connection: sqlite3.Connection,
    repository: int,
    row: tuple[str, int, bytes, float | None, int],
) -> ImageSummary:
    first, number, packed, checked_at, count = row
    named, sizes, used = _sizes(connection, number, repository)
    return ImageSummary(
        digest=str(unpack(packed)),
        tags=_tags(connection, repository, number) if count > 1 else [first] * count,
        tag_count=count,
        named=named,
        sizes=sizes,
        last_pull=used,
        checked_at=checked_at,
    )


def _sizes(
    connection: sqlite3.Connection, number: int, repository: int
) -> tuple[int, Sizes, float | None]:
    named, blobs, size, only, used = connection.execute(_SIZES, (number, repository)).fetchone()
    return named, Sizes(blobs=blobs, bytes=size, only_here=only), used


def _tags(connection: sqlite3.Connection, repository: int, number: int) -> list[str]:
    sql = "SELECT name FROM tags WHERE digest = ? AND repository = ? ORDER BY name LIMIT ?"
    return [name for (name,) in connection.execute(sql, (number, repository, _TAGS))]


def measure(
    repository: str, digest: Digest
) -> Callable[[sqlite3.Connection], tuple[Sizes, list[str]]]:
    """What an image of a repository takes, and the first of its tags."""

    def look(connection: sqlite3.Connection) -> tuple[Sizes, list[str]]:
        row = connection.execute(
            "SELECT d.id, r.id FROM digests AS d, repositories AS r"
            " WHERE d.digest = ? AND r.path = ?",
            (pack(digest), repository),
        ).fetchone()
        if row is None:
            return Sizes(blobs=0, bytes=0, only_here=0), []
        return _sizes(connection, *row)[1], _tags(connection, row[1], row[0])

    return look


def find_tags(
    repository: str, names: Sequence[str]
) -> Callable[[sqlite3.Connection], dict[str, TagRow]]:
    """What is on record of these tags."""

    def look(connection: sqlite3.Connection) -> dict[str, TagRow]:
        found = {}
        for name in names:
            row = connection.execute(
                "SELECT d.digest, t.checked_at, t.since, t.is_fallback, t.told_by,"
                " t.is_imported FROM tags AS t JOIN digests AS d ON d.id = t.digest"
                " WHERE t.name = ? AND t.repository = (SELECT id FROM repositories WHERE path = ?)",
                (name, repository),
            ).fetchone()
            if row is not None:
                found[name] = TagRow(
                    unpack(row[0]), row[1], row[2], bool(row[3]), row[4], bool(row[5])
                )
        return found

    return look


def has_image(repository: str, digest: Digest) -> Callable[[sqlite3.Connection], bool]:
    """Whether it is this repository's, by upstream's word: not what a manifest merely names."""

    def look(connection: sqlite3.Connection) -> bool:
        return connection.execute(_HAS, (repository, pack(digest))).fetchone() is not None

    return look


def find_sharing(
    digests: Sequence[Digest], *, repository: str, image: Digest
) -> Callable[[sqlite3.Connection], dict[Digest, tuple[list[str], int]]]:
    """The first few other images that have each of these, and how many there are."""

    def look(connection: sqlite3.Connection) -> dict[Digest, tuple[list[str], int]]:
        found = {}
        for digest in dict.fromkeys(digests):
            values = (pack(digest), pack(image), repository)
            rows = connection.execute(_SHARING, values).fetchall()
            found[digest] = [f"{path}:{name}" for path, name in rows[:_NAMES]], len(rows)
        return found

    return look


def list_blobs(question: ListBlobs, after: Digest | None) -> Callable[[sqlite3.Connection], Blobs]:
    """A page of everything that is here."""

    def look(connection: sqlite3.Connection) -> Blobs:
        values = (b"" if after is None else pack(after), question.limit)
        blobs = [
            Blob(
                digest=str(unpack(packed)), size=size, is_manifest=bool(is_manifest),
                last_used=used, repositories=count,
            )
            for packed, size, is_manifest, used, count in connection.execute(_BLOBS, values)
        ]  # fmt: skip
        return Blobs(blobs=blobs, after=blobs[-1].digest if len(blobs) == question.limit else None)

    return look

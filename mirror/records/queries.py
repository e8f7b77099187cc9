"""What is asked of the records in more than a line of SQL."""

# ruff: noqa: S608 - all that is ever put into a query's text is ours: names of columns, conditions,
# question marks

from collections.abc import Collection
from itertools import groupby
from operator import itemgetter
from typing import Literal

from mirror.oci.compact import pack, unpack
from mirror.oci.digest import Digest
from mirror.oci.reference import Repository
from mirror.records.ports import Listed, Seen
from mirror.records.statements import marks
from mirror.sqlite import Database, Row

_BATCH = 500  # digests asked about in one query
_LATEST = 4  # links of a repository


async def edges(
    database: Database, column: Literal["parent", "child"], digests: Collection[Digest], limit: int
) -> list[tuple[Digest, Digest]]:
    """Where these stand as the one or the other: (manifest, what it names), `limit` at most."""
    found: list[tuple[Digest, Digest]] = []
    for batch in batches(list(map(pack, digests))):
        found += await database.page(
            "SELECT p.digest, c.digest FROM digests AS given"
            f" CROSS JOIN edges AS e ON e.{column} = given.id"
            " CROSS JOIN digests AS p ON p.id = e.parent CROSS JOIN digests AS c ON c.id = e.child"
            f" WHERE given.digest IN ({marks(batch)}) LIMIT ?",
            (*batch, limit - len(found)),
            lambda parent, child: (unpack(parent), unpack(child)),
        )
    return found


async def repositories(
    database: Database, upstreams: Collection[str], *, after: str | None, limit: int
) -> list[Listed]:
    """Repositories of these upstreams, in the order of `<namespace>/<name>`, `after` one."""
    names = list(upstreams)
    rows = await database.page(
        "SELECT r.path, d.digest FROM ("
        "  SELECT id, path FROM repositories AS it WHERE path > ? AND upstream IN"
        f"   (SELECT id FROM upstreams WHERE name IN ({marks(names)}))"
        "  AND EXISTS (SELECT 1 FROM links WHERE repository = it.id) ORDER BY path LIMIT ?"
        " ) AS r CROSS JOIN links AS l ON l.repository = r.id AND l.digest IN ("
        "  SELECT digest FROM links WHERE repository = r.id ORDER BY digest DESC LIMIT ?)"
        " CROSS JOIN digests AS d ON d.id = l.digest ORDER BY r.path",
        (after or "", *names, limit, _LATEST),
        lambda path, digest: (path, unpack(digest)),
    )
    return [
        Listed(_parse_path(path), tuple(digest for _, digest in links))
        for path, links in groupby(rows, key=itemgetter(0))
    ]


async def unseen(
    database: Database, *, last_hour: int, after: Seen | None, limit: int
) -> list[Seen]:
    """Digests that were last seen up to an hour: the longest ago first, `after` one."""
    found = list[Seen]()
    hour = -1
    if after is not None and (hour := after.hour) <= last_hour:
        # By itself: together, SQLite would walk the whole hour for each page of it.
        condition = "seen = ? AND id > ?"
        found = await _seen_where(database, condition, hour, after.number, limit=limit)
    if (rest := limit - len(found)) > 0:
        condition = "seen > ? AND seen <= ?"
        found += await _seen_where(database, condition, hour, last_hour, limit=rest)
    return found


async def _seen_where(database: Database, condition: str, *values: int, limit: int) -> list[Seen]:
    return await database.page(
        f"SELECT digest, seen, id FROM digests WHERE {condition} ORDER BY seen, id LIMIT ?",
        (*values, limit),
        lambda digest, hour, number: Seen(unpack(digest), hour, number),
    )


def batches(values: Row) -> list[Row]:
    """As many as one query may ask about, at a time."""
    return [values[start : start + _BATCH] for start in range(0, len(values), _BATCH)]


def _parse_path(path: str) -> Repository:
    namespace, _, name = path.partition("/")
    return Repository(namespace, name)

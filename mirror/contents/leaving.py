"""What would go next to make room, in which order and why; as the storage itself says."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mirror.contents.catalog import Catalog
from mirror.contents.models import Leaving, LeavingBlob, Reason
from mirror.contents.questions import ListLeaving
from mirror.oci.compact import pack
from mirror.oci.digest import Digest
from mirror.storage import worth
from mirror.storage.policy import Candidate, Kind
from mirror.storage.store import LocalStorage

_NAMES = 3  # of the images that something belongs to
_ABOVE = 200  # manifests above a blob that are looked at

_WORTH = """
SELECT accessed_at, score, is_superseded, is_broken, slowness FROM disk.blobs WHERE digest = ?"""

_TAGGED = f"""
WITH RECURSIVE above (id) AS (
  SELECT id FROM digests WHERE digest = ?
  UNION SELECT e.parent FROM above JOIN edges AS e ON e.child = above.id LIMIT {_ABOVE})
SELECT DISTINCT r.path || ':' || t.name FROM above
JOIN tags AS t ON t.digest = above.id JOIN repositories AS r ON r.id = t.repository
ORDER BY 1 LIMIT {_NAMES}"""  # noqa: S608 - both are constants of this module

_LINKED = f"""
SELECT r.path FROM digests AS d JOIN links AS l ON l.digest = d.id
JOIN repositories AS r ON r.id = l.repository WHERE d.digest = ?
ORDER BY 1 LIMIT {_NAMES}"""  # noqa: S608 - as above


class _Known(NamedTuple):
    """What the index and the records have of a blob; scores are those of `storage.worth`."""

    last_used: float | None = None
    score: float | None = None
    is_superseded: bool = False
    is_broken: bool = False
    slowness: float = 1.0
    names: tuple[str, ...] = ()


async def list_leaving(
    store: LocalStorage, catalog: Catalog, question: ListLeaving, *, clock: Callable[[], float]
) -> Leaving:
    """The first in the order. `clock` gives seconds since the epoch. Raises StoreError."""
    candidates = await store.list_next(question.limit)
    known = await catalog.look(_find([it.digest for it in candidates]))
    return Leaving(
        leaving=[_tell(it, known.get(it.digest, _Known()), now=clock()) for it in candidates],
        room=None,
        rate=None,
    )


def _find(digests: Sequence[Digest]) -> Callable[[sqlite3.Connection], dict[Digest, _Known]]:
    def look(connection: sqlite3.Connection) -> dict[Digest, _Known]:
        found = {}
        for digest in digests:
            values = (pack(digest),)
            row = connection.execute(_WORTH, values).fetchone()
            names = connection.execute(_TAGGED, values).fetchall()
            names = names or connection.execute(_LINKED, values).fetchall()
            used, score, superseded, broken, slowness = row or (None, None, 0, 0, 1.0)
            found[digest] = _Known(
                used, score, bool(superseded), bool(broken), slowness,
                tuple(name for (name,) in names),
            )  # fmt: skip
        return found

    return look


def _tell(candidate: Candidate, known: _Known, *, now: float) -> LeavingBlob:
    is_partial = candidate.kind is Kind.PARTIAL
    return LeavingBlob(
        digest=str(candidate.digest),
        kind="partial" if is_partial else candidate.kind.name.lower(),  # type: ignore[arg-type]
        size=candidate.size,
        names=list(known.names),
        last_used=candidate.rank if is_partial else known.last_used,
        uses=0.0 if is_partial or known.score is None else worth.uses(known.score, now),
        slowness=known.slowness,
        reasons=_reasons(known, is_partial=is_partial),
        goes_at=None,
    )


def _reasons(known: _Known, *, is_partial: bool) -> list[Reason]:
    if is_partial:
        return ["partial"]
    found: list[Reason] = []
    if known.is_superseded:
        found.append("superseded")
    if known.is_broken:
        found.append("broken")
    return found or ["little-used"]

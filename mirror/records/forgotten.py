"""What others have forgotten while this mirror could not tell them what it had learnt.

    a word of ours                                   is told
    said after all that others forgot of it          as ever
    said before one of them forgot it                to nobody: it would bring back what is gone
    imported, or left by an older mirror             as ever: nobody can tell when it was said

Times are by the database's clock, and what lies within a moment counts as said at once. What is not
told is learnt anew by whoever needs it, if it is still so.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from mirror.records.postgres import PostgresRecords
from mirror.records.untold import Entry, LinkSaid, ManifestSaid, ReferrersSaid, TagSaid
from mirror.shared.events import (
    LinksForgotten,
    ReferrersForgotten,
    TagForgotten,
    list_forgotten,
)

_MOMENT = 1.0  # seconds, as exactly as clocks are compared

_What = tuple[str, ...]


class Forgotten:
    """What has been forgotten, and when."""

    def __init__(self, shared: PostgresRecords) -> None:
        self._shared = shared
        self._at: dict[_What, float] = {}

    async def read(self, connection: Any, origin: str, entries: Sequence[Entry]) -> None:
        """Find what others than `origin` have forgotten since the first of these was said.

        Raises what asyncpg does.
        """
        said = [at for at in map(self._said_at, entries) if at is not None]
        if not said or min(said) + _MOMENT > self._shared.now_there():
            return
        for at, event in await list_forgotten(connection, origin, min(said) + _MOMENT):
            match event:
                case TagForgotten():
                    self._at["tag", str(event.repository), event.tag] = at
                case LinksForgotten():
                    for digest in event.digests:
                        self._at["link", str(event.repository), str(digest)] = at
                case ReferrersForgotten():
                    self._at["referrers", str(event.repository), str(event.digest)] = at
                case _:
                    pass

    def left(self, entry: Entry) -> Entry | None:
        """What of it is still to be told."""
        said_at = self._said_at(entry)
        if said_at is None:
            return entry
        match entry:
            case TagSaid():
                is_gone = self._is_gone("tag", entry.repository, entry.tag, said_at)
            case ReferrersSaid():
                is_gone = self._is_gone("referrers", entry.repository, entry.digest, said_at)
            case LinkSaid():
                is_gone = self._is_gone("link", entry.repository, entry.digest, said_at)
            case ManifestSaid():
                is_gone = self._is_gone("link", entry.repository, entry.digest, said_at)
                entry = self._with_children_left(entry, said_at)
            case _:
                return entry
        return None if is_gone else entry

    def _with_children_left(self, entry: ManifestSaid, said_at: float) -> ManifestSaid:
        """What is foreign is named by it, and is no link."""
        children = tuple(
            (digest, size, is_foreign or self._is_gone("link", entry.repository, digest, said_at))
            for digest, size, is_foreign in entry.children
        )
        return msgspec.structs.replace(entry, children=children)

    def _is_gone(self, kind: str, repository: object, what: object, said_at: float) -> bool:
        gone_at = self._at.get((kind, str(repository), str(what)))
        return gone_at is not None and gone_at > said_at + _MOMENT

    def _said_at(self, entry: Entry) -> float | None:
        match entry:
            case TagSaid(is_imported=False) | ReferrersSaid(is_imported=False):
                return self._shared.said_there(entry.checked_at)
            case LinkSaid() | ManifestSaid() if entry.said_at is not None:
                return self._shared.said_there(entry.said_at)
            case _:
                return None

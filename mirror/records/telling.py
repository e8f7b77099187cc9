"""Tells the shared records what this mirror has learnt, as soon as they can be told."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from mirror.oci.errors import StoreError
from mirror.records import postgres_writes as writes
from mirror.records.forgotten import Forgotten
from mirror.records.ports import Named, ReferrersRecord, TagRecord
from mirror.records.postgres import PostgresRecords
from mirror.records.untold import (
    ContentSaid,
    Entry,
    LinkSaid,
    LinksGone,
    ManifestSaid,
    Pinned,
    ReferrersGone,
    ReferrersSaid,
    SentSaid,
    TagGone,
    TagSaid,
    Unpinned,
    Untold,
)
from mirror.shared.database import Database
from mirror.shared.events import (
    Event,
    LinksForgotten,
    PinsChanged,
    ReferrersForgotten,
    TagForgotten,
    TagMoved,
    emit,
)
from mirror.shared.failing import DatabaseDown, NotKept
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_WITHIN = 30.0  # seconds for a transaction
_AGAIN = 1.0  # seconds; what two mirrors wait for each other for is done by then


class Teller:
    """Tells what is `untold`.

    `holder` is this mirror's name, and `origin` that of what need not be told what is told here.
    """

    def __init__(
        self,
        untold: Untold,
        database: Database,
        shared: PostgresRecords,
        *,
        origin: str,
        holder: str,
    ) -> None:
        self._untold = untold
        self._database = database
        self._shared = shared
        self._origin = origin
        self._holder = holder
        self._up = asyncio.Event()
        self.told = 0
        self.trouble: str | None = None
        """Why the database, which is there, takes nothing."""

    async def tell_forever(self) -> None:
        """Tell, for ever."""
        self._database.subscribe_up(self._up.set)
        while True:
            await self._untold.more.wait()
            self._up.clear()
            if not self._database.is_up:
                await self._up.wait()
            try:
                await self._tell()
            except StoreError as error:
                self._note_trouble(error)
                await asyncio.sleep(_AGAIN if self._database.is_up else 0.0)
            else:
                self.trouble = None

    def _note_trouble(self, error: StoreError) -> None:
        if not self._database.is_up:
            return
        if self.trouble is None:
            _logger.warning("not told yet: %s", error, extra=fields())
        self.trouble = str(error)

    async def _tell(self) -> None:
        """Tell all there is. Raises StoreError; what was not told stays untold."""
        while entries := await self._untold.first():
            try:
                await self._tell_all([entry for _, entry in entries])
            except DatabaseDown:
                raise
            except StoreError:
                await self._tell_one_by_one(entries)
                continue
            await self._untold.remove([number for number, _ in entries])
            self.told += len(entries)

    async def _tell_one_by_one(self, entries: list[tuple[int, Entry]]) -> None:
        """One of them is to blame, or another mirror was in the way.

        Raises StoreError: nothing can be told now, whose fault that ever is.
        """
        for number, entry in entries:
            try:
                await self._tell_all([entry])
            except DatabaseDown:
                raise
            except StoreError:  # another mirror may have been in the way
                await asyncio.sleep(_AGAIN)
                try:
                    await self._tell_all([entry])
                except NotKept as error:
                    what = fields(what=type(entry).__name__)
                    _logger.warning("not told: %s", error, extra=what)
            await self._untold.remove([number])
            self.told += 1

    async def _tell_all(self, entries: Sequence[Entry]) -> None:
        """Tell these together, but for what others have forgotten since. Raises StoreError."""
        forgotten = Forgotten(self._shared)
        async with self._database.transaction(within=_WITHIN) as connection:
            await forgotten.read(connection, self._origin, entries)
            for entry in entries:
                if (left := forgotten.left(entry)) is not None:
                    await self._put(connection, left)

    async def _put(self, connection: Any, entry: Entry) -> None:
        hour = self._shared.hour
        match entry:
            case LinkSaid():
                await writes.put_link(connection, entry.repository, entry.digest, entry.size, hour)
            case ManifestSaid():
                await writes.put_manifest(
                    connection, entry.repository, entry.digest, entry.size,
                    [Named(*child) for child in entry.children], sent_as=entry.sent_as, hour=hour,
                )  # fmt: skip
            case SentSaid():
                await writes.put_sent(
                    connection, entry.upstream, entry.digest, entry.media_type, hour
                )
            case ContentSaid():
                await writes.put_content(connection, entry.digest, entry.content, hour)
            case ReferrersSaid():
                at = self._shared.said_there(entry.checked_at)
                record = ReferrersRecord(entry.content, at, entry.is_imported)
                await writes.put_referrers(connection, entry.repository, entry.digest, record, hour)
            case _:
                await self._put_what_is_heard(connection, entry, hour)

    async def _put_what_is_heard(
        self,
        connection: Any,
        entry: TagSaid | LinksGone | TagGone | ReferrersGone | Pinned | Unpinned,
        hour: int,
    ) -> None:
        """What the others are to hear of at once, too."""
        event: Event | None
        match entry:
            case TagSaid():
                event = await self._put_tag(connection, entry, hour)
            case LinksGone():
                await writes.remove_links(connection, entry.repository, entry.digests)
                event = LinksForgotten(entry.repository, entry.digests)
            case TagGone():
                await writes.remove_tag(connection, entry.repository, entry.tag)
                event = TagForgotten(entry.repository, entry.tag)
            case ReferrersGone():
                await writes.remove_referrers(connection, entry.repository, entry.digest)
                event = ReferrersForgotten(entry.repository, entry.digest)
            case Pinned():
                platforms = ",".join(entry.platforms)
                await writes.put_pin(connection, entry.image, platforms, entry.refresh)
                event = PinsChanged()
            case Unpinned():
                await writes.remove_pin(connection, entry.image)
                event = PinsChanged()
        if event is not None:
            await emit(connection, self._origin, event)

    async def _put_tag(self, connection: Any, said: TagSaid, hour: int) -> Event | None:
        record = TagRecord(
            said.digest, self._shared.said_there(said.checked_at), said.is_fallback,
            said.is_imported, said.told_by,
        )  # fmt: skip
        is_new = await writes.put_tag(connection, said.repository, said.tag, record, hour)
        await writes.end_check(connection, said.repository, said.tag, self._holder)
        return TagMoved(said.repository, said.tag) if is_new else None

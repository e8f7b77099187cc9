"""What was on this disk before its index was: taken over from an older mirror, or looked for.

An older mirror had a catalog (`catalog.sqlite3`, version 1) of what it had on disk and of what
registries had said. What it had on disk is taken over here; the rest is for others to take, and
the file is left as it is. Where there is none, the disk is looked through while the mirror serves:
what is asked for is adopted first. Of what is found like that only the name is known, so it is
proved before it is served (`mirror.storage.openings`), and soon (`mirror.storage.scrub`).
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path

from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import StoreError
from mirror.sqlite import Row
from mirror.storage.files import Files
from mirror.storage.index import Index
from mirror.storage.states import PartialKey
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_BATCH = 1000  # rows at a time
_APPLICATION_ID = 0x6D697272  # of a catalog
_VERSION = 1
_BEFORE = 1  # the day of proof of what an older mirror has written: one long ago


class Adoption:
    """Records in a new index what is on disk below `root` already. `now` in epoch seconds."""

    def __init__(self, root: Path, files: Files, index: Index, *, now: float) -> None:
        self._catalog = _Catalog(root / "catalog.sqlite3")
        self._files = files
        self._index = index
        self._now = now

    async def begin(self) -> None:
        """Do what has to be done before anything is served. Raises StoreError."""
        if self._index.is_adopted:
            return
        if await self._catalog.is_complete():
            await self._take_over()
            await self._index.end_adoption()
            return
        await self._files.settle_old_partials(None)
        partials: list[PartialKey] = await self._files.scan_partials()
        await self._index.adopt(
            [], [(key.upstream, str(key.digest), self._now) for key in partials]
        )
        if not await self._files.list_shelves():  # all of it is new
            await self._index.end_adoption()

    async def run(self) -> None:
        """Look through all of the disk; whatever is not done yet, the next start begins anew."""
        if self._index.is_adopted:
            return
        _logger.info("the index is new: blobs on disk are adopted, and served meanwhile")
        for shelf in await self._files.list_shelves():
            found = await self._files.scan(shelf)
            for start in range(0, len(found), _BATCH):
                await self._adopt(found[start : start + _BATCH])
        await self._index.end_adoption()
        totals = self._index.totals
        _logger.info("all blobs are adopted", extra=fields(blobs=totals.blobs, bytes=totals.bytes))

    async def look_for(self, digests: Sequence[Digest]) -> None:
        """Adopt these now, as far as they are on disk: somebody asks for them."""
        if self._index.is_adopted:
            return
        known = await self._index.find_sizes(digests)
        await self._adopt(await self._files.sizes_of([it for it in digests if it not in known]))

    async def _adopt(self, found: Sequence[tuple[Digest, int]]) -> None:
        # What has left since is not to come back.
        rows = [
            (str(digest), size, 0, self._now, 0)
            for digest, size in found
            if digest not in self._index.forgotten
        ]
        if rows:
            await self._index.adopt(rows, [])

    async def _take_over(self) -> None:
        async for rows in self._catalog.batches("blobs"):
            await self._index.adopt(
                [(digest, size, int(media_type is not None), accessed_at, _BEFORE)
                 for digest, size, media_type, accessed_at, _ in rows],
                [],
            )  # fmt: skip
            await self._index.mark_leaving(parse_digest(str(row[0])) for row in rows if row[4])
        upstream = await self._catalog.only_namespace()
        await self._files.settle_old_partials(upstream)
        if upstream is not None:
            async for rows in self._catalog.batches("partials"):
                await self._index.adopt(
                    [], [(upstream, digest, touched_at) for digest, touched_at in rows]
                )


class _Catalog:
    """An older mirror's catalog, if there is one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def is_complete(self) -> bool:
        """Whether it knows of everything that is on disk."""
        if not await asyncio.to_thread(self._path.is_file):
            return False
        try:
            ((application,),) = await self._rows("PRAGMA application_id")
            ((version,),) = await self._rows("PRAGMA user_version")
            if (application, version) != (_APPLICATION_ID, _VERSION):
                return False
            ((is_adopted,),) = await self._rows("SELECT adopted FROM totals")
        except (StoreError, ValueError) as error:
            _logger.warning("store: %s; the disk is looked through instead", error)
            return False
        return bool(is_adopted)

    async def only_namespace(self) -> str | None:
        """The upstream that everything has come through, if there has been just one."""
        found = await self._rows("SELECT DISTINCT namespace FROM repositories LIMIT 2")
        return str(found[0][0]) if len(found) == 1 else None

    async def batches(self, table: str) -> AsyncIterator[list[Row]]:
        """All of a table, by digest."""
        sql = f"SELECT * FROM {table} WHERE digest > ? ORDER BY digest LIMIT ?"  # noqa: S608 - ours
        after = ""
        while rows := await self._rows(sql, (after, _BATCH)):
            yield rows
            after = str(rows[-1][0])

    async def _rows(self, sql: str, values: Row = ()) -> list[Row]:
        try:
            return await asyncio.to_thread(self._read, sql, values)
        except sqlite3.Error as error:
            raise StoreError(f"the old catalog {self._path} cannot be read: {error}") from error

    def _read(self, sql: str, values: Row) -> list[Row]:
        with closing(sqlite3.connect(self._path)) as connection:
            return list(connection.execute(sql, values))

"""What was on this disk before its index was: taken over from an older mirror, or looked for.

An older mirror had a catalog (`catalog.sqlite3`, version 1) of what it had on disk and of what
registries had said. What it had on disk is taken over here; the rest is for others to take, and
the file is left as it is. Where there is none, the disk is looked through. Whatever interrupts it,
the next start begins anew.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

from mirror.oci.digest import parse_digest
from mirror.oci.errors import StoreError
from mirror.sqlite import Row
from mirror.storage.files import Files
from mirror.storage.index import Index
from mirror.storage.states import PartialKey

_logger = logging.getLogger(__name__)

_BATCH = 1000  # rows at a time
_APPLICATION_ID = 0x6D697272  # of a catalog
_VERSION = 1


async def adopt(root: Path, files: Files, index: Index, *, now: float) -> None:
    """Record in a new index what is on disk below `root` already. Raises StoreError."""
    catalog = _Catalog(root / "catalog.sqlite3")
    if await catalog.is_complete():
        await _take_over(catalog, files, index)
    else:
        await _look_for_everything(files, index, now)
    await index.end_adoption()


async def _take_over(catalog: "_Catalog", files: Files, index: Index) -> None:
    async for rows in catalog.batches("blobs"):
        await index.adopt(
            [(digest, size, int(media_type is not None), accessed_at)
             for digest, size, media_type, accessed_at, _ in rows],
            [],
        )  # fmt: skip
        await index.mark_leaving(parse_digest(str(row[0])) for row in rows if row[4])
    upstream = await catalog.only_namespace()
    await files.settle_old_partials(upstream)
    if upstream is not None:
        async for rows in catalog.batches("partials"):
            await index.adopt([], [(upstream, digest, touched_at) for digest, touched_at in rows])


async def _look_for_everything(files: Files, index: Index, now: float) -> None:
    await files.settle_old_partials(None)
    blobs = await files.scan()
    for start in range(0, len(blobs), _BATCH):
        rows = [(str(digest), size, 0, now) for digest, size in blobs[start : start + _BATCH]]
        await index.adopt(rows, [])
    partials: list[PartialKey] = await files.scan_partials()
    await index.adopt([], [(key.upstream, str(key.digest), now) for key in partials])


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

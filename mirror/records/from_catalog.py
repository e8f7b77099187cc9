"""What an older mirror has kept in its catalog becomes records, once.

Old links do not say whether a manifest made them or upstream's own word, so they are only what a
manifest names; but what a tag means, upstream itself has said. Bytes on disk that are linked to
repositories of one upstream alone must have come through that one. Of what is left nobody knows who
sent it, and it heals by one question upstream.
"""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from mirror.oci.compact import try_to_pack
from mirror.oci.manifest import is_media_type
from mirror.sqlite import Database, Schema, explained

_TABLES = frozenset({"repositories", "links", "tags", "referrers", "blobs"})


async def take_over(catalog: Path, records: Database, path: Path, schema: Schema) -> None:
    """Fill `records`, the file at `path`, from an old catalog, where there is one; all or nothing.

    Records that hold anything already are left as they are, and the catalog always is.

    Raises:
        StoreError: One of the two cannot be used.
    """
    if await records.first("SELECT 1 FROM upstreams LIMIT 1", (), bool):
        return
    with explained(catalog, replace(schema, name="catalog")):
        await asyncio.to_thread(_copy, catalog, path)


def remove_catalog(catalog: Path, *successors: Path) -> bool:
    """Remove an old catalog that every one of its successors stands in for.

    False where there is none, or one of them is not there yet. Raises OSError.
    """
    if not catalog.exists() or not all(successor.exists() for successor in successors):
        return False
    for suffix in ("-wal", "-shm", ""):  # it goes last: without it, nobody would try again
        Path(f"{catalog}{suffix}").unlink(missing_ok=True)
    return True


def _copy(catalog: Path, path: Path) -> None:
    if not catalog.exists():
        return
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.create_function("packed", 1, try_to_pack, deterministic=True)
        connection.create_function("usable", 1, _usable, deterministic=True)
        connection.execute("ATTACH ? AS old", (str(catalog),))
        tables = connection.execute("SELECT name FROM old.sqlite_master WHERE type = 'table'")
        if not {name for (name,) in tables} >= _TABLES:
            return  # not a catalog of the kind that holds what registries have said
        script = files("mirror.records").joinpath("from_catalog.sql").read_text("utf-8")
        connection.executescript(f"BEGIN IMMEDIATE; {script} COMMIT;")


def _usable(media_type: str | None) -> str | None:
    return media_type if media_type is not None and is_media_type(media_type) else None

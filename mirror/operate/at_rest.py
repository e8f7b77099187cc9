"""The store of a mirror that does not run, for commands that look after it."""

import asyncio
import logging
import os
import pwd
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from mirror.config import Config
from mirror.oci.errors import StoreError
from mirror.records.sqlite import SqliteRecords
from mirror.storage.building import open_storage
from mirror.storage.space import Limits
from mirror.storage.store import LocalStorage
from mirror.telemetry.metrics import Metrics

_logger = logging.getLogger(__name__)
_OTHERS = 0o077  # have no business in the store
_wall_clock = time.time  # noqa: TID251 - commands live by the machine's clock


async def require_store(root: Path) -> None:
    """See that there is a store, and that what is written there will be the mirror's to use.

    Raises:
        StoreError: There is none, or it is another user's.
    """
    os.umask(_OTHERS)
    await asyncio.to_thread(_require_store, root)


def _require_store(root: Path) -> None:
    try:
        (root / "blobs").stat()
        owner = root.stat().st_uid
    except PermissionError as error:
        raise StoreError(
            f"{root} cannot be looked into ({error.strerror}): run this as the mirror's user"
        ) from error
    except OSError as error:
        raise StoreError(
            f"{root} is no mirror's store: see store.root, and name the --config"
        ) from error
    if os.geteuid() == 0 != owner:
        with suppress(KeyError):
            name = pwd.getpwuid(owner).pw_name
            raise StoreError(
                f"{root} is {name}'s: run this as that user (sudo -u {name} mirror ...)"
            )
        raise StoreError(f"{root} is the user {owner}'s: run this as that user")


@asynccontextmanager
async def open_at_rest(config: Config) -> AsyncIterator[tuple[LocalStorage, SqliteRecords]]:
    """Open the store and the records; nothing is done in them but what is asked for.

    Raises:
        InUse: A mirror runs there.
        StoreError: They cannot be used.
    """
    store = config.store
    await require_store(store.root)
    async with (
        open_storage(
            store.root,
            Limits(store.max_size, store.min_free),
            keep_partial_for=config.fill.keep_partial_for,
            clock=_wall_clock,
            metrics=Metrics(),
            note_fault=lambda task, error: _logger.error("%s: %s", task, error),
            max_quarantine=store.max_quarantine,
            is_served=False,
        ) as storage,
        SqliteRecords.open(
            store.root / "records.sqlite3",
            clock=_wall_clock,
            catalog=store.root / "catalog.sqlite3",
        ) as records,
    ):
        yield storage, records

"""What a mirror has in its store beside blobs, opened: records and history; and room for it all."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

from mirror.config import Config, Store
from mirror.config.units import rounded_size
from mirror.history.keeper import Keeper
from mirror.history.sqlite import Bounds, SqliteHistory
from mirror.records.from_catalog import remove_catalog
from mirror.records.sqlite import SqliteRecords
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

Clock = Callable[[], float]

_SHARE_OF_HISTORY = 20  # of store.max_size


@asynccontextmanager
async def open_records(config: Config, clock: Clock) -> AsyncIterator[SqliteRecords]:
    """What registries have said; of a catalog that both were in once, the rest goes."""
    catalog, index, file = (
        config.store.root / f"{name}.sqlite3" for name in ("catalog", "index", "records")
    )
    async with SqliteRecords.open(file, clock=clock, catalog=catalog) as records:
        await asyncio.to_thread(remove_catalog, catalog, index, file)
        yield records


@asynccontextmanager
async def open_history(
    config: Config, private: Collection[str], clock: Clock
) -> AsyncIterator[Keeper]:
    """The history, kept up to date. `private`: the upstreams with logins, as they are now."""
    settings, store = config.history, config.store
    bounds = Bounds(
        settings.keep_pulls,
        settings.keep_totals,
        min(settings.max_size, store.max_size // _SHARE_OF_HISTORY),
        keeps_clients=settings.client_addresses,
    )
    async with (
        SqliteHistory.open(store.root / "history.sqlite3", bounds, private=private) as history,
        Keeper.keeping(
            history, private=private, tells_clients=settings.client_addresses, clock=clock
        ) as keeper,
    ):
        yield keeper


def warn_of_disk(store: Store) -> None:
    """Say so where limits leave no room for anything: the mirror serves, and keeps nothing."""
    total = shutil.disk_usage(store.root).total
    if store.min_free >= total:
        _logger.warning(
            "store.min_free is more than the whole file system has: nothing is kept",
            extra=fields(min_free=rounded_size(store.min_free), file_system=rounded_size(total)),
        )

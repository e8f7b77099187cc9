"""What the store keeps can be had again from upstream: a disk that refuses fails no pull."""

import logging
from collections.abc import Awaitable

from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.storage.ports import OpenBlob, Storage
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)


async def try_to_keep(keeping: Awaitable[None]) -> None:
    """Keep something, as far as the store can."""
    try:
        await keeping
    except StoreError as error:
        _logger.warning("not kept: %s", error, extra=fields())


async def try_to_open(store: Storage, digest: Digest) -> OpenBlob | None:
    """Open a blob for reading; None where it is not on disk, or the disk does not give it."""
    try:
        return await store.open_blob(digest)
    except StoreError as error:
        _logger.warning("not read: %s", error, extra=fields(digest=digest))
        return None


async def try_to_read(store: Storage, digest: Digest, *, limit: int) -> bytes | None:
    """All of a blob, proved anew; None where it is not here, or larger than `limit` in bytes."""
    try:
        return await store.read_blob(digest, limit=limit)
    except StoreError as error:
        _logger.warning("not read: %s", error, extra=fields(digest=digest))
        return None

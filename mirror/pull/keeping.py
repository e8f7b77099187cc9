"""Keeping what a pull has taught: a disk that refuses is no reason to fail the pull."""

import logging
from collections.abc import Awaitable

from mirror.store.errors import StoreError
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)


async def try_to_keep(keeping: Awaitable[None]) -> None:
    """Let the store keep something that can be had again; where it refuses, the log tells why."""
    try:
        await keeping
    except StoreError as error:
        _logger.warning("not kept: %s", error, extra=fields())

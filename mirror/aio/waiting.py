"""Waiting for what must not be left half done."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

_T = TypeVar("_T")


async def to_the_end(work: Coroutine[object, object, _T]) -> _T:
    """Do `work` to its end, even when cancelled meanwhile; be cancelled then.

    For what changes the disk and the ledger together: it is never left half done, and never left
    to itself, since its caller is there until it ends.
    """
    return await finish(asyncio.get_running_loop().create_task(work))


async def finish(work: asyncio.Future[_T]) -> _T:
    """Wait for `work` to end, even when cancelled meanwhile; be cancelled then."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return work.result()
    if not work.cancelled():
        work.exception()  # seen: being cancelled is the greater news
    raise cancelled

"""Tasks that belong to somebody: none is left behind when its owner ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class _Over(Exception):
    """Ends a task group (see asyncio's documentation, "Terminating a Task Group")."""


@asynccontextmanager
async def owned_tasks() -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks that live until the block ends, and are cancelled then."""

    async def end() -> None:
        raise _Over

    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
            tasks.create_task(end())
    except BaseExceptionGroup as group:
        _, others = group.split(_Over)
        if others is not None:
            raise others.exceptions[0] from None

"""Tasks for tests: a fault in one of them fails the test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mirror.aio import tasks
from mirror.aio.tasks import Tasks
from mirror.oci.digest import Digest


@asynccontextmanager
async def owned_tasks() -> AsyncIterator[Tasks]:
    """As `mirror.aio.tasks.owned_tasks`; raises the first fault at the end of the block."""
    faults: list[Exception] = []
    async with tasks.owned_tasks(lambda _, fault: faults.append(fault)) as owned:
        yield owned
    if faults:
        raise faults[0]


async def nobody_notes(upstream: str, digest: Digest) -> None:
    """What a fill that has no records tells of what was sent."""

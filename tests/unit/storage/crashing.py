"""A mirror that dies: run in a process of its own, and killed at one instant or another.

    python -m tests.unit.storage.crashing write ROOT EVENT NUMBER   dies just before that call
    python -m tests.unit.storage.crashing evict ROOT EVENT NUMBER
    python -m tests.unit.storage.crashing damage ROOT EVENT NUMBER
    python -m tests.unit.storage.crashing run ROOT                  until somebody kills it

EVENT is one of Python's audit events, and NUMBER says at which of them after everything was made
ready: so the process dies between two calls into the file system, always the same two.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from mirror.oci.digest import digest_of
from mirror.storage.store import LocalStorage
from tests.support.clock import FakeClock
from tests.unit.storage.opening import (
    UPSTREAM,
    blob_path,
    content,
    open_store,
    put,
    rot,
    write,
)

SIZE = 100_000
SMALL = 10_000
MAX_SIZE = 1_000_000
CLOCK = FakeClock()


async def commit(store: LocalStorage, arm: Callable[[], None]) -> None:
    """Write a blob in two halves, the second one first."""
    data = content(SIZE)
    writer = await store.open_writer(UPSTREAM, digest_of(data), SIZE)
    await write(writer, SIZE // 2, data[SIZE // 2 :])
    await write(writer, 0, data[: SIZE // 2])
    arm()
    await writer.commit()
    writer.close()


async def evict(store: LocalStorage, arm: Callable[[], None]) -> None:
    """Fill the store to its last byte, and make three blobs leave it."""
    for seed in range(MAX_SIZE // SIZE):
        await put(store, content(SIZE, seed))
    arm()
    await put(store, content(2 * SIZE + 1))


async def damage(store: LocalStorage, arm: Callable[[], None]) -> None:
    """Keep three blobs, one of which rots, and prove all of them again."""
    for seed in range(3):
        await put(store, content(SIZE, seed))
    rot(blob_path(Path(sys.argv[2]), digest_of(content(SIZE, 1))))
    CLOCK.advance(20 * 86400)
    arm()
    await store.scrub()


async def run(store: LocalStorage) -> None:
    """Write blob after blob, several at a time, and say which are kept."""

    async def fill(seed: int) -> None:
        data = content(SMALL, seed)
        writer = await store.open_writer(UPSTREAM, digest_of(data), SMALL)
        for start in sorted(range(0, SMALL, 1_000), key=lambda start: (start * seed) % 7):
            await write(writer, start, data[start : start + 1_000])
        await writer.commit()
        writer.close()
        print(seed, flush=True)  # noqa: T201 - whoever kills us reads along

    for seed in range(0, 1_000_000, 4):
        async with asyncio.TaskGroup() as tasks:
            for number in range(4):
                tasks.create_task(fill(seed + number))


def killing(event: str, number: int) -> Callable[[], None]:
    """When called, lets the process die just before the `number`th `event` from then on."""
    left = [sys.maxsize]

    def hook(name: str, _: tuple[object, ...]) -> None:
        if name == event:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def arm() -> None:
        left[0] = number

    sys.addaudithook(hook)
    return arm


async def main(what: str, root: str, *instant: str) -> None:
    if what == "run":
        async with open_store(Path(root), max_size=1000 * MAX_SIZE) as store:
            await run(store)
    event, number = instant
    async with open_store(
        Path(root), max_size=MAX_SIZE, clock=CLOCK, max_quarantine=MAX_SIZE
    ) as store:
        await {"write": commit, "evict": evict, "damage": damage}[what](
            store, killing(event, int(number))
        )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

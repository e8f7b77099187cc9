"""The storage of a node, put together: opened, recovered, and tended for as long as it is open.

states    one state for each digest and each partial (pure)
space     who has been promised how much; `room` makes more, by a `policy`, of what is `worth` least
files     the files, `index` what is recorded of them
changes   what changes all of these together
openings  reading, of `open_files`, one for all readers of a blob
damage    what is not as it should be, and `scrub` looks for it
spools    what comes in order, and is named by its last byte
writers   writing, as promised; `usage` is what the disk really gives
adoption  what was on disk before the index was
upkeep    recovery after a crash, and tidying
store     all of it, as others know it
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from mirror.aio.tasks import NoteFault, owned_tasks
from mirror.oci.digest import Digest
from mirror.storage.accesses import Accesses
from mirror.storage.adoption import Adoption
from mirror.storage.changes import Changes, close
from mirror.storage.damage import Damage
from mirror.storage.files import Files
from mirror.storage.index import Index
from mirror.storage.open_files import OpenFiles
from mirror.storage.openings import Openings
from mirror.storage.pins import Pins
from mirror.storage.policy import LeastWorth, Policy
from mirror.storage.room import Room
from mirror.storage.scrub import Scrub, ScrubPace
from mirror.storage.space import Limits, Space
from mirror.storage.spools import Spools
from mirror.storage.states import States
from mirror.storage.store import LocalStorage, Parts
from mirror.storage.threads import Threads
from mirror.storage.upkeep import Upkeep
from mirror.storage.usage import Usage
from mirror.storage.writers import LocalWriters
from mirror.telemetry.metrics import Metrics

_NEVER = ScrubPace(0, 1)
_DAMAGED = 10  # a tenth of the store may be set aside


def _nobody(_: Digest) -> None:
    """Nobody has copies."""


@asynccontextmanager
async def open_storage(
    root: Path,
    limits: Limits,
    *,
    keep_partial_for: float,
    clock: Callable[[], float],
    metrics: Metrics,
    note_fault: NoteFault,
    dropped: Callable[[Digest], None] = _nobody,
    policy: Policy | None = None,
    threads: Threads | None = None,
    scrub: ScrubPace = _NEVER,
    max_quarantine: int = 0,
    is_served: bool = True,
    counting: type[Usage] = Usage,
) -> AsyncIterator[LocalStorage]:
    """Open the storage below `root`, and finish what a crash interrupted.

    `clock` in seconds since the epoch, `keep_partial_for` in seconds. `dropped` is told of each
    blob that goes because it is damaged or not wanted: copies in memory must go too. Of what is
    damaged, up to `max_quarantine` bytes are set aside, and no more than a tenth of the store.
    Unless it `is_served`, nothing is done in it but what is asked for. `counting` says what of the
    disk counts in the limits.

    Raises:
        StoreError: The directory or the index cannot be used.
    """
    threads = threads or Threads()
    max_quarantine = min(max_quarantine, limits.max_size // _DAMAGED)
    files = Files(root, threads, max_quarantine=max_quarantine)
    usage, opened = counting(root, threads), OpenFiles()
    states, space = States(opened), Space(limits)
    try:
        await files.prepare()
        await usage.prepare()
        async with Index.open(root / "index.sqlite3", block=usage.block) as index:
            adoption = Adoption(root, files, index, now=clock())
            await adoption.begin()
            if is_served:
                await files.make_shelves()
            pins = await Pins.load(index)
            accesses = Accesses(clock, latest=await index.latest_access())
            changes = Changes(files, index, states, space, accesses, usage=usage)
            room = Room(
                space, states, usage, index, changes,
                policy=policy or LeastWorth(), pins=pins, metrics=metrics,
            )  # fmt: skip
            damage = Damage(files, index, states, changes, dropped=dropped, metrics=metrics)
            upkeep = Upkeep(
                files=files, usage=usage, index=index, states=states, space=space,
                changes=changes, room=room, accesses=accesses,
                keep_partial_for=keep_partial_for, clock=clock,
            )  # fmt: skip
            await upkeep.recover()
            writers = LocalWriters(
                files=files, usage=usage, index=index, states=states, space=space,
                changes=changes, room=room, clock=clock,
            )  # fmt: skip
            parts = Parts(
                files=files, usage=usage, index=index, states=states, space=space,
                accesses=accesses, changes=changes, room=room, adoption=adoption, damage=damage,
                openings=Openings(
                    files=files, opened=opened, index=index, states=states,
                    adoption=adoption, damage=damage, clock=clock,
                ),
                writers=writers, pins=pins, upkeep=upkeep,
                scrub=Scrub(index, states, damage, scrub, metrics=metrics, clock=clock),
                spools=Spools(root, threads=threads, space=space, room=room, usage=usage),
                dropped=dropped,
            )  # fmt: skip
            space.overhead = (await usage.look()).overhead
            async with _tended(parts, note_fault, is_served=is_served):
                yield LocalStorage(parts)
    finally:
        close(opened.close_pool())
        files.close()


@asynccontextmanager
async def _tended(parts: Parts, note_fault: NoteFault, *, is_served: bool) -> AsyncIterator[None]:
    """Do, inside the block, what has to be done again and again."""
    try:
        async with owned_tasks(note_fault) as tasks:
            if is_served:
                tasks.keep(parts.adoption.run, name="adopt")
                tasks.keep(parts.upkeep.tidy_forever, name="tidy")
                tasks.keep(parts.scrub.run_forever, name="scrub")
            yield
    finally:
        parts.spools.close()
        await parts.room.close()
        await parts.changes.flush_accesses()

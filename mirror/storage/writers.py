"""Opening blobs for writing: begun, or continued where an earlier writer or process has stopped."""

from collections.abc import Callable

from mirror.aio.waiting import to_the_end
from mirror.oci.errors import StoreError
from mirror.storage import extents
from mirror.storage.changes import Changes, over
from mirror.storage.costs import Costs
from mirror.storage.files import Files
from mirror.storage.index import Index
from mirror.storage.partial import Partial
from mirror.storage.room import Room
from mirror.storage.space import Space
from mirror.storage.states import PartialEntry, PartialKey, States
from mirror.storage.usage import Usage
from mirror.storage.writer import LocalWriter


class LocalWriters:
    """Opens them. `clock` in seconds since the epoch."""

    def __init__(
        self,
        *,
        files: Files,
        usage: Usage,
        index: Index,
        states: States,
        space: Space,
        changes: Changes,
        room: Room,
        clock: Callable[[], float],
    ) -> None:
        self._files = files
        self._usage = usage
        self._index = index
        self._states = states
        self._space = space
        self._changes = changes
        self._room = room
        self._clock = clock
        self._costs = Costs()

    async def open(self, key: PartialKey, size: int | None, *, is_size_proved: bool) -> LocalWriter:
        """As `Storage.open_writer`. `size` is a hint, until `expect` says it."""
        self._room.check_ever(size or 0)
        while (change := self._states.find_change_of_partial(key)) is not None:
            await over(change)
        if self._states.is_written(key):
            raise StoreError(f"{key.digest} is being written already")
        entry = self._states.begin_writer(key)
        self._space.add(entry.promise)
        try:
            entry.promise.is_proved = is_size_proved
            return await self._begin(entry, size)
        except BaseException:
            await to_the_end(self._fail(entry))
            raise

    async def _begin(self, entry: PartialEntry, size: int | None) -> LocalWriter:
        promise = entry.promise
        await self._index.record_partial(entry.key, now=self._clock())
        partial = await self._files.open_partial(entry.key)
        try:
            promise.size = promise.written = self._usage.of_partial(partial.present)
            await self._files.catch_up(partial)
        except BaseException:
            partial.close()
            raise
        self._states.end_opening_of_writer(entry)
        if size is not None and partial.present:
            size = _judged(partial, size)
        return LocalWriter(
            entry, partial, size,
            files=self._files, states=self._states, changes=self._changes, room=self._room,
            usage=self._usage, costs=self._costs, clock=self._clock,
        )  # fmt: skip

    async def _fail(self, entry: PartialEntry) -> None:
        await self._changes.suspend(entry, None, now=self._clock())
        self._states.fail_writer(entry)


def _judged(partial: Partial, hint: int) -> int | None:
    """What the size is by what is there already; None where that and the hint cannot both be right.

    Somebody has lied then: who sent what is there, or who gave the hint.
    """
    if partial.is_proved(None):
        return partial.hashed
    return hint if extents.clip(partial.present, hint) == partial.present else None

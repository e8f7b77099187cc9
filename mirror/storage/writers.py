"""Opening blobs for writing: begun, or continued where an earlier writer or process has stopped."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from mirror.aio.waiting import to_the_end
from mirror.oci.digest import Hasher
from mirror.oci.errors import StoreError
from mirror.storage import extents
from mirror.storage.changes import Changes, over
from mirror.storage.costs import Costs
from mirror.storage.errors import NoRoom
from mirror.storage.files import Files
from mirror.storage.index import Index
from mirror.storage.partial import Partial
from mirror.storage.room import Room
from mirror.storage.space import Space
from mirror.storage.states import PartialEntry, PartialKey, States
from mirror.storage.usage import Usage
from mirror.storage.writer import LocalWriter

_logger = logging.getLogger(__name__)

_IN_VAIN = (
    60.0  # seconds in which nothing more goes so that there are files, where that was of no use
)


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
        self._no_files_until = 0.0  # by the loop's clock

    async def open(self, key: PartialKey, size: int | None, *, is_size_proved: bool) -> LocalWriter:
        """As `Storage.open_writer`. `size` is a hint, until `expect` says it."""
        self._room.check_ever(size or 0)
        return await self._open(
            key, partial(self._files.open_partial, key), size, is_size_proved=is_size_proved
        )

    async def take(self, key: PartialKey, path: Path, hasher: Hasher) -> LocalWriter:
        """Of a file that has all of the blob, and that `hasher` has taken in; `commit` is next.

        Raises:
            StoreError: The disk refuses, or somebody writes it already; then it is where it was.
        """
        taking = partial(self._files.take_partial, key, path, hasher)
        return await self._open(key, taking, None, is_size_proved=True)

    async def _open(
        self,
        key: PartialKey,
        opening: Callable[[], Awaitable[Partial]],
        size: int | None,
        *,
        is_size_proved: bool,
    ) -> LocalWriter:
        while (change := self._states.find_change_of_partial(key)) is not None:
            await over(change)
        if self._states.is_written(key):
            raise StoreError(f"{key.digest} is being written already")
        entry = self._states.begin_writer(key)
        self._space.add(entry.promise)
        try:
            entry.promise.is_proved = is_size_proved
            return await self._begin(entry, opening, size)
        except BaseException:
            await to_the_end(self._fail(entry))
            raise

    async def _begin(
        self, entry: PartialEntry, opening: Callable[[], Awaitable[Partial]], size: int | None
    ) -> LocalWriter:
        promise = entry.promise
        await self._index.record_partial(entry.key, now=self._clock())
        found = await self._open_file(opening)
        try:
            promise.size = promise.written = self._usage.of_partial(found.present)
            await self._files.catch_up(found)
        except BaseException:
            found.close()
            raise
        self._states.end_opening_of_writer(entry)
        if size is not None and found.present:
            size = _judged(found, size)
        return LocalWriter(
            entry, found, size,
            files=self._files, states=self._states, changes=self._changes, room=self._room,
            usage=self._usage, costs=self._costs, clock=self._clock,
        )  # fmt: skip

    async def _open_file(self, opening: Callable[[], Awaitable[Partial]]) -> Partial:
        """Where the disk has no file to give, blobs make room for some. Raises StoreError.

        Where that was in vain, somebody else has taken them: then no more goes for a while.
        """
        try:
            return await opening()
        except NoRoom as error:
            now = asyncio.get_running_loop().time()
            if now < self._no_files_until or not await self._room.free_files():
                raise
            _logger.warning("the disk has no more files to give: blobs have made room: %s", error)
        try:
            return await opening()
        except NoRoom:
            self._no_files_until = now + _IN_VAIN
            raise

    async def _fail(self, entry: PartialEntry) -> None:
        await self._changes.suspend(entry, None, now=self._clock())
        self._states.fail_writer(entry)


def _judged(found: Partial, hint: int) -> int | None:
    """What the size is by what is there already; None where that and the hint cannot both be right.

    Somebody has lied then: who sent what is there, or who gave the hint.
    """
    if found.is_proved(None):
        return found.hashed
    return hint if extents.clip(found.present, hint) == found.present else None

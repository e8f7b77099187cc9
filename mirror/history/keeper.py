"""The history of a running mirror: gathered in memory, written every other second, kept in bounds.

A crash loses what workers have not told yet (seconds), and what was gathered since the last write.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

from mirror.history.gathering import ARRIVALS, REPOSITORIES, Gathering
from mirror.history.ports import Batch, History, Pull, Spell
from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.oci.reference import Repository
from mirror.telemetry.asked import Entry

_logger = logging.getLogger(__name__)

_EVERY = 2.0  # seconds between writes
_TRIM_EVERY = 150  # writes
_MOST_OWED = 64  # batches that cannot be written; then the oldest are lost
_LATEST = 1024  # changed pulls that are remembered for who watches


class Keeper:
    """Keeps `history` up to date. Use `Keeper.keeping`."""

    def __init__(self, history: History, gathering: Gathering, clock: Callable[[], float]) -> None:
        self.history = history
        self._gathering = gathering
        self._clock = clock
        self._changes = 0
        self._latest: deque[tuple[int, Pull]] = deque(maxlen=_LATEST)
        self._owed: deque[Batch] = deque(maxlen=_MOST_OWED)
        self._writing = asyncio.Lock()  # what comes later is written later
        self._is_failing = False
        self._is_unreadable = False
        self.note: Callable[[Sequence[Entry]], None] = gathering.note

    @classmethod
    @asynccontextmanager
    async def keeping(
        cls,
        history: History,
        *,
        private: Collection[str],
        tells_clients: bool,
        clock: Callable[[], float],
    ) -> AsyncIterator["Keeper"]:
        """Take notes inside the block; `run` writes them down, and so does its end."""
        known = await history.begin(REPOSITORIES, ARRIVALS)
        gathering = Gathering(known, private=private, tells_clients=tells_clients, clock=clock)
        keeper = cls(history, gathering, clock)
        try:
            yield keeper
        finally:
            await keeper.write()

    def coming(
        self,
        repository: Repository,
        digest: Digest,
        endpoint: str,
        *,
        size: int | None,
        is_resumed: bool = False,
        is_manifest: bool = False,
    ) -> Callable[[int], None]:
        """As `sources.ports.NoteComing`."""
        return self._gathering.coming(
            repository, digest, endpoint,
            size=size, is_resumed=is_resumed, is_manifest=is_manifest,
        )  # fmt: skip

    async def run(self) -> None:
        """Write down what is new, for ever."""
        writes = 0
        while True:
            if writes % _TRIM_EVERY == 0:
                await self._trim()
            await asyncio.sleep(_EVERY)
            await self.write()
            writes += 1

    async def write(self) -> None:
        """Write down what is new, now; what could not be written before, first."""
        async with self._writing:
            for _ in self._gathering.settle():
                await asyncio.sleep(0)
            while batch := self._gathering.take():
                for pull in batch.pulls:
                    self._changes += 1
                    self._latest.append((self._changes, pull))
                self._owed.append(batch)
                await self._pay()
            await self._pay()

    async def _pay(self) -> None:
        try:
            while self._owed:
                await self.history.record(self._owed[0])
                self._owed.popleft()
            self._is_failing = False
        except StoreError as error:
            if not self._is_failing:
                _logger.warning("history cannot be written, and waits in memory: %s", error)
            self._is_failing = True

    async def find_next_spell(self) -> int | None:
        """As `History.find_next_spell`; None where that cannot be read now."""
        try:
            return await self.history.find_next_spell()
        except StoreError as error:
            if not self._is_unreadable:
                _logger.warning("history cannot be read: %s", error)
            self._is_unreadable = True
            return None

    async def record_spells(self, spells: Sequence[Spell]) -> None:
        """As `History.record_spells`; what cannot be written is lost, and told as for pulls."""
        if not spells:
            return
        try:
            await self.history.record_spells(spells)
        except StoreError as error:
            _logger.debug("history cannot be written: %s", error)

    def changed_since(self, change: int) -> tuple[int, list[Pull]]:
        """Pulls that have changed after that change, and the number of the latest one."""
        latest = {pull.id: pull for number, pull in self._latest if number > change}
        return self._changes, [*latest.values()]

    async def _trim(self) -> None:
        try:
            await self.history.trim(self._clock())
        except StoreError as error:
            _logger.warning("history cannot be tidied: %s", error)

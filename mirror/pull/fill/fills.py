"""The fills in flight: whoever asks for what is already coming from the same upstream joins it.

Each upstream has a share of `fill.max_active` (`mirror.aio.slots`), so that a slow one leaves slots
to its neighbours. Where a client waits for a slot, the oldest fill that nobody reads gives its own:
clients that have left stop nobody's downloads.

They are by upstream and digest: what one upstream sends, or says of a blob, is neither joined nor
hindered by what another does.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from cachetools import LRUCache, TTLCache

from mirror.aio.slots import Slots, Urgency
from mirror.aio.tasks import NoteFault, Starter
from mirror.oci.digest import Digest
from mirror.oci.errors import RegistryError, Unavailable
from mirror.pull.fill.crew import Pace
from mirror.pull.fill.fill import Fill, NoteSent
from mirror.sources.ports import BlobSource
from mirror.storage.errors import TooLarge
from mirror.storage.ports import Writers
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import Metrics

_logger = logging.getLogger(__name__)

_TOO_LARGE_FOR = 600.0  # seconds for which a blob larger than the store is not tried again
_REMEMBERED = 1024  # blobs

_Key = tuple[str, Digest]  # upstream, digest


@dataclass(eq=False, slots=True)
class _Flight:
    """A fill, its task, and when there is none of its key any more."""

    fill: Fill
    task: "asyncio.Task[None] | None" = None
    gives_way: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Fills:
    """Starts fills, and finds those that run. They belong to `tasks`.

    `is_shared`: there are several upstreams, and each has a share of the slots only.
    `patience` is for how many seconds a client waits until bytes can be read; `note_sent` is told
    of each upstream that has sent a blob.
    """

    def __init__(
        self,
        storage: Writers,
        pace: Pace,
        *,
        max_active: int,
        is_shared: bool,
        patience: float,
        tasks: Starter,
        metrics: Metrics,
        note_fault: NoteFault,
        random: Random,
        note_sent: NoteSent,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._pace = pace
        self._slots = Slots(max_active, self._make_way)
        self._is_shared = is_shared
        self._patience = patience
        self._tasks = tasks
        self._metrics = metrics
        self._note_fault = note_fault
        self._note_sent = note_sent
        self._clock = clock
        self._random = random
        self._flights: dict[_Key, _Flight] = {}
        self._too_large: TTLCache[_Key, int | None] = TTLCache(
            _REMEMBERED, ttl=_TOO_LARGE_FOR, timer=clock
        )
        self._told: LRUCache[_Key, int] = LRUCache(_REMEMBERED)
        self._proved: LRUCache[_Key, int] = LRUCache(_REMEMBERED)

    @property
    def patience(self) -> float:
        """For how many seconds a client waits for the start of a blob."""
        return self._patience

    @property
    def expected(self) -> int:
        """How many fills there are that nobody waits for."""
        return sum(not flight.fill.readers.count for flight in self._flights.values())

    @property
    def running(self) -> list[Fill]:
        """Those under way, the oldest first."""
        return [flight.fill for flight in self._flights.values()]

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return self._slots.waiting

    def is_running(self, upstream: str, digest: Digest) -> bool:
        """Whether this blob is on its way from there already."""
        flight = self._flights.get((upstream, digest))
        return flight is not None and not flight.fill.is_over

    def note_size(self, upstream: str, digest: Digest, size: int) -> None:
        """This blob has proved to have a size: that counts for more than a promise."""
        key = (upstream, digest)
        self._told[key] = self._proved[key] = size
        self._too_large.pop(key, None)  # it may have been for want of a size

    async def join(self, source: BlobSource, digest: Digest, size: int | None) -> Fill:
        """Read along with the fill of `digest`, begun now if need be; `readers.leave` when done.

        `size` is what a manifest promises, in bytes.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing in time.
            NoRoom: The blob cannot be kept: stream it through.
        """
        key = (source.upstream, digest)
        if self._is_too_large(key, size):
            raise TooLarge("larger than store.max_size")
        try:
            async with asyncio.timeout(self._patience):
                return await self._join(key, source, size)
        except TimeoutError as error:
            raise Unavailable("the blob has not begun to arrive in time", timed_out=True) from error

    def prefetch(self, source: BlobSource, digest: Digest, size: int) -> None:
        """Begin a fill that nobody waits for yet; whoever joins it makes it urgent."""
        key = (source.upstream, digest)
        if key not in self._flights and not self._is_too_large(key, size):
            self._start(key, source, size, Urgency(is_urgent=False))

    async def _join(self, key: _Key, source: BlobSource, size: int | None) -> Fill:
        while True:
            flight = self._flights.get(key) or self._start(key, source, size, Urgency())
            fill = flight.fill
            if fill.is_over:
                await flight.over.wait()
                continue
            fill.join(source)
            self._make_way()  # it may have waited, and nobody for it
            try:
                await fill.readers.started()
                fill.authorities.check(source)
            except RegistryError:
                fill.readers.leave()
                # What upstream told another repository or client need not hold for this one.
                if source in fill.authorities:
                    raise
            except BaseException:
                fill.readers.leave()
                raise
            else:
                return fill

    def _is_too_large(self, key: _Key, promised: int | None) -> bool:
        """Whether it was a moment ago, by a word on its size that still stands."""
        known = self._told.get(key, promised)
        return key in self._too_large and self._too_large.get(key, -1) in {None, known}

    def _start(self, key: _Key, source: BlobSource, size: int | None, urgency: Urgency) -> _Flight:
        fill = Fill(
            key[1], source, self._storage,
            promised=self._told.get(key, size), is_size_proved=key in self._proved,
            pace=self._pace, slots=self._slots, is_shared=self._is_shared, urgency=urgency,
            deserted=self._make_way, metrics=self._metrics,
            note_fault=self._note_fault, note_sent=self._note_sent, clock=self._clock,
            random=self._random,
        )  # fmt: skip
        flight = _Flight(fill)
        self._flights[key] = flight
        flight.task = self._tasks.create_task(self._run(key, flight), name="fill")
        return flight

    def _make_way(self) -> None:
        """Stop the oldest fills that nobody reads, one for each that a client waits for."""
        flights = list(self._flights.values())
        waiting = min(self._slots.waiting, sum(flight.fill.is_waited_for for flight in flights))
        waiting -= sum(flight.gives_way for flight in flights)
        for flight in flights:
            if waiting <= 0:
                return
            if flight.fill.may_give_way and flight.task is not None:
                waiting -= 1
                flight.gives_way = True
                _logger.info(
                    "fill gives way: nobody reads it, and a client waits for another",
                    extra=fields(digest=flight.fill.digest, upstream=flight.fill.upstream),
                )
                flight.fill.give_way()
                flight.task.cancel()

    async def _run(self, key: _Key, flight: _Flight) -> None:
        try:
            await flight.fill.run()
        finally:
            del self._flights[key]
            flight.over.set()
            self._remember(key, flight.fill)

    def _remember(self, key: _Key, fill: Fill) -> None:
        if not fill.is_too_large:
            return
        if fill.told is not None:
            self._told[key] = fill.told
            self._proved.pop(key, None)
        self._too_large[key] = fill.promised if fill.told is None else fill.told

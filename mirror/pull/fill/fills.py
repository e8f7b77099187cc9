"""The fills in flight: whoever asks for what is already coming from the same upstream joins it.

Each upstream has a share of `fill.max_active` (`mirror.aio.slots`), so that a slow one leaves slots
to its neighbours; and a quarter is kept for clients that have none, so that no client's many wishes
are before another's first. A fill is on the account of one of those who read it. Where a client
waits for a slot, the oldest fill that nobody reads gives its own: clients that have left stop
nobody's downloads.

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

from mirror.aio.slots import Slots, Urgency, client
from mirror.aio.tasks import NoteFault, Starter
from mirror.oci.digest import Digest
from mirror.oci.errors import DigestMismatch, RegistryError, Unavailable
from mirror.pull.fill.crew import Pace
from mirror.pull.fill.fill import Fill, NoteSent
from mirror.pull.fill.others import Others
from mirror.pull.fill.wants import Want
from mirror.pull.prefix import Cut
from mirror.sources.ports import BlobSource
from mirror.storage.errors import TooLarge
from mirror.storage.ports import Writers
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import Metrics

_logger = logging.getLogger(__name__)

_TOO_LARGE_FOR = 600.0  # seconds for which a blob larger than the store is not tried again
_DOUBTED_FOR = 3600.0  # seconds after wrong bytes for which no range leaves before its proof
_GIVEN_UP_FOR = 30.0  # seconds for which it is remembered that a fill was given up
_REMEMBERED = 1024  # blobs
_KEPT = 4  # one of so many slots is for clients that have none
_TROUBLE_FOR = 900.0  # seconds for which operators are told that the disk has refused

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
    of each upstream that has sent a blob. `others`: the mirrors that are one with this one.
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
        others: Others | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._pace = pace
        self._slots = Slots(max_active, self._make_way, kept=max_active // _KEPT)
        self._is_shared = is_shared
        self._patience = patience
        self._tasks = tasks
        self._metrics = metrics
        self._note_fault = note_fault
        self._note_sent = note_sent
        self._others = others
        self._clock = clock
        self._random = random
        self._flights: dict[_Key, _Flight] = {}
        self._too_large: TTLCache[_Key, int | None] = TTLCache(
            _REMEMBERED, ttl=_TOO_LARGE_FOR, timer=clock
        )
        self._disproved: TTLCache[_Key, None] = TTLCache(_REMEMBERED, ttl=_DOUBTED_FOR, timer=clock)
        self._given_up: TTLCache[_Key, None] = TTLCache(_REMEMBERED, ttl=_GIVEN_UP_FOR, timer=clock)
        self._told: LRUCache[_Key, int] = LRUCache(_REMEMBERED)
        self._proved: LRUCache[_Key, int] = LRUCache(_REMEMBERED)
        self._trouble: tuple[float, str] | None = None  # when, and what it was
        self._cuts: LRUCache[tuple[_Key, int], Cut | None] = LRUCache(_REMEMBERED)

    @property
    def expected(self) -> int:
        """How many fills there are that nobody waits for."""
        return sum(not flight.fill.readers.count for flight in self._flights.values())

    def change(self, *, max_active: int, is_shared: bool) -> None:
        """Go by these from now on."""
        self._is_shared = is_shared
        self._slots.resize(max_active, kept=max_active // _KEPT)

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

    def was_given_up(self, upstream: str, digest: Digest) -> bool:
        """Whether the last fill of it was, a moment ago: whoever can turn elsewhere had better."""
        return (upstream, digest) in self._given_up

    def note_size(self, upstream: str, digest: Digest, size: int) -> None:
        """This blob has proved to have a size: that counts for more than a promise."""
        key = (upstream, digest)
        self._told[key] = self._proved[key] = size
        self._too_large.pop(key, None)  # it may have been for want of a size

    @property
    def disk_trouble(self) -> str | None:
        """Why the disk has cut downloads off, if it has of late."""
        if self._trouble is None or self._clock() - self._trouble[0] > _TROUBLE_FOR:
            return None
        return self._trouble[1]

    def find_cut(self, upstream: str, digest: Digest, position: int) -> Cut | None:
        """Where the disk has cut this blob off at `position` a while ago."""
        return self._cuts.get(((upstream, digest), position))

    async def join(
        self, source: BlobSource, digest: Digest, size: int | None, want: Want | None = None
    ) -> Fill:
        """Read along with the fill of `digest`, begun now if need be; `Fill.leave` when done.

        `size` is what a manifest promises, in bytes; `want` what is read, where that is not all.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing in time.
            NoRoom: The blob cannot be kept: stream it through.
        """
        key = (source.upstream, digest)
        if self._is_too_large(key, size):
            raise TooLarge("larger than store.max_size")
        try:
            async with asyncio.timeout(self._patience):
                return await self._join(key, source, size, want)
        except TimeoutError as error:
            raise Unavailable("the blob has not begun to arrive in time", timed_out=True) from error

    def prefetch(self, source: BlobSource, digest: Digest, size: int) -> None:
        """Begin a fill that nobody waits for yet; whoever joins it makes it urgent."""
        key = (source.upstream, digest)
        if key not in self._flights and not self._is_too_large(key, size):
            self._start(key, source, size, Urgency(is_urgent=False))

    async def fetch(self, source: BlobSource, digest: Digest, size: int) -> RegistryError | None:
        """As `prefetch`; return when it has ended: with what kept it from ending well.

        None also where it has given its slot to a client; what it has fetched is continued then.
        """
        self.prefetch(source, digest, size)
        flight = self._flights.get((source.upstream, digest))
        if flight is None:
            return TooLarge("larger than store.max_size")
        await flight.over.wait()
        return None if flight.gives_way else flight.fill.readers.error

    def written(self, upstream: str, digest: Digest) -> int:
        """Bytes that are there of a blob on its way."""
        flight = self._flights.get((upstream, digest))
        return 0 if flight is None else flight.fill.written

    async def _join(
        self, key: _Key, source: BlobSource, size: int | None, want: Want | None
    ) -> Fill:
        asker = client.get()
        while True:
            flight = self._flights.get(key) or self._start(key, source, size, Urgency())
            fill = flight.fill
            if fill.is_over:
                await flight.over.wait()
                continue
            fill.join(source, asker, want)
            self._make_way()  # it may have waited, and nobody for it
            try:
                await fill.readers.started()
                fill.authorities.check(source)
            except RegistryError:
                fill.leave(asker, want)
                # What upstream told another repository or client need not hold for this one.
                if source in fill.authorities:
                    raise
            except BaseException:
                fill.leave(asker, want)
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
            is_doubted=key in self._disproved, was_given_up=key in self._given_up,
            pace=self._pace, slots=self._slots, is_shared=self._is_shared, urgency=urgency,
            deserted=self._make_way, metrics=self._metrics,
            note_fault=self._note_fault, note_sent=self._note_sent, clock=self._clock,
            random=self._random, others=self._others,
        )  # fmt: skip
        flight = _Flight(fill)
        self._flights[key] = flight
        flight.task = self._tasks.create_task(self._run(key, flight), name="fill")
        return flight

    def _make_way(self) -> None:
        """Stop the oldest fills that nobody reads, one for each that a client waits for."""
        if not self._slots.waiting:
            return
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

    def _note_cut(self, key: _Key, cut: Cut) -> None:
        """Where it was cut off there with other bytes, nobody knows who has read which."""
        known = self._cuts.get((key, cut.position), cut)
        is_same = known is not None and known.size == cut.size and known.prefix.is_like(cut.prefix)
        self._cuts[key, cut.position] = cut if is_same else None

    def _remember(self, key: _Key, fill: Fill) -> None:
        if isinstance(fill.readers.error, DigestMismatch):
            self._disproved[key] = None
        if fill.is_given_up:
            self._given_up[key] = None
        elif not fill.is_over:
            self._given_up.pop(key, None)
        is_too_large = isinstance(fill.readers.error, TooLarge)
        if fill.cut is not None:
            self._note_cut(key, fill.cut)
            if not is_too_large:
                self._trouble = (self._clock(), fill.cut.why)
        if not is_too_large:
            return
        if fill.sizes.told is not None:
            self._told[key] = fill.sizes.told
            self._proved.pop(key, None)
        self._too_large[key] = fill.size

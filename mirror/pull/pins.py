"""Pins: images that are here before anybody asks, follow their tag, and are never evicted.

    what is known of the image's new version          then
    all pins together would be larger than the store  it is refused; the version before stays pinned
    something of it is not here                       it is pinned, and the version before too, as
                                                      far as there is room for both; it is fetched
    all of it is here                                 it is pinned, and the version before is not

What is fetched for a pin goes after whatever a client waits for. While upstream cannot be asked,
what is here stays pinned. One that is not complete is tried again sooner.

The configuration names them, and operators do while the mirror runs; of the latter it is on record
(`mirror.records.wishes`). Where both name an image, it is pinned as the configuration says.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Literal, Protocol

from mirror.aio.backoff import Backoff
from mirror.aio.tasks import Tasks
from mirror.config import Pin, Upstream, make_pin, why_not_fetchable
from mirror.config.units import rounded_size
from mirror.oci.descriptor import Platform
from mirror.oci.digest import Digest
from mirror.oci.errors import Denied, Missing, Refused, RegistryError, StoreError
from mirror.oci.reference import Reference, Repository
from mirror.pull.content import list_content
from mirror.pull.not_done import NotDone, NothingHere
from mirror.pull.versions import Version
from mirror.records.ports import Records
from mirror.records.wishes import PinRecord, Wishes
from mirror.sources.ports import BlobSource
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from mirror.storage.ports import PinningStorage
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import Metrics, PinState

_logger = logging.getLogger(__name__)

_AGAIN = Backoff(first=60.0, most=3600.0)
_PATIENCE = 30.0  # seconds in which upstream tells an operator what an image consists of

Source = Literal["configuration", "operator"]
"""Who has named a pin."""


@dataclass(slots=True, eq=False)
class Pinned:
    """A pin, and how it stands. `trouble`: why it is not complete, where that is known."""

    pin: Pin
    source: Source
    state: PinState = PinState.INCOMPLETE
    trouble: str | None = None
    whole: frozenset[Digest] = frozenset()  # the last version that was, or is thought to be, here
    sizes: Mapping[Digest, int] | None = None  # of the last version that fitted
    following: "asyncio.Task[None] | None" = None


class Finds(Protocol):
    """What finds out what images consist of."""

    async def find(
        self, repository: Repository, reference: Reference, platforms: Sequence[Platform], /
    ) -> Version:
        """As `Versions.find`."""


class Fetches(Protocol):
    """What fetches blobs."""

    async def fetch(self, source: BlobSource, digest: Digest, size: int, /) -> object:
        """As `Fills.fetch`."""


class Pinning:
    """Knows the pinned images, and from `start` on follows them."""

    def __init__(
        self,
        pins: Sequence[Pin],
        *,
        upstreams: Mapping[str, Upstream],
        wishes: Wishes,
        store: PinningStorage,
        records: Records,
        versions: Finds,
        fills: Fetches,
        registries: Mapping[str, Registry],
        tasks: Tasks,
        metrics: Metrics,
        random: Random,
    ) -> None:
        self._pinned = {pin.name: Pinned(pin, "configuration") for pin in pins}
        self._upstreams = upstreams
        self._wishes = wishes
        self._store = store
        self._records = records
        self._versions = versions
        self._fills = fills
        self._registries = registries
        self._tasks = tasks
        self._metrics = metrics
        self._random = random
        self._has_started = False

    async def begin(self) -> None:
        """See that what is here is pinned, before anything can be evicted. Raises StoreError."""
        for record in await self._wishes.list_pins():
            try:
                pin = make_pin(record.image, record.platforms, record.refresh, self._upstreams)
            except ValueError as error:
                _logger.error(  # noqa: TRY400 - the message says it all
                    "pinned by command, and not any more as things are configured: %s", error
                )
                continue
            self._pinned.setdefault(pin.name, Pinned(pin, "operator"))
        pins = self._store.pins
        for image in set(pins.list_images()) - self._pinned.keys():
            await pins.pin(image, ())
        for pinned in self._pinned.values():
            await self._begin(pinned)

    def start(self) -> None:
        """Follow all of them from now on, and what is added."""
        self._has_started = True
        for pinned in self._pinned.values():
            self._follow(pinned)

    def list_pinned(self) -> list[Pinned]:
        """All of them, by name."""
        return [self._pinned[name] for name in sorted(self._pinned)]

    async def add(self, pin: Pin) -> None:
        """Pin an image by command, or have it pinned in another way than before.

        While upstream cannot be asked, what is here of it is pinned, and the rest follows.

        Raises:
            NotDone: It stands in the configuration, is not there, or is too large.
            StoreError: It cannot be put on record.
        """
        before = self._pinned.get(pin.name)
        if before is not None and before.source == "configuration":
            raise NotDone(f"{pin.name} is pinned by the configuration: change it there ([[pin]])")
        pinned = Pinned(pin, "operator")
        try:
            async with asyncio.timeout(_PATIENCE):
                version = await self._find_version(pin)
        except (Missing, Denied, Refused) as error:
            raise NotDone(f"{pin.name}: {error.message}") from error
        except (RegistryError, TimeoutError):
            pass  # it is followed, until upstream says more
        else:
            if not self._fits(pinned, version):
                raise NotDone(f"{pin.name} is not pinned: {pinned.trouble}")
        await self._wishes.record_pin(PinRecord(pin.name, pin.platforms, pin.refresh))
        await self._stop_following(self._pinned.pop(pin.name, None))
        self._pinned[pin.name] = pinned
        await self._begin(pinned)
        if self._has_started:
            self._follow(pinned)

    async def remove(self, name: str) -> None:
        """Pin an image no longer, that was pinned by command; it stays until there is need of room.

        Raises:
            NotDone, NothingHere: It stands in the configuration, or is not pinned at all.
            StoreError: It cannot be put on record.
        """
        pinned = self._pinned.get(name)
        if pinned is None:
            raise NothingHere(f"{name} is not pinned")
        if pinned.source == "configuration":
            raise NotDone(f"{name} is pinned by the configuration: take it out there ([[pin]])")
        await self._wishes.forget_pin(name)
        await self._stop_following(pinned)
        if self._pinned.get(name) is pinned:  # nobody has pinned it anew meanwhile
            del self._pinned[name]
            await self._store.pins.pin(name, ())
        self._count()

    async def take_over(self) -> None:
        """Have pinned what operators have pinned since, at another mirror. Raises StoreError."""
        wanted: dict[str, Pin] = {}
        for record in await self._wishes.list_pins():
            with suppress(ValueError):  # not any more as things are configured here
                pin = make_pin(record.image, record.platforms, record.refresh, self._upstreams)
                wanted[pin.name] = pin
        for name, pinned in [*self._pinned.items()]:
            if pinned.source == "operator" and wanted.get(name) != pinned.pin:
                await self._stop_following(pinned)
                del self._pinned[name]
                if name not in wanted:
                    await self._store.pins.pin(name, ())
        for name, pin in wanted.items():
            if name not in self._pinned:
                self._pinned[name] = pinned = Pinned(pin, "operator")
                await self._begin(pinned)
                if self._has_started:
                    self._follow(pinned)
        self._count()

    async def _begin(self, pinned: Pinned) -> None:
        pins, pin = self._store.pins, pinned.pin
        if not pins.of(pin.name):  # a new one, or the index was lost
            content = await list_content(self._records, pin.repository, pin.reference)
            await pins.pin(pin.name, await self._store.find_stored(content))
        pinned.whole = pins.of(pin.name)
        self._count()

    def _follow(self, pinned: Pinned) -> None:
        with suppress(RuntimeError):  # too late: the mirror is being taken down
            pinned.following = self._tasks.create_kept_task(
                partial(self._follow_forever, pinned), name="pin"
            )

    async def _stop_following(self, pinned: Pinned | None) -> None:
        """Return when nothing is pinned any more by who follows it."""
        if pinned is not None and pinned.following is not None:
            pinned.following.cancel()
            await asyncio.wait([pinned.following])

    async def _follow_forever(self, pinned: Pinned) -> None:
        failures, pin = 0, pinned.pin
        while True:
            pinned.state = await self.refresh(pinned)
            self._count()
            failures = 0 if pinned.state is not PinState.INCOMPLETE else failures + 1
            again = _AGAIN.delay(failures, roll=self._random.random()) if failures else pin.refresh
            await asyncio.sleep(min(again, pin.refresh))

    async def refresh(self, pinned: Pinned) -> PinState:
        """Ask what the image is now, and have all of it here."""
        was_refused = pinned.state is PinState.REFUSED
        why = why_not_fetchable(pinned.pin.repository, self._upstreams)
        if why is not None:  # the configuration is another one since
            pinned.trouble = why
            return PinState.INCOMPLETE
        try:
            version = await self._find_version(pinned.pin)
            if not self._fits(pinned, version):
                if not was_refused:
                    _logger.error("pin refused: %s: %s", pinned.pin.name, pinned.trouble)
                return PinState.REFUSED
            state = await self._have(pinned, version)
        except RegistryError as error:
            _logger.warning("pin not refreshed: %s", error, extra=fields(image=pinned.pin.name))
            pinned.trouble = str(error)
            return PinState.INCOMPLETE
        pinned.trouble = None
        return state

    async def _find_version(self, pin: Pin) -> Version:
        return await self._versions.find(pin.repository, pin.reference, pin.wanted)

    def _fits(self, pinned: Pinned, version: Version) -> bool:
        others: dict[Digest, int] = {}
        for name, other in self._pinned.items():
            if name != pinned.pin.name:
                others |= other.sizes or {}
        size, capacity = sum((others | version.sizes).values()), self._store.capacity
        if size <= capacity:
            pinned.sizes = version.sizes
            return True
        pinned.trouble = (
            f"it has {rounded_size(version.size)}, and with all other pins that would be"
            f" {rounded_size(size)}, of the {rounded_size(capacity)} that store.max_size leaves:"
            " raise that, name fewer platforms, or pin less"
        )
        return False

    async def _have(self, pinned: Pinned, version: Version) -> PinState:
        pin, pins, new = pinned.pin, self._store.pins, frozenset(version.sizes)
        before = pinned.whole
        both = await self._store.measure(before | new)
        stored = await self._store.find_stored(list(version.blobs))
        missing = [digest for digest in version.blobs if digest not in stored]
        more = sum(version.blobs[digest] for digest in missing)
        has_room = both.bytes + more <= self._store.capacity
        await pins.pin(pin.name, before | new if has_room else new)
        source = self._registries[pin.repository.namespace].blobs(Scope(pin.repository))
        for digest in missing:
            await self._fills.fetch(source, digest, version.blobs[digest])
        lacking = new - await self._store.find_stored(list(new))
        if lacking:
            raise StoreError(f"{len(lacking)} of its {len(new)} blobs could not be kept")
        await pins.pin(pin.name, new)
        if before != new or missing:
            pinned.whole = new
            _logger.info(
                "pinned", extra=fields(image=pin.name, blobs=len(new), fetched=len(missing))
            )
        return PinState.COMPLETE

    def _count(self) -> None:
        states = [pinned.state for pinned in self._pinned.values()]
        for one in PinState:
            self._metrics.pins.labels(one).set(states.count(one))

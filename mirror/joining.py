"""What makes a mirror one of several: its own records and the shared ones, put together.

Loaded where `[shared]` stands in the configuration, and nowhere else.
"""

import asyncio
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from random import Random

from mirror import __version__
from mirror.aio.tasks import Tasks
from mirror.config import Config
from mirror.oci.errors import StoreError
from mirror.oci.reference import Tag
from mirror.pull.forget import Forgettable, Moved, TagOf
from mirror.pull.pins import Pinning
from mirror.records.fleet import FleetRecords
from mirror.records.fleet_wishes import FleetWishes
from mirror.records.ports import Records
from mirror.records.postgres import PostgresRecords
from mirror.records.sqlite import SqliteRecords
from mirror.records.telling import Teller
from mirror.records.tidying import Tidying
from mirror.records.together import Together
from mirror.records.untold import Untold
from mirror.records.wishes import Wishes
from mirror.shared.database import Database
from mirror.shared.events import (
    Event,
    Events,
    LinksForgotten,
    Paused,
    PinsChanged,
    QuotaTold,
    ReferrersForgotten,
    TagForgotten,
    TagMoved,
)
from mirror.shared.limits import SharedLimits
from mirror.shared.opening import Common
from mirror.sources.registry.endpoint import Endpoint
from mirror.sources.registry.health import Quota
from mirror.sources.registry.registry import Registry
from mirror.telemetry.metrics import Metrics
from mirror.telemetry.shared import SharedFigures

_HEARD = "heard"
_PINS_AGAIN = 0.5  # seconds, while something is still untold
_SHOWN_EVERY = 30.0  # seconds
_SHOW = (
    "INSERT INTO mirror.mirrors (name, host, version, seen_at) VALUES ($1, $2, $3, now())"
    " ON CONFLICT (name) DO UPDATE SET host = excluded.host, version = excluded.version,"
    " seen_at = excluded.seen_at"
)
_KINDS = {kind.name.lower(): kind for kind in Quota}


class Joined:
    """A mirror's share in what all know."""

    def __init__(
        self,
        common: Common,
        own: SqliteRecords,
        untold: Untold,
        *,
        patience: float,
        forget_after: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        database, name = common.database, common.name
        shared = PostgresRecords(database, clock=clock)
        self.common = common
        self._database = database
        self._own = own
        self._shared = shared
        self._untold = untold
        self._name = name
        self._pins_changed = asyncio.Event()
        # Of this run: whoever has our name (on a cloned disk) has to hear of it, too.
        origin = self._origin = f"{name}/{uuid.uuid4().hex[:8]}"
        self._teller = Teller(untold, database, shared, origin=origin, holder=name)
        self._tidying = Tidying(
            database, shared, forget_after=forget_after, clock=clock, monotonic=monotonic
        )
        self._events: Events | None = None
        self.records = FleetRecords(own, shared, untold, is_up=lambda: database.is_up, clock=clock)
        self.wishes = FleetWishes(own.wishes, untold, database)
        self.fleet = Together(
            database, shared, untold, name=name, lease=patience, monotonic=monotonic
        )
        self.limits = SharedLimits(database, origin=origin, monotonic=monotonic)

    async def start(
        self,
        work: Tasks,
        *,
        forget: Callable[[Forgettable], None],
        pinning: Pinning,
        registries: Mapping[str, Registry],
        metrics: Metrics,
    ) -> None:
        """Tell and hear from now on. Raises StoreError."""
        heard = await self._recall_heard()
        if heard is None:
            await self.wishes.bring_own()
        ears = _Ears(
            self._own, self._shared, forget=forget, registries=registries, limits=self.limits,
            note_pins=self._pins_changed.set,
        )  # fmt: skip
        self._events = Events(
            self._database,
            origin=self._origin,
            hear=ears.hear,
            heard=heard,
            note_heard=lambda at: self._untold.remember(_HEARD, repr(at)),
        )
        back = asyncio.Event()
        self._database.subscribe_up(self._pins_changed.set)
        self._database.subscribe_up(back.set)
        metrics.registry.register(SharedFigures(self.read_figures))
        work.keep(self._teller.tell_forever, name="tell")
        work.keep(self._events.follow, name="hear")
        work.keep(self.limits.tell_forever, name="tell limits")
        work.keep(lambda: ears.learn_pauses_forever(back), name="learn limits")
        work.keep(lambda: self._follow_pins(pinning), name="share pins")
        work.keep(self._tidying.tidy_forever, name="tidy shared")
        work.keep(self._show_forever, name="show")

    async def _recall_heard(self) -> float | None:
        """When this mirror has heard the others last, by the database; None: it is new.

        0 where it has been one of them and there is no note of that, which was damaged then:
        removals that it has not heard would never be done here. Raises StoreError.
        """
        heard = await self._untold.recall(_HEARD)
        if heard is not None:
            return float(heard)
        return 0.0 if self.common.was_one else None

    def read_figures(self) -> dict[str, float]:
        """What metrics tell of it."""
        return {
            "database_up": float(self._database.is_up),
            "database_hears": float(self._database.hears),
            "untold": float(self._untold.count),
            "told": float(self._teller.told),
            "lost": float(self._untold.lost),
            "heard": float(0 if self._events is None else self._events.count),
        }

    def troubles(self) -> list[tuple[str, str]]:
        """What does not work as it should, and why."""
        found: list[tuple[str, str]] = []
        if not self._database.is_up:
            what = "the shared database cannot be asked; the mirror goes on by itself"
            if self._untold.count:
                what += f", and has {self._untold.count} things to tell the others"
            found.append((what, self._database.trouble or "it is looked for"))
        elif self._teller.trouble is not None:
            what = f"the shared database takes nothing: {self._untold.count} things wait for it"
            found.append((what, self._teller.trouble))
        if self._events is not None and self._events.trouble is not None:
            what = f"{self._events.undone} things that other mirrors have said wait to be done here"
            found.append((what, self._events.trouble))
        if not self.common.bucket.is_up:
            what = "the bucket cannot be used; the mirror downloads for itself"
            found.append((what, self.common.bucket.trouble or "it is looked for"))
        elif self.common.bucket.trouble is not None:
            what = "nothing can be deleted from the bucket: it grows"
            found.append((what, self.common.bucket.trouble))
        return found

    async def _show_forever(self) -> None:
        """Have `mirror shared status` know of this mirror."""
        while True:
            with suppress(StoreError):
                await self._database.execute(_SHOW, self._name, socket.gethostname(), __version__)
            await asyncio.sleep(_SHOWN_EVERY)

    async def _follow_pins(self, pinning: Pinning) -> None:
        while True:
            await self._pins_changed.wait()
            self._pins_changed.clear()
            with suppress(StoreError):
                if await self.wishes.take_over():
                    await pinning.take_over()
                else:
                    self._pins_changed.set()
                    await asyncio.sleep(_PINS_AGAIN)


class _Ears:
    """Does at this mirror what others have said."""

    def __init__(
        self,
        own: SqliteRecords,
        shared: PostgresRecords,
        *,
        forget: Callable[[Forgettable], None],
        registries: Mapping[str, Registry],
        limits: SharedLimits,
        note_pins: Callable[[], None],
    ) -> None:
        self._own = own
        self._shared = shared
        self._forget = forget
        self._registries = registries
        self._limits = limits
        self._note_pins = note_pins

    async def hear(self, event: Event) -> None:
        """Another mirror has said this. Raises StoreError."""
        match event:
            case TagMoved():
                self._forget(Moved(event.repository, Tag(event.tag)))
            case PinsChanged():
                self._note_pins()
            case Paused():
                self._hear_pause(event)
            case QuotaTold():
                for one in self._endpoints(event.upstream, event.endpoint):
                    one.condition.hear_quota(event.limit, event.remaining)
            case _:
                await self._unlearn(event)

    async def _unlearn(self, event: TagForgotten | LinksForgotten | ReferrersForgotten) -> None:
        """What is not so any more is not on record here either.

        Unless all have learnt it anew since: what was removed long ago may be heard of late.
        """
        repository, shared = event.repository, self._shared
        match event:
            case TagForgotten():
                if await shared.find_tag(repository, event.tag) is None:
                    await self._own.forget_tag(repository, event.tag)
                self._forget(TagOf(repository, Tag(event.tag)))
            case LinksForgotten():
                gone = [
                    it for it in event.digests if await shared.find_link(repository, it) is None
                ]
                await self._own.forget_links(repository, gone)
                self._forget(repository)
            case ReferrersForgotten():
                if await shared.find_referrers(repository, event.digest) is None:
                    await self._own.forget_referrers(repository, event.digest)

    async def learn_pauses_forever(self, back: asyncio.Event) -> None:
        """Heed what all were told, whenever the database is there (again)."""
        while True:
            await back.wait()
            back.clear()
            with suppress(StoreError):
                for paused in await self._limits.list_pauses():
                    self._hear_pause(paused)

    def _hear_pause(self, paused: Paused) -> None:
        kind, left = _KINDS.get(paused.requests), self._limits.left(paused)
        if kind is not None and left > 0:
            for one in self._endpoints(paused.upstream, paused.endpoint):
                one.condition.hear_pause(kind, left)

    def _endpoints(self, upstream: str, endpoint: str) -> list[Endpoint]:
        registry = self._registries.get(upstream)
        return [] if registry is None else [it for it in registry.endpoints if it.name == endpoint]


@asynccontextmanager
async def join(
    common: Common,
    own: SqliteRecords,
    config: Config,
    *,
    clock: Callable[[], float],
    monotonic: Callable[[], float],
) -> AsyncIterator[Joined]:
    """Be one of several, inside the block. Raises StoreError."""
    async with Untold.open(config.store.root) as untold:
        yield Joined(
            common, own, untold,
            # Who asks what a tag means either knows by then, or is kept waiting.
            patience=config.fill.connect_timeout,
            forget_after=config.store.forget_after, clock=clock, monotonic=monotonic,
        )  # fmt: skip


@asynccontextmanager
async def tell_later(
    own: SqliteRecords, config: Config, *, clock: Callable[[], float]
) -> AsyncIterator[tuple[Records, Wishes]]:
    """Records and wishes of a mirror that does not run: what is changed is told when it does.

    Raises StoreError.
    """
    assert config.shared is not None  # noqa: S101 - else nobody is told
    async with Untold.open(config.store.root) as untold:
        nobody = Database(
            config.shared.database_file, name="at rest", monotonic=time.monotonic,
            dice=Random(),  # noqa: S311 - it is never asked
        )  # fmt: skip
        shared = PostgresRecords(nobody, clock=clock)
        yield (
            FleetRecords(own, shared, untold, is_up=lambda: False, clock=clock),
            FleetWishes(own.wishes, untold, nobody),
        )

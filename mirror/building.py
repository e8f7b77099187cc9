"""What answers pulls, built of a configuration and of the parts that were opened for it."""

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from itertools import chain

from mirror.aio.guessing import Guesses
from mirror.aio.single_flight import SingleFlight
from mirror.aio.tasks import Tasks
from mirror.config import (
    Config,
    Endpoint as EndpointConfig,
    Upstream,
    aliases_of,
)
from mirror.control.depot import StoreDepot
from mirror.control.keeping import Keeping
from mirror.control.pausing import FILE as PAUSED_FILE, Pausing
from mirror.control.warming import Warmers
from mirror.oci.reference import Repository
from mirror.oci.repositories import Selection
from mirror.pull.arriving import Arriving
from mirror.pull.blobs import Blobs
from mirror.pull.collecting import Collecting
from mirror.pull.complete import Complete
from mirror.pull.fill.crew import Pace
from mirror.pull.fill.fills import Fills
from mirror.pull.fill.others import Others
from mirror.pull.fill.retries import RetryPolicy
from mirror.pull.forget import Forgetting
from mirror.pull.freshness import Policy
from mirror.pull.grants import Grants
from mirror.pull.idle import Idle
from mirror.pull.images import Images
from mirror.pull.links import Links
from mirror.pull.listings import Listings
from mirror.pull.logins import Logins
from mirror.pull.manifests import Manifests
from mirror.pull.memory import Memory
from mirror.pull.mirror import Mirror
from mirror.pull.passthrough.transfers import Transfers
from mirror.pull.pins import Pinning
from mirror.pull.prefetch import Prefetch
from mirror.pull.removal import Removal
from mirror.pull.retention import Retention
from mirror.pull.versions import Versions
from mirror.pull.warm.fetching import Fetching
from mirror.pull.warm.schedule import Schedule
from mirror.pull.warm.warming import Warming
from mirror.push import remains
from mirror.push.course import Means
from mirror.push.pushing import Pushing
from mirror.push.recording import Recording
from mirror.push.uploads import Uploads
from mirror.records.ports import Fleet, Records
from mirror.records.wishes import Wishes
from mirror.sources.ports import NOBODY, NoteComing, NoteLimits
from mirror.sources.registry.arrival import Line
from mirror.sources.registry.endpoint import Endpoint
from mirror.sources.registry.exchange import Exchange, Label
from mirror.sources.registry.registry import Registry
from mirror.sources.registry.sessions import Sessions
from mirror.storage.store import LocalStorage
from mirror.telemetry import log
from mirror.telemetry.metrics import Metrics
from mirror.telemetry.push_metrics import PushCounts

_logger = logging.getLogger(__name__)

_SHARE_OF_CONNECT = 0.5  # where a stale answer is at hand; upstream may use all of connect_timeout
_GRACE = 0.5  # seconds beyond connect_timeout, within which a client is told to go elsewhere

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Parts:
    """What everything is built from."""

    config: Config
    store: LocalStorage
    records: Records
    fleet: Fleet
    unbounded: Records  # the same, for what an operator says
    wishes: Wishes
    sessions: Sessions
    work: Tasks
    metrics: Metrics
    forgetting: Forgetting
    line: Line
    note_coming: NoteComing
    dice: random.Random
    push_counts: PushCounts
    private: set[str]  # the upstreams with `access = "client"`, as they are now
    _: KW_ONLY
    others: Others | None = None  # the mirrors that are one with this one
    limits: NoteLimits = NOBODY  # is told what endpoints say of being asked too often
    clock: Clock
    monotonic: Clock


class Upstreams:
    """What is configured of upstreams now: all who ask look here, and it changes in place.

    A registry that is configured no longer is kept for the pulls that are under way.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._endpoints: dict[str, tuple[EndpointConfig, ...]] = {}
        self.registries: dict[str, Registry] = {}
        self.served: dict[str, Selection] = {}
        self.settings: dict[str, Upstream] = {}
        self.private = parts.private
        self.public = set[str]()
        self.with_logins = set[str]()
        self.relaying = set[str]()
        self.most_idle: dict[str, float] = {}
        self.aliases: dict[str, str] = {}
        self.change(parts.config.upstream)

    @property
    def configured(self) -> dict[str, Registry]:
        """The registries, without those that were."""
        return {name: self.registries[name] for name in self._endpoints}

    def change(self, wanted: Mapping[str, Upstream]) -> None:
        """Have these. One whose endpoints stay the same keeps what is known of them.

        Raises:
            OSError: What is needed of one of them cannot be read; then nothing has changed.
        """
        before = {
            (name, endpoint.name) for name, its in self._endpoints.items() for endpoint in its
        }
        for name, endpoints in self._make(wanted).items():
            self._parts.metrics.announce(name, (endpoint.name for endpoint in endpoints))
            self._retire(name)
            self.registries[name] = Registry(
                name, endpoints, self._parts.monotonic, self._parts.note_coming
            )
        for name in self._endpoints.keys() - wanted.keys():
            self._retire(name)
        self._endpoints = {name: its.asked for name, its in wanted.items()}
        after = {(name, endpoint.name) for name, its in wanted.items() for endpoint in its.asked}
        for gone in before - after:
            self._parts.metrics.forget_endpoint(*gone)
        self._note(wanted)

    def _make(self, wanted: Mapping[str, Upstream]) -> dict[str, list[Endpoint]]:
        """The endpoints of those that are another way than now."""
        made: dict[str, list[Endpoint]] = {}
        try:
            for name, upstream in wanted.items():
                if self._endpoints.get(name) != upstream.asked:
                    made[name] = []
                    for it in upstream.asked:
                        made[name].append(_endpoint(self._parts, name, upstream, it))
        except OSError:
            for endpoint in chain.from_iterable(made.values()):
                endpoint.retire()
            raise
        return made

    def _retire(self, name: str) -> None:
        for endpoint in self.registries[name].endpoints if name in self.registries else ():
            endpoint.retire()

    def _note(self, wanted: Mapping[str, Upstream]) -> None:
        pushed = [name for name, its in wanted.items() if its.push != "off"]
        self._parts.push_counts.announce(pushed)
        for known in (
            self.settings, self.served, self.private, self.public, self.with_logins, self.relaying,
            self.most_idle,
        ):  # fmt: skip
            known.clear()
        self.aliases.clear()
        self.aliases.update(aliases_of(wanted))
        for name, its in wanted.items():
            self.settings[name], self.served[name] = its, its.served
            (self.private if its.access == "client" else self.public).add(name)
            if its.has_logins:
                self.with_logins.add(name)
            if its.relay_tokens:
                self.relaying.add(name)
            if its.max_idle is not None:
                self.most_idle[name] = its.max_idle


@dataclass(frozen=True, slots=True)
class Built:
    """What is built, as far as others than workers look at it."""

    mirror: Mirror
    pushing: Pushing
    uploads: Uploads
    fills: Fills
    upstreams: Upstreams
    pinning: Pinning
    depot: StoreDepot
    keeping: Keeping
    schedule: Schedule
    warmers: Warmers
    pausing: Pausing

    async def begin(self) -> None:
        """Have it as operators wanted it before the last restart, and uploads as they were.

        Raises:
            StoreError: The disk or the index refuses.
        """
        await self.pinning.begin()
        await self.pausing.begin()
        settings = self.upstreams.settings

        def is_wanted(repository: Repository) -> bool:
            its = settings.get(repository.namespace)
            return its is not None and its.push != "off"

        await self.uploads.recover(is_wanted)

    async def start(self, work: Tasks) -> None:
        """Fetch what nobody waits for, from now on: for pins, and beforehand. Raises StoreError."""
        self.pinning.start()
        await self.schedule.begin()
        work.keep(self.schedule.look_forever, name="warm by the clock")
        work.keep(self.uploads.tidy_forever, name="push")

    def change(self, config: Config) -> None:
        """Have other upstreams, `fill.max_active` and `[push]` from now on. Raises OSError."""
        self.upstreams.change(config.upstream)
        self.pausing.apply()
        self.uploads.change(config.push)
        self.fills.change(max_active=config.fill.max_active, is_shared=len(config.upstream) > 1)


def build(parts: Parts) -> Built:
    """Build everything, and start what goes on by itself."""
    config, store, records, work = parts.config, parts.store, parts.records, parts.work
    clock, monotonic = parts.clock, parts.monotonic
    upstreams = Upstreams(parts)
    registries, private = upstreams.registries, upstreams.private
    guesses = Guesses(monotonic)
    memory = Memory(
        config.memory_share, missing_for=config.tags.missing_for, clock=monotonic,
        credentials=lambda upstream: registries[upstream].credentials_version(),
    )  # fmt: skip
    parts.forgetting.subscribe(memory.forget)
    links = Links(records, memory, registries, SingleFlight(work), private=private)
    policy = Policy(config.tags.fresh_for, config.tags.stale_for)
    fill = config.fill
    retries, patience = RetryPolicy(fill.attempts), fill.connect_timeout + _GRACE
    fills = Fills(
        store,
        Pace(fill.connections, fill.segment_size, retries, whole=fill.whole == "always"),
        max_active=fill.max_active,
        is_shared=len(config.upstream) > 1,
        patience=patience,
        tasks=work,
        metrics=parts.metrics,
        note_fault=parts.metrics.faults.note,
        note_sent=links.record_sent,
        random=parts.dice,
        others=parts.others,
    )
    transfers = Transfers(
        retries,
        patience=patience,
        tasks=work,
        metrics=parts.metrics,
        note_fault=parts.metrics.faults.note,
        proved=fills.note_size,
        random=parts.dice,
    )
    work.keep(
        Idle(store, records, upstreams.most_idle, clock=clock, monotonic=monotonic).look_forever,
        name="remove what is idle",
    )
    images = Images(store, records, tasks=work)
    store.watch_evictions(images.note_evicted)
    manifests = Manifests(
        store=store, records=records, memory=memory, links=links, registries=registries,
        flights=SingleFlight(work), policy=policy,
        patience=config.fill.connect_timeout * _SHARE_OF_CONNECT, clock=clock,
        note_tag=images.note_tag, fleet=parts.fleet,
    )  # fmt: skip
    prefetch = Prefetch(fills, manifests, store, registries, tasks=work)
    mirror = Mirror(
        registries=registries,
        personal=private,
        with_logins=upstreams.with_logins,
        served=upstreams.served,
        relaying=upstreams.relaying,
        grants=Grants(
            SingleFlight(work), guesses=guesses, longest=config.tags.access_for, clock=clock,
            monotonic=monotonic,
        ),
        manifests=manifests,
        complete=Complete(
            store, links, manifests, registries, fills=fills, memory=memory, fleet=parts.fleet,
            others=parts.others,
        ),
        prefetch=None if config.fill.prefetch == "off" else prefetch,
        blobs=Blobs(
            store, memory, links, fills, transfers=transfers, registries=registries,
            others=parts.others,
        ),
        listings=Listings(
            store, records, memory, registries=registries, flights=SingleFlight(work),
            tag_flights=SingleFlight(work), policy=policy,
            public=upstreams.public, clock=clock,
        ),
        logins=Logins(
            registries, SingleFlight(work), guesses=guesses,
            missing_for=config.tags.missing_for, monotonic=monotonic,
        ),
    )  # fmt: skip
    retention = Retention(
        store, records, memory,
        forget_after=config.store.forget_after, clock=clock, metrics=parts.metrics,
    )  # fmt: skip
    work.keep(retention.sweep_forever, name="forget")
    versions = Versions(manifests)
    pinning = Pinning(
        config.pin, upstreams=upstreams.settings, wishes=parts.wishes, store=store, records=records,
        versions=versions, fills=fills, registries=registries, tasks=work, metrics=parts.metrics,
        random=parts.dice,
    )  # fmt: skip
    arriving = Arriving(monotonic)
    depot = StoreDepot(
        store, parts.unbounded, memory, upstreams.settings, arriving=arriving,
        forget=parts.forgetting.forget, note_tag=images.note_tag, clock=clock,
        fleet=parts.fleet, others=parts.others,
    )  # fmt: skip
    keeping = Keeping(
        upstreams=upstreams.settings, store=store, pinning=pinning,
        removal=Removal(store, records, parts.forgetting),
        collecting=Collecting(
            store, records, retention, upstreams=upstreams.settings.keys(), arriving=arriving,
            keep_partial_for=config.fill.keep_partial_for, clock=clock,
        ),
    )  # fmt: skip
    warming = Warming(
        Fetching(
            store=store, links=links, versions=versions, fills=fills, registries=registries,
            random=parts.dice,
        ),
        parts.wishes, upstreams=upstreams.settings, registries=registries, tasks=work, clock=clock,
        monotonic=monotonic,
    )  # fmt: skip
    schedule = Schedule(config.warm, warming, tasks=work, clock=clock)
    pushing, uploads = _pushing(
        parts, upstreams, Recording(
            store, records, memory, links, manifests,
            registries=registries, upstreams=upstreams.settings, forgetting=parts.forgetting,
            others=parts.others,
        ), mirror,
    )  # fmt: skip
    return Built(
        mirror, pushing, uploads, fills, upstreams, pinning, depot, keeping, schedule,
        Warmers(warming, schedule),
        Pausing(config.store.root / PAUSED_FILE, lambda: upstreams.configured, parts.clock),
    )  # fmt: skip


def _pushing(
    parts: Parts, upstreams: Upstreams, recording: Recording, mirror: Mirror
) -> tuple[Pushing, Uploads]:
    """What answers pushes."""
    config, store, counts = parts.config, parts.store, parts.push_counts
    means = Means(
        parts.work, RetryPolicy(config.fill.attempts), parts.dice, parts.monotonic, counts,
        recording.note_blob, remains.keep,
    )  # fmt: skip
    uploads = Uploads(
        store.spools, means, config.push, capacity=lambda: store.capacity, wall=parts.clock
    )
    counts.watch(lambda: len(uploads), lambda: uploads.courses.spooled)
    pushing = Pushing(
        uploads, recording, store, registries=upstreams.registries, upstreams=upstreams.settings,
        may_read=mirror.may_read, counts=counts,
    )  # fmt: skip
    return pushing, uploads


def _endpoint(parts: Parts, name: str, upstream: Upstream, endpoint: EndpointConfig) -> Endpoint:
    settings, label = parts.config.fill, Label(name, endpoint.name)
    others = len(upstream.endpoints)
    proxy = parts.sessions.proxies.find_for(endpoint.url, own=endpoint.proxy)
    if proxy is not None:
        _logger.info(
            "upstream is reached through a proxy",
            extra=log.fields(endpoint=endpoint.url, proxy=str(proxy)),
        )
    exchange = Exchange(
        endpoint,
        label,
        sessions=parts.sessions,
        # Together they take no longer than one may: a client waits for the last of them.
        connect_timeout=settings.connect_timeout / others,
        stall_timeout=settings.stall_timeout,
        metrics=parts.metrics,
        line=parts.line,
        clock=parts.clock,
    )
    return Endpoint(
        endpoint,
        label,
        exchange,
        tasks=parts.work,
        metrics=parts.metrics,
        clock=time.monotonic,
        random=parts.dice,
        limits=parts.limits,
    )

"""What the mirror is doing, as operators are told: read from its parts when somebody asks."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mirror import __version__
from mirror.aio.lives import Life
from mirror.config import Config
from mirror.control import acts, models
from mirror.control.first_byte import FirstBytes
from mirror.control.noticing import Seen, certificates_that_end
from mirror.control.rates import Rates
from mirror.control.units import size
from mirror.pull.fill.fill import Fill
from mirror.pull.fill.fills import Fills
from mirror.sources.registry.endpoint import Endpoint
from mirror.sources.registry.registry import Registry
from mirror.telemetry.collectors import StoreTotals
from mirror.telemetry.mismatches import Mismatch
from mirror.telemetry.traffic import Result, Traffic

_TICK = 1.0  # seconds between samples
_LINE = 120  # ticks for which the rate of the line is remembered
_PROBE_EVERY = 5.0  # seconds between tries to write to the disk, whoever asks

# Answered by what is here; what upstream has confirmed costs a question, and no transfer.
_HITS = frozenset({Result.HIT, Result.STALE, Result.REVALIDATED, Result.LINKED, Result.NEGATIVE})
_NO_LOOKUPS = frozenset({None, Result.DENIED, Result.ERROR})


@dataclass(frozen=True, slots=True)
class Parts:
    """What there is to look at. `clock`: seconds since the epoch; `monotonic` is never set back."""

    config: Callable[[], Config]
    fills: Fills
    registries: Callable[[], Mapping[str, Registry]]
    totals: Callable[[], StoreTotals]
    disk: Callable[[], int]  # bytes that all of the store takes of it
    find_free: Callable[[], Awaitable[int]]  # bytes of it that are free now
    find_disk_trouble: Callable[[], Awaitable[str | None]]  # why nothing new can be kept now
    traffic: Traffic
    gather: Callable[[], Awaitable[None]]  # has `traffic` brought up to date
    connections: Callable[[], int]
    schedules: Callable[[], list[acts.WarmSchedule]]
    company: Callable[[], Sequence[tuple[str, str]]]  # what does not work between mirrors, and why
    lives: Callable[[], Mapping[str, Life]]  # of the mirror's own certificates, by setting
    pushes: Callable[[], list[models.Push]]
    private: Collection[str]  # upstreams with `access = "client"`, as they are now
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    first_bytes: FirstBytes


class Overview:
    """Tells of a running mirror. `watch` keeps its rates up to date."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._started_at = parts.clock()
        self._filled = Rates()
        self._received = Rates()
        self._line: deque[float] = deque(maxlen=_LINE)
        self._probed: tuple[float, str | None] | None = None

    async def watch(self) -> None:
        """Look at what grows, for ever."""
        while True:
            now = self._parts.monotonic()
            self._filled.sample(
                now, {id(fill): float(fill.written) for fill in self._parts.fills.running}
            )
            self._received.sample(
                now, {id(one): float(one.exchange.received) for _, one in self._endpoints()}
            )
            self._parts.first_bytes.sample(now)
            self._line.append(sum(self._received.of(id(one)) for _, one in self._endpoints()))
            await asyncio.sleep(_TICK)

    async def status(self) -> models.Status:
        """Everything at once."""
        await self._parts.gather()
        free, trouble = await self._ask_disk()  # from here on, all of the same moment
        store, endpoints, schedules = self._store(free), self.endpoints(), self._parts.schedules()
        return models.Status(
            version=__version__,
            started_at=self._started_at,
            health=self._health(store, endpoints, trouble, schedules),
            connections=self._parts.connections(),
            waiting=self._parts.fills.waiting,
            served=self._served(),
            store=store,
            endpoints=endpoints,
            fills=self.fills(),
            sealed=[name for name, one in self._parts.registries().items() if one.is_sealed],
            schedules=schedules,
            pushes=self._parts.pushes(),
        )

    def summary(self) -> str:
        """All of it in a line, as a service manager shows it."""
        endpoints = self.endpoints()
        down = [f"{one.name} is down" for one in endpoints if not one.is_up]
        down += [f"{one.name} is paused" for one in endpoints if one.paused_since is not None]
        counts = f"{self._parts.connections()} connections, {len(self._parts.fills.running)} fills"
        return "; ".join(("serving", counts, *down))

    def line(self) -> Sequence[float]:
        """Bytes per second from upstream, second by second, the latest last."""
        return tuple(self._line)

    async def health(self) -> models.Health:
        """What does not work as it should."""
        free, trouble = await self._ask_disk()
        return self._health(self._store(free), self.endpoints(), trouble, self._parts.schedules())

    def _health(
        self,
        store: models.Store,
        endpoints: Sequence[models.Endpoint],
        disk_trouble: str | None,
        schedules: Sequence[acts.WarmSchedule],
    ) -> models.Health:
        troubles = [
            *self._troubles_of_certificates(), *self._parts.company(),
            *self._disk_troubles(store.root, disk_trouble),
        ]  # fmt: skip
        return _health(store, endpoints, troubles, schedules)

    def _troubles_of_certificates(self) -> Iterator[tuple[str, str]]:
        """Those of the mirror's own that have ended, or soon will, and when."""
        ending = certificates_that_end(self._parts.lives(), self._parts.clock())
        for where, says, when in ending:
            why = f"at {when}; renew it: the mirror takes it up by itself"
            yield f"a certificate in {where} {says}", why

    def _disk_troubles(self, root: str, trouble: str | None) -> Sequence[tuple[str, str]]:
        """What the disk does not do, and why."""
        unkept = f"{root} takes no more of downloads in the middle; clients get the rest unkept"
        found = (
            (f"nothing new can be kept in {root}", trouble),
            (unkept, self._parts.fills.disk_trouble),
        )
        return [(what, why) for what, why in found if why is not None]

    async def _ask_disk(self) -> tuple[int, str | None]:
        """How many bytes are free, and why nothing new can be kept: who asks waits but once."""
        return await asyncio.gather(self._parts.find_free(), self._find_disk_trouble())

    async def _find_disk_trouble(self) -> str | None:
        """Asked of the disk by writing to it, and so not for each who looks."""
        now = self._parts.monotonic()
        if self._probed is None or now - self._probed[0] >= _PROBE_EVERY:
            self._probed = now, await self._parts.find_disk_trouble()
        return self._probed[1]

    async def seen(self, mismatches: Sequence[Mismatch]) -> Seen:
        """What somebody may have to be told of."""
        free, trouble = await self._ask_disk()
        return Seen(
            now=self._parts.clock(), endpoints=self.endpoints(), store=self._store(free),
            disk_trouble=trouble or self._parts.fills.disk_trouble,
            lives=self._parts.lives(), mismatches=mismatches,
        )  # fmt: skip

    def configuration(self) -> models.Configuration:
        """What is in effect."""
        document = self._parts.config().redacted()
        hooks = [
            {**told, "url": one.where} if one.url is not None else told
            for one, told in zip(self._parts.config().notify, document["notify"], strict=True)
        ]
        return models.Configuration(configuration={**document, "notify": hooks})

    async def store(self) -> models.Store:
        """The store, against its limits."""
        return self._store(await self._parts.find_free())

    def _store(self, free: int) -> models.Store:
        settings, totals = self._parts.config().store, self._parts.totals()
        return models.Store(
            root=str(settings.root),
            blobs=totals.blobs,
            bytes=totals.bytes,
            disk=self._parts.disk(),
            limit=settings.max_size,
            free=free,
            min_free=settings.min_free,
        )

    def endpoints(self) -> list[models.Endpoint]:
        """Every endpoint, in the order of the configuration."""
        return [self._endpoint(upstream, one) for upstream, one in self._endpoints()]

    def fills(self) -> list[models.Fill]:
        """Every download, the oldest first."""
        return [self._fill(fill) for fill in self._parts.fills.running]

    def _endpoints(self) -> list[tuple[str, Endpoint]]:
        return [
            (name, it) for name, one in self._parts.registries().items() for it in one.endpoints
        ]

    def _endpoint(self, upstream: str, endpoint: Endpoint) -> models.Endpoint:
        now = self._parts.monotonic()
        condition, health = endpoint.condition, endpoint.condition.health
        pauses = health.pauses(now)
        limit, remaining = condition.quota
        is_told = limit is not None or remaining is not None
        until = condition.quota_until
        if until is not None and until <= self._parts.clock():
            until = None
        return models.Endpoint(
            upstream=upstream,
            name=endpoint.name,
            url=endpoint.config.url,
            is_up=health.is_up,
            trouble=None if health.is_up else condition.trouble,
            retry_seconds=health.wait_for_ping(now),
            pauses=[
                models.Pause(requests=kind.name.lower(), seconds=left)
                for kind, left in pauses.items()
            ],
            quota=(
                models.PullQuota(limit=limit, remaining=remaining, until=until) if is_told else None
            ),
            received=endpoint.exchange.received,
            rate=self._received.of(id(endpoint)),
            max_rate=endpoint.exchange.throttle.limit,
            paused_since=condition.paused_since,
            first_byte=self._parts.first_bytes.of(upstream, endpoint.name),
            certificate_ends=endpoint.exchange.certificate.ends,
            credentials_trouble=endpoint.credentials_trouble,
        )

    def _fill(self, fill: Fill) -> models.Fill:
        rate, size = self._filled.of(id(fill)), fill.size
        left = None if size is None or not rate else (size - fill.written) / rate
        return models.Fill(
            upstream=fill.upstream,
            repository=fill.repository,
            digest=str(fill.digest),
            state=fill.state.value,
            size=size,
            written=fill.written,
            rate=rate,
            seconds_left=left,
            seconds=self._parts.monotonic() - fill.began,
            readers=fill.readers.count,
            endpoint=fill.first_sender,
            is_private=fill.upstream in self._parts.private,
        )

    def _served(self) -> models.Served:
        requests = lookups = hits = sent = 0
        for sort, tally in self._parts.traffic:
            number = sum(tally.counts)
            requests += number
            if sort.result not in _NO_LOOKUPS:
                lookups += number
                hits += number * (sort.result in _HITS)
                sent += tally.sent
        fetched = sum(one.exchange.received for _, one in self._endpoints())
        return models.Served(
            requests=requests,
            lookups=lookups,
            hits=hits,
            bytes=sent,
            fetched=fetched,
            saved=max(0, sent - fetched),
        )


def _health(
    store: models.Store,
    endpoints: Sequence[models.Endpoint],
    troubles: Sequence[tuple[str, str]],
    schedules: Sequence[acts.WarmSchedule],
) -> models.Health:
    problems = [*_troubles(endpoints)]
    problems += [models.Problem(what=what, why=why) for what, why in troubles]
    if store.free < store.min_free:
        why = f"{size(store.free)} are free, and store.min_free is {size(store.min_free)}"
        problems.append(models.Problem(what=f"the file system of {store.root} is full", why=why))
    for schedule in schedules:
        if schedule.last_failed:
            what = f"{schedule.image} was not fetched ({schedule.at}), or not all of it"
            problems.append(models.Problem(what=what, why=schedule.last_failed[0]))
    return models.Health(status="degraded" if problems else "ok", problems=problems)


def _troubles(endpoints: Collection[models.Endpoint]) -> list[models.Problem]:
    found = []
    for one in endpoints:
        if one.paused_since is not None:
            what = f"{one.url} ({one.upstream}) is asked nothing"
            why = f"an operator has paused it: mirror resume {one.upstream} {one.name}"
            found.append(models.Problem(what=what, why=why))
            continue
        if not one.is_up:
            what = f"{one.url} ({one.upstream}) does not answer"
            found.append(models.Problem(what=what, why=one.trouble or "no connection"))
        if one.credentials_trouble is not None:
            what = f"{one.url} ({one.upstream}) does not let the mirror in"
            found.append(models.Problem(what=what, why=one.credentials_trouble))
        for pause in one.pauses:
            what = f"{one.url} ({one.upstream}) limits our rate of requests for {pause.requests}"
            found.append(models.Problem(what=what, why=f"429; for {pause.seconds:.0f} s more"))
    return found

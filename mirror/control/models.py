"""What the API tells: the contract of `/api/v1`, which OpenAPI is made from.

Sizes are in bytes, durations and rates in (bytes per) seconds, times in seconds since the epoch.
What is None is not known.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from mirror.history.ports import Again, Arrival, Cost, Pull, Spell, Total, Waste
from mirror.telemetry.traffic import Result

__all__ = ["Again", "Arrival", "Cost", "Pull", "Spell", "Total", "Waste"]

from mirror.control.acts import WarmSchedule


class Problem(Struct, frozen=True, kw_only=True):
    """Something that does not work as it should, in words for whoever has to mend it."""

    what: str
    why: str


class Health(Struct, frozen=True, kw_only=True):
    """Whether all is well; `mirror` serves also while it is "degraded"."""

    status: Literal["ok", "degraded"]
    problems: list[Problem]


class Pause(Struct, frozen=True, kw_only=True):
    """A kind of request that an endpoint has asked not to be asked (429)."""

    requests: str
    seconds: float  # left


class PullQuota(Struct, frozen=True, kw_only=True):
    """Pulls that upstream allows, by its own word (`ratelimit-*`)."""

    limit: int | None
    remaining: int | None
    until: float | None = None  # by then, at the latest, all of it is there again


class FirstByte(Struct, frozen=True, kw_only=True):
    """Seconds until an answer begins, of the last hour."""

    median: float
    p90: float  # within which nine of ten come
    answers: int  # that this is of


class Endpoint(Struct, frozen=True, kw_only=True):
    """One URL of an upstream, and what is thought of it."""

    upstream: str
    name: str
    url: str
    is_up: bool
    trouble: str | None  # the last that was seen, while it is down
    retry_seconds: float  # until it is asked again; 0 where it would be now
    pauses: list[Pause]
    quota: PullQuota | None
    received: int  # body bytes since the start
    rate: float  # body bytes per second, of late
    max_rate: int | None = None  # bytes per second that `max_bandwidth` lets through now
    paused_since: float | None = None  # by an operator: it is asked nothing
    first_byte: FirstByte | None = None
    certificate_ends: float | None = None  # of the one that it shows; None: none, or not seen yet
    credentials_trouble: str | None = None  # why the mirror's own are of no use there by now


class Fill(Struct, frozen=True, kw_only=True):
    """A download that is under way."""

    upstream: str
    repository: str | None  # None, as is the digest: it is private, and not told to who asks
    digest: str | None
    state: str
    size: int | None
    written: int
    rate: float  # bytes per second, of late
    seconds_left: float | None
    seconds: float  # since it was asked for
    readers: int
    endpoint: str | None = None  # that has sent the first of it
    is_private: bool = False  # of an upstream with `access = "client"`


class Push(Struct, frozen=True, kw_only=True):
    """Bytes on their way to a registry; nobody knows how many there will be."""

    upstream: str
    repository: str | None  # None: it is private, and not told to who asks
    state: str
    received: int  # bytes, of clients
    sent: int  # of these, to the registry
    clients: int  # uploads that they are of
    is_private: bool = False


class Store(Struct, frozen=True, kw_only=True):
    """The store, against its limits."""

    root: str
    blobs: int
    bytes: int  # of blobs
    disk: int  # bytes that all of it takes of the disk
    limit: int  # of that
    free: int  # of the file system
    min_free: int


class Served(Struct, frozen=True, kw_only=True):
    """What clients were given since the start."""

    requests: int
    lookups: int
    hits: int  # of these lookups, answered without upstream
    bytes: int
    fetched: int  # body bytes that upstream sent for it
    saved: int  # bytes served beyond what was fetched; never below 0


class Status(Struct, frozen=True, kw_only=True):
    """Everything that `mirror status` shows."""

    version: str
    started_at: float
    health: Health
    connections: int
    waiting: int  # fills that wait for a slot
    served: Served
    store: Store
    endpoints: list[Endpoint]
    fills: list[Fill]
    sealed: list[str]  # upstreams that are never asked
    schedules: list[WarmSchedule]
    pushes: list[Push] = []


class Endpoints(Struct, frozen=True, kw_only=True):
    """All endpoints, in the order of the configuration."""

    endpoints: list[Endpoint]


class Fills(Struct, frozen=True, kw_only=True):
    """All downloads, the oldest first."""

    fills: list[Fill]


class Configuration(Struct, frozen=True, kw_only=True):
    """What is in effect now, as in the file; of a secret only its file, of a webhook its host."""

    configuration: dict[str, Any]


class LogLevel(Struct, frozen=True, kw_only=True):
    """From which level on there is a log line."""

    level: Literal["debug", "info", "warning", "error"]


class Done(Struct, frozen=True, kw_only=True):
    """What was asked for is under way, or done."""

    message: str


Name = Annotated[str, Meta(min_length=1, max_length=600)]
Time = Annotated[float, Meta(ge=0, le=1e12)]


class PullsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which pulls: those of all that is given. `cursor` is the `next` of the page before."""

    cursor: Annotated[int, Meta(ge=0, lt=2**53)] | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    repository: Name | None = None  # with its registry
    reference: Name | None = None  # that they began with
    digest: Name | None = None  # that they were given, or that the tag meant before
    client: Name | None = None
    result: Result | None = None
    since: Time | None = None


class Pulls(Struct, frozen=True, kw_only=True):
    """A page of pulls; `next` is the cursor of what follows, if anything does."""

    pulls: list[Pull]
    next: int | None


class TotalsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which totals; since yesterday where nothing is said. After a year, hours are days."""

    since: Time | None = None
    span: Literal["hour", "day"] = "hour"
    by: Literal["all", "upstream", "repository"] = "all"
    upstream: Name | None = None
    repository: Name | None = None  # with its registry


class Totals(Struct, frozen=True, kw_only=True):
    """Hours or days; where that is not whole, ask for less."""

    totals: list[Total]
    is_whole: bool


class ArrivalsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one blob, or of all."""

    digest: Name | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 20


class Arrivals(Struct, frozen=True, kw_only=True):
    """Downloads, the latest first."""

    arrivals: list[Arrival]


class SpellsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Those that ended since then (yesterday, where nothing is said). `cursor` as for pulls."""

    since: Time | None = None
    cursor: Annotated[int, Meta(ge=0, lt=2**53)] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 200


class Spells(Struct, frozen=True, kw_only=True):
    """A page of them, the latest first; `next` is the cursor of what follows, if anything does."""

    spells: list[Spell]
    next: int | None


class WasteQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Since when (yesterday where nothing is said), and how much of each kind."""

    since: Time | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 20

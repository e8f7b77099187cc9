"""The port to what is kept of pulls, and the values that pass through it.

    pull      what a client did that asked for an image: one, with all of its requests
    total     an hour or a day of a repository; saved is what was served and not fetched for it
    arrival   one download of a blob: from where, when, and how much of it was of use
    spell     a time in which an endpoint was down, or paused; or the mirror ran at all

Times are seconds since the epoch, sizes are bytes. A repository is named with its registry; where
it is None, it stands for all that are not told apart: of names that nobody has, there is no end.
`is_private`: of an upstream where each client's own login decides (`access = "client"`). What is
asked for some operators only is `hidden`: then nothing of these upstreams is told but sums.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from mirror.telemetry.traffic import Result, Why

HOUR, DAY = 3600, 86400
"""What totals are of, in seconds; both begin as UTC has it."""


class Pull(Struct, frozen=True, kw_only=True):
    """A pull, as far as it has gone. `client` is None where addresses are not kept."""

    id: int
    began: float
    seconds: float
    client: str | None
    agent: str
    upstream: str
    repository: str | None
    reference: str | None  # the tag or digest that it began with
    digest: str | None  # of the manifest that it was given
    was: str | None  # where the tag has moved: what it meant before
    result: Result
    why: Why
    requests: int
    failed: int  # of these requests
    served: int
    fetched: int
    endpoint: str | None  # that has sent what was fetched
    is_private: bool


class Total(Struct, frozen=True, kw_only=True):
    """What became of requests in a time. Of what is grouped, `upstream` or `repository` is None."""

    start: int
    upstream: str | None
    repository: str | None
    pulls: int
    hits: int  # requests answered by what was here
    misses: int
    failed: int
    served: int
    fetched: int
    saved: int  # served, and not fetched for that; never below 0
    wasted: int  # fetched then, and never served since
    is_private: bool = False


class Arrival(Struct, frozen=True, kw_only=True):
    """A download of a blob, or of a part of it."""

    id: int
    upstream: str
    repository: str | None
    digest: str
    began: float
    seconds: float
    size: int | None  # of the blob
    fetched: int
    used: int  # of that: served to clients since
    resumes: int  # after a connection broke
    endpoint: str
    is_private: bool = False


State = Literal["running", "down", "paused"]


class Spell(Struct, frozen=True, kw_only=True):
    """From when to when an endpoint was in a state; of the mirror itself, both names are ""."""

    id: int
    upstream: str
    endpoint: str
    state: State
    began: float
    ended: float  # of what still goes on: when that was last written down
    why: str | None


class Again(Struct, frozen=True, kw_only=True):
    """A blob that was fetched more than once: `extra` bytes beyond its size."""

    digest: str
    repository: str | None  # in which it was last asked for
    size: int
    arrivals: int
    fetched: int
    extra: int
    is_private: bool = False


class Cost(Struct, frozen=True, kw_only=True):
    """What a repository costs the line, and what it gave for that."""

    upstream: str
    repository: str | None
    pulls: int
    served: int
    fetched: int
    saved: int
    wasted: int
    is_private: bool = False


class Waste(Struct, frozen=True, kw_only=True):
    """Where the line's bytes went, the most first."""

    since: float
    costs: list[Cost]
    again: list[Again]
    unused: list[Arrival]  # fetched, and not (all) served to anybody since


@dataclass(frozen=True, slots=True)
class Sum:
    """What is to be added to an hour of a repository; all but `start` as the table has it."""

    start: int
    upstream: str
    repository: str | None
    pulls: int = 0
    hits: int = 0
    misses: int = 0
    failed: int = 0
    served: int = 0
    fetched: int = 0
    used: int = 0
    unused: int = 0


@dataclass(frozen=True, slots=True)
class Use:
    """What was pulled of something in a time; sizes in bytes."""

    pulls: int
    served: int
    fetched: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What has changed: pulls and arrivals as they are now, and what totals grow by."""

    pulls: Sequence[Pull]
    sums: Sequence[Sum]
    arrivals: Sequence[Arrival]

    def __bool__(self) -> bool:
        return bool(self.pulls or self.sums or self.arrivals)


@dataclass(frozen=True, slots=True, kw_only=True)
class PullFilter:
    """Which pulls: those of all that is given. `before`: noted before the one of this number."""

    before: int | None = None
    repository: str | None = None
    reference: str | None = None
    digest: str | None = None
    client: str | None = None
    result: Result | None = None
    since: float | None = None
    hidden: frozenset[str] = frozenset()  # upstreams


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalsFilter:
    """Which totals, and how they are put together."""

    since: float
    span: Literal["hour", "day"] = "hour"
    by: Literal["all", "upstream", "repository"] = "all"
    upstream: str | None = None
    repository: str | None = None
    hidden: frozenset[str] = frozenset()  # upstreams whose repositories are not told apart


@dataclass(frozen=True, slots=True)
class Known:
    """What a history goes on from: numbers that are free, names, and what is not used yet."""

    next_pull: int
    next_arrival: int
    repositories: Sequence[str]
    unused: Sequence[Arrival]


class Down(NamedTuple):
    """How often and for how many seconds an endpoint was down."""

    times: int = 0
    seconds: float = 0.0


class History(Protocol):
    """Keeps it, in bounds. All of it may raise StoreError."""

    async def begin(self, repositories: int, unused: int) -> Known:
        """What there is already: at most so many of the latest."""

    async def record(self, batch: Batch) -> None:
        """Have it kept, all or nothing."""

    async def list_pulls(self, wanted: PullFilter, limit: int) -> list[Pull]:
        """The latest first."""

    async def list_totals(self, wanted: TotalsFilter, limit: int) -> list[Total]:
        """The latest first; of an hour or a day, who was served most."""

    async def sum_repositories(self, repositories: Sequence[str], since: float) -> dict[str, Use]:
        """What was pulled of each of these since then, by whole days after a year."""

    async def sum_images(
        self, repository: str, digests: Sequence[str], since: float
    ) -> dict[str, Use]:
        """The same of images of one repository, by digest, as far back as pulls are kept."""

    async def list_arrivals(
        self, digest: str | None, limit: int, *, hidden: Collection[str] = ()
    ) -> list[Arrival]:
        """Where a blob came from, or (None) all did, the latest first."""

    async def find_waste(
        self, since: float, now: float, limit: int, *, hidden: Collection[str] = ()
    ) -> Waste:
        """So many of each kind; what has come only now may still be served."""

    async def find_next_spell(self) -> int:
        """The number of a spell that there is not."""

    async def record_spells(self, spells: Sequence[Spell]) -> None:
        """Have them kept, each in the place of the one of its number."""

    async def list_spells(self, since: float, before: int | None, limit: int) -> list[Spell]:
        """Those that ended after a time, the latest first; `before`: of a lower number."""

    async def list_longest_spells(
        self, since: float, limit: int, *, is_running: bool
    ) -> list[Spell]:
        """Those of the mirror itself, or of endpoints, that ended after a time: the longest first.

        What shows in a picture of that time, where there are more than can be drawn.
        """

    async def sum_down(self, since: float, now: float) -> dict[tuple[str, str], Down]:
        """How endpoints (of an upstream) were down in that time, where they were."""

    async def trim(self, now: float) -> None:
        """Let go what is kept no longer, or what there is too much of."""

"""What clients asked for and were given: counted in each worker, shown by the mirror's process.

A request is counted in one entry for all that is told of it; the metrics that are made of the
entries are worked out when Prometheus comes, and not with every request.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What a lookup was for."""

    TAG = "tag"
    MANIFEST = "manifest"
    BLOB = "blob"
    REFERRERS = "referrers"
    TAGS = "tags"


class Result(StrEnum):
    """How a lookup went (glossary in mirror/README.md)."""

    HIT = "hit"
    MISS = "miss"
    JOINED = "joined"
    REVALIDATED = "revalidated"
    STALE = "stale"
    LINKED = "linked"
    NEGATIVE = "negative"
    DENIED = "denied"
    ERROR = "error"


class Why(StrEnum):
    """Why a lookup went as it did: what decided, in the words of log, history and API.

    It may tell that something is here which a client must not know of: it is for operators only.
    """

    HERE = "here"
    NEVER_SEEN = "never-seen"
    EVICTED = "evicted"
    OTHER_PLATFORM = "other-platform"
    PRIVATE = "private"
    TAG_MOVED = "tag-moved"
    TAG_CONFIRMED = "tag-confirmed"
    TAG_GONE = "tag-gone"
    LINK_CONFIRMED = "link-confirmed"
    JOINED = "joined"
    NOT_KEPT = "not-kept"
    UPSTREAM_DOWN = "upstream-down"
    UPSTREAM_SLOW = "upstream-slow"
    UPSTREAM_REFUSED = "upstream-refused"
    WRONG_BYTES = "wrong-bytes"
    MISSING = "missing"
    MISSING_LATELY = "missing-lately"
    DENIED = "denied"
    FAULT = "fault"


METHODS = frozenset({"GET", "HEAD", "other"})
"""How the methods of requests are told apart."""

# Pulls range from a manifest out of memory to a layer over a slow line.
SECONDS = (0.001, 0.0025, 0.01, 0.05, 0.25, 1, 2.5, 5, 15, 60, 300, 1800, float("inf"))
"""Upper bounds of the classes of durations that are told apart."""


class Sort(NamedTuple):
    """What requests are told apart by; every value comes from a closed set, or from us.

    `kind` and `result` are None where no lookup was made, or where the client left too early.
    """

    upstream: str
    kind: Kind | None
    method: str
    status: int
    result: Result | None


@dataclass(slots=True)
class Tally:
    """Of one sort of requests: how many took how long, and how many bytes of content they sent."""

    counts: list[int] = field(default_factory=lambda: [0] * len(SECONDS))
    seconds: float = 0.0
    sent: int = 0

    def add(self, seconds: float, sent: int) -> None:
        """One more, that took so long and sent so many bytes of content."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.seconds += seconds
        self.sent += sent


class Traffic:
    """Counts requests."""

    def __init__(self) -> None:
        self._tallies: dict[Sort, Tally] = {}

    def count(self, sort: Sort, seconds: float, sent: int) -> None:
        """Count a request that took so long, and sent so many bytes of content."""
        self.tally_of(sort).add(seconds, sent)

    def tally_of(self, sort: Sort) -> Tally:
        """Where requests of this sort are counted, until that is taken."""
        tally = self._tallies.get(sort)
        if tally is None:
            tally = self._tallies[sort] = Tally()
        return tally

    def add(self, other: Iterable[tuple[Sort, Tally]]) -> None:
        """Count what another has counted."""
        for sort, more in other:
            tally = self._tallies.setdefault(sort, Tally())
            tally.counts = [sum(both) for both in zip(tally.counts, more.counts, strict=True)]
            tally.seconds += more.seconds
            tally.sent += more.sent

    def take(self) -> "Traffic":
        """What has been counted; counting begins anew."""
        taken = Traffic()
        taken._tallies, self._tallies = self._tallies, {}
        return taken

    def __iter__(self) -> Iterator[tuple[Sort, Tally]]:
        return iter(self._tallies.items())

"""What a run found, and what is made of it: medians, ratios, and whether an aim was met. Pure."""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

MIRROR = "mirror"
DOCKER = "docker-registry"
CACHE = "nginx proxy_cache"
STATIC = "nginx static"
EXTERNAL = "external"
DIRECT = "direct"
ALONE = "1 mirror"  # of several that are one

LIMIT = STATIC
"""Not a peer: it has nothing to decide, and shows what this machine can do."""

BEST = "the best peer"
_OTHERS = {DOCKER, CACHE, EXTERNAL}  # what a user could pick instead

Figures = Mapping[str, float]
"""One peer's figures of one round, by the names in `UNITS`."""

UNITS = {
    "requests": "/s",
    "throughput": "MB/s",
    "time": "s",
    "peak memory": "MiB",
    "CPU per GB": "s",
    "CPU per 1,000 requests": "s",
    "upstream bytes": "x",
    "upstream requests": "",
    "client bytes": "x",
    "slowest client": "x",  # of a single client's time
    "round trips": "",
    "first failure": "s",
    "added latency": "ms",
    "start growth": "x",  # with a full store, of the time with an empty one
    "p99": "ms",
    "p99 growth": "x",  # while fills run, of that at rest
    "memory growth": "x",
    "memory": "MiB",  # of all processes, each page once
    "hit growth": "x",  # in CPU time, of that with little on record
    "CPU to first hit": "s",
    "longest hold": "ms",  # of the event loop, in CPU time
    "evicted": "",
    "catalog": "MiB",
    "largest meanwhile": "MiB",
    "descriptor growth": "",
}
HIGHER_IS_BETTER = {"requests", "throughput"}

_CLAUSE = re.compile(
    r"(?:(?P<figure>[a-zA-Z][^≥≤]*) )?(?P<sign>[≥≤]) (?P<number>\d+(?:\.\d+)?)"
    r"(?: x (?P<peer>.+)|(?: (?P<unit>\S+))?)"
)


class Failed(Exception):
    """A peer did not do a row's work; the message says what went wrong."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One condition of an aim: on a figure itself, or on its ratio to a peer's."""

    text: str
    figure: str
    at_least: bool
    number: float
    peer: str | None

    def holds(self, measured: float) -> bool:
        return measured >= self.number if self.at_least else measured <= self.number


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was measured for a clause; None where there was nothing to compare."""

    text: str
    measured: float | None
    met: bool | None


@dataclass(slots=True)
class Outcome:
    """One peer's part in a row."""

    samples: list[Figures] = field(default_factory=list)
    failure: str = ""

    def median(self, figure: str) -> float | None:
        """Over the rounds; None where the peer failed or has no such figure."""
        values = [sample[figure] for sample in self.samples if figure in sample]
        return statistics.median(values) if values and not self.failure else None


@dataclass(slots=True)
class Row:
    """A line of a table: the same work done by each peer."""

    name: str
    table: str
    title: str
    figure: str  # the one that is compared
    aim: str = ""
    bound: str = ""  # what keeps the mirror from the aim, as far as that is known
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def median(self, peer: str, figure: str = "") -> float | None:
        """A peer's figure; `BEST` is the best of what a user could pick instead."""
        figure = figure or self.figure
        if peer != BEST:
            return self.outcomes[peer].median(figure) if peer in self.outcomes else None
        values = [self.median(other, figure) for other in _OTHERS & self.outcomes.keys()]
        better = max if figure in HIGHER_IS_BETTER else min
        return better((value for value in values if value is not None), default=None)

    def ratio(self, peer: str, figure: str = "") -> float | None:
        """The mirror's figure as a multiple of the peer's; None where one of them has none."""
        ours, theirs = self.median(MIRROR, figure), self.median(peer, figure)
        return ours / theirs if ours is not None and theirs else None

    def verdicts(self) -> Sequence[Verdict]:
        """How each clause of the aim went."""
        return [self._verdict(clause) for clause in parse_aim(self.aim, self.figure)]

    def _verdict(self, clause: Clause) -> Verdict:
        ours = self.median(MIRROR, clause.figure)
        measured = self.ratio(clause.peer, clause.figure) if clause.peer else ours
        if measured is not None:
            return Verdict(clause.text, measured, clause.holds(measured))
        return Verdict(clause.text, None, False if ours is None else None)


def parse_aim(aim: str, figure: str) -> Sequence[Clause]:
    """The clauses of an aim, such as `≥ 20 x docker-registry, peak memory ≤ 200 MiB`.

    A clause that names no figure is about `figure`. Raises ValueError where it makes no sense.
    """
    return [_clause(text, figure) for text in aim.split(", ")] if aim else []


def _clause(text: str, figure: str) -> Clause:
    match = _CLAUSE.fullmatch(text)
    if match is None:
        raise ValueError(f"not an aim: {text}")
    figure, peer = match["figure"] or figure, match["peer"]
    if peer is None and (match["unit"] or "") != UNITS.get(figure):
        raise ValueError(f"{figure!r} is not in {match['unit']!r}: {text}")
    if peer is not None and peer not in {BEST, LIMIT, DIRECT, ALONE, *_OTHERS}:
        raise ValueError(f"no such peer: {text}")
    return Clause(text, figure, match["sign"] == "≥", float(match["number"]), peer)


def spread(values: Iterable[float]) -> float:
    """How far apart the rounds were: the range, as a share of the median."""
    found = sorted(values)
    middle = statistics.median(found)
    return (found[-1] - found[0]) / middle if middle else 0.0

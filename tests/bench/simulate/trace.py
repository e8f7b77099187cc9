"""What hosts ask a mirror for, day after day: generated, from a seed.

Repositories are popular by Zipf's law; their images stand on a few shared bases, and a new version
comes every day to every month, which changes the upper layers (and once in a while the base). Most
pulls are of what a tag means now, and come in a burst after a release; some hosts stay with an
older version. A host that has the version before asks for what has changed only.

Where there are scans, every repository's latest image is pulled once each night by somebody who
looks for weaknesses in it.
"""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

DAY = 86400.0
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a trace. `pulls` a day, by hosts, and so many more (`tail`) of what is pulled but once."""

    name: str
    repositories: int
    pulls: int
    days: int = 180
    zipf: float = 0.9
    has_scans: bool = False
    tail: float = 0.0

    def scaled(self, part: float) -> "Shape":
        """With as many days, and so much less of everything else."""
        return Shape(
            self.name, round(self.repositories * part), round(self.pulls * part),
            self.days, self.zipf, self.has_scans, self.tail,
        )  # fmt: skip


SHAPES = (
    Shape("cluster", 1500, 2000),
    Shape("with scans", 1000, 1200, has_scans=True),
    Shape("long tail", 6000, 1500, zipf=0.6, tail=0.15),
)


@dataclass(frozen=True, slots=True)
class Pull:
    """At a time, in seconds, blobs of an image are asked for.

    `superseded`: what no tag means any more now.
    """

    at: float
    image: tuple[int, ...]
    blobs: tuple[int, ...]
    superseded: tuple[int, ...] = ()


@dataclass(slots=True)
class Trace:
    """Pulls in order, and the size of each blob in bytes."""

    sizes: list[int] = field(default_factory=list)
    pulls: list[Pull] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """For single blobs."""
        return sum(len(pull.blobs) for pull in self.pulls)

    @property
    def footprint(self) -> int:
        """Bytes of all that is ever asked for."""
        return sum(self.sizes[blob] for blob in {b for pull in self.pulls for b in pull.blobs})


@dataclass(slots=True)
class _Repository:
    base: int
    period: float  # seconds between versions
    depth: int  # layers of its own
    weight: float
    versions: list[tuple[int, ...]] = field(default_factory=list)
    released_at: float = 0.0
    told: int = 0  # the version that its tag last meant here


class _Generator:
    def __init__(self, shape: Shape, seed: int) -> None:
        self._shape = shape
        self._random = random.Random(f"{seed} {shape.name}")  # noqa: S311 - must be repeatable
        self._trace = Trace()
        self._meant: Counter[int] = Counter()  # by how many tags, as far as they were asked for
        self._bases = [self._base() for _ in range(max(4, shape.repositories // 40))]
        weights = [1 / (number + 1) ** shape.zipf for number in range(shape.repositories)]
        self._repositories = [self._repository(weight) for weight in weights]

    def run(self) -> Trace:
        events = sorted(self._events(), key=lambda event: event[:2])
        for at, kind, number in events:
            if kind == 0:
                self._release(self._repositories[number], at)
            elif number < 0:
                self._pull_once(at)
            else:
                self._pull(self._repositories[number], at, is_whole=kind == 2)
        return self._trace

    def _events(self) -> Iterator[tuple[float, int, int]]:
        """(when, 0: release, 1: pull by a host, 2: by a scan; of which repository)."""
        shape, dice = self._shape, self._random
        weights = list(accumulate(repository.weight for repository in self._repositories))
        numbers = range(len(weights))
        yield from self._bursts(weights[-1])
        for day in range(shape.days):
            for number in dice.choices(numbers, cum_weights=weights, k=shape.pulls // 2):
                yield (day + dice.betavariate(4, 3)) * DAY, 1, number
            for _ in range(round(shape.pulls * shape.tail)):
                yield (day + dice.random()) * DAY, 1, -1
            if shape.has_scans:
                for number in dice.sample(numbers, len(numbers)):
                    yield day * DAY + 7200 + dice.random() * 7200, 2, number

    def _bursts(self, weight: float) -> Iterator[tuple[float, int, int]]:
        """Releases: whoever follows the tag has it soon, half of a period's pulls in some hours."""
        for number, repository in enumerate(self._repositories):
            yield -1.0, 0, number
            share = repository.weight / weight * repository.period / DAY * 0.5
            for at in self._releases(repository):
                yield at, 0, number
                for _ in range(round(self._shape.pulls * share)):
                    yield at + self._random.expovariate(1 / (4 * 3600)), 1, number

    def _releases(self, repository: _Repository) -> Iterator[float]:
        dice = self._random
        at = -dice.random() * repository.period
        while (at := at + repository.period * dice.uniform(0.7, 1.3)) < self._shape.days * DAY:
            if at > 0:
                yield at

    def _pull(self, repository: _Repository, at: float, *, is_whole: bool) -> None:
        dice, versions = self._random, repository.versions
        latest = len(versions) - 1
        behind = 0 if is_whole or dice.random() < 0.9 else min(latest, int(dice.expovariate(0.4)))
        blobs = image = versions[latest - behind]
        if not is_whole and behind < latest and dice.random() < 0.5:
            had = set(versions[latest - behind - 1])
            blobs = tuple(blob for blob in blobs if blob not in had)
        superseded: tuple[int, ...] = ()
        if not behind and repository.told < latest:
            superseded = self._move(versions[repository.told], versions[latest])
            repository.told = latest
        self._trace.pulls.append(Pull(at, image, blobs, superseded))

    def _move(self, before: tuple[int, ...], now: tuple[int, ...]) -> tuple[int, ...]:
        """A tag moves on; returns what no tag means any more."""
        self._meant.update(now)
        self._meant.subtract(before)
        return tuple(blob for blob in before if not self._meant[blob])

    def _pull_once(self, at: float) -> None:
        layers = [self._blob(self._layer()) for _ in range(self._random.randint(1, 4))]
        image = (self._manifest(), self._config(), *layers)
        self._trace.pulls.append(Pull(at, image, image))

    def _release(self, repository: _Repository, at: float) -> None:
        dice = self._random
        own = [self._blob(self._layer()) for _ in range(repository.depth)]
        base = self._bases[repository.base]
        if repository.versions:
            before = repository.versions[-1][2:]
            if dice.random() < repository.period / (60 * DAY):  # once in two months
                base = self._bases[repository.base] = self._base()
            else:
                base = list(before[: -repository.depth])
                unchanged = dice.randint(0, repository.depth - 1)
                own[:unchanged] = before[len(base) : len(base) + unchanged]
        repository.versions.append((self._manifest(), self._config(), *base, *own))
        if len(repository.versions) == 1:
            self._meant.update(repository.versions[0])
        repository.released_at = at

    def _repository(self, weight: float) -> _Repository:
        dice = self._random
        period = DAY * 30 ** dice.random()  # daily to monthly
        base = min(int(dice.expovariate(0.15)), len(self._bases) - 1)
        return _Repository(base, period, dice.randint(1, 6), weight)

    def _base(self) -> list[int]:
        return [self._blob(self._layer(median=30)) for _ in range(self._random.randint(1, 3))]

    def _layer(self, median: float = 4) -> int:
        return min(int(self._random.lognormvariate(0, 1.8) * median * MIB) + 200, 2048 * MIB)

    def _manifest(self) -> int:
        return self._blob(self._random.randint(1000, 4000))

    def _config(self) -> int:
        return self._blob(self._random.randint(2000, 12000))

    def _blob(self, size: int) -> int:
        self._trace.sizes.append(size)
        return len(self._trace.sizes) - 1


def generate(shape: Shape, seed: int) -> Trace:
    """The trace of this shape and seed, always the same."""
    return _Generator(shape, seed).run()

"""The mirror's own rule of what goes first, made of its own code, beside all the others."""

import heapq
from collections.abc import Callable, Iterable, Sequence

from mirror.storage import worth
from tests.bench.simulate.policies import (
    Belady,
    Cache,
    Gdsf,
    Image,
    Lrfu,
    Lru,
    Ranked,
    S3Fifo,
    Sieve,
    Slru,
)
from tests.bench.simulate.trace import Trace


class Mirrors(Ranked):
    """The mirror's own: `mirror.storage.worth`, whose ranks its index keeps.

    What `mirror.pull.images` finds out is found out here by counting.
    """

    def __init__(self, sizes: Sequence[int], capacity: int) -> None:
        super().__init__(sizes, capacity)
        self._scores: dict[int, float] = {}  # of what has left, too
        self._superseded: set[int] = set()
        self._broken: set[int] = set()
        self._images: dict[int, set[Image]] = {}  # that a blob is in
        self._missing: dict[Image, int] = {}  # blobs of an image
        self._whole: dict[int, int] = {}  # images that a blob is in

    def ask(self, blob: int, at: float) -> bool:
        was_here = blob in self._ranks
        self._broken.discard(blob)
        is_hit = super().ask(blob, at)
        if not was_here and blob in self._ranks:
            for image in self._images.get(blob, ()):
                self._missing[image] -= 1
                if not self._missing[image]:
                    self._count(image, 1)
        return is_hit

    def see(self, image: Image) -> None:
        if image in self._missing:
            return
        self._missing[image] = sum(blob not in self._ranks for blob in image)
        for blob in image:
            self._images.setdefault(blob, set()).add(image)
        if not self._missing[image]:
            self._count(image, 1)

    def supersede(self, blobs: Iterable[int]) -> None:
        for blob in blobs:
            self._superseded.add(blob)
            self._lower(blob)

    def _count(self, image: Image, more: int) -> None:
        for blob in image:
            self._whole[blob] = self._whole.get(blob, 0) + more
            if more < 0 and not self._whole[blob]:
                self._broken.add(blob)
                self._lower(blob)

    def _rank(self, blob: int, at: float) -> float:
        self._scores[blob] = worth.asked(self._scores.get(blob), at)
        return self._now(blob)

    def _now(self, blob: int) -> float:
        flags = blob in self._superseded, blob in self._broken
        return worth.rank(self._scores[blob], self._sizes[blob], *flags)

    def _lower(self, blob: int) -> None:
        if blob in self._ranks:
            self._ranks[blob] = rank = self._now(blob)
            heapq.heappush(self._heap, (rank, blob))

    def _has_left(self, blob: int, _: float) -> None:
        for image in self._images.get(blob, ()):
            if not self._missing[image]:
                self._count(image, -1)
            self._missing[image] += 1


Make = Callable[[Trace, int], Cache]

MIRRORS = "The mirror's"

ALL: dict[str, Make] = {
    "LRU, manifests last": lambda trace, capacity: Lru(trace.sizes, capacity),
    "S3-FIFO": lambda trace, capacity: S3Fifo(trace.sizes, capacity),
    "SLRU 80 %": lambda trace, capacity: Slru(trace.sizes, capacity),
    "SIEVE": lambda trace, capacity: Sieve(trace.sizes, capacity),
    "GDSF": lambda trace, capacity: Gdsf(trace.sizes, capacity),
    "LRFU, 2 d, ghosts": lambda trace, capacity: Lrfu(trace.sizes, capacity, 2),
    "LRFU, 7 d, ghosts": lambda trace, capacity: Lrfu(trace.sizes, capacity, 7),
    MIRRORS: lambda trace, capacity: Mirrors(trace.sizes, capacity),
    "Belady (cannot be built)": Belady,
}

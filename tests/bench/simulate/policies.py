"""What goes first, by one rule or another.

A cache is told of each request in turn: `ask` says whether it was a hit, and keeps the blob. Bytes
that are kept never exceed the capacity.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, log2
from typing import Protocol

from tests.bench.simulate.trace import DAY, Trace

_MANIFEST = 4096  # bytes, at most

Image = tuple[int, ...]


class Cache(Protocol):
    """One rule, and what it has kept."""

    def ask(self, blob: int, at: float, /) -> bool:
        """Whether it is here; it is afterwards, unless it is too large."""

    def see(self, image: Image) -> None:
        """These blobs are an image, of which some are asked for next."""

    def supersede(self, blobs: Iterable[int]) -> None:
        """No tag means these any more."""


@dataclass(slots=True)
class _Room:
    """Bytes."""

    capacity: int
    used: int = 0


class _Forgetful:
    """Takes no note of images, nor of what is superseded."""

    def see(self, image: Image) -> None:
        pass

    def supersede(self, blobs: Iterable[int]) -> None:
        pass


class Lru(_Forgetful):
    """What was used longest ago; manifests after everything else."""

    def __init__(self, sizes: Sequence[int], capacity: int) -> None:
        self._sizes = sizes
        self._room = _Room(capacity)
        self._manifests: OrderedDict[int, None] = OrderedDict()
        self._blobs: OrderedDict[int, None] = OrderedDict()

    def ask(self, blob: int, __: float) -> bool:
        size = self._sizes[blob]
        kept = self._manifests if size <= _MANIFEST else self._blobs
        if blob in kept:
            kept.move_to_end(blob)
            return True
        if size > self._room.capacity:
            return False
        while self._room.used + size > self._room.capacity:
            victim, _ = (self._blobs or self._manifests).popitem(last=False)
            self._room.used -= self._sizes[victim]
        kept[blob] = None
        self._room.used += size
        return False


class Slru(_Forgetful):
    """LRU in two parts: what was asked for twice has 80 % of the room to itself."""

    def __init__(self, sizes: Sequence[int], capacity: int) -> None:
        self._sizes = sizes
        self._room, self._protected_room = _Room(capacity), _Room(capacity * 4 // 5)
        self._probation: OrderedDict[int, None] = OrderedDict()
        self._protected: OrderedDict[int, None] = OrderedDict()

    def ask(self, blob: int, __: float) -> bool:
        size = self._sizes[blob]
        if blob in self._protected:
            self._protected.move_to_end(blob)
            return True
        if blob in self._probation:
            del self._probation[blob]
            self._protected[blob] = None
            self._protected_room.used += size
            while self._protected_room.used > self._protected_room.capacity:
                back, _ = self._protected.popitem(last=False)
                self._protected_room.used -= self._sizes[back]
                self._probation[back] = None
            return True
        if size > self._room.capacity:
            return False
        while self._room.used + size > self._room.capacity:
            if self._probation:
                victim, _ = self._probation.popitem(last=False)
            else:
                victim, _ = self._protected.popitem(last=False)
                self._protected_room.used -= self._sizes[victim]
            self._room.used -= self._sizes[victim]
        self._probation[blob] = None
        self._room.used += size
        return False


class S3Fifo(_Forgetful):
    """Three queues (Yang et al., SOSP 2023): a small one, the main one, and ghosts of the small."""

    def __init__(self, sizes: Sequence[int], capacity: int) -> None:
        self._sizes = sizes
        self._room, self._small_room = _Room(capacity), _Room(capacity // 10)
        self._small: OrderedDict[int, int] = OrderedDict()  # how often it was asked for, up to 3
        self._main: OrderedDict[int, int] = OrderedDict()
        self._ghosts: OrderedDict[int, None] = OrderedDict()
        self._ghost_room = _Room(capacity)

    def ask(self, blob: int, _: float) -> bool:
        size = self._sizes[blob]
        for queue in (self._small, self._main):
            if blob in queue:
                queue[blob] = min(3, queue[blob] + 1)
                return True
        if size > self._room.capacity:
            return False
        while self._room.used + size > self._room.capacity:
            if self._small and (
                self._small_room.used > self._small_room.capacity or not self._main
            ):
                self._leave_small()
            else:
                self._leave_main()
        self._room.used += size
        if blob in self._ghosts:
            del self._ghosts[blob]
            self._ghost_room.used -= size
            self._main[blob] = 0
        else:
            self._small[blob] = 0
            self._small_room.used += size
        return False

    def _leave_small(self) -> None:
        blob, asked = self._small.popitem(last=False)
        self._small_room.used -= self._sizes[blob]
        if asked > 1:
            self._main[blob] = 0
            return
        self._room.used -= self._sizes[blob]
        self._ghosts[blob] = None
        self._ghost_room.used += self._sizes[blob]
        while self._ghost_room.used > self._ghost_room.capacity:
            gone, _ = self._ghosts.popitem(last=False)
            self._ghost_room.used -= self._sizes[gone]

    def _leave_main(self) -> None:
        while True:
            blob, asked = self._main.popitem(last=False)
            if not asked:
                self._room.used -= self._sizes[blob]
                return
            self._main[blob] = asked - 1


class Sieve(_Forgetful):
    """A queue, and a hand that spares what was asked for since it last came by (NSDI 2024)."""

    def __init__(self, sizes: Sequence[int], capacity: int) -> None:
        self._sizes = sizes
        self._room = _Room(capacity)
        self._asked: dict[int, bool] = {}
        self._newer: dict[int, int] = {}  # a list that is linked both ways; -1 is its end
        self._older: dict[int, int] = {}
        self._newest = self._oldest = self._hand = -1

    def ask(self, blob: int, _: float) -> bool:
        if blob in self._asked:
            self._asked[blob] = True
            return True
        size = self._sizes[blob]
        if size > self._room.capacity:
            return False
        while self._room.used + size > self._room.capacity:
            self._evict()
        self._asked[blob] = False
        self._older[blob], self._newer[blob] = self._newest, -1
        if self._newest >= 0:
            self._newer[self._newest] = blob
        else:
            self._oldest = blob
        self._newest = blob
        self._room.used += size
        return False

    def _evict(self) -> None:
        hand = self._hand if self._hand >= 0 else self._oldest
        while self._asked[hand]:
            self._asked[hand] = False
            hand = self._newer[hand] if self._newer[hand] >= 0 else self._oldest
        older, newer = self._older.pop(hand), self._newer.pop(hand)
        if older >= 0:
            self._newer[older] = newer
        else:
            self._oldest = newer
        if newer >= 0:
            self._older[newer] = older
        else:
            self._newest = older
        self._hand = newer
        del self._asked[hand]
        self._room.used -= self._sizes[hand]


class Ranked(_Forgetful):
    """The lowest rank goes first. Ranks that have grown are looked at when it is their turn."""

    def __init__(self, sizes: Sequence[int], capacity: int) -> None:
        self._sizes = sizes
        self._room = _Room(capacity)
        self._ranks: dict[int, float] = {}  # of what is kept
        self._heap: list[tuple[float, int]] = []

    def ask(self, blob: int, at: float) -> bool:
        size = self._sizes[blob]
        if blob in self._ranks:
            self._ranks[blob] = self._rank(blob, at)
            return True
        if size > self._room.capacity:
            return False
        rank = self._rank(blob, at)
        while self._room.used + size > self._room.capacity:
            self._evict()
        self._ranks[blob] = rank
        heapq.heappush(self._heap, (rank, blob))
        self._room.used += size
        return False

    def _rank(self, blob: int, at: float, /) -> float:
        raise NotImplementedError

    def _evict(self) -> None:
        while True:
            rank, blob = heapq.heappop(self._heap)
            now = self._ranks.get(blob)
            if now is None or now < rank:
                continue  # gone, or here twice
            if now > rank:
                heapq.heappush(self._heap, (now, blob))
                continue
            del self._ranks[blob]
            self._room.used -= self._sizes[blob]
            self._has_left(blob, rank)
            return

    def _has_left(self, blob: int, rank: float, /) -> None:
        pass


class Gdsf(Ranked):
    """Frequency by size, and an age that grows with what has left (GreedyDual; Cherkasova 1998)."""

    def __init__(self, sizes: Sequence[int], capacity: int) -> None:
        super().__init__(sizes, capacity)
        self._age = 0.0
        self._asked: dict[int, int] = {}

    def _rank(self, blob: int, _: float) -> float:
        self._asked[blob] = self._asked.get(blob, 0) + 1
        return self._age + self._asked[blob] * (8 * 2**20 / self._sizes[blob] + 1)

    def _has_left(self, blob: int, rank: float) -> None:
        self._age = max(self._age, rank)
        del self._asked[blob]


class Lrfu(Ranked):
    """Recency with frequency, remembered after eviction; `half_life` in days."""

    def __init__(self, sizes: Sequence[int], capacity: int, half_life: float) -> None:
        super().__init__(sizes, capacity)
        self._half_life = half_life * DAY
        self._scores: dict[int, float] = {}

    def _rank(self, blob: int, at: float) -> float:
        this, size = at / self._half_life, self._sizes[blob]
        score = self._scores.get(blob, -inf)
        high, low = max(score, this), min(score, this)
        self._scores[blob] = score = high + log2(1 + 2 ** (low - high))
        return score + log2((size + 8 * 2**20) / size)


class Belady(_Forgetful):
    """What is asked for latest goes first: it knows the future."""

    def __init__(self, trace: Trace, capacity: int) -> None:
        self._sizes = trace.sizes
        self._room = _Room(capacity)
        self._next = _next_uses(trace)
        self._now = -1
        self._kept: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []

    def ask(self, blob: int, _: float) -> bool:
        self._now += 1
        following, size = self._next[self._now], self._sizes[blob]
        if blob in self._kept:
            self._kept[blob] = following
            heapq.heappush(self._heap, (-following, blob))
            return True
        if size > self._room.capacity:
            return False
        self._kept[blob] = following
        heapq.heappush(self._heap, (-following, blob))
        self._room.used += size
        while self._room.used > self._room.capacity:
            latest, victim = heapq.heappop(self._heap)
            if self._kept.get(victim) == -latest:
                del self._kept[victim]
                self._room.used -= self._sizes[victim]
        return False


def _next_uses(trace: Trace) -> list[int]:
    asked = [blob for pull in trace.pulls for blob in pull.blobs]
    following: dict[int, int] = {}
    found = [0] * len(asked)
    for index in range(len(asked) - 1, -1, -1):
        found[index] = following.get(asked[index], len(asked))
        following[asked[index]] = index
    return found

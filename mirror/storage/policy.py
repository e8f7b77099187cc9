"""Eviction policies: what goes first where there is too little room. Pure.

A policy is shown candidates, those that are worth least (`worth.py`), and says which go, in which
order. Nobody uses any of them; that is seen to before.
"""

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from mirror.oci.digest import Digest


class Kind(IntEnum):
    """What there is on disk."""

    PARTIAL = 0
    BLOB = 1
    MANIFEST = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something on disk that nobody uses: `size` in bytes.

    `rank`: what is lowest goes first; of a partial, since when nobody writes to it, in epoch
    seconds. `upstream`: the one whose partial it is.
    """

    kind: Kind
    digest: Digest
    size: int
    rank: float
    upstream: str = ""


class Policy(Protocol):
    """Decides what goes."""

    def choose(
        self, candidates: Iterable[Candidate], excess: int, *, most: int, beyond: int
    ) -> list[Candidate]:
        """What is to go now, `most` at a time, so that `excess` bytes become free, or begin to.

        `beyond`: bytes of what may go as well, and could not be shown at once. An empty list means
        that all of it would not be enough; then nothing goes.
        """


class LeastWorth:
    """Partials go before anything else, since they serve nobody yet; then what is worth least."""

    def choose(
        self, candidates: Iterable[Candidate], excess: int, *, most: int, beyond: int
    ) -> list[Candidate]:
        """As `Policy.choose`."""
        ordered = sorted(candidates, key=_order)
        if sum(candidate.size for candidate in ordered) + beyond < excess:
            return []
        chosen = []
        for candidate in ordered[:most]:
            if excess <= 0:
                break
            chosen.append(candidate)
            excess -= candidate.size
        return chosen


def least_for_files(candidates: Iterable[Candidate], *, most: int) -> list[Candidate]:
    """What is worth least for each file, so many at most: where files are scarce, and not bytes.

    A rank is by the byte. A large blob takes no more of what is scarce than a small one does.
    """
    return heapq.nsmallest(most, candidates, key=lambda it: it.rank + math.log2(max(it.size, 1)))


def _order(candidate: Candidate) -> tuple[bool, float]:
    return candidate.kind is not Kind.PARTIAL, candidate.rank

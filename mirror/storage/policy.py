"""Eviction policies: what goes first where there is too little room. Pure.

A policy is shown candidates, the least recently used of each kind, and says which go, in which
order. Nobody uses any of them; that is seen to before.
"""

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
    """Something on disk that nobody uses: `size` in bytes, `used_at` in epoch seconds.

    `upstream`: the one whose partial it is.
    """

    kind: Kind
    digest: Digest
    size: int
    used_at: float
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


class LeastRecentlyUsed:
    """What was used longest ago goes first.

    Partials before anything else, since they serve nobody yet; manifests after everything else,
    since they are small and dear (a counted request upstream).
    """

    def choose(
        self, candidates: Iterable[Candidate], excess: int, *, most: int, beyond: int
    ) -> list[Candidate]:
        """As `Policy.choose`."""
        ordered = sorted(candidates, key=lambda candidate: (candidate.kind, candidate.used_at))
        if sum(candidate.size for candidate in ordered) + beyond < excess:
            return []
        chosen = []
        for candidate in ordered[:most]:
            if excess <= 0:
                break
            chosen.append(candidate)
            excess -= candidate.size
        return chosen

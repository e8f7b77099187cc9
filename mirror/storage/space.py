"""Who may write, and what must go: bookkeeping without I/O.

Bytes are counted before they are written. Two limits hold at once: `max_size` bounds what the
store holds and has promised to hold, `min_free` what it leaves of the file system. What is
`stored` is for the catalog to say, and what is `free` for the file system.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from mirror.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Limits:
    """`store.max_size` and `store.min_free`, in bytes."""

    max_size: int
    min_free: int


@dataclass(frozen=True, slots=True)
class Stored:
    """Something on disk, as a candidate for eviction; `size` in bytes."""

    digest: Digest
    size: int


@dataclass(slots=True, eq=False)
class Promise:
    """What one blob on its way may take of the disk, and has taken; in bytes."""

    size: int = 0
    written: int = 0


class Space:
    """The ledger. Every method is synchronous, so that no two writers see the same free byte."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._promises: set[Promise] = set()

    def __repr__(self) -> str:
        return f"<Space: {self.promised} bytes promised of {self._limits.max_size}>"

    @property
    def promised(self) -> int:
        """Bytes of all blobs on their way, at the size they may have."""
        return sum(promise.size for promise in self._promises)

    def add(self, promise: Promise) -> None:
        """Count what `promise` says from now on, as it changes."""
        self._promises.add(promise)

    def remove(self, promise: Promise) -> None:
        """Stop counting: the blob is stored, or its partial is gone."""
        self._promises.discard(promise)

    def can_ever_hold(self, size: int) -> bool:
        """Whether `size` bytes would fit into an empty store."""
        return size <= self._limits.max_size

    def room(self, *, stored: int, free: int) -> int:
        """Bytes that can still be promised; negative where too much is there already."""
        unwritten = sum(max(0, promise.size - promise.written) for promise in self._promises)
        return min(
            self._limits.max_size - stored - self.promised,
            free - unwritten - self._limits.min_free,
        )


def choose(candidates: Iterable[Stored], excess: int) -> list[Stored]:
    """The first of `candidates` that together free `excess` bytes.

    An empty list means that all of them would not be enough; then nothing goes.
    """
    chosen = []
    for candidate in candidates:
        if excess <= 0:
            break
        chosen.append(candidate)
        excess -= candidate.size
    return chosen if excess <= 0 else []

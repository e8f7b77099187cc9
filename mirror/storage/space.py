"""The ledger of space: who has been promised how much, and who waits for more. Pure.

Bytes are counted before they are written. Two limits hold at once: `max_size` bounds what the
store holds and has promised to hold, `min_free` what it leaves of the file system. What is
`stored` is for the index to say, and what is `free` for the file system.

Who needs more than was promised asks, and is served in turn: first come, first served, or two
would evict for the same bytes, and one take what another freed.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """`store.max_size` and `store.min_free`, in bytes."""

    max_size: int
    min_free: int


@dataclass(slots=True, eq=False)
class Promise:
    """What one blob on its way may take of the disk, and has taken; in bytes."""

    size: int = 0
    written: int = 0


@dataclass(slots=True, eq=False)
class Request:
    """Somebody waits until `promise` is of `size` bytes, and takes `spare` more if they are there.

    Without a promise: until the limits hold. `settle` is called once, with the reason if there is
    no room; who does not wait any longer says `has_left`.
    """

    settle: Callable[[Exception | None], None]
    promise: Promise | None = None
    size: int = 0
    spare: int = 0
    has_left: bool = False


class Space:
    """The ledger. Every method is synchronous, so that no two writers see the same free byte."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._promises: set[Promise] = set()
        self._waiting: deque[Request] = deque()

    def __repr__(self) -> str:
        return (
            f"<Space: {self.promised} bytes promised of {self._limits.max_size},"
            f" {len(self._waiting)} waiting>"
        )

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

    # Whose turn it is

    def ask(self, request: Request) -> None:
        """Queue up."""
        self._waiting.append(request)

    def first(self) -> Request | None:
        """Whose turn it is; the same one until it is settled, or has left."""
        while self._waiting and self._waiting[0].has_left:
            self._waiting.popleft()
        return self._waiting[0] if self._waiting else None

    def excess(self, request: Request, *, stored: int, free: int) -> int:
        """Bytes that have to go before a request can be granted; not positive where it can be."""
        room = self.room(stored=stored, free=free)
        if request.promise is None:
            return -room
        more = request.size - request.promise.size
        return more - room if more > 0 else 0  # else another write of this blob has got it

    def grant(self, request: Request, *, stored: int, free: int) -> None:
        """Promise what was asked for, and what there is to spare; the next in turn is first."""
        if request.promise is not None and not request.has_left:
            more = request.size - request.promise.size
            if more > 0:
                room = self.room(stored=stored, free=free)
                request.promise.size += more + max(0, min(request.spare, room - more))
        self.settle(request, None)

    def settle(self, request: Request, error: Exception | None) -> None:
        """Say how it went; the next in turn is first."""
        self._waiting.remove(request)
        if not request.has_left:
            request.settle(error)

"""The ledger of space: who has been promised how much, and who waits for more. Pure.

Bytes are those of the disk, in whole blocks, and counted before they are written. Two limits hold
at once: `max_size` bounds what the store holds and has promised to hold, `min_free` what it leaves
of the file system. What is `stored` is for the index to say, and what is `free` for the disk.

Who needs more than was promised asks, and is served in turn: first come, first served, or two
would evict for the same bytes, and one take what another freed.

Bytes are promised as they arrive; what is of no use in the end must not have cost what is of use:

    one upstream's unproved bytes   make blobs leave until they are a half of all the room there is
    everybody's together            ... until they are three quarters of it
    a blob of a size nobody tells   is kept up to a quarter of `max_size`

What a blob is said to need in all costs nothing: it is held against others of the same upstream
only. A size that the digest has proved once has none of these bounds.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """`store.max_size` and `store.min_free`, in bytes."""

    max_size: int
    min_free: int


_STEP = (2**20, 64 * 2**20)  # bytes made room for beyond what has arrived: at least, at most


@dataclass(slots=True, eq=False)
class Promise:
    """What one blob on its way may take of the disk, and has taken; in bytes.

    `expected` is what it takes in all, by the word of `upstream` (0: nobody tells). `is_proved`: by
    the digest's. `is_idle`: nobody writes.
    """

    size: int = 0
    written: int = 0
    upstream: str = ""
    expected: int = 0
    is_proved: bool = False
    is_idle: bool = False

    def rest(self) -> None:
        """Nobody writes any more: it takes what it has taken."""
        self.size, self.expected = self.written, 0
        self.is_proved, self.is_idle = False, True

    def resume(self) -> None:
        """Somebody writes again."""
        self.is_idle = False


def ahead_of(needed: int, whole: int | None) -> int:
    """What to make room for beyond the bytes needed by now, of `whole` in the end."""
    least, most = _STEP
    step = max(least, min(needed, most))
    return step if whole is None else min(step, max(0, whole - needed))


@dataclass(slots=True, eq=False)
class Request:
    """Somebody waits until `promise` is of `size` bytes, and takes up to `ahead` more.

    `makes_do`: nothing is to go for `ahead`. Without a promise: until the limits hold. `freed`:
    bytes that have gone for it so far. `settle` is called once, with the reason if there is no
    room; who does not wait any longer says `has_left`.
    """

    settle: Callable[[Exception | None], None]
    promise: Promise | None = None
    size: int = 0
    ahead: int = 0
    makes_do: bool = False
    freed: int = 0
    has_left: bool = False

    @property
    def wanted(self) -> int:
        """Bytes that are worth an eviction."""
        return self.size if self.makes_do else self.size + self.ahead


class Space:
    """The ledger. Every method is synchronous, so that no two writers see the same free byte."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._promises: set[Promise] = set()
        self._waiting: deque[Request] = deque()
        self.overhead = 0
        """Bytes of `max_size` that neither blobs nor downloads take, as last seen."""

    def __repr__(self) -> str:
        return (
            f"<Space: {self.promised} bytes promised of {self._limits.max_size},"
            f" {len(self._waiting)} waiting>"
        )

    def change(self, limits: Limits) -> None:
        """Go by these from now on."""
        self._limits = limits

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

    @property
    def capacity(self) -> int:
        """Bytes that all blobs and downloads may take together."""
        return self._limits.max_size - self.overhead

    def can_ever_hold(self, size: int) -> bool:
        """Whether `size` bytes would fit into an empty store."""
        return size <= self.capacity

    def room(self, *, stored: int, free: int) -> int:
        """Bytes that can still be promised; negative where too much is there already."""
        unwritten = sum(max(0, promise.size - promise.written) for promise in self._promises)
        return min(
            self.capacity - stored - self.promised,
            free - unwritten - self._limits.min_free,
        )

    def beyond_max_size(self, *, stored: int) -> int:
        """Bytes that are here beyond `max_size`, however much of the disk is free."""
        return max(0, stored + self.promised - self.capacity)

    # What is not proved yet

    @property
    def most_untold(self) -> int:
        """Bytes that are kept of a blob of a size that nobody tells."""
        return self.capacity // 4

    def may_displace(self, promise: Promise, size: int, *, stored: int, free: int) -> bool:
        """Whether blobs may leave so that `promise` has `size` bytes."""
        if promise.is_proved:
            return True
        unproved = [one for one in self._promises if not (one.is_idle or one.is_proved)]
        theirs = sum(one.size for one in unproved if one.upstream == promise.upstream)
        everybodys = sum(one.size for one in unproved)
        room = self._room_in_all(stored=stored, free=free)
        more = size - promise.size
        return 2 * (theirs + more) <= room and 4 * (everybodys + more) <= 3 * room

    def admits(
        self, promise: Promise, size: int, *, stored: int, free: int, evictable: int
    ) -> bool:
        """Whether a blob of `size` bytes can find room as it arrives, if `evictable` bytes may go.

        The same upstream's blobs are thought to become as large as it says; others' are not: else
        a word of one would keep the blobs of another out.
        """
        others = [
            one for one in self._promises
            if one is not promise and one.upstream == promise.upstream and not one.is_idle
        ]  # fmt: skip
        more = max(0, size - promise.size)
        more += sum(max(0, one.expected - one.size) for one in others)
        room = self.room(stored=stored, free=free)
        if more <= room:
            return True
        expected = sum(max(one.expected, one.size) for one in others if not one.is_proved)
        is_bounded = 2 * (expected + size) <= self._room_in_all(stored=stored, free=free)
        return more <= room + evictable and (promise.is_proved or is_bounded)

    def _room_in_all(self, *, stored: int, free: int) -> int:
        """Bytes that there would be room for if nothing was here."""
        return stored + self.promised + self.room(stored=stored, free=free)

    # Whose turn it is

    def ask(self, request: Request) -> None:
        """Queue up."""
        self._waiting.append(request)

    def first(self) -> Request | None:
        """Whose turn it is; the same one until it is settled, or has left."""
        while self._waiting and self._waiting[0].has_left:
            self._waiting.popleft()
        return self._waiting[0] if self._waiting else None

    def defer(self, request: Request) -> None:
        """Let everybody else be served first."""
        self._waiting.remove(request)
        self._waiting.append(request)

    def excess(self, request: Request, *, stored: int, free: int) -> int:
        """Bytes that have to go before a request can be granted; not positive where it can be."""
        room = self.room(stored=stored, free=free)
        if request.promise is None:
            return -room
        if request.size <= request.promise.size:
            return 0  # another write of this blob has got it
        # Where more is here than the limits allow (they are new), what has gone for it is enough:
        # it takes no more than that, and need not wait until all the rest has gone, too.
        return request.wanted - request.promise.size - (room if room >= 0 else request.freed)

    def grant(self, request: Request, *, stored: int, free: int) -> None:
        """Promise what was asked for, and `ahead` as far as it goes; the next in turn is first."""
        if request.promise is not None and not request.has_left:
            more = request.size - request.promise.size
            if more > 0:
                room = self.room(stored=stored, free=free)
                request.promise.size += more + max(0, min(request.ahead, room - more))
        self.settle(request, None)

    def settle(self, request: Request, error: Exception | None) -> None:
        """Say how it went; the next in turn is first."""
        self._waiting.remove(request)
        if not request.has_left:
            request.settle(error)

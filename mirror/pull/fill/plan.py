"""Which bytes of a blob are fetched next, and by whom. Pure: no I/O, no clock of its own.

A large blob is cut into claims, in order from its start, since that is what readers wait for. A
claim that breaks returns what is left of it. Near the end, an idle connection takes over half of
what the slowest one has left.

    todo     ranges that nobody has claimed, in order
    active   claims being fetched: [position, stop) is what is left of each
"""

from dataclasses import dataclass

_CLAIM_SECONDS = 4.0  # a claim is as large as its connection may need so long for
_WORTH_SPLITTING = 3.0  # seconds; a split costs a connection and what is already on its way


@dataclass(eq=False, slots=True)
class Claim:
    """A range that one connection fetches; `stop` is None while nobody knows the blob's end."""

    start: int
    stop: int | None
    began_at: float
    position: int
    may_split: bool = True  # not where upstream would send everything to both halves

    @property
    def left(self) -> int:
        """Bytes still to come; 0 where that is unknown."""
        return 0 if self.stop is None else max(0, self.stop - self.position)

    @property
    def is_done(self) -> bool:
        """Whether every byte of it is there."""
        return self.stop is not None and self.position >= self.stop

    def rate(self, now: float) -> float:
        """Bytes a second, so far."""
        return (self.position - self.start) / max(now - self.began_at, 0.001)


class Plan:
    """The claims on one blob.

    `missing`: the half-open ranges to fetch, in order. `size` is what the blob is thought to have;
    where that is None, the last range ends in None.
    """

    def __init__(
        self,
        missing: list[tuple[int, int | None]],
        *,
        segment_size: int,
        connections: int,
        size: int | None,
    ) -> None:
        self._todo = missing
        self._segment_size = segment_size
        self._connections = connections
        self._rate = 0.0
        self.active: set[Claim] = set()
        self.size = size

    def __repr__(self) -> str:
        return f"<Plan: {len(self.active)} active, {self._todo} to do>"

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to fetch."""
        return not self._todo and not self.active

    @property
    def waiting(self) -> int:
        """How many more connections have something to do."""
        return sum(
            1 if stop is None else -(-(stop - start) // self._segment_size)
            for start, stop in self._todo
        )

    def seconds_left(self, now: float) -> float:
        """How long the connections there are would take for all that is to come."""
        left = sum(claim.left for claim in self.active)
        left += sum(0 if end is None else end - start for start, end in self._todo)
        return left / max(sum(claim.rate(now) for claim in self.active), 1.0)

    def claim(self, *, now: float) -> Claim | None:
        """What an idle connection should fetch; None: nothing that is worth its while."""
        if not self._todo:
            return self._split(now)
        start, end = self._todo.pop(0)
        stop = self._cut(start, end)
        if end is not None and stop is not None and stop != end:
            self._todo.insert(0, (stop, end))
        claim = Claim(start, stop, now, start)
        self.active.add(claim)
        return claim

    def is_whole(self, claim: Claim) -> bool:
        """Whether a claim is the whole blob: it is asked for without a range, as everyone does."""
        return claim.start == 0 and claim.stop == self.size

    def learn_size(self, claim: Claim, size: int) -> None:
        """A response to `claim`, the only one so far, has told the blob's size."""
        known, self.size = self.size, size
        if known is None:
            claim.stop = size if claim.stop is None else min(claim.stop, size)
            self._todo = [(claim.stop, size)] if claim.stop < size else []
        elif known != size:
            claim.stop = max(claim.start, min(claim.stop or 0, size))
            self._todo = [
                (start, min(stop or 0, size)) for start, stop in self._todo if start < size
            ]
            if known < size:
                self._todo.append((known, size))

    def take_rest(self, claim: Claim, size: int | None) -> None:
        """`claim`, the only one, gets everything to the end: upstream does not send ranges."""
        self._todo = [gap for gap in self._todo if gap[0] < claim.start]  # of one that has broken
        self.size = size
        claim.stop, claim.may_split = size, False

    def end(self, claim: Claim) -> None:
        """The body has ended that nobody knew the size of: there is no more."""
        claim.stop = self.size = claim.position

    def release(self, claim: Claim, *, now: float) -> None:
        """A connection is done with its claim, or has broken: what is left is to do again."""
        if claim not in self.active:
            return
        self.active.remove(claim)
        self._rate = claim.rate(now) or self._rate
        if not claim.is_done:
            self._todo.append((claim.position, None if self.size is None else claim.stop))
            self._todo.sort(key=lambda gap: gap[0])

    def _cut(self, start: int, end: int | None) -> int | None:
        """Where a claim that begins at `start` stops."""
        if end is None:
            # A blob that turns out to be small comes in one request all the same.
            return start + 2 * self._segment_size if self._connections > 1 else None
        left = end - start
        if self._connections == 1 or left < max(2 * self._segment_size, self._rate):
            return end  # or less than a second's worth
        share = min(int(self._rate * _CLAIM_SECONDS), left // (2 * self._connections))
        length = max(self._segment_size, share)
        return end if left < length + self._segment_size else start + length

    def _split(self, now: float) -> Claim | None:
        shared = [claim for claim in self.active if claim.may_split]
        slowest = max(shared, key=lambda claim: self._seconds_left(claim, now), default=None)
        if slowest is None or slowest.stop is None or slowest.left < self._segment_size // 4:
            return None
        if self._seconds_left(slowest, now) < _WORTH_SPLITTING:
            return None
        middle = slowest.position + slowest.left // 2
        claim = Claim(middle, slowest.stop, now, middle)
        slowest.stop = middle
        self.active.add(claim)
        return claim

    def _seconds_left(self, claim: Claim, now: float) -> float:
        rate = claim.rate(now)
        if now - claim.began_at < _WORTH_SPLITTING:  # too early to tell: as the one before, then
            rate = max(rate, self._rate)
            if not self._rate:
                return 0.0
        return claim.left / max(rate, 1.0)

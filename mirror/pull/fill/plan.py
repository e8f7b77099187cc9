"""Which bytes of a blob are fetched next, and by whom. Pure: no I/O, no clock of its own.

A large blob is cut into claims, in order from its start, since that is what most readers wait for.
What readers of ranges want (`wants.py`) goes before that; but neither keeps all of the connections
from the other. A claim that breaks returns what is left of it; one in whose midst somebody wants
something leaves that, and what follows, to others. Near the end, an idle connection takes over half
of what the slowest one has left.

    todo     ranges that nobody has claimed
    active   claims being fetched: [position, stop) is what is left of each
"""

from collections.abc import Iterator
from itertools import islice

from mirror.pull.fill.claims import Claim, Gap, Gaps
from mirror.pull.fill.wants import Want, Wants

_CLAIM_SECONDS = 4.0  # a claim is as large as its connection may need so long for
_WORTH_SPLITTING = 3.0  # seconds; a split costs a connection and what is already on its way
_SOON = 0.5  # seconds; what comes so soon is not asked for over another connection
_EARLY = 0.25  # seconds; until then nobody can tell how fast a connection is
_NEAR = 2**20  # bytes; what lies so near to what comes is thought to come soon until then
_CRUMB = 2**16  # bytes; not worth a request of their own
_CALM = 10.0  # seconds after the last want, before all connections fetch in order again
_GRAIN = 4096  # bytes; a file system counts in blocks, whatever is asked for
_MOST_LOOKED_AT = 64  # ranges of one reader, at a time: those before them are on their way
_MOST_GAPS = 1024  # with more of them, what is wanted comes in whole segments


class Plan:
    """The claims on one blob.

    `missing`: the half-open ranges to fetch, in order. `size` is what the blob is thought to have;
    where that is None, the last range ends in None. `wants`: what readers wait for.
    """

    def __init__(
        self,
        missing: list[Gap],
        *,
        segment_size: int,
        connections: int,
        size: int | None,
        wants: Wants,
    ) -> None:
        self._todo = Gaps(missing)
        self._segment_size = segment_size
        self._connections = connections
        self._wants = wants
        self._wanted_at: float | None = None  # seconds; when anything last was
        self._sends_ranges = True  # upstream does, as far as anybody knows
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

    @property
    def has_wants(self) -> bool:
        """Whether anybody asks for ranges."""
        return len(self._wants) > 0

    def is_wanted(self, now: float) -> bool:
        """Whether anything that is not there is wanted, and nobody fetches it."""
        return (self._is_in_order and bool(self._todo)) or any(self._wanted(now))

    def calls(self, now: float) -> int:
        """How many more connections are needed at once: somebody waits for what none fetches."""
        is_starving = self._wants.followers and self._is_in_order and self._todo
        calls = int(bool(is_starving) and not self._count_in_order())
        return calls + (len(self._wants) if any(self._wanted(now)) else 0)

    def claim(self, *, now: float) -> Claim | None:
        """What an idle connection should fetch; None: nothing that is worth its while."""
        in_order = self._count_in_order()
        if self._is_in_order and not in_order and self.active:  # all fetch what is wanted
            return self._claim_next(now) or self._claim_wanted(now)
        claim = None if self._is_best_begun else self._claim_wanted(now)
        if claim is None and self._is_in_order and in_order < self._most_in_order(now):
            claim = self._claim_next(now)
        return claim

    def claim_least(self, *, now: float) -> Claim | None:
        """A few bytes of what is not there: upstream has to say that it has the blob."""
        if not self._todo:
            return None
        start, end = self._todo.first
        return self._take(start, start + _GRAIN if end is None else min(end, start + _GRAIN), now)

    def is_whole(self, claim: Claim) -> bool:
        """Whether a claim is the whole blob: it is asked for without a range, as everyone does."""
        return claim.start == 0 and claim.stop == self.size

    def learn_size(self, size: int) -> None:
        """A range has told the blob's size: nobody is to fetch anything beyond it."""
        self._sends_ranges = True
        known, self.size = self.size, size
        if known == size:
            return
        for claim in self.active:
            claim.stop = max(claim.position, size if claim.stop is None else min(claim.stop, size))
        self._todo.end_at(size)
        if known is not None and known < size:
            self._todo.put_back(known, size)

    def take_rest(self, claim: Claim, size: int | None, *, ignores_ranges: bool = True) -> None:
        """`claim`, the only one, gets everything to the end: so upstream sends it."""
        self._todo.keep_before(claim.start)  # that is of one that has broken
        self.size = size
        if size is not None:
            self._todo.end_at(size)
        claim.stop, claim.is_ahead = size, False
        claim.may_split = self._sends_ranges = not ignores_ranges and size is not None

    def lacks_before(self, claim: Claim) -> bool:
        """Whether something before a claim is for nobody yet."""
        return bool(self._todo) and self._todo.first[0] < claim.start

    def forgo_ranges(self, claim: Claim, *, now: float) -> None:
        """Upstream answers a range with everything: `claim` is of no use.

        The one from which it was taken has it back.
        """
        self._sends_ranges = False
        self.release(claim, now=now)
        for other in self.active:
            for start, stop in self._todo:
                is_next = start == other.stop and other.left > 0
                if is_next and stop is not None and stop <= (other.body_stop or 0):
                    self._todo.remove((start, stop))
                    other.stop = stop
                    break

    def let_go(self) -> None:
        """Somebody has left: what was fetched for them alone, and nobody else, is left alone."""
        if self._is_in_order or self.size is None:
            return
        for claim in self.active:
            if not claim.is_ahead or claim.stop is None or claim.is_done:
                continue
            if not self._wants.overlap(claim.position, claim.stop, self.size):
                self._todo.put_back(claim.position, claim.stop)
                claim.stop = claim.position

    def end(self, claim: Claim) -> None:
        """The body has ended that nobody knew the size of: there is no more."""
        claim.stop = self.size = claim.position

    def release(self, claim: Claim, *, now: float) -> None:
        """A connection is done with its claim, or has broken: what is left is to do again."""
        if claim not in self.active:
            return
        self.active.remove(claim)
        if not claim.is_ahead or claim.position - claim.start > _CRUMB:  # else it tells little
            self._rate = claim.rate(now) or self._rate
        if not claim.is_done:
            self._todo.put_back(claim.position, claim.stop)

    # What is wanted

    @property
    def _is_in_order(self) -> bool:
        """Whether all of it is fetched, from its start."""
        return self._wants.is_whole or not self._sends_ranges

    @property
    def _is_best_begun(self) -> bool:
        """Whether one request for all is best, whatever is wanted: it is small, or may be."""
        is_small = self.size is None or self.size <= _NEAR
        return self._is_in_order and not self.active and is_small

    def _count_in_order(self) -> int:
        return sum(not claim.is_ahead for claim in self.active)

    def _most_in_order(self, now: float) -> int:
        """How many connections fetch in order: while there are wants, others are kept for them."""
        if self._wants:
            self._wanted_at = now
        if self._wanted_at is None or now - self._wanted_at > _CALM:
            return self._connections
        return max(1, self._connections // 2) if self._wants.followers else 1

    def _claim_wanted(self, now: float) -> Claim | None:
        for want, start, stop, holder in self._wanted(now):
            self._wants.turn(want)
            if holder is None:
                return self._take(start, stop, now, is_ahead=True)
            if stop is not None and holder.stop is not None and stop < holder.stop:
                self._todo.put_back(stop, holder.stop)
            claim = Claim(start, stop, now, start, is_ahead=True)
            holder.stop = start
            self.active.add(claim)
            return claim
        return None

    def _wanted(self, now: float) -> Iterator[tuple[Want, int, int | None, Claim | None]]:
        """What to fetch for each want, and whose claim it is in."""
        if not self._sends_ranges:
            return
        for want in self._wants:
            spans, is_first = want.spans(self.size), True
            for start, stop in islice(spans, _MOST_LOOKED_AT):
                found = self._find_lacking(start, stop, now)
                if found is not None:
                    yield want, *self._widen(*found, spans)
                    break
                if is_first and self._is_there(start, stop):
                    want.drop_first(self.size)
                else:
                    is_first = False

    def _find_lacking(
        self, start: int, stop: int | None, now: float
    ) -> tuple[int, int | None, Claim | None] | None:
        """The first of [start, stop) that is not there, and that nobody brings soon."""
        found: list[tuple[int, int | None, Claim | None]] = []
        gap = self._todo.find(start, stop)
        if gap is not None:
            found.append((max(start, gap[0]), stop, None))
        for claim in self.active:
            if not claim.overlaps(start, stop):
                continue
            first = max(start, claim.position)
            if claim.may_split and claim.stop is not None and not self._is_soon(claim, first, now):
                found.append((first, stop, claim))
        return min(found, key=lambda one: one[0], default=None)

    def _is_there(self, start: int, stop: int | None) -> bool:
        return self._todo.find(start, stop) is None and not any(
            claim.overlaps(start, stop) for claim in self.active
        )

    def _is_soon(self, claim: Claim, position: int, now: float) -> bool:
        """Whether a claim is about to come there."""
        reach = max(_CRUMB, claim.rate(now) * _SOON)
        if now - claim.began_at < _EARLY:
            reach = max(reach, self._rate * _SOON if self._rate else _NEAR)
        return position - claim.position <= reach

    def _widen(
        self,
        start: int,
        stop: int | None,
        holder: Claim | None,
        following: Iterator[tuple[int, int | None]],
    ) -> tuple[int, int | None, Claim | None]:
        """What to claim for what is lacking: whole blocks, of one gap, a segment at most."""
        if holder is None:
            gap = self._todo.find(start, stop)
            assert gap is not None  # noqa: S101 - it was found in one
            first, end = gap
        else:
            first, end = holder.position, holder.stop
        grain = _GRAIN if len(self._todo) < _MOST_GAPS else self._segment_size
        for next_start, next_stop in following:
            if stop is None or next_stop is None or not start <= next_start <= stop + grain:
                break
            stop = max(stop, next_stop)
        most = start + self._segment_size
        stop = -(-min(most, most if stop is None else stop) // grain) * grain
        start = max(first, start // grain * grain)
        if self._is_in_order:  # all of it is to come: leave no crumbs
            if holder is None and start - first <= _CRUMB:
                start = first
            if end is not None and end - stop <= _CRUMB:
                stop = end
        return start, stop if end is None else min(stop, end), holder

    # What is to do

    def _take(self, start: int, stop: int | None, now: float, *, is_ahead: bool = False) -> Claim:
        """Claim [start, stop), which lies in a gap."""
        self._todo.take(start, stop)
        claim = Claim(start, stop, now, start, is_ahead=is_ahead)
        self.active.add(claim)
        return claim

    def _claim_next(self, now: float) -> Claim | None:
        if not self._todo:
            return self._split(now)
        start, end = self._todo.first
        return self._take(start, self._cut(start, end), now)

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

"""Whatever happens to the connections, each byte is claimed once, and all are in the end."""

from dataclasses import dataclass, field

from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mirror.oci.ranges import ByteRange
from mirror.pull.fill.claims import Claim
from mirror.pull.fill.plan import Plan
from mirror.pull.fill.wants import Want, Wants
from mirror.storage import extents

KIB = 2**10
SEGMENT = 256 * KIB
LARGEST = 8 * 2**20


@dataclass
class _Connection:
    claim: Claim
    stop: int  # of its body, where ranges are sent
    is_all: bool  # asked for without a range
    answered: bool = False


@dataclass
class _Download:
    """What the fill does with a plan, byte by byte."""

    plan: Plan
    size: int
    told_size: bool
    sends_ranges: bool
    got: extents.Extents  # which bytes have come
    connections: list[_Connection] = field(default_factory=list)

    has_begun: bool = False
    came_twice: bool = False

    def connect(self, now: float, *, least: bool = False) -> bool:
        claim = self.plan.claim_least(now=now) if least else self.plan.claim(now=now)
        if claim is not None:
            is_all = self.plan.is_whole(claim)
            stop = self.size if is_all or claim.stop is None else min(self.size, claim.stop)
            self.connections.append(_Connection(claim, stop, is_all))
        return claim is not None

    def answer(self, connection: _Connection, now: float) -> bool:
        """False: this connection is of no use."""
        if connection.answered:
            return True
        claim = connection.claim
        connection.answered = True
        ignores = not self.sends_ranges and not connection.is_all
        if len(self.plan.active) > 1 and (ignores or connection.is_all):
            if ignores:
                self.plan.forgo_ranges(claim, now=now)
            self.drop(connection, now)
            return False
        if ignores and self.plan.lacks_before(claim):
            self.plan.forgo_ranges(claim, now=now)
            self.drop(connection, now)
            return False
        self.has_begun = True
        told = self.size if self.told_size else None
        claim.body_stop = connection.stop if self.sends_ranges else told
        if ignores or connection.is_all:
            self.plan.take_rest(claim, told, ignores_ranges=ignores)
        else:
            self.plan.learn_size(self.size)
        return True

    def receive(self, connection: _Connection, length: int, now: float) -> None:
        claim = connection.claim
        stop = self.size if claim.stop is None else claim.stop
        end = min(claim.position + length, stop)
        new = [(claim.position, end)] if claim.position < end else []
        self.came_twice |= extents.missing(self.got, claim.position, end) != new
        self.got = extents.add(self.got, claim.position, end)
        claim.position = end
        if claim.stop is None and end == self.size:
            self.plan.end(claim)
        if claim.is_done:
            self.drop(connection, now)

    def drop(self, connection: _Connection, now: float) -> None:
        self.plan.release(connection.claim, now=now)
        self.connections.remove(connection)


class PlanMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    @initialize(
        is_whole=st.sampled_from([True, False]),
        size=st.sampled_from([1, SEGMENT + 1, LARGEST // 2, LARGEST - 77, LARGEST]),
        knows_size=st.booleans(),
        tells_size=st.booleans(),
        sends_ranges=st.sampled_from([True, True, True, False]),
        most=st.sampled_from([1, 1, 2, 4]),
        have=st.sets(st.integers(0, 31), max_size=4),
    )
    def begin(
        self,
        *,
        is_whole: bool,
        size: int,
        knows_size: bool,
        tells_size: bool,
        sends_ranges: bool,
        most: int,
        have: set[int],
    ) -> None:
        got: extents.Extents = ()
        missing: list[tuple[int, int | None]] = [(0, None)]
        if knows_size:
            for number in have:
                start = min(number * SEGMENT, size)
                got = extents.add(got, start, min(start + SEGMENT, size))
            missing = list(extents.missing(got, 0, size))
        known = size if knows_size else None
        self.wants = wants = Wants(is_whole=is_whole)
        self.mine: list[tuple[Want, int, int]] = []
        plan = Plan(missing, segment_size=SEGMENT, connections=most, size=known, wants=wants)
        self.most, self.always_ranges = most, sends_ranges
        self.download = _Download(plan, size, knows_size or tells_size, sends_ranges, got)

    @rule(seconds=st.sampled_from([0.1, 0.5, 5.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def connect(self) -> None:
        self._connect()

    def _connect(self) -> None:
        download = self.download
        # As in a fill: the others begin when the first has been answered.
        if not download.connections:
            if not download.connect(self.now) and not download.has_begun:
                download.connect(self.now, least=True)
        elif download.has_begun:
            calls = download.plan.calls(self.now)
            most = max(self.most, self.most + 1 if calls else 0)
            if len(download.connections) < most:
                download.connect(self.now)

    @rule(
        start=st.integers(0, LARGEST),
        length=st.integers(1, 100) | st.integers(1, 2 * SEGMENT),
        is_open=st.booleans(),
    )
    def want(self, start: int, length: int, *, is_open: bool) -> None:
        start %= self.download.size
        one = ByteRange(start) if is_open else ByteRange(start, start + length - 1)
        stop = self.download.size if is_open else min(self.download.size, start + length)
        want = Want([one])
        self.wants.add(want)
        self.mine.append((want, start, stop))
        self._connect()

    @rule(which=st.integers(0, 5))
    def leave(self, which: int) -> None:
        if self.mine:
            want, _, _ = self.mine.pop(which % len(self.mine))
            self.wants.discard(want)
            self.download.plan.let_go()
            for connection in [*self.download.connections]:
                if connection.claim.is_done:
                    self.download.drop(connection, self.now)

    @rule()
    def follow(self) -> None:
        self.wants.follow()
        self._connect()
        self.wants.unfollow()

    @rule(which=st.integers(0, 3), length=st.integers(1, 2 * SEGMENT))
    def receive(self, which: int, length: int) -> None:
        connection = self._connection(which)
        if connection and self.download.answer(connection, self.now):
            self.download.receive(connection, length, self.now)
        self._connect()

    @rule(which=st.integers(0, 3), is_other_kind=st.booleans())
    def cut(self, which: int, *, is_other_kind: bool) -> None:
        """The next answers may come from an endpoint that knows ranges where this does not."""
        if connection := self._connection(which):
            self.download.drop(connection, self.now)
            if is_other_kind:
                self.always_ranges = False
                self.download.sends_ranges = not self.download.sends_ranges

    @invariant()
    def nobody_fetches_what_another_fetches(self) -> None:
        download = self.download
        claimed: extents.Extents = ()
        for claim in download.plan.active:
            stop = download.size if claim.stop is None else min(claim.stop, download.size)
            if claim.position < stop:
                assert extents.missing(claimed, claim.position, stop) == [(claim.position, stop)]
                claimed = extents.add(claimed, claim.position, stop)

    @invariant()
    def a_byte_comes_twice_only_where_upstream_sends_everything(self) -> None:
        if self.always_ranges:
            assert not self.download.came_twice

    def teardown(self) -> None:
        if not hasattr(self, "download"):
            return
        download = self.download
        plan = download.plan
        for _ in range(10_000):
            if plan.is_complete or not (download.connections or plan.is_wanted(self.now)):
                break
            if not download.connections:
                assert download.connect(self.now)
            elif download.answer(download.connections[0], self.now):
                download.receive(download.connections[0], SEGMENT, self.now)
        for _, start, stop in self.mine:
            assert not extents.missing(download.got, start, stop)
        if self.wants.is_whole:
            assert plan.is_complete
            assert not extents.missing(download.got, 0, download.size)

    def _connection(self, which: int) -> _Connection | None:
        connections = self.download.connections
        return connections[which % len(connections)] if connections else None


PlanMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestPlan = PlanMachine.TestCase


@given(st.integers(0, 2 * LARGEST), st.integers(1, 8), st.floats(0, 100))
def test_undisturbed_claims_follow_each_other_and_cover_everything(
    size: int, connections: int, pace: float
) -> None:
    missing: list[tuple[int, int | None]] = [(0, size)] if size else []
    wants = Wants(is_whole=True)
    plan = Plan(missing, segment_size=SEGMENT, connections=connections, size=size, wants=wants)
    now, end = 0.0, 0
    while (claim := plan.claim(now=now)) is not None:
        assert claim.start == end
        assert claim.stop is not None
        end = claim.position = claim.stop
        now += pace
        plan.release(claim, now=now)
    assert end == size
    assert plan.is_complete

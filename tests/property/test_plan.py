"""Whatever happens to the connections, each byte is claimed once, and all are in the end."""

from dataclasses import dataclass, field

from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mirror.pull.fill.plan import Claim, Plan
from mirror.pull.fill.wants import Wants

SEGMENT = 10


@dataclass
class _Connection:
    claim: Claim
    answered: bool = False


@dataclass
class _Download:
    """What the fill does with a plan, byte by byte."""

    plan: Plan
    size: int
    told_size: bool
    sends_ranges: bool
    got: list[int]  # how often each byte has come
    connections: list[_Connection] = field(default_factory=list)

    def connect(self, now: float) -> None:
        claim = self.plan.claim(now=now)
        if claim is not None:
            self.connections.append(_Connection(claim))

    def answer(self, connection: _Connection, now: float) -> bool:
        """False: this connection is of no use."""
        if connection.answered:
            return True
        connection.answered = True
        if self.sends_ranges:
            self.plan.learn_size(connection.claim, self.size)
        elif len(self.plan.active) > 1:
            self.drop(connection, now)
            return False
        else:
            self.plan.take_rest(connection.claim, self.size if self.told_size else None)
        return True

    def receive(self, connection: _Connection, length: int, now: float) -> None:
        claim = connection.claim
        stop = self.size if claim.stop is None else claim.stop
        end = min(claim.position + length, stop)
        for position in range(claim.position, end):
            self.got[position] += 1
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
        size=st.integers(1, 200),
        knows_size=st.booleans(),
        tells_size=st.booleans(),
        sends_ranges=st.booleans(),
        most=st.integers(1, 4),
        have=st.sets(st.integers(0, 19)),
    )
    def begin(
        self,
        *,
        size: int,
        knows_size: bool,
        tells_size: bool,
        sends_ranges: bool,
        most: int,
        have: set[int],
    ) -> None:
        got = [0] * size
        missing: list[tuple[int, int | None]] = [(0, None)]
        if knows_size:
            got = [int(position // SEGMENT in have) for position in range(size)]
            missing = list(_gaps(got))
        known = size if knows_size else None
        wants = Wants(is_whole=True)
        plan = Plan(missing, segment_size=SEGMENT, connections=most, size=known, wants=wants)
        self.most, self.always_ranges = most, sends_ranges
        self.download = _Download(plan, size, knows_size or tells_size, sends_ranges, got)

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def connect(self) -> None:
        download = self.download
        # As in a fill: the others begin when the first has been answered.
        first = not download.connections
        if first or (
            len(download.connections) < self.most and any(c.answered for c in download.connections)
        ):
            download.connect(self.now)

    @rule(which=st.integers(0, 3), length=st.integers(1, 60))
    def receive(self, which: int, length: int) -> None:
        connection = self._connection(which)
        if connection and self.download.answer(connection, self.now):
            self.download.receive(connection, length, self.now)

    @rule()
    def fail_over(self) -> None:
        """The next answers come from another endpoint, which knows ranges, or does not."""
        self.always_ranges = False
        self.download.sends_ranges = not self.download.sends_ranges

    @rule(which=st.integers(0, 3))
    def cut(self, which: int) -> None:
        if connection := self._connection(which):
            self.download.drop(connection, self.now)

    @invariant()
    def nobody_fetches_what_another_fetches(self) -> None:
        download = self.download
        claimed: set[int] = set()
        for claim in download.plan.active:
            left = set(range(claim.position, claim.stop or download.size))
            assert not left & claimed
            claimed |= left

    @invariant()
    def a_byte_comes_twice_only_where_upstream_sends_everything(self) -> None:
        if self.always_ranges:
            assert max(self.download.got, default=0) <= 1

    def teardown(self) -> None:
        if not hasattr(self, "download"):
            return
        download = self.download
        for _ in range(10_000):
            if download.plan.is_complete:
                break
            if not download.connections:
                download.connect(self.now)
            elif download.answer(download.connections[0], self.now):
                download.receive(download.connections[0], 60, self.now)
        assert download.plan.is_complete
        assert min(download.got, default=1) >= 1

    def _connection(self, which: int) -> _Connection | None:
        connections = self.download.connections
        return connections[which % len(connections)] if connections else None


PlanMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
TestPlan = PlanMachine.TestCase


@given(st.integers(0, 10_000), st.integers(1, 8), st.floats(0, 100))
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


def _gaps(got: list[int]) -> list[tuple[int, int]]:
    gaps: list[tuple[int, int]] = []
    for position, count in enumerate(got):
        if count:
            continue
        if gaps and gaps[-1][1] == position:
            gaps[-1] = (gaps[-1][0], position + 1)
        else:
            gaps.append((position, position + 1))
    return gaps

from mirror.oci.ranges import ByteRange
from mirror.pull.fill.claims import Claim
from mirror.pull.fill.plan import Plan
from mirror.pull.fill.wants import Want, Wants

SEGMENT = 100
MIB = 2**20
BLOCK = 4096


def _plan(*missing: tuple[int, int | None], connections: int = 4) -> Plan:
    size = missing[-1][1]
    wants = Wants(is_whole=True)
    return Plan(
        list(missing), segment_size=SEGMENT, connections=connections, size=size, wants=wants
    )


def _claim(plan: Plan, now: float = 0) -> Claim:
    claim = plan.claim(now=now)
    assert claim is not None
    return claim


def _range(claim: Claim) -> tuple[int, int | None]:
    return claim.start, claim.stop


def test_a_small_blob_is_one_claim() -> None:
    plan = _plan((0, 199))
    assert _range(_claim(plan)) == (0, 199)
    assert plan.waiting == 0


def test_a_large_blob_is_claimed_from_its_start_since_readers_wait_for_that() -> None:
    plan = _plan((0, 1000))
    assert [_range(_claim(plan)) for _ in range(3)] == [(0, 100), (100, 200), (200, 300)]
    assert plan.waiting == 7


def test_with_one_connection_a_blob_is_never_cut() -> None:
    assert _range(_claim(_plan((0, 100_000), connections=1))) == (0, 100_000)


def test_no_claim_is_left_that_is_smaller_than_a_segment() -> None:
    plan = _plan((0, 250))
    assert _range(_claim(plan)) == (0, 100)
    assert _range(_claim(plan)) == (100, 250)
    assert plan.claim(now=0) is None


def test_where_the_size_is_unknown_the_first_claim_finds_it_out() -> None:
    plan = _plan((0, None))
    first = _claim(plan)
    assert _range(first) == (0, 200)
    plan.learn_size(1000)
    assert _range(first) == (0, 200)
    assert _range(_claim(plan)) == (200, 300)


def test_a_blob_that_turns_out_to_be_small_was_asked_for_once() -> None:
    plan = _plan((0, None))
    first = _claim(plan)
    plan.learn_size(50)
    assert _range(first) == (0, 50)
    assert plan.claim(now=0) is None
    first.position = 50
    plan.release(first, now=1)
    assert plan.is_complete


def test_a_size_that_becomes_known_while_two_fetch_cuts_both_claims() -> None:
    plan = _plan((0, None))
    first, second = _claim(plan), _claim(plan)
    assert _range(second) == (200, 400)
    plan.learn_size(250)
    assert [_range(first), _range(second)] == [(0, 200), (200, 250)]
    assert plan.waiting == 0


def test_what_a_broken_claim_has_left_comes_next() -> None:
    plan = _plan((0, 1000))
    first, _ = _claim(plan), _claim(plan)
    first.position = 30
    plan.release(first, now=1)
    assert _range(_claim(plan)) == (30, 100)


def test_upstream_without_ranges_sends_everything_to_one_claim() -> None:
    plan = _plan((0, 1000))
    first = _claim(plan)
    plan.take_rest(first, 1000)
    assert _range(first) == (0, 1000)
    assert plan.waiting == 0


def test_a_claim_that_upstream_cannot_share_is_not_split() -> None:
    plan = _plan((0, 1000))
    first = _claim(plan)
    plan.take_rest(first, 1000)
    first.position = 10
    assert plan.claim(now=100) is None


def test_what_broke_before_a_claim_that_takes_the_rest_is_not_forgotten() -> None:
    plan = _plan((0, 1000))
    first, second = _claim(plan), _claim(plan)
    first.position = 40
    plan.release(first, now=1)
    plan.take_rest(second, 1000)
    assert _range(second) == (100, 1000)
    assert _range(_claim(plan)) == (40, 100)


def test_a_body_of_unknown_size_ends_where_it_ends() -> None:
    plan = _plan((0, None), connections=1)
    first = _claim(plan)
    plan.take_rest(first, None)
    first.position = 77
    assert not first.is_done
    plan.end(first)
    plan.release(first, now=1)
    assert plan.is_complete


def test_a_body_of_unknown_size_that_breaks_is_continued_to_its_end() -> None:
    plan = _plan((0, None))
    first = _claim(plan)
    plan.take_rest(first, None)
    first.position = 77
    plan.release(first, now=1)
    assert _claim(plan).start == 77


def test_near_the_end_half_of_the_slowest_claim_is_taken_over() -> None:
    plan = _plan((0, 290))
    slow, fast = _claim(plan), _claim(plan)
    slow.position, fast.position = 20, 290
    plan.release(fast, now=10)
    assert _range(_claim(plan, now=10)) == (60, 100)
    assert _range(slow) == (0, 60)


def test_a_claim_that_is_as_good_as_done_is_left_alone() -> None:
    plan = _plan((0, 290))
    slow, fast = _claim(plan), _claim(plan)
    slow.position, fast.position = 90, 290
    plan.release(fast, now=10)
    assert plan.claim(now=10) is None


def test_a_young_claim_is_thought_as_fast_as_the_one_before() -> None:
    plan = _plan((0, 290))
    first, second = _claim(plan), _claim(plan)
    first.position = 100
    plan.release(first, now=50)  # 2 bytes a second
    late = plan.claim(now=50)
    assert late is not None  # of `second`, with 190 bytes left
    late.position = late.start + 1
    assert second.stop == late.start
    assert plan.claim(now=51) is not None


def test_claims_grow_with_the_rate_so_that_a_fast_line_is_asked_rarely() -> None:
    plan = _plan((0, 100_000))
    first = _claim(plan)
    first.position = 100
    plan.release(first, now=0.1)
    start, stop = _range(_claim(plan, now=0.1))
    assert (start, stop) == (100, 100 + 4000)


# What is wanted


def _large(
    size: int | None = 64 * MIB, *, connections: int = 4, is_whole: bool = True
) -> tuple[Plan, Wants]:
    wants = Wants(is_whole=is_whole)
    plan = Plan([(0, size)], segment_size=8 * MIB, connections=connections, size=size, wants=wants)
    return plan, wants


def _want(wants: Wants, start: int, length: int | None = None) -> Want:
    want = Want([ByteRange(start, None if length is None else start + length - 1)])
    wants.add(want)
    return want


def test_what_a_reader_wants_far_ahead_is_claimed_first_in_whole_blocks() -> None:
    plan, wants = _large()
    _want(wants, 40 * MIB + 10, 51)
    assert _range(_claim(plan)) == (40 * MIB, 40 * MIB + BLOCK)
    assert _range(_claim(plan)) == (0, 8 * MIB)


def test_what_is_wanted_at_the_end_stops_there() -> None:
    plan, wants = _large(64 * MIB + 77)
    _want(wants, 64 * MIB + 26, 51)
    assert _range(_claim(plan)) == (64 * MIB, 64 * MIB + 77)


def test_a_suffix_is_wanted_as_soon_as_the_size_is_known() -> None:
    plan, wants = _large(None)
    wants.add(Want([ByteRange(suffix=51)]))
    first = _claim(plan)
    assert _range(first) == (0, 16 * MIB)
    plan.learn_size(64 * MIB)
    assert _range(_claim(plan)) == (64 * MIB - BLOCK, 64 * MIB)


def test_a_claim_leaves_what_is_wanted_in_its_midst_and_what_follows_to_others() -> None:
    plan, wants = _large(connections=1)
    first = _claim(plan)
    first.position = 1000
    _want(wants, 32 * MIB, BLOCK)
    assert plan.calls(0) == 1
    assert _range(_claim(plan, now=1)) == (32 * MIB, 32 * MIB + BLOCK)
    assert _range(first) == (0, 32 * MIB)
    first.position = 32 * MIB
    plan.release(first, now=2)
    assert _range(_claim(plan, now=2)) == (32 * MIB + BLOCK, 64 * MIB)


def test_what_a_claim_is_about_to_bring_is_not_asked_for_again() -> None:
    plan, wants = _large(connections=1)
    first = _claim(plan)
    first.position = 4 * MIB
    _want(wants, 5 * MIB, BLOCK)
    assert not plan.calls(1)  # 4 MiB a second: there in a quarter of one
    assert plan.calls(100)  # it has slowed down


def test_readers_of_ranges_take_turns_segment_by_segment() -> None:
    plan, wants = _large()
    _want(wants, 30 * MIB)
    _want(wants, 50 * MIB, 10 * MIB)
    order = [_range(_claim(plan, now=1)) for _ in range(4)]
    assert order == [
        (30 * MIB, 38 * MIB),
        (0, 8 * MIB),  # neither do they keep all connections from what comes in order
        (50 * MIB, 58 * MIB),
        (38 * MIB, 46 * MIB),
    ]


def test_who_reads_in_order_keeps_no_more_than_half_of_the_connections_from_ranges() -> None:
    plan, wants = _large()
    want = _want(wants, 60 * MIB, BLOCK)
    wants.follow()
    wanted = _claim(plan)
    assert [_range(_claim(plan)) for _ in range(2)] == [(0, 8 * MIB), (8 * MIB, 16 * MIB)]
    assert plan.claim(now=0) is None
    wants.discard(want)
    wanted.position = 60 * MIB + BLOCK
    plan.release(wanted, now=0)
    assert plan.claim(now=5) is None
    assert _range(_claim(plan, now=20)) == (16 * MIB, 24 * MIB)  # nobody has wanted any for long


def test_where_nobody_waits_for_the_rest_it_takes_one_connection_beside_ranges() -> None:
    plan, wants = _large()
    _want(wants, 60 * MIB, BLOCK)
    assert [_claim(plan).start for _ in range(2)] == [60 * MIB, 0]
    assert plan.claim(now=0) is None


def test_what_is_not_wanted_is_left_alone_where_the_rest_is_not_to_follow() -> None:
    plan, wants = _large(is_whole=False)
    _want(wants, 40 * MIB, 3 * BLOCK)
    claim = _claim(plan)
    assert _range(claim) == (40 * MIB, 40 * MIB + 3 * BLOCK)
    assert plan.claim(now=0) is None
    claim.position = 40 * MIB + 3 * BLOCK
    plan.release(claim, now=1)
    assert not plan.is_wanted(1)
    assert not plan.is_complete
    wants.want_whole()
    assert _range(_claim(plan)) == (0, 8 * MIB)


def test_what_is_fetched_for_nobody_any_more_is_let_go() -> None:
    plan, wants = _large(is_whole=False)
    want, other = _want(wants, 40 * MIB), _want(wants, 44 * MIB, MIB)
    claim = _claim(plan)
    claim.position = 41 * MIB
    wants.discard(want)
    plan.let_go()
    assert _range(claim) == (40 * MIB, 48 * MIB)  # the other reader has a part of it
    wants.discard(other)
    plan.let_go()
    assert _range(claim) == (40 * MIB, 41 * MIB)
    plan.release(claim, now=1)
    _want(wants, 40 * MIB, 2 * MIB)
    assert _range(_claim(plan)) == (41 * MIB, 42 * MIB)  # what has come of it is there


def test_ranges_of_one_request_that_lie_together_come_together() -> None:
    plan, wants = _large(is_whole=False)
    starts = range(10 * MIB, 10 * MIB + 50 * BLOCK, BLOCK)
    wants.add(Want([ByteRange(start, start + 3000) for start in starts] + [ByteRange(0, 9)]))
    assert _range(_claim(plan)) == (10 * MIB, 10 * MIB + 50 * BLOCK)
    assert _range(_claim(plan)) == (0, BLOCK)


def test_a_blob_in_many_pieces_is_not_cut_into_still_more() -> None:
    gaps = [(n * MIB, n * MIB + MIB // 2) for n in range(2000)]
    wants = Wants(is_whole=False)
    plan = Plan([*gaps], segment_size=MIB // 4, connections=4, size=2000 * MIB, wants=wants)
    _want(wants, 100 * MIB + 10, 1)
    assert _range(_claim(plan)) == (100 * MIB, 100 * MIB + MIB // 4)


def test_who_ignores_ranges_has_back_what_was_taken_for_one() -> None:
    plan, wants = _large(connections=1)
    first = _claim(plan)
    plan.take_rest(first, 64 * MIB, ignores_ranges=False)
    first.body_stop = 64 * MIB
    _want(wants, 32 * MIB, BLOCK)
    plan.forgo_ranges(_claim(plan, now=1), now=1)
    assert first.left == 64 * MIB
    assert not plan.calls(2)

from mirror.pull.fill.plan import Claim, Plan
from mirror.pull.fill.wants import Wants

SEGMENT = 100


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
    plan.learn_size(first, 1000)
    assert _range(first) == (0, 200)
    assert _range(_claim(plan)) == (200, 300)


def test_a_blob_that_turns_out_to_be_small_was_asked_for_once() -> None:
    plan = _plan((0, None))
    first = _claim(plan)
    plan.learn_size(first, 50)
    assert _range(first) == (0, 50)
    assert plan.claim(now=0) is None
    first.position = 50
    plan.release(first, now=1)
    assert plan.is_complete


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

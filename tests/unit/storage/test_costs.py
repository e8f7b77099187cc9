from mirror.storage.costs import MOST, Costs

MIB = 2**20
FAST, SLOW, SLOWER, NEW = "fast.example", "slow.example", "slower.example", "new.example"


def test_what_comes_slowly_is_dear_beside_the_fastest_up_to_a_bound() -> None:
    costs = Costs()
    assert costs.slowness(NEW) == 1.0
    for upstream, seconds in ((FAST, 1.0), (SLOW, 2.0), (SLOWER, 1_000.0)):
        costs.note(upstream, 10 * MIB, seconds)
    found = [costs.slowness(upstream) for upstream in (FAST, SLOW, SLOWER, NEW)]
    assert found == [1.0, 2.0, MOST, 1.0]


def test_an_upstream_that_becomes_faster_becomes_cheaper() -> None:
    costs = Costs()
    costs.note(FAST, 10 * MIB, 1.0)
    costs.note(SLOW, 10 * MIB, 4.0)
    before = costs.slowness(SLOW)
    for _ in range(20):
        costs.note(SLOW, 10 * MIB, 1.0)
    assert 1.0 <= costs.slowness(SLOW) < before / 2


def test_what_is_small_or_took_no_time_tells_nothing() -> None:
    costs = Costs()
    costs.note(FAST, 10 * MIB, 1.0)
    costs.note(SLOW, 1000, 10.0)
    costs.note(SLOW, 10 * MIB, 0.0)
    costs.note(SLOW, 10 * MIB, -5.0)  # the clock was set back
    assert costs.slowness(SLOW) == 1.0

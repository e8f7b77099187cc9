"""That what `tests/bench/simulate` plays is what it says."""

import pytest

from tests.bench.simulate import fleet
from tests.bench.simulate.__main__ import columns, play, table
from tests.bench.simulate.mirrors import ALL, MIRRORS
from tests.bench.simulate.trace import SHAPES, Shape, generate

SMALL = [shape.scaled(0.003) for shape in SHAPES]


@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: shape.name)
def test_no_rule_fetches_less_than_all_once_nor_the_future_more_than_others(shape: Shape) -> None:
    trace = generate(shape, 1)
    footprint = trace.footprint
    found = {
        name: play(trace, make(trace, footprint // 10), after=-1.0, footprint=footprint)
        for name, make in ALL.items()
    }
    assert all(outcome.fetched >= 0.99 for outcome in found.values())
    assert (
        min(found.values(), key=lambda outcome: outcome.fetched)
        == found["Belady (cannot be built)"]
    )
    unbounded = play(trace, ALL[MIRRORS](trace, footprint), after=-1.0, footprint=footprint)
    assert unbounded.fetched == pytest.approx(1.0)


def test_the_same_seed_gives_the_same_table_and_scans_cost_the_mirror_less_than_lru() -> None:
    found = list(columns(iter(SMALL), 1, lambda: None))
    assert table(found) == table(list(columns(iter(SMALL), 1, lambda: None)))
    (scans,) = [column for column in found if column.name == "with scans"]
    ours, lru = scans.rows[MIRRORS], scans.rows["LRU, manifests last"]
    assert ours[0].fetched < 0.95 * lru[0].fetched


def test_many_mirrors_take_one_blob_from_upstream_once_also_where_one_is_killed() -> None:
    size = 128 * 2**20
    whole = fleet.simulate(20, size, killed_after=None, seed=1)
    assert whole.upstream == size
    assert all(mirror.is_done for mirror in whole.mirrors)
    killed = fleet.simulate(20, size, killed_after=0.9, seed=1)
    assert sum(mirror.is_dead for mirror in killed.mirrors) == 1
    assert size <= killed.upstream < 1.1 * size

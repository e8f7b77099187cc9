"""The tables of states by themselves: no file, no loop."""

import pytest

from mirror.oci.digest import digest_of
from mirror.storage.open_files import OpenFiles
from mirror.storage.space import Promise
from mirror.storage.states import PartialEntry, PartialKey, States

DIGEST = digest_of(b"x")
KEY, OTHER = PartialKey("docker.io", DIGEST), PartialKey("quay.io", DIGEST)


def _idle(states: States, key: PartialKey = KEY, *, since: float = 0.0) -> PartialEntry:
    return states.add_idle(key, Promise(10, 10), since=since)


def test_an_idle_partial_goes_to_the_first_who_takes_it() -> None:
    states = States(OpenFiles())
    partial = _idle(states)
    assert states.list_expired(now=100, after=10) == [partial]
    assert states.list_evictable() == [partial]
    states.begin_removal(partial)
    assert states.list_expired(now=100, after=10) == []
    assert states.list_evictable() == []
    change = states.find_change_of_partial(KEY)
    assert change is not None  # whoever wants to write it waits
    woken: list[bool] = []
    change.then(lambda: woken.append(True))
    states.end_removal(partial)
    assert woken == [True]
    assert states.find_change_of_partial(KEY) is None


def test_a_partial_that_is_continued_is_nobody_elses_to_remove() -> None:
    states = States(OpenFiles())
    partial = _idle(states)
    assert states.begin_writer(KEY) is partial
    assert states.list_expired(now=100, after=10) == []
    with pytest.raises(AssertionError):
        states.begin_removal(partial)


def test_two_upstreams_partials_of_one_digest_are_two() -> None:
    states = States(OpenFiles())
    mine, its = states.begin_writer(KEY), states.begin_writer(OTHER)
    assert mine is not its
    assert states.is_written(KEY)
    states.end_opening_of_writer(mine)
    states.begin_commit(mine)
    assert states.find_change(DIGEST) is not None
    states.end_commit(mine, is_stored=True)
    assert its.is_superseded
    assert not mine.is_superseded


def test_nothing_is_remembered_of_what_is_at_rest() -> None:
    states = States(OpenFiles())
    partial = states.begin_writer(KEY)
    states.end_opening_of_writer(partial)
    states.begin_suspend(partial)
    assert not states.end_suspend(partial, now=1.0)  # nothing was written
    states.begin_removal(partial)
    states.end_removal(partial)
    states.close_writer(partial, is_ended=True, now=1.0)
    assert repr(states) == "<States: 0 digests, <OpenFiles: 0 read, 0 pooled>>"


def test_a_clock_that_was_set_back_makes_no_partial_live_longer() -> None:
    states = States(OpenFiles())
    partial = _idle(states, since=1000.0)
    assert states.list_expired(now=0.0, after=10) == []
    assert states.list_expired(now=11.0, after=10) == [partial]

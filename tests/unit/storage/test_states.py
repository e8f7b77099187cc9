"""The tables of states by themselves: no file, no loop."""

import io
import tempfile
from collections.abc import Iterator

import pytest

from mirror.oci.digest import digest_of
from mirror.storage.space import Promise
from mirror.storage.states import BlobFile, PartialEntry, PartialKey, States

DIGEST = digest_of(b"x")
KEY, OTHER = PartialKey("docker.io", DIGEST), PartialKey("quay.io", DIGEST)


@pytest.fixture
def file() -> Iterator[io.FileIO]:
    with tempfile.NamedTemporaryFile() as made, io.FileIO(made.name) as opened:
        yield opened


def _blob(file: io.FileIO) -> BlobFile:
    return BlobFile(DIGEST, file, 1, lambda _: None)


def _opened(states: States, file: io.FileIO) -> BlobFile:
    blob = _blob(file)
    assert states.end_opening(states.begin_opening(DIGEST), blob, has_outcome=True)
    return blob


def _idle(states: States, key: PartialKey = KEY, *, since: float = 0.0) -> PartialEntry:
    return states.add_idle(key, Promise(10, 10), since=since)


def test_an_idle_partial_goes_to_the_first_who_takes_it(file: io.FileIO) -> None:
    del file
    states = States()
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
    states = States()
    partial = _idle(states)
    assert states.begin_writer(KEY) is partial
    assert states.list_expired(now=100, after=10) == []
    with pytest.raises(AssertionError):
        states.begin_removal(partial)


def test_two_upstreams_partials_of_one_digest_are_two() -> None:
    states = States()
    mine, its = states.begin_writer(KEY), states.begin_writer(OTHER)
    assert mine is not its
    assert states.is_written(KEY)
    states.end_opening_of_writer(mine)
    states.begin_commit(mine)
    assert states.find_change(DIGEST) is not None
    states.end_commit(mine, is_stored=True)
    assert its.is_superseded
    assert not mine.is_superseded


def test_what_is_read_or_about_to_be_is_in_use_until_it_is_closed(file: io.FileIO) -> None:
    states = States()
    assert not states.is_in_use(DIGEST)
    opening = states.begin_opening(DIGEST)
    assert states.is_in_use(DIGEST)
    blob = _blob(file)
    assert states.end_opening(opening, blob, has_outcome=True)
    assert states.take(DIGEST) is blob
    assert states.release(blob) == []
    assert states.is_in_use(DIGEST)
    assert states.release(blob) == []
    assert not states.is_in_use(DIGEST)
    assert states.take(DIGEST) is blob  # the file was pooled


def test_the_pool_closes_what_was_used_least_recently(file: io.FileIO) -> None:
    states = States(most_pooled=0)
    blob = _opened(states, file)
    assert states.release(blob) == [blob]
    assert states.take(DIGEST) is None


def test_what_is_dropped_while_it_is_read_is_closed_by_its_last_reader(file: io.FileIO) -> None:
    states = States()
    blob = _opened(states, file)
    assert states.begin_leaving([DIGEST]) == []
    assert states.is_leaving(DIGEST)
    assert states.take(DIGEST) is None
    states.end_leaving([DIGEST])
    assert states.release(blob) == [blob]


def test_an_opening_that_is_overtaken_by_a_drop_means_nothing(file: io.FileIO) -> None:
    states = States()
    opening = states.begin_opening(DIGEST)
    states.begin_leaving([DIGEST])
    assert not states.end_opening(opening, _blob(file), has_outcome=True)
    states.end_leaving([DIGEST])
    assert not states.is_in_use(DIGEST)


def test_nothing_is_remembered_of_what_is_at_rest(file: io.FileIO) -> None:
    states = States()
    partial = states.begin_writer(KEY)
    states.end_opening_of_writer(partial)
    states.begin_suspend(partial)
    assert not states.end_suspend(partial, now=1.0)  # nothing was written
    states.begin_removal(partial)
    states.end_removal(partial)
    states.close_writer(partial, is_ended=True, now=1.0)
    states.release(_opened(states, file))
    states.close_pool()
    assert repr(states) == "<States: 0 digests, 0 files pooled>"


def test_a_clock_that_was_set_back_makes_no_partial_live_longer() -> None:
    states = States()
    partial = _idle(states, since=1000.0)
    assert states.list_expired(now=0.0, after=10) == []
    assert states.list_expired(now=11.0, after=10) == [partial]

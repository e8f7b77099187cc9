"""Open files and their pool, and what they have to do with the states: no loop."""

import io
import tempfile
from collections.abc import Iterator

import pytest

from mirror.oci.digest import digest_of
from mirror.storage.open_files import BlobFile, OpenFiles
from mirror.storage.states import PartialKey, States

DIGEST = digest_of(b"x")
KEY = PartialKey("docker.io", DIGEST)


@pytest.fixture
def file() -> Iterator[io.FileIO]:
    with tempfile.NamedTemporaryFile() as made, io.FileIO(made.name) as opened:
        yield opened


def _blob(file: io.FileIO) -> BlobFile:
    return BlobFile(DIGEST, file, 1, lambda _: None)


def _opened(files: OpenFiles, file: io.FileIO) -> BlobFile:
    blob = _blob(file)
    assert files.end_opening(files.begin_opening(DIGEST), blob, has_outcome=True)
    return blob


def _commit(states: States) -> list[BlobFile]:
    partial = states.begin_writer(KEY)
    states.end_opening_of_writer(partial)
    states.begin_commit(partial)
    closing = states.end_commit(partial, is_stored=True)
    states.close_writer(partial, is_ended=True, now=0.0)
    return closing


def test_what_is_read_or_about_to_be_is_in_use_until_it_is_closed(file: io.FileIO) -> None:
    files = OpenFiles()
    states = States(files)
    assert not states.is_in_use(DIGEST)
    assert not states.are_busy()
    opening = files.begin_opening(DIGEST)
    assert states.is_in_use(DIGEST)
    assert states.list_in_use() == [DIGEST]
    blob = _blob(file)
    assert files.end_opening(opening, blob, has_outcome=True)
    assert files.take(DIGEST) is blob
    assert files.release(blob) == []
    assert states.is_in_use(DIGEST)
    assert states.list_in_use() == [DIGEST]
    assert states.are_busy()
    assert files.release(blob) == []
    assert not states.is_in_use(DIGEST)
    assert states.list_in_use() == []
    assert not states.are_busy()
    assert files.take(DIGEST) is blob  # the file was pooled
    assert states.is_in_use(DIGEST)


def test_the_pool_closes_what_was_used_least_recently(file: io.FileIO) -> None:
    files = OpenFiles(most_pooled=0)
    blob = _opened(files, file)
    assert files.release(blob) == [blob]
    assert files.take(DIGEST) is None


def test_what_is_dropped_while_it_is_read_is_closed_by_its_last_reader(file: io.FileIO) -> None:
    files = OpenFiles()
    states = States(files)
    blob = _opened(files, file)
    assert states.begin_leaving([DIGEST]) == []
    assert states.is_leaving(DIGEST)
    assert files.take(DIGEST) is None
    states.end_leaving([DIGEST])
    assert files.release(blob) == [blob]


def test_what_is_replaced_while_it_is_read_is_shared_and_in_use_yet(file: io.FileIO) -> None:
    files = OpenFiles()
    states = States(files)
    blob = _opened(files, file)
    assert _commit(states) == []
    assert states.is_in_use(DIGEST)
    assert files.take(DIGEST) is blob


def test_what_is_replaced_while_it_is_read_is_closed_by_its_last_reader(file: io.FileIO) -> None:
    files = OpenFiles()
    states = States(files)
    blob = _opened(files, file)
    assert _commit(states) == []
    assert files.take(DIGEST) is blob
    assert files.release(blob) == []
    assert files.release(blob) == [blob]  # else its room on the disk would be taken yet
    assert files.take(DIGEST) is None
    assert not states.is_in_use(DIGEST)


def test_a_pooled_file_that_is_replaced_or_dropped_is_closed(file: io.FileIO) -> None:
    files = OpenFiles()
    states = States(files)
    blob = _opened(files, file)
    assert files.release(blob) == []
    assert _commit(states) == [blob]
    assert files.take(DIGEST) is None
    blob = _opened(files, file)
    assert files.release(blob) == []
    assert states.begin_leaving([DIGEST]) == [blob]
    assert files.take(DIGEST) is None


def test_an_opening_that_is_overtaken_by_a_drop_means_nothing(file: io.FileIO) -> None:
    files = OpenFiles()
    states = States(files)
    opening = files.begin_opening(DIGEST)
    states.begin_leaving([DIGEST])
    assert not files.end_opening(opening, _blob(file), has_outcome=True)
    states.end_leaving([DIGEST])
    assert not states.is_in_use(DIGEST)


def test_nothing_is_remembered_of_what_is_closed(file: io.FileIO) -> None:
    files = OpenFiles()
    blob = _opened(files, file)
    assert files.release(blob) == []
    assert files.close_pool() == [blob]
    assert repr(files) == "<OpenFiles: 0 read, 0 pooled>"

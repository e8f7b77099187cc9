import hashlib
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from mirror.oci.digest import Digest, digest_of
from mirror.storage import partial as partials
from mirror.storage.partial import Partial
from tests.unit.storage.opening import content

DATA = content(20_000)
Open = Callable[[], Partial]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sha256-blob"


@pytest.fixture
def open_partial(path: Path) -> Iterator[Open]:
    """Each call is as good as a new process: the one before has closed nothing and said nothing."""
    with ExitStack() as stack:

        def start() -> Partial:
            partial = Partial(digest_of(DATA), path)
            stack.callback(partial.close)
            return partial

        yield start


def _write(partial: Partial, start: int, end: int) -> None:
    partial.write(start, [DATA[start:end]])


def test_bytes_in_order_are_hashed_as_they_come(open_partial: Open) -> None:
    partial = open_partial()
    for start in range(0, 20_000, 5_000):
        _write(partial, start, start + 5_000)
        assert partial.hashed == start + 5_000
    assert partial.is_proved(20_000)
    assert partial.is_proved(None)
    assert partial.file.readall() == DATA


def test_bytes_beyond_a_gap_are_hashed_when_it_closes(open_partial: Open) -> None:
    partial = open_partial()
    _write(partial, 10_000, 20_000)
    assert partial.hashed == 0
    _write(partial, 0, 4_000)
    assert partial.hashed == 4_000
    assert not partial.is_proved(None)
    _write(partial, 4_000, 10_000)
    assert partial.hashed == 20_000
    assert partial.is_proved(20_000)


def test_a_vector_of_any_length_is_written(open_partial: Open) -> None:
    partial = open_partial()
    partial.write(0, [b"", *(DATA[i : i + 7] for i in range(0, 20_000, 7)), b""])
    assert partial.is_proved(20_000)
    assert partial.file.readall() == DATA


def test_sha512_is_proved_as_well(path: Path) -> None:
    partial = Partial(Digest("sha512", hashlib.sha512(DATA).hexdigest()), path)
    _write(partial, 0, 20_000)
    assert partial.is_proved(20_000)
    partial.close()


def test_other_bytes_prove_nothing(open_partial: Open) -> None:
    partial = open_partial()
    partial.write(0, [DATA[:-1], b"?"])
    assert partial.hashed == 20_000
    assert not partial.is_proved(20_000)


def test_too_few_bytes_prove_nothing(open_partial: Open) -> None:
    partial = open_partial()
    _write(partial, 0, 20_000)
    assert not partial.is_proved(20_001)


def test_right_bytes_with_more_beyond_a_gap_prove_nothing(path: Path) -> None:
    partial = Partial(digest_of(DATA[:4_000]), path)
    _write(partial, 0, 4_000)
    assert partial.is_proved(None)
    _write(partial, 5_000, 6_000)
    assert not partial.is_proved(None)
    partial.close()


def test_threads_may_write_in_any_order_at_once(tmp_path: Path) -> None:
    """In pieces so large that hashing them lets other threads run."""
    data = content(4_000_000)
    pieces = [(start, start + 20_000) for start in range(0, 4_000_000, 20_000)]
    for seed in range(5):
        random.Random(seed).shuffle(pieces)  # noqa: S311 - not a secret
        partial = Partial(digest_of(data), tmp_path / f"sha256-{seed}")
        with ThreadPoolExecutor(8) as threads:
            for start, end in pieces:
                threads.submit(partial.write, start, [data[start:end]])
        assert partial.hashed == 4_000_000
        assert partial.is_proved(4_000_000)
        partial.close()


def test_after_a_crash_the_prefix_is_as_long_as_the_file(open_partial: Open, path: Path) -> None:
    _write(open_partial(), 0, 12_345)
    partial = open_partial()
    assert partial.present == ((0, 12_345),)
    assert not path.with_suffix(".ranges").exists()


def test_after_a_crash_a_gap_within_one_block_is_still_a_gap(open_partial: Open) -> None:
    partial = open_partial()
    _write(partial, 4_200, 20_000)
    _write(partial, 0, 4_100)
    assert open_partial().present == ((0, 4_100), (4_200, 20_000))


def test_after_a_crash_a_gap_that_was_closed_is_no_gap(open_partial: Open) -> None:
    partial = open_partial()
    _write(partial, 10_000, 20_000)
    _write(partial, 0, 10_000)
    resumed = open_partial()
    assert resumed.present == ((0, 20_000),)
    while not resumed.catch_up(3_000):
        pass
    assert resumed.is_proved(20_000)


def test_a_crash_before_the_first_byte_beyond_a_gap_loses_nothing(
    open_partial: Open, path: Path
) -> None:
    _write(open_partial(), 0, 5_000)
    path.with_suffix(".ranges").touch()  # made, and then the process died
    assert open_partial().present == ((0, 5_000),)


@pytest.mark.parametrize("record", [b"0-5000 x\n", b"\0\0\0\0", b"1-2-3\n", b"\xff"])
def test_a_record_that_a_power_cut_has_mangled_claims_nothing(
    open_partial: Open, path: Path, record: bytes
) -> None:
    _write(open_partial(), 0, 5_000)
    path.with_suffix(".ranges").write_bytes(record)
    assert open_partial().present == ()


def test_bytes_that_a_power_cut_took_are_not_there_even_when_the_file_grows_again(
    open_partial: Open, path: Path
) -> None:
    partial = open_partial()
    _write(partial, 5_000, 15_000)
    os.truncate(path, 6_000)
    assert open_partial().present == ((5_000, 6_000),)
    os.truncate(path, 20_000)
    assert open_partial().present == ((5_000, 6_000),)


def test_what_is_beyond_the_size_is_cut(open_partial: Open, path: Path) -> None:
    partial = open_partial()
    _write(partial, 5_000, 15_000)
    resumed = open_partial()
    resumed.cut(6_000)
    assert resumed.present == ((5_000, 6_000),)
    assert path.stat().st_size == 6_000
    os.truncate(path, 20_000)
    assert open_partial().present == ((5_000, 6_000),)


def test_what_was_left_is_hashed_bit_by_bit(open_partial: Open) -> None:
    _write(open_partial(), 0, 12_000)
    partial = open_partial()
    assert not partial.catch_up(8_000)
    assert partial.hashed == 8_000
    assert partial.catch_up(8_000)
    _write(partial, 12_000, 20_000)
    assert partial.is_proved(20_000)


def test_a_partial_at_rest_without_gaps_needs_no_record(open_partial: Open, path: Path) -> None:
    partial = open_partial()
    _write(partial, 5_000, 15_000)
    partial.rest()
    assert path.with_suffix(".ranges").exists()
    _write(partial, 0, 5_000)
    partial.rest()
    assert not path.with_suffix(".ranges").exists()
    assert open_partial().present == ((0, 15_000),)


def test_a_partial_that_is_removed_leaves_no_record(open_partial: Open, path: Path) -> None:
    _write(open_partial(), 5_000, 15_000)
    partials.remove(path)
    assert list(path.parent.iterdir()) == []
    partials.remove(path)


def test_a_file_that_somebody_else_has_truncated_is_an_error_and_proves_nothing(
    open_partial: Open, path: Path
) -> None:
    partial = open_partial()
    _write(partial, 5_000, 15_000)
    os.truncate(path, 0)
    with pytest.raises(OSError, match="truncated"):
        _write(partial, 0, 5_000)
    _write(partial, 15_000, 20_000)
    assert partial.hashed == 20_000  # hashing goes on: what it has read is not the blob
    assert not partial.is_proved(20_000)

"""What a real process leaves when it is killed, and what the next one makes of it."""

import asyncio
import shutil
import signal
import sys
from pathlib import Path

import pytest

from mirror.oci.digest import digest_of, parse_digest
from mirror.storage.states import PartialKey
from tests.support.process import CHILD_ENVIRONMENT, run
from tests.unit.storage.crashing import MAX_SIZE, SIZE, SMALL
from tests.unit.storage.opening import (
    UPSTREAM,
    content,
    held,
    on_disk,
    open_store,
    partials,
    put,
    quarantined,
    recorded,
    recorded_partials,
    write,
)  # fmt: skip

ENVIRONMENT = {**CHILD_ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parents[3])}
COMMAND = (sys.executable, "-m", "tests.unit.storage.crashing")
DATA = content(SIZE)
DIGEST = digest_of(DATA)


async def _die(*arguments: str | Path) -> None:
    ended = await run(*COMMAND, *arguments, environment=ENVIRONMENT, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.mark.parametrize(
    ("event", "number"),
    [
        ("os.truncate", "1"),  # all is written, nothing is synced
        ("os.rename", "1"),  # synced
    ],
)
async def test_a_blob_that_was_not_in_place_yet_is_continued_from_its_last_byte(
    tmp_path: Path, event: str, number: str
) -> None:
    await _die("write", tmp_path, event, number)
    assert on_disk(tmp_path) == set()
    async with open_store(tmp_path) as store:
        assert store.promised == SIZE
        writer = await store.open_writer(UPSTREAM, DIGEST, SIZE)
        assert writer.is_proved()
        await writer.commit()
        writer.close()
        assert await store.read_blob(DIGEST, limit=SIZE) == DATA


@pytest.mark.parametrize(
    ("event", "number"),
    [
        ("os.remove", "1"),  # renamed and its directory synced
        ("os.remove", "2"),  # ... and the record of its ranges still there
    ],
)
async def test_a_blob_that_was_in_place_is_recorded_by_the_next_start(
    tmp_path: Path, event: str, number: str
) -> None:
    await _die("write", tmp_path, event, number)
    assert on_disk(tmp_path) == {DIGEST.encoded}
    async with open_store(tmp_path) as store:
        assert store.totals.bytes == SIZE
        assert store.promised == 0
        assert recorded_partials(tmp_path) == set()
        assert await store.read_blob(DIGEST, limit=SIZE) == DATA
    assert partials(tmp_path) == set()


def _copy_index(source: Path, target: Path) -> None:
    """As it is on disk at this instant, its log included."""
    for path in target.glob("index.sqlite3*"):
        path.unlink()
    for path in source.glob("index.sqlite3*"):
        shutil.copy(path, target)


async def test_a_download_of_whose_record_a_power_cut_left_nothing_is_continued(
    tmp_path: Path,
) -> None:
    root, before = tmp_path / "store", tmp_path / "before"
    before.mkdir()
    async with open_store(root):
        pass
    _copy_index(root, before)
    async with open_store(root) as store:
        writer = await store.open_writer(UPSTREAM, DIGEST, SIZE)
        await write(writer, 0, DATA[: SIZE // 2])
        await writer.suspend()
        writer.close()
    _copy_index(before, root)
    async with open_store(root, keep_partial_for=0) as store:
        assert store.promised == SIZE // 2  # it counts in the limits
        assert recorded_partials(root) == {(UPSTREAM, str(DIGEST))}
        writer = await store.open_writer(UPSTREAM, DIGEST, SIZE)
        assert writer.missing() == [(SIZE // 2, SIZE)]
        await writer.suspend()
        writer.close()


async def test_a_blob_of_which_a_power_cut_undid_the_record_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, before = tmp_path / "store", tmp_path / "before"
    before.mkdir()
    synced: list[bool] = []
    rename = Path.rename

    def renaming(path: Path, target: Path) -> Path:
        synced.append(store.index.is_synced(PartialKey(UPSTREAM, DIGEST)))
        _copy_index(root, before)
        return rename(path, target)

    async with open_store(root) as store:
        monkeypatch.setattr(Path, "rename", renaming)
        await put(store, DATA)
    monkeypatch.undo()
    assert synced == [True]  # so this much is on disk, at the least
    _copy_index(before, root)
    async with open_store(root) as store:
        assert (store.totals.blobs, store.totals.bytes, store.promised) == (1, SIZE, 0)
        assert await store.read_blob(DIGEST, limit=SIZE) == DATA
        assert recorded_partials(root) == set()


@pytest.mark.parametrize("number", ["1", "2", "3"])
async def test_an_eviction_that_had_begun_is_finished_by_the_next_start(
    tmp_path: Path, number: str
) -> None:
    await _die("evict", tmp_path, "os.remove", number)
    assert len(on_disk(tmp_path)) == 11 - int(number)
    async with open_store(tmp_path, max_size=MAX_SIZE) as store:
        assert len(on_disk(tmp_path)) == 7
        assert store.totals.bytes == 7 * SIZE
        assert recorded(tmp_path, "SELECT digest FROM blobs WHERE leaving") == []


@pytest.mark.parametrize(
    ("event", "number", "is_kept"),
    [
        ("os.mkdir", "1", False),  # marked as leaving
        ("os.rename", "1", False),
        ("os.utime", "1", True),  # in quarantine, and still on record
    ],
)
async def test_damage_that_was_being_set_aside_is_on_record_no_more_and_is_not_served(
    tmp_path: Path, event: str, number: str, *, is_kept: bool
) -> None:
    await _die("damage", tmp_path, event, number)
    rotten = digest_of(content(SIZE, 1))
    async with open_store(tmp_path, max_size=MAX_SIZE, max_quarantine=MAX_SIZE) as store:
        assert await store.open_blob(rotten) is None
        assert store.totals.bytes == 2 * SIZE
        assert store.promised == (SIZE if is_kept else 0)
        assert rotten.encoded not in on_disk(tmp_path)
        assert recorded(tmp_path, "SELECT digest FROM blobs WHERE leaving") == []
        await put(store, content(SIZE, 1))
        assert await held(store, rotten) == content(SIZE, 1)
    assert len(quarantined(tmp_path)) == is_kept


@pytest.mark.parametrize("acknowledged", [1, 6, 25])
async def test_what_was_acknowledged_is_there_and_nothing_is_wrong(
    tmp_path: Path, acknowledged: int
) -> None:
    child = await asyncio.create_subprocess_exec(
        *COMMAND, "run", tmp_path, env=ENVIRONMENT, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        seeds = [int(await child.stdout.readline()) for _ in range(acknowledged)]
    finally:
        child.kill()
        await child.wait()
    everything = {
        digest_of(data).encoded: data for data in (content(SMALL, n) for n in range(5000))
    }
    async with open_store(tmp_path, max_size=1000 * MAX_SIZE) as store:
        assert {digest_of(content(SMALL, seed)).encoded for seed in seeds} <= on_disk(tmp_path)
        for path in (tmp_path / "blobs").glob("*/*/*"):
            assert path.read_bytes() == everything[path.name]
        assert store.totals.blobs == len(on_disk(tmp_path))
        unfinished = [parse_digest(str(name)) for _, name in recorded_partials(tmp_path)]
        assert len(unfinished) <= 4
        for digest in unfinished:
            data = everything[digest.encoded]
            writer = await store.open_writer(UPSTREAM, digest, SMALL)
            for start, end in writer.missing():
                await write(writer, start, data[start:end])
            assert writer.is_proved()  # so what was not missing was right
            await writer.commit()
            writer.close()
    assert partials(tmp_path) == set()

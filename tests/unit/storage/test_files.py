import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.oci.digest import Digest, digest_of
from mirror.oci.errors import StoreError
from mirror.storage.files import Files
from mirror.storage.partial import Partial
from mirror.storage.states import PartialKey
from tests.unit.storage.opening import UPSTREAM, blob_path, content, on_disk, open_store, partials

DATA = content(5_000)
DIGEST = digest_of(DATA)
KEY = PartialKey(UPSTREAM, DIGEST)


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[Files]:
    files = Files(tmp_path)
    await files.prepare()
    yield files
    files.close()


async def _write(files: Files, partial: Partial, offset: int, data: bytes) -> None:
    await files.write(files.lane(lambda: None), partial, (offset, [data]))


async def _put(files: Files, data: bytes) -> Digest:
    partial = await files.open_partial(PartialKey(UPSTREAM, digest_of(data)))
    await _write(files, partial, 0, data)
    await files.commit(partial)
    partial.close()
    return digest_of(data)


async def test_a_committed_blob_is_found_by_its_digest_alone(files: Files, tmp_path: Path) -> None:
    await _put(files, DATA)
    assert blob_path(tmp_path, DIGEST).read_bytes() == DATA
    assert partials(tmp_path) <= {".probe"}
    file = await files.open(DIGEST)
    assert file is not None
    assert (file.size, file.read()) == (5_000, DATA)
    assert await files.read(file, 5_000, DIGEST) == DATA
    file.close()


async def test_a_blob_costs_two_syncs_its_own_and_that_of_its_directory(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await files.make_shelves()
    synced: list[str] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    await _put(files, DATA)
    [of_blob, of_directory] = synced
    assert of_blob.startswith(str(tmp_path / "partial"))
    assert of_directory == str(blob_path(tmp_path, DIGEST).parent)


async def test_the_directories_of_blobs_are_there_from_the_first_start_on_for_nobody_else(
    tmp_path: Path,
) -> None:
    for _ in range(2):
        async with open_store(tmp_path):
            shelves = list((tmp_path / "blobs" / "sha256").iterdir())
        assert len(shelves) == 256
        assert {path.stat().st_mode & 0o777 for path in shelves} == {0o700}
        shelves[7].rmdir()


async def test_what_is_not_what_its_digest_says_is_not_read(files: Files) -> None:
    await _put(files, DATA)
    file = await files.open(DIGEST)
    assert file is not None
    assert await files.read(file, 4_999, DIGEST) is None
    assert await files.read(file, 5_001, DIGEST) is None
    assert await files.read(file, 5_000, digest_of(b"other")) is None
    file.close()


async def test_what_is_not_on_disk_is_none(files: Files) -> None:
    assert await files.open(DIGEST) is None
    assert await files.size_of(DIGEST) is None


async def test_a_blob_that_is_open_stays_readable_when_it_is_removed(
    files: Files, tmp_path: Path
) -> None:
    await _put(files, DATA)
    file = await files.open(DIGEST)
    assert file is not None
    await files.remove([DIGEST])
    assert on_disk(tmp_path) == set()
    assert await files.open(DIGEST) is None
    assert file.read() == DATA
    file.close()


async def test_a_commit_can_be_undone_and_done_again(files: Files, tmp_path: Path) -> None:
    partial = await files.open_partial(KEY)
    await _write(files, partial, 2_000, DATA[2_000:])
    await _write(files, partial, 0, DATA[:2_000])
    await files.commit(partial)
    await files.undo_commit(partial)
    partial.close()
    assert on_disk(tmp_path) == set()
    again = await files.open_partial(KEY)
    await files.catch_up(again)
    assert again.is_proved(5_000)
    await files.commit(again)
    again.close()
    assert on_disk(tmp_path) == {DIGEST.encoded}


async def test_only_what_looks_like_a_blob_in_its_place_is_adopted(
    files: Files, tmp_path: Path
) -> None:
    await _put(files, DATA)
    for stranger in (
        f"blobs/sha256/00/{DIGEST.encoded}",  # not where it belongs
        "blobs/sha256/9f/notes.txt",
        "blobs/lost+found/9f/x",
        "partial/notes.txt",
        f"partial/{DIGEST.algorithm}-{DIGEST.encoded}",  # no upstream's
        "partial/docker.io/notes.txt",
    ):
        (tmp_path / stranger).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / stranger).write_bytes(b"?")
    other = PartialKey("registry.test:5000", digest_of(b"other"))
    (await files.open_partial(other)).close()
    found = [await files.scan(shelf) for shelf in await files.list_shelves()]
    assert [blob for shelf in found for blob in shelf] == [(DIGEST, 5_000)]
    assert await files.scan_partials() == [other]


async def test_a_second_mirror_is_kept_out_until_the_first_has_ended(
    files: Files, tmp_path: Path
) -> None:
    second = Files(tmp_path)
    with pytest.raises(StoreError, match=r"another mirror uses .*: stop it, or set another"):
        await second.prepare()
    files.close()
    second = Files(tmp_path)
    await second.prepare()
    second.close()


async def test_a_root_that_cannot_be_a_directory_is_an_error_that_says_what_to_do(
    tmp_path: Path,
) -> None:
    root = tmp_path / "file"
    root.touch()
    files = Files(root)
    with pytest.raises(StoreError, match=r"/file: .* set store.root to a directory"):
        await files.prepare()
    files.close()


async def test_a_file_system_error_comes_out_as_a_store_error(files: Files, tmp_path: Path) -> None:
    path = blob_path(tmp_path, DIGEST)
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match="Is a directory"):
        await files.open(DIGEST)
    with pytest.raises(StoreError, match="Is a directory"):
        await files.remove([DIGEST])


@pytest.mark.parametrize("upstream", ["docker.io", "localhost:5000", "a/b", "..", ".", ".probe"])
async def test_whatever_an_upstream_is_called_its_partials_are_its_own(
    files: Files, tmp_path: Path, upstream: str
) -> None:
    keys = [PartialKey(upstream, DIGEST), PartialKey("other.test", DIGEST)]
    for key in keys:
        (await files.open_partial(key)).close()
    assert set(await files.scan_partials()) == set(keys)
    assert len(partials(tmp_path) - {".probe"}) == 1  # one name, in two directories
    await files.remove_partials(keys[:1])
    assert await files.scan_partials() == keys[1:]


async def test_an_older_mirrors_partials_become_an_upstreams_own_with_their_gaps(
    files: Files, tmp_path: Path
) -> None:
    partial = await files.open_partial(KEY)
    await _write(files, partial, 2_000, DATA[2_000:])
    partial.close()
    for path in (tmp_path / "partial" / UPSTREAM).iterdir():
        path.rename(tmp_path / "partial" / path.name)
    for _ in range(2):
        await files.settle_old_partials(UPSTREAM)
        again = await files.open_partial(KEY)
        assert again.present == ((2_000, 5_000),)
        again.close()


async def test_an_older_mirrors_partials_go_where_nobody_knows_whose_they_are(
    files: Files, tmp_path: Path
) -> None:
    name = f"{DIGEST.algorithm}-{DIGEST.encoded}"
    for suffix in ("", ".ranges"):
        (tmp_path / "partial" / f"{name}{suffix}").touch()
    await files.settle_old_partials(None)
    assert partials(tmp_path) <= {".probe"}

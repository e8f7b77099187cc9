from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.oci.digest import Digest, digest_of
from mirror.oci.errors import StoreError
from mirror.storage.files import BlobStore
from mirror.storage.partial import Partial
from tests.unit.storage.opening import blob_path, content, on_disk, partials, read

DATA = content(5_000)
DIGEST = digest_of(DATA)


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[BlobStore]:
    blobs = BlobStore(tmp_path)
    await blobs.prepare()
    yield blobs
    blobs.close()


async def _write(blobs: BlobStore, partial: Partial, offset: int, data: bytes) -> None:
    await blobs.write(blobs.lane(lambda: None), partial, (offset, [data]))


async def _put(blobs: BlobStore, data: bytes) -> Digest:
    partial = await blobs.open_partial(digest_of(data), len(data))
    await _write(blobs, partial, 0, data)
    await blobs.commit(partial)
    partial.close()
    return digest_of(data)


async def test_a_committed_blob_is_found_by_its_digest_alone(
    blobs: BlobStore, tmp_path: Path
) -> None:
    await _put(blobs, DATA)
    assert blob_path(tmp_path, DIGEST).read_bytes() == DATA
    assert partials(tmp_path) <= {".probe"}
    blob = await blobs.open(DIGEST)
    assert blob is not None
    assert (blob.digest, blob.size, read(blob)) == (DIGEST, 5_000, DATA)
    assert await blobs.read(blob) == DATA
    blob.close()


async def test_what_is_not_on_disk_is_none(blobs: BlobStore) -> None:
    assert await blobs.open(DIGEST) is None
    assert await blobs.size_of(DIGEST) is None
    assert not blobs.is_read(DIGEST)


async def test_readers_share_a_descriptor_which_outlasts_them_for_the_next(
    blobs: BlobStore,
) -> None:
    await _put(blobs, DATA)
    one, two = await blobs.open(DIGEST), await blobs.open(DIGEST)
    assert one is two
    assert one is not None
    one.close()
    assert blobs.is_read(DIGEST)
    one.close()
    assert not blobs.is_read(DIGEST)
    assert read(one) == DATA
    assert await blobs.open(DIGEST) is one
    one.close()


async def test_no_more_than_some_descriptors_idle(blobs: BlobStore) -> None:
    files = []
    for seed in range(130):
        blob = await blobs.open(await _put(blobs, content(10, seed)))
        assert blob is not None
        blob.close()
        files.append(blob.file)
    assert [file.closed for file in files] == [True] * 2 + [False] * 128


async def test_a_blob_that_is_read_stays_readable_when_it_is_removed(
    blobs: BlobStore, tmp_path: Path
) -> None:
    await _put(blobs, DATA)
    blob = await blobs.open(DIGEST)
    assert blob is not None
    await blobs.remove([DIGEST])
    assert on_disk(tmp_path) == set()
    assert read(blob) == DATA
    blob.close()


async def test_a_removed_blob_is_not_found_through_an_idle_descriptor(blobs: BlobStore) -> None:
    await _put(blobs, DATA)
    blob = await blobs.open(DIGEST)
    assert blob is not None
    blob.close()
    await blobs.remove([DIGEST])
    assert blob.file.closed
    assert await blobs.open(DIGEST) is None


async def test_a_reader_who_is_late_closes_the_descriptor_for_good(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    await blobs.prepare()
    await _put(blobs, DATA)
    blob = await blobs.open(DIGEST)
    blobs.close()
    assert blob is not None
    assert read(blob) == DATA
    blob.close()
    assert blob.file.closed


async def test_a_commit_can_be_undone_and_done_again(blobs: BlobStore, tmp_path: Path) -> None:
    partial = await blobs.open_partial(DIGEST, 5_000)
    await _write(blobs, partial, 2_000, DATA[2_000:])
    await _write(blobs, partial, 0, DATA[:2_000])
    await blobs.commit(partial)
    await blobs.undo_commit(partial)
    partial.close()
    assert on_disk(tmp_path) == set()
    again = await blobs.open_partial(DIGEST, 5_000)
    await blobs.catch_up(again)
    assert again.is_proved(5_000)
    await blobs.commit(again)
    again.close()
    assert on_disk(tmp_path) == {DIGEST.encoded}


async def test_only_what_looks_like_a_blob_in_its_place_is_adopted(
    blobs: BlobStore, tmp_path: Path
) -> None:
    await _put(blobs, DATA)
    for stranger in (
        f"blobs/sha256/00/{DIGEST.encoded}",  # not where it belongs
        "blobs/sha256/9f/notes.txt",
        "blobs/lost+found/9f/x",
        "partial/notes.txt",
    ):
        (tmp_path / stranger).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / stranger).write_bytes(b"?")
    (await blobs.open_partial(digest_of(b"other"))).close()
    assert await blobs.scan() == [(DIGEST, 5_000)]
    assert await blobs.scan_partials() == [digest_of(b"other")]


async def test_a_second_mirror_is_kept_out_until_the_first_has_ended(
    blobs: BlobStore, tmp_path: Path
) -> None:
    second = BlobStore(tmp_path)
    with pytest.raises(StoreError, match=r"another mirror uses .*: stop it, or set another"):
        await second.prepare()
    blobs.close()
    second = BlobStore(tmp_path)
    await second.prepare()
    second.close()


async def test_a_root_that_cannot_be_a_directory_is_an_error_that_says_what_to_do(
    tmp_path: Path,
) -> None:
    root = tmp_path / "file"
    root.touch()
    blobs = BlobStore(root)
    with pytest.raises(StoreError, match=r"file/blobs: .* write access to store.root, or set"):
        await blobs.prepare()
    blobs.close()


async def test_a_file_system_error_comes_out_as_a_store_error(
    blobs: BlobStore, tmp_path: Path
) -> None:
    path = blob_path(tmp_path, DIGEST)
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match="Is a directory"):
        await blobs.open(DIGEST)
    with pytest.raises(StoreError, match="Is a directory"):
        await blobs.remove([DIGEST])
    assert not blobs.is_read(DIGEST)

"""A store as bundles are taken into it, a blob at a time."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from mirror.config import parse
from mirror.control.bundles import MOST_ASKED, Arrived, Depot, Sent
from mirror.oci.digest import Digest, digest_of
from mirror.oci.errors import DigestMismatch, StoreError
from mirror.operate.bundles.verbs import open_depot
from tests.support.mirror import document

CONTENT = bytes(range(256)) * 4096
PIECES = [CONTENT[start : start + 2**16] for start in range(0, len(CONTENT), 2**16)]
DIGEST = digest_of(CONTENT)


@pytest.fixture
async def depot(tmp_path: Path) -> AsyncIterator[Depot]:
    root = tmp_path / "store"
    (root / "blobs").mkdir(parents=True)
    async with open_depot(parse(document({"docker.io": {}}, store_root=root))) as opened:
        yield opened


async def write(depot: Depot, digest: Digest, size: int, pieces: Sequence[bytes]) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    await depot.write(digest, size, chunks(), upstreams=["docker.io"], is_manifest=False)


def files(tmp_path: Path, where: str) -> list[Path]:
    return [it for it in (tmp_path / "store" / where).rglob("*") if it.is_file()]


async def test_a_blob_that_broke_off_is_continued_in_the_same_file(
    tmp_path: Path, depot: Depot
) -> None:
    with pytest.raises(StoreError, match="broken off"):
        await write(depot, DIGEST, len(CONTENT), PIECES[:10])
    [partial] = [it for it in files(tmp_path, "partial") if it.stat().st_size]
    begun = partial.stat().st_ino
    assert await depot.find_missing([DIGEST]) == {DIGEST}
    await write(depot, DIGEST, len(CONTENT), PIECES)
    [kept] = files(tmp_path, "blobs")
    assert (kept.stat().st_ino, kept.read_bytes()) == (begun, CONTENT)
    assert await depot.find_missing([DIGEST]) == set()
    assert b"".join([piece async for piece in depot.read(DIGEST)]) == CONTENT


@pytest.mark.parametrize(
    "pieces", [[b"x" * len(CONTENT)], [*PIECES, b"more"], [b"", b"x", *PIECES[:-1], PIECES[-1][1:]]]
)
async def test_what_is_something_else_is_not_kept_and_hinders_nobody(
    tmp_path: Path, depot: Depot, pieces: list[bytes]
) -> None:
    with pytest.raises(DigestMismatch):
        await write(depot, DIGEST, len(CONTENT), pieces)
    assert files(tmp_path, "blobs") == []
    await write(depot, DIGEST, len(CONTENT), PIECES)
    assert len(files(tmp_path, "blobs")) == 1


async def test_what_another_bundle_has_left_of_it_is_found_out(depot: Depot) -> None:
    with pytest.raises(StoreError, match="broken off"):
        await write(depot, DIGEST, len(CONTENT) * 2, [b"x" * len(CONTENT)])
    with pytest.raises(DigestMismatch):
        await write(depot, DIGEST, len(CONTENT), PIECES)
    await write(depot, DIGEST, len(CONTENT), PIECES)
    assert await depot.find_missing([DIGEST]) == set()


async def test_an_empty_blob_is_one(depot: Depot) -> None:
    empty = digest_of(b"")
    await write(depot, empty, 0, [])
    assert await depot.find_missing([empty]) == set()
    assert [piece async for piece in depot.read(empty)] == []


async def test_what_makes_no_sense_is_refused(depot: Depot) -> None:
    many = [digest_of(b"%d" % number) for number in range(MOST_ASKED + 1)]
    with pytest.raises(ValueError, match="at a time"):
        await depot.find_missing(many)
    with pytest.raises(ValueError, match="at a time"):
        await depot.note_sent(Sent([*map(str, many)], ["docker.io"]))
    with pytest.raises(ValueError, match="there is no"):
        await depot.note_sent(Sent([], ["quay.io"]))
    with pytest.raises(ValueError, match="there is no"):
        await depot.record(Arrived("quay.io/org/app:1", str(DIGEST), "", 0))

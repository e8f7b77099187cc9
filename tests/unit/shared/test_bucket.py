"""Objects, and whose bucket it is; in memory and on this disk."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore

from mirror.shared.bucket import MARKER, ObjectBucket, claim_bucket
from mirror.shared.opening import OwnBucket
from mirror.shared.ports import BucketDown, NoObject
from tests.support.seaweed import begin_obstore


@pytest.fixture(scope="module", autouse=True)
def obstore_has_begun() -> None:
    begin_obstore()


@pytest.fixture(params=["memory", "disk"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectBucket:
    return ObjectBucket(MemoryStore() if request.param == "memory" else LocalStore(tmp_path))


async def _read(bucket: ObjectBucket, key: str, start: int, stop: int) -> bytes:
    return b"".join([bytes(chunk) async for chunk in bucket.read(key, start, stop)])


async def test_what_is_put_is_read_in_whole_or_in_part(bucket: ObjectBucket) -> None:
    content = bytes(range(256)) * 20_000
    await bucket.put("a/b", content)
    assert await _read(bucket, "a/b", 0, len(content)) == content
    assert await _read(bucket, "a/b", 1_000_000, 3_000_001) == content[1_000_000:3_000_001]


async def test_what_is_large_is_put_as_it_comes(bucket: ObjectBucket) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for number in range(20):
            yield bytes([number]) * 2**20

    await bucket.put_large("large", chunks())
    assert await _read(bucket, "large", 5 * 2**20 - 1, 5 * 2**20 + 1) == b"\x04\x05"


async def test_what_is_not_there_says_so_and_is_removed_without_trouble(
    bucket: ObjectBucket,
) -> None:
    with pytest.raises(NoObject):
        await _read(bucket, "nothing", 0, 1)
    await bucket.put("one", b"1")
    await bucket.delete(["nothing", "one", "one"])
    with pytest.raises(NoObject):
        await bucket.get("one")


async def test_an_object_that_is_too_short_is_no_answer(bucket: ObjectBucket) -> None:
    await bucket.put("one", b"12345")
    with pytest.raises(BucketDown):
        await _read(bucket, "one", 3, 10)


async def test_all_that_is_there_is_listed(bucket: ObjectBucket) -> None:
    for number in range(5):
        await bucket.put(f"a/{number}", b"x" * number)
    found = [(key, size) async for batch in bucket.list() for key, size, _ in batch]
    assert sorted(found) == [(f"a/{number}", number) for number in range(5)]


async def test_a_bucket_belongs_to_who_comes_first_and_to_nobody_else(
    bucket: ObjectBucket,
) -> None:
    assert await claim_bucket(bucket, "ours") is None
    assert await claim_bucket(bucket, "ours") is None
    assert await claim_bucket(bucket, "another") == "ours"
    assert (await bucket.get(MARKER)).strip() == b"ours"


async def test_nothing_is_put_or_read_before_it_is_known_whose_it_is() -> None:
    own = OwnBucket(ObjectBucket(MemoryStore()))
    with pytest.raises(BucketDown):
        await own.put("one", b"1")
    with pytest.raises(BucketDown):
        await anext(own.read("one", 0, 1))
    assert not own.is_up

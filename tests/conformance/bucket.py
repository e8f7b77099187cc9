"""What `mirror.shared.bucket.ObjectBucket` must do on whatever keeps its objects.

class TestOnSomething(BucketConformance):
    @pytest.fixture
    async def bucket(self) -> AsyncIterator[ObjectBucket]: ...
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from mirror.shared.bucket import MARKER, ObjectBucket, claim_bucket
from mirror.shared.ports import BucketDown, NoObject


async def _read(bucket: ObjectBucket, key: str, start: int, stop: int) -> bytes:
    return b"".join([bytes(chunk) async for chunk in bucket.read(key, start, stop)])


class BucketConformance:
    """Each test has a bucket, or a prefix in it, of its own."""

    async def test_what_is_put_is_read_in_whole_or_in_part(self, bucket: ObjectBucket) -> None:
        content = bytes(range(256)) * 20_000
        await bucket.put("a/b", content)
        assert await _read(bucket, "a/b", 0, len(content)) == content
        assert await _read(bucket, "a/b", 1_000_000, 3_000_001) == content[1_000_000:3_000_001]
        assert await bucket.measure("a/b") == len(content)

    async def test_what_is_empty_is_there_all_the_same(self, bucket: ObjectBucket) -> None:
        await bucket.put("empty", b"")
        assert await bucket.measure("empty") == 0
        assert await bucket.get("empty") == b""

    async def test_what_is_large_is_put_as_it_comes(self, bucket: ObjectBucket) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for number in range(20):
                yield bytes([number]) * 2**20

        await bucket.put_large("large", chunks())
        assert await bucket.measure("large") == 20 * 2**20
        assert await _read(bucket, "large", 5 * 2**20 - 1, 5 * 2**20 + 1) == b"\x04\x05"

    async def test_what_breaks_off_while_it_is_put_is_not_there(self, bucket: ObjectBucket) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for number in range(20):
                yield bytes([number]) * 2**20
            raise OSError("the disk is gone")

        with pytest.raises((BucketDown, OSError)):
            await bucket.put_large("large", chunks())
        with pytest.raises(NoObject):
            await bucket.measure("large")

    async def test_what_is_not_there_says_so_and_is_removed_without_trouble(
        self, bucket: ObjectBucket
    ) -> None:
        with pytest.raises(NoObject):
            await _read(bucket, "nothing", 0, 1)
        await bucket.put("one", b"1")
        await bucket.delete(["nothing", "one", "one"])
        with pytest.raises(NoObject):
            await bucket.get("one")

    async def test_an_object_that_is_shorter_than_it_was_put_is_none(
        self, bucket: ObjectBucket
    ) -> None:
        """So it is fetched and put anew, instead of being tried in vain by everybody, for ever."""
        await bucket.put("one", b"12345")
        assert await bucket.measure("one") == 5
        with pytest.raises(NoObject):
            await _read(bucket, "one", 3, 10)
        with pytest.raises(NoObject):
            await bucket.measure("nothing")

    async def test_what_is_large_is_not_taken_for_a_marker(self, bucket: ObjectBucket) -> None:
        await bucket.put(MARKER, b"x" * 100_000)
        with pytest.raises(BucketDown, match="none of ours"):
            await claim_bucket(bucket, "ours")

    async def test_all_that_is_there_is_listed(self, bucket: ObjectBucket) -> None:
        """A server tells of a thousand at a time."""
        puts = (bucket.put(f"a/{number}", b"x" * (number % 7)) for number in range(1005))
        await asyncio.gather(*puts)
        found = [(key, size) async for batch in bucket.list() for key, size, _ in batch]
        assert sorted(found) == sorted((f"a/{number}", number % 7) for number in range(1005))

    async def test_a_bucket_belongs_to_who_comes_first_and_to_nobody_else(
        self, bucket: ObjectBucket
    ) -> None:
        assert await claim_bucket(bucket, "ours") is None
        assert await claim_bucket(bucket, "ours") is None
        assert await claim_bucket(bucket, "another") == "ours"
        assert (await bucket.get(MARKER)).strip() == b"ours"

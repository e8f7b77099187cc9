"""Objects on a real S3 server, reached as a mirror reaches it."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from mirror.config import EnvironmentProxies, Shared
from mirror.shared.bucket import CLIENT_OPTIONS, ObjectBucket, claim_bucket
from mirror.shared.opening import make_store
from mirror.shared.ports import BucketDown, NoObject
from tests.conformance.bucket import BucketConformance
from tests.support.bad_bucket import BadBucket
from tests.support.bucket import BUCKET, BucketServer


@pytest.fixture(autouse=True)
def no_connection_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a mirror does, and a test must not."""
    monkeypatch.setitem(CLIENT_OPTIONS, "pool_max_idle_per_host", "0")


def _bucket(
    server: BucketServer, prefix: str, credentials: Path, name: str = BUCKET, url: str = ""
) -> ObjectBucket:
    shared = Shared.model_validate(
        {
            "database_file": str(credentials), "bucket": f"s3://{name}/{prefix}",
            "endpoint": url or server.url, "credentials_file": str(credentials),
        }
    )  # fmt: skip
    return ObjectBucket(make_store(shared, EnvironmentProxies()))


class TestOnAServer(BucketConformance):
    @pytest.fixture
    async def bucket(self, bucket_server: BucketServer) -> AsyncIterator[ObjectBucket]:
        prefix = uuid.uuid4().hex[:8]
        yield _bucket(bucket_server, prefix, bucket_server.credentials_file)
        await bucket_server.empty(prefix)

    @pytest.mark.parametrize(("size", "start"), [(5, 5), (5, 7), (0, 0)])
    async def test_an_object_that_ends_before_what_is_wanted_is_none(
        self, bucket: ObjectBucket, size: int, start: int
    ) -> None:
        await bucket.put("one", b"x" * size)
        with pytest.raises(NoObject):
            await anext(bucket.read("one", start, 10))

    async def test_who_has_a_signed_link_needs_nothing_else(self, bucket: ObjectBucket) -> None:
        await bucket.put("a/one", b"12345")
        url = await bucket.sign("a/one", 60)
        async with aiohttp.ClientSession() as session:
            async with session.get(url, headers={"Range": "bytes=1-2"}) as response:
                assert (response.status, await response.read()) == (206, b"23")
            async with session.get(url.partition("?")[0]) as response:
                assert response.status == 403
            async with session.get(url.replace("one", "two")) as response:
                assert response.status == 403

    async def test_each_object_is_deleted_by_its_name(self, bucket_server: BucketServer) -> None:
        """Several at once not every server can do, or lets those do who may delete these."""
        async with BadBucket(bucket_server.port) as seen:
            url = f"http://127.0.0.1:{seen.port}"
            bucket = _bucket(bucket_server, "tests", bucket_server.credentials_file, url=url)
            await bucket.delete(["one", "two"])
        wanted = [("DELETE", f"/{BUCKET}/tests/{name}") for name in ("one", "two")]
        assert seen.requests == wanted

    async def test_who_may_not_is_told_so(
        self, bucket_server: BucketServer, tmp_path: Path
    ) -> None:
        file = tmp_path / "credentials"
        file.write_text("[default]\naws_access_key_id = no\naws_secret_access_key = body\n")
        bucket = _bucket(bucket_server, "tests", file)
        with pytest.raises(BucketDown, match="403") as told:
            await bucket.put("one", b"1")
        assert "body" not in str(told.value)


async def _claim(bucket: ObjectBucket) -> None:
    await claim_bucket(bucket, "ours")


async def _get(bucket: ObjectBucket) -> None:
    await bucket.get("one")


async def _list(bucket: ObjectBucket) -> None:
    await anext(bucket.list())


async def _put(bucket: ObjectBucket) -> None:
    await bucket.put("one", b"1")


async def _put_large(bucket: ObjectBucket) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"1"

    await bucket.put_large("one", chunks())


async def _read(bucket: ObjectBucket) -> None:
    await anext(bucket.read("one", 0, 1))


@pytest.mark.parametrize("act", [_claim, _get, _list, _put, _put_large, _read])
async def test_a_bucket_that_is_not_there_is_no_bucket_without_the_object(
    bucket_server: BucketServer, act: Callable[[ObjectBucket], Awaitable[None]]
) -> None:
    """Who took it for that would forget all copies, or be at a loss where to put them."""
    bucket = _bucket(bucket_server, "tests", bucket_server.credentials_file, "not-there")
    with pytest.raises(BucketDown):
        await act(bucket)

"""The bucket: objects in anything that speaks S3's protocol, GCS or Azure Blob Storage, by obstore.

Used of it: PUT, ranged GET, DELETE, LIST, and signed links; conditional writes are not portable,
and not needed, since no key is ever written twice. obstore asks again itself where a server fails,
and gives up soon: whoever waits has other ways.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import obstore
from obstore.exceptions import BaseError

from mirror.oci.digest import Chunk
from mirror.shared.ports import BucketDown, NoObject

_CHUNK = 2**20  # bytes
_PART = 2**23  # bytes, of what is put in parts
_PATIENCE = 20.0  # seconds for which nothing comes
_LONGEST = 300  # characters of what an error says
_URL = re.compile(r"https?://\S+")
_TOO_SHORT = "416 Range Not Satisfiable"
_NO_BUCKET = re.compile("<Code>(NoSuchBucket|ContainerNotFound)</Code>")  # S3 and GCS, Azure
_SMALL = 2**16  # bytes
_LISTED = 1000  # objects at a time
MARKER = "mirror-deployment"
"""The object that says whose the bucket, or the prefix in it, is."""
PROBE = "mirror-probe-"
"""How the names of objects begin that are put to see whether that can be done."""

CLIENT_OPTIONS: dict[str, Any] = {
    "connect_timeout": timedelta(seconds=3),
    "read_timeout": timedelta(seconds=_PATIENCE),
    "timeout": timedelta(minutes=10),
}
RETRIES: dict[str, Any] = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {
        "init_backoff": timedelta(milliseconds=50),
        "max_backoff": timedelta(seconds=2),
        "base": 2,
    },
}


class ObjectBucket:
    """A `mirror.shared.ports.Bucket` in an obstore's `store`."""

    def __init__(self, store: Any) -> None:
        self._store = store

    async def put(self, key: str, content: bytes) -> None:
        """As `Bucket.put`."""
        async with _putting():
            await obstore.put_async(self._store, key, content, use_multipart=False)

    async def put_large(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        """As `Bucket.put_large`: several parts at a time."""
        async with _putting():
            await obstore.put_async(
                self._store, key, chunks, use_multipart=True, chunk_size=_PART, max_concurrency=2
            )

    async def read(self, key: str, start: int, stop: int) -> AsyncGenerator[Chunk, None]:
        """As `Bucket.read`."""
        async with _translated():
            found = await obstore.get_async(self._store, key, options={"range": (start, stop)})
            if found.meta["size"] < stop:
                del found  # whoever keeps the error would keep what it is read from, too
                raise NoObject("it is shorter than it was put")
            position = start
            async for part in found.stream(min_chunk_size=_CHUNK):
                chunk = memoryview(part)
                position += len(chunk)
                if position > stop:
                    break
                yield chunk
        if position != stop:
            raise BucketDown(f"of an object's bytes only {position - start} came")

    async def get(self, key: str) -> bytes:
        """A small object as a whole. Raises NoObject also."""
        async with _translated():
            found = await obstore.get_async(self._store, key)
            if found.meta["size"] > _SMALL:
                del found  # as above
                raise BucketDown(f"{key} is large, and none of ours")
            return bytes(await found.bytes_async())

    async def measure(self, key: str) -> int:
        """As `Bucket.measure`."""
        async with _translated():
            return int((await obstore.head_async(self._store, key))["size"])

    async def delete(self, keys: Sequence[str]) -> None:
        """As `Bucket.delete`; one request each: what deletes many at once is not portable."""
        for key in keys:
            try:
                async with _translated():
                    await obstore.delete_async(self._store, key)
            except NoObject:
                continue

    async def list(self) -> AsyncIterator[list[tuple[str, int, datetime]]]:
        """All objects, in batches: key, bytes, and when it was written, by the bucket's clock."""
        async with _translated():
            async for batch in obstore.list(self._store, chunk_size=_LISTED):
                yield [(one["path"], one["size"], one["last_modified"]) for one in batch]

    async def sign(self, key: str, seconds: float) -> str:
        """As `Bucket.sign`. HEAD of such a URL is refused (S3: the method is signed too)."""
        async with _translated():  # credentials may have to be asked for, over the network
            life = timedelta(seconds=seconds)
            return str(await obstore.sign_async(self._store, "GET", key, life))


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (BaseError, OSError, TimeoutError) as error:
        text = str(error)
        # Of what is in it, that says nothing: all copies may be there still, by another name.
        if _NO_BUCKET.search(text):
            raise BucketDown("there is no such bucket") from error
        if isinstance(error, FileNotFoundError):
            raise NoObject from error
        if _TOO_SHORT in text:
            raise NoObject("it is shorter than it was put") from error
        raise BucketDown(_in_short(error)) from error


@asynccontextmanager
async def _putting() -> AsyncIterator[None]:
    """What is to be put cannot be missing: what it is put into may, or the upload of its parts."""
    try:
        async with _translated():
            yield
    except NoObject as error:
        raise BucketDown(_in_short(error.__cause__ or error)) from error


def _in_short(error: BaseException) -> str:
    """What it says, without what it was asked: that may be signed."""
    text = _URL.sub("(URL)", str(error).partition("\n")[0])
    return text[:_LONGEST] or type(error).__name__


async def claim_bucket(bucket: ObjectBucket, deployment: str) -> str | None:
    """See that the bucket is this deployment's, or nobody's; whose it is, where that is another.

    Of two that come at once both may be told so: look again later.

    Raises:
        BucketDown: It cannot be asked.
    """
    try:
        found = (await bucket.get(MARKER)).decode(errors="replace").strip()
    except NoObject:
        await bucket.put(MARKER, f"{deployment}\n".encode())
        try:
            found = (await bucket.get(MARKER)).decode(errors="replace").strip()
        except NoObject:
            raise BucketDown("it does not give what has been put a moment ago") from None
    return None if found == deployment else found

"""What the real S3 servers that tests start have in common: one bucket, and who may use it.

SeaweedFS (`seaweed.py`) is what the suite runs on, Ceph's gateway (`rgw.py`) a second opinion.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import MemoryStore, S3Store

from tests.support.process import Process

ACCESS_KEY, SECRET_KEY = "tests", "secret of tests"
BUCKET = "mirror-cache"


@dataclass(eq=False)
class BucketServer:
    """`process` may be stopped, killed, suspended and started again."""

    port: int
    credentials_file: Path
    process: Process = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def store(self, prefix: str = "") -> S3Store:
        """Looks into the bucket, beside the mirrors."""
        return open_store(self.port, prefix)

    async def empty(self, prefix: str) -> None:
        """Remove what is there: a server may keep it all in memory."""
        store = self.store(prefix)
        async for batch in obstore.list(store):
            await obstore.delete_async(store, [one["path"] for one in batch])


RunBucket = Callable[[Path], AbstractAsyncContextManager[BucketServer]]
"""Runs a server inside the block, whose data are in the directory."""


def open_store(port: int, prefix: str = "") -> S3Store:
    """The bucket, for whoever may use it; nothing is tried twice."""
    return S3Store(
        BUCKET,
        prefix=prefix or None,
        endpoint=f"http://127.0.0.1:{port}",
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        region="us-east-1",
        client_options={
            "allow_http": True,
            "timeout": timedelta(seconds=10),
            "pool_max_idle_per_host": "0",
        },
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=5)},
    )


async def takes_objects(port: int) -> bool:
    """Whether the bucket is there, and in order."""
    store = open_store(port)
    try:
        await obstore.put_async(store, "probe", b"1", use_multipart=False)
        await obstore.delete_async(store, "probe")
    except (BaseError, OSError):
        return False
    return True


def write_credentials(directory: Path) -> Path:
    """Who may use it, as an AWS credentials file; its path."""
    file = directory / "bucket-credentials"
    file.write_text(
        f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n",
        encoding="utf-8",
    )
    return file


def begin_obstore() -> None:
    """Have it open the descriptors that it keeps from its first work on."""

    async def work() -> None:
        store = MemoryStore()
        await obstore.put_async(store, "one", b"1")
        await (await obstore.get_async(store, "one")).bytes_async()

    asyncio.run(work())

"""A real S3 server: SeaweedFS, with all of its parts in one process, on loopback."""

import asyncio
import json
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path

import aiohttp
import obstore
from obstore.exceptions import BaseError
from obstore.store import MemoryStore, S3Store

from tests.support.process import Process, free_port
from tests.support.require import require

ACCESS_KEY, SECRET_KEY = "tests", "secret of tests"
BUCKET = "mirror-cache"
_GRPC = 10_000
_START_WITHIN = 40  # seconds


@dataclass(eq=False)
class Seaweed:
    """`process` may be stopped, killed, suspended and started again."""

    port: int
    credentials_file: Path
    process: Process = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def store(self, prefix: str = "") -> S3Store:
        """Looks into the bucket, beside the mirrors."""
        return _store(self.port, prefix)


def _store(port: int, prefix: str) -> S3Store:
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


def begin_obstore() -> None:
    """Have it open the descriptors that it keeps from its first work on."""

    async def work() -> None:
        store = MemoryStore()
        await obstore.put_async(store, "one", b"1")
        await (await obstore.get_async(store, "one")).bytes_async()

    asyncio.run(work())


def _program() -> Path:
    found = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if found is None:
        require("weed")
        raise AssertionError("unreachable")
    return Path(found)


@asynccontextmanager
async def running_seaweed(directory: Path) -> AsyncIterator[Seaweed]:
    """Run one inside the block, with one bucket; its data are in `directory`."""
    data = directory / "seaweed"
    data.mkdir(parents=True)
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (data / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    credentials = directory / "bucket-credentials"
    credentials.write_text(
        f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n",
        encoding="utf-8",
    )
    ports = dict(zip(("master", "volume", "filer", "s3"), _ports(4), strict=True))
    s3 = ports["s3"]

    async def takes_objects() -> bool:
        if not await _has_bucket(ports["filer"]):
            return False
        store = _store(s3, "")
        try:
            await obstore.put_async(store, "probe", b"1", use_multipart=False)
            await obstore.delete_async(store, "probe")
        except (BaseError, OSError):
            return False
        return True

    command = (
        _program(), "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-master.port={ports['master']}", f"-volume.port={ports['volume']}",
        "-volume.max=20", "-master.volumeSizeLimitMB=512",
        "-filer", f"-filer.port={ports['filer']}", f"-filer.localSocket={data / 'filer.sock'}",
        "-s3", f"-s3.port={s3}",
        "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-s3.config={data / 's3.json'}", "-master.telemetry=false",
    )  # fmt: skip
    process = Process(
        command, log=directory / "seaweed.log", ready=takes_objects, start_within=_START_WITHIN
    )
    async with process:
        try:
            yield Seaweed(s3, credentials, process)
        finally:
            if process.returncode is None:
                await process.kill()  # it needs seconds to stop, and nothing of it is needed then


def _ports(count: int) -> list[int]:
    """So many, each with its neighbour 10,000 above free, where SeaweedFS listens for its gRPC."""
    found = list[int]()
    while len(found) < count:
        port = free_port()
        if port not in found and _is_free(port + _GRPC):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    except (OSError, OverflowError):
        return False
    return True


async def _has_bucket(port: int) -> bool:
    """Whether there is the bucket: for its filer it is a directory."""
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"http://127.0.0.1:{port}/buckets/{BUCKET}/", skip_auto_headers=["Content-Type"]
            ) as response,
        ):
            return response.status in {HTTPStatus.CREATED, HTTPStatus.CONFLICT}
    except aiohttp.ClientError:
        return False

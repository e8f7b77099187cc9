"""A real S3 server: SeaweedFS, with all of its parts in one process, on loopback."""

import json
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import aiohttp

from tests.support.bucket import (
    ACCESS_KEY,
    BUCKET,
    SECRET_KEY,
    BucketServer,
    takes_objects,
    write_credentials,
)
from tests.support.process import Process, free_port
from tests.support.require import require

_GRPC = 10_000
_START_WITHIN = 40  # seconds


def _program() -> Path:
    found = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if found is None:
        require("weed")
        raise AssertionError("unreachable")
    return Path(found)


@asynccontextmanager
async def running_seaweed(directory: Path) -> AsyncIterator[BucketServer]:
    """Run one inside the block, with one bucket; its data are in `directory`."""
    data = directory / "seaweed"
    data.mkdir(parents=True)
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Read", "Write", "List", "Tagging"],
    }
    (data / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    ports = dict(zip(("master", "volume", "filer", "s3"), _ports(4), strict=True))
    s3 = ports["s3"]

    async def is_ready() -> bool:
        return await _has_bucket(ports["filer"]) and await takes_objects(s3)

    command = (
        _program(), f"-logdir={directory}", "server", f"-dir={data}",
        "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-master.port={ports['master']}", f"-volume.port={ports['volume']}",
        "-volume.max=20", "-master.volumeSizeLimitMB=512",
        "-filer", f"-filer.port={ports['filer']}", f"-filer.localSocket={data / 'filer.sock'}",
        "-s3", f"-s3.port={s3}", f"-s3.localSocket={data / 's3.sock'}",
        "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-s3.config={data / 's3.json'}", "-master.telemetry=false",
    )  # fmt: skip
    process = Process(
        command, log=directory / "seaweed.log", ready=is_ready, start_within=_START_WITHIN
    )
    async with process:
        try:
            yield BucketServer(s3, write_credentials(directory), process)
        finally:
            if process.returncode is None:
                await process.kill()  # it needs seconds to stop, and nothing of it is needed then
            _remove_sockets(ports)


def _remove_sockets(ports: Mapping[str, int]) -> None:
    """Of its gRPC: no option says where they are."""
    for part, port in ports.items():
        name = f"/tmp/seaweedfs-{part}-grpc-{port + _GRPC}.sock"  # noqa: S108
        Path(name).unlink(missing_ok=True)


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

"""A second real S3 server: Ceph's object gateway, on a cluster of its own that lives in memory.

The least that it needs: one monitor, one OSD in memory, the gateway; no manager, since nobody asks
for statistics. All listen on loopback alone, and all are told where to keep what they would keep
in /var and /run otherwise.
"""

import asyncio
import base64
import json
import os
import struct
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path

import aiohttp
import obstore

from tests.support.bucket import (
    ACCESS_KEY,
    SECRET_KEY,
    BucketServer,
    open_store,
    takes_objects,
    write_credentials,
)
from tests.support.process import CHILD_ENVIRONMENT, Condition, Process, free_port, run
from tests.support.require import require

_PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
_PARTS = ("mon", "osd", "rgw")
_ADMIN = "client.admin"
_START_WITHIN = 60  # seconds
_ENVIRONMENT = {
    name: value for name, value in CHILD_ENVIRONMENT.items() if not name.startswith("CEPH_")
}


@asynccontextmanager
async def running_rgw(directory: Path) -> AsyncIterator[BucketServer]:
    """Run one inside the block, with one bucket; what it writes is in `directory`."""
    require(*_PROGRAMS)
    home = directory / "ceph"
    monitor, gateway = free_port(), free_port()
    cluster, osd, address = str(uuid.uuid4()), str(uuid.uuid4()), f"[v2:127.0.0.1:{monitor}]"
    _write(home, _configuration(home, cluster, address, gateway))
    _write_keys(home / "keyring")
    members = str(home / "monmap")
    make = ("monmaptool", "--create", "--fsid", cluster, "--addv", "a", address, members)
    await run(*make, environment=_ENVIRONMENT)
    await _ceph(home, "ceph-mon", "--mkfs", "--id=a", f"--monmap={members}")
    async with AsyncExitStack() as stack:
        await _run(stack, home, "ceph-mon", "--id=a", ready=lambda: _listens(monitor))
        await _ceph(home, "ceph", "osd", "new", osd)
        await _ceph(home, "ceph-osd", "--mkfs", "--id=0", f"--osd-uuid={osd}")
        await _run(stack, home, "ceph-osd", "--id=0", ready=lambda: _stores(home))
        await _ceph(
            home, "radosgw-admin", "user", "create", "--uid=tests", "--display-name=tests",
            f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}",
        )  # fmt: skip

        async def is_ready() -> bool:
            return await _has_bucket(gateway) and await takes_objects(gateway)

        process = await _run(stack, home, "radosgw", f"--name={_ADMIN}", ready=is_ready)
        yield BucketServer(gateway, write_credentials(directory), process)


def _configuration(home: Path, cluster: str, monitor: str, gateway: int) -> dict[str, object]:
    return {
        "fsid": cluster,
        "mon_host": monitor,
        "public_addr": "127.0.0.1", "cluster_addr": "127.0.0.1",
        "ms_bind_msgr1": "false",
        "rgw_frontends": f"beast endpoint=127.0.0.1:{gateway}",
        # Everything in its own directory, and what it says where its errors are.
        **{f"{part}_data": home / part for part in _PARTS},
        "keyring": home / "keyring", "run_dir": home, "crash_dir": home / "crash",
        "admin_socket": "", "log_file": "", "mon_cluster_log_file": "",
        "log_to_stderr": "true", "err_to_stderr": "true", "debug_rocksdb": 0,
        # Of everything one.
        "mon_allow_pool_size_one": "true", "mon_data_avail_crit": 1,
        "osd_pool_default_size": 1, "osd_pool_default_min_size": 1, "osd_crush_chooseleaf_type": 0,
        "osd_pool_default_pg_num": 4, "osd_pool_default_pgp_num": 4,
        "osd_pool_default_pg_autoscale_mode": "off",
        "rgw_thread_pool_size": 64,
        # A monitor that is alone need not wait for others before it decides anything.
        "paxos_propose_interval": 0.05, "paxos_min_wait": 0.01,
        # In memory, and what is deleted gives it back soon, instead of after two hours.
        "osd_objectstore": "memstore", "memstore_device_bytes": "6G",
        "rgw_gc_obj_min_wait": 5, "rgw_gc_processor_period": 5, "rgw_gc_processor_max_time": 5,
    }  # fmt: skip


def _write(home: Path, configuration: dict[str, object]) -> None:
    for part in _PARTS:
        (home / part).mkdir(parents=True)
    lines = [f"{name} = {value}\n" for name, value in configuration.items()]
    (home / "ceph.conf").write_text("[global]\n" + "".join(lines), encoding="utf-8")


def _write_keys(file: Path) -> None:
    """What they know each other by: as ceph-authtool does, whose every key costs a process."""
    text = ""
    for name in ("mon.", "osd.0", _ADMIN):
        secret = os.urandom(16)
        key = base64.b64encode(struct.pack("<HIIH", 1, 0, 0, len(secret)) + secret).decode()
        text += f'[{name}]\nkey = {key}\ncaps mon = "allow *"\ncaps osd = "allow *"\n'
    file.write_text(text, encoding="utf-8")


async def _run(
    stack: AsyncExitStack, home: Path, program: str, *arguments: str, ready: Condition
) -> Process:
    """Run a part of it until the stack ends, and end it then without any ceremony."""
    process = Process(
        _command(home, program, "-f", *arguments),
        log=home / f"{program}.log",
        ready=ready,
        environment=_ENVIRONMENT,
        start_within=_START_WITHIN,
    )
    await stack.enter_async_context(process)

    async def end() -> None:
        if process.returncode is None:
            await process.kill()

    stack.push_async_callback(end)
    return process


async def _ceph(home: Path, program: str, *arguments: str) -> str:
    """Have it do something; what it printed."""
    command = _command(home, program, *arguments)
    return (await run(*command, environment=_ENVIRONMENT, within=_START_WITHIN)).stdout


def _command(home: Path, program: str, *arguments: str) -> tuple[str, ...]:
    return (program, f"--conf={home / 'ceph.conf'}", *arguments)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def _stores(home: Path) -> bool:
    """Whether the OSD has joined."""
    found = json.loads(await _ceph(home, "ceph", "osd", "stat", "--format=json"))
    return bool(found["num_up_osds"])


async def _has_bucket(port: int) -> bool:
    """Whether there is the bucket: it is made by a PUT of its own URL."""
    url = await obstore.sign_async(open_store(port), "PUT", "", timedelta(minutes=1))
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.put(url, skip_auto_headers=["Content-Type"]) as response,
        ):
            return response.status == HTTPStatus.OK
    except aiohttp.ClientError:
        return False

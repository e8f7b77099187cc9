"""What systemd is told by a mirror that it runs: sd_notify(3), and how it calls its processes."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import tomli_w

from mirror.config import is_journal, notify_socket
from tests.support.client import get
from tests.support.mirror import document, upstream_at
from tests.support.process import CHILD_ENVIRONMENT, Process, answers, children_of, free_port
from tests.support.upstream import ScriptedRegistry


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """systemd's end of the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        yield listener


async def heard(manager: socket.socket, text: str) -> None:
    """Return once it has been told this."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(30):
        while text not in (await loop.sock_recv(manager, 4096)).decode():
            pass


async def test_systemd_is_told_that_it_serves_lives_reloads_and_stops(
    upstream: ScriptedRegistry, tmp_path: Path, manager: socket.socket
) -> None:
    admin = free_port()
    settings = document(
        {"docker.io": upstream_at(upstream.url)},
        store_root=tmp_path / "store", ports=(free_port(), admin), server={"workers": 2},
    )  # fmt: skip
    config, listen = tmp_path / "mirror.toml", settings["server"]["listen"]
    await asyncio.to_thread(config.write_text, tomli_w.dumps(settings))
    process = Process(
        (sys.executable, "-m", "mirror", "serve", "--config", config),
        log=tmp_path / "mirror.log",
        ready=partial(answers, f"http://127.0.0.1:{admin}/readyz"),
        environment={
            **CHILD_ENVIRONMENT,
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "400000",
        },
    )
    async with process:
        await heard(manager, "READY=1")
        await heard(manager, "WATCHDOG=1")
        await heard(manager, "WATCHDOG=1")
        os.kill(process.pid, signal.SIGHUP)
        await heard(manager, "RELOADING=1\nMONOTONIC_USEC=")
        await heard(manager, "READY=1")
        titles = sorted(map(title_of, children_of(process)))
        assert titles == ["mirror: worker 1", "mirror: worker 2"]
        assert title_of(process.pid) == "mirror: serve"
        await upstream.stop()
        for _ in range(5):
            await get(f"http://{listen}/v2/library/alpine/manifests/1")
        await heard(manager, " is down")
        await process.stop()
        await heard(manager, "STOPPING=1")


def title_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()


def test_only_who_is_meant_has_a_watchdog() -> None:
    told = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000"}
    assert notify_socket(told) == ("/run/x", 30)
    assert notify_socket({**told, "WATCHDOG_PID": str(os.getpid())}) == ("/run/x", 30)
    assert notify_socket({**told, "WATCHDOG_PID": "1"}) == ("/run/x", 0)
    assert notify_socket({}) == ("", 0)


def test_the_journal_is_told_priorities_and_nobody_else(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        found = os.fstat(file.fileno())
        assert is_journal(file.fileno(), {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        assert not is_journal(file.fileno(), {"JOURNAL_STREAM": "1:2"})
        assert not is_journal(file.fileno(), {})

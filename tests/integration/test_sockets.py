"""A service manager holds the socket: no client notices that the mirror is restarted, or killed."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import tomli_w

from tests.support.client import client
from tests.support.images import image, random_layer
from tests.support.mirror import document, upstream_at
from tests.support.process import CHILD_ENVIRONMENT, answers, free_port, until
from tests.support.upstream import ScriptedRegistry

APP = image(random_layer(100_000, seed=3))


@pytest.fixture
def passed() -> Iterator[socket.socket]:
    """A listening socket, as systemd holds one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


_LAUNCHER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


async def start(config: Path, passed: socket.socket) -> asyncio.subprocess.Process:
    """`mirror serve` with this socket as its third descriptor, as systemd passes one."""
    return await asyncio.create_subprocess_exec(
        "setpriv", "--pdeathsig", "KILL", "--",
        sys.executable, "-c", _LAUNCHER, str(passed.fileno()),
        "-m", "mirror", "serve", "--config", config,
        pass_fds=[passed.fileno()], env=CHILD_ENVIRONMENT,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


@asynccontextmanager
async def mirror_with(
    config: Path, passed: socket.socket, admin: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A mirror that is ready; the test may end it."""
    child = await start(config, passed)
    try:
        await until(lambda: answers(f"http://127.0.0.1:{admin}/readyz"))
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def configure(tmp_path: Path, url: str, admin: int) -> Path:
    settings = document(
        {"docker.io": upstream_at(url)}, store_root=tmp_path / "store", ports=(1, admin)
    )
    config = tmp_path / "mirror.toml"
    await asyncio.to_thread(config.write_text, tomli_w.dumps(settings))
    return config


async def pull(port: int) -> bool:
    """Whether the layer came, over a new connection; false where that was dropped.

    Raises:
        aiohttp.ClientConnectorError: It was refused.
    """
    async with client(f"http://127.0.0.1:{port}") as one:
        try:
            answer = await one.blob("app", APP.layers[0])
        except aiohttp.ClientConnectorError:
            raise
        except aiohttp.ClientError:
            return False  # it was killed in the middle of this one
    assert answer.digest == APP.layers[0]
    return True


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_who_pulls_across_a_restart_waits_and_is_not_refused(
    upstream: ScriptedRegistry, tmp_path: Path, passed: socket.socket, end: signal.Signals
) -> None:
    upstream.add(APP, "library/app", "1")
    admin, port = free_port(), passed.getsockname()[1]
    config = await configure(tmp_path, upstream.url, admin)
    pulled, over = [], asyncio.Event()

    async def pull_on() -> None:
        while not over.is_set():
            pulled.append(await pull(port))
            await asyncio.sleep(0.02)

    async def until_more() -> None:
        wanted = sum(pulled) + 3
        while sum(pulled) < wanted:  # noqa: ASYNC110 - what is pulled elsewhere sets no Event
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as tasks:
        pulling = tasks.create_task(pull_on())
        for _ in range(3):
            async with mirror_with(config, passed, admin) as child:
                async with asyncio.timeout(60):
                    await until_more()
                child.send_signal(end)
                await child.wait()
        async with mirror_with(config, passed, admin):
            over.set()
            await pulling


async def test_what_is_no_listening_socket_is_told(tmp_path: Path) -> None:
    config = await configure(tmp_path, "http://127.0.0.1:9", free_port())
    with socket.socket() as unbound:
        child = await start(config, unbound)
        _, told = await child.communicate()
    assert child.returncode == 1
    assert b"no listening TCP socket" in told

"""Programs that tests start: awaited, observed, and stopped by id with everything they started."""

import asyncio
import os
import shlex
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

# What the tests themselves were started with, and the one place where they look at it.
INHERITED: Mapping[str, str] = dict(os.environ)  # noqa: TID251

# Nothing listens on the discard port, and no program here uses a proxy for loopback: whatever a
# child wants from beyond this machine is refused at once, and says so, instead of working on some
# machines only.
_NOWHERE = "http://127.0.0.1:9"
CHILD_ENVIRONMENT: Mapping[str, str] = {
    name: value
    for name, value in INHERITED.items()
    if not name.lower().endswith("_proxy") and not name.startswith("MIRROR_")
} | {"HTTP_PROXY": _NOWHERE, "HTTPS_PROXY": _NOWHERE}

# A child does not outlive the tests, however they end: the kernel sees to it.
_DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")

PATIENCE = 60.0
"""Seconds to wait for what will come; a busy machine needs some, and a pass does not wait."""

_POLL_SECONDS = 0.02
_kept_ports = deque[socket.socket](maxlen=1000)  # what falls out is closed
_SHOWN_LOG = 8000  # characters, from the end
_CHECKOUT = Path(__file__).parents[2]

Condition = Callable[[], Awaitable[bool]]


class ProcessFailed(AssertionError):
    """A program did not do what the test needs from it; the message holds what it printed."""


async def until(condition: Condition, *, within: float = PATIENCE) -> None:
    """Return when `condition` holds; `TimeoutError` when it does not in time."""
    async with asyncio.timeout(within):
        while not await condition():  # noqa: ASYNC110 - other processes set no Event of ours
            await asyncio.sleep(_POLL_SECONDS)


async def answers(url: str, status: int = 200) -> bool:
    """Whether `GET url` gives this status."""
    patience = aiohttp.ClientTimeout(total=2)
    try:
        async with aiohttp.ClientSession(timeout=patience) as session, session.get(url) as response:
            return response.status == status
    except (aiohttp.ClientError, TimeoutError):
        return False


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on.

    It is kept for who asked: nobody else on this machine is given it, neither by this nor for a
    connection. A server that sets SO_REUSEADDR, as all do, listens on it all the same.
    """
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(("127.0.0.1", 0))
    _kept_ports.append(keeper)
    return int(keeper.getsockname()[1])


def kept_descriptors() -> set[int]:
    """The descriptors that keep the ports that `free_port` has given."""
    return {keeper.fileno() for keeper in _kept_ports}


async def run(
    *command: str | Path,
    environment: Mapping[str, str] = CHILD_ENVIRONMENT,
    check: bool = True,
    within: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end.

    `ProcessFailed` when it takes too long or, if `check`, when it fails.
    """
    child = await asyncio.create_subprocess_exec(
        *_DIE_WITH_PARENT,
        *command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(within):
            stdout, stderr = await child.communicate()
    except TimeoutError:
        raise ProcessFailed(f"still running after {within} s: {_shown(command)}") from None
    finally:
        await _end_group(child)
    assert child.returncode is not None
    if check and child.returncode:
        raise ProcessFailed(
            f"exit {child.returncode}: {_shown(command)}\n{stdout.decode()}{stderr.decode()}"
        )
    return subprocess.CompletedProcess(command, child.returncode, stdout.decode(), stderr.decode())


class Process:
    """A server in a process group of its own: ready when the block begins, gone when it ends.

    It may be stopped and started again within the block. The log continues. `ProcessFailed` when
    it ends otherwise than by `stop`, `kill` or under the eyes of `wait`.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        ready: Condition,
        environment: Mapping[str, str] = CHILD_ENVIRONMENT,
        start_within: float = 20,
        stop_within: float = 20,
    ) -> None:
        self._command = command
        self._log = log
        self._ready = ready
        self._environment = environment
        self._start_within = start_within
        self._stop_within = stop_within
        self._child: asyncio.subprocess.Process | None = None
        self._may_end = False

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._started.returncode

    def log(self) -> str:
        """Everything it has printed."""
        return self._log.read_text(errors="replace")

    async def start(self) -> None:
        assert self._child is None or self._child.returncode is not None, "already running"
        self._may_end = False
        with self._log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                *_DIE_WITH_PARENT,
                *self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=_CHECKOUT,
                start_new_session=True,
            )
        try:
            await until(self._ready_or_dead, within=self._start_within)
        except TimeoutError:
            await _end_group(self._child)
            raise self._failure(f"not ready after {self._start_within} s") from None
        except BaseException:
            await _end_group(self._child)
            raise

    async def stop(self) -> None:
        """Ask it to end; `ProcessFailed` when it had to be forced."""
        child = self._started
        with suppress(ProcessLookupError):
            child.terminate()
        try:
            await self.wait(within=self._stop_within)
        finally:
            await _end_group(child)

    async def kill(self) -> None:
        """End it as a crash would."""
        self._may_end = True
        await _end_group(self._started)

    async def wait(self, *, within: float = 20) -> int:
        """The exit status, once it has ended; `ProcessFailed` when it does not in time."""
        self._may_end = True
        try:
            async with asyncio.timeout(within):
                return await self._started.wait()
        except TimeoutError:
            raise self._failure(f"still running after {within} s") from None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.returncode is None:
            await self.stop()
            return
        await _end_group(self._started)  # what a crashed leader left behind
        if not self._may_end and error is None:
            raise self._failure(f"ended by itself, exit {self.returncode}")

    @property
    def _started(self) -> asyncio.subprocess.Process:
        assert self._child is not None, "not started"
        return self._child

    async def _ready_or_dead(self) -> bool:
        if self.returncode is not None:
            raise self._failure(f"exit {self.returncode} before it was ready")
        return await self._ready()

    def _failure(self, what: str) -> ProcessFailed:
        return ProcessFailed(f"{what}: {_shown(self._command)}\n{self.log()[-_SHOWN_LOG:]}")


async def _end_group(child: asyncio.subprocess.Process) -> None:
    """Kill what is left of the process group of `child`, and reap the child."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    await child.wait()


def _shown(command: Sequence[str | Path]) -> str:
    return shlex.join(str(part) for part in command)


def children_of(process: Process) -> set[int]:
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return {int(child) for task in tasks for child in task.read_text(encoding="utf-8").split()}

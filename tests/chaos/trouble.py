"""What goes wrong, or changes, while clients are at it: never while it is to be calm."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from enum import Enum
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.judge import Judge
from tests.chaos.world import World
from tests.support.mirror import MirrorProcess
from tests.support.process import ProcessFailed, children_of, run
from tests.support.upstream import ScriptedRegistry


class _Blow(Enum):
    KILL_WORKER = "kill a worker"
    STOP_WORKER = "stop a worker"
    STOP = "stop the mirror"
    RELOAD = "reload"
    RESTART = "restart"
    KILL = "kill the mirror"


_OF_UPLOADS: tuple[dict[str, Any], ...] = (
    {"cut_body_at": 0}, {"cut_body_at": 1000}, {"cut_body_at": 100_000},
    {"cut_body_at": 1_000_000}, {"stall_body_at": 50_000}, {"body_status_at": (1000, 500)},
    {"vanish": True}, {"drop": True}, {"delay": 1.5}, {"status": 503}, {"status": 429},
)  # fmt: skip
_OF_CONTENT: tuple[dict[str, Any], ...] = (
    {"hang": True}, {"drop": True}, {"delay": 0.3}, {"delay": 2.0}, {"status": 500},
    {"status": 502}, {"status": 503}, {"status": 429}, {"status": 404}, {"status": 401},
    {"status": 403}, {"chunked": True}, {"ignore_range": True}, {"truncate_at": 0},
    {"truncate_at": 1}, {"truncate_at": 1000}, {"truncate_at": 100_000},
    {"truncate_at": 2_000_000}, {"reset_at": 10}, {"reset_at": 100_000}, {"reset_at": 1_500_000},
    {"stall_at": 0}, {"stall_at": 10_000}, {"stall_at": 1_000_000}, {"corrupt_at": 0},
    {"corrupt_at": 5}, {"corrupt_at": 100_000}, {"corrupt_at": 1_000_000},
    {"omit": ("Docker-Content-Digest",)}, {"omit": ("Content-Type",)},
)  # fmt: skip
_NONSENSE = (b"<html>sorry</html>", b"{}", b"", b"[]")
_KINDS = ("blob", "blob", "manifest", "tag", "upload", "upload", None)
_DONE = 2  # a command's status may be 0 to so many
_BLOWS = (*_Blow, _Blow.KILL_WORKER, _Blow.RELOAD)


def _a_fault(dice: Random) -> dict[str, Any]:
    kind = dice.choice(_KINDS)
    what: dict[str, Any] = {
        "kind": kind,
        "times": dice.choice([1, 2, 10, None]),
        "skip": dice.choice([0, 0, 3]),
    }
    if kind == "upload":
        return what | dice.choice(_OF_UPLOADS)
    what |= dice.choice(_OF_CONTENT)
    if kind in {"tag", "manifest"} and dice.random() < 0.2:
        what["body"] = dice.choice(_NONSENSE)
    if kind == "blob" and dice.random() < 0.1:
        what["headers"] = {"Content-Range": "bytes 5-10/11"}
    return what


class Trouble:
    """Each of its methods goes on until it is time to stop."""

    def __init__(
        self,
        mirror: MirrorProcess,
        directory: Path,
        registries: list[ScriptedRegistry],
        world: World,
        judge: Judge,
    ) -> None:
        self._mirror = mirror
        self._directory = directory
        self._registries = registries
        self._world = world
        self._judge = judge
        self._dice = world.dice

    async def _pause(self, most: float, stop: asyncio.Event) -> bool:
        """Wait for up to so many seconds; whether there may be trouble then."""
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), most * self._dice.random())
        return self._judge.is_troubled and not stop.is_set()

    async def move_tags(self, stop: asyncio.Event) -> None:
        """People push new images: that is no trouble, and never stops."""
        while not stop.is_set():
            await self._pause(4, stop)
            self._world.move(self._world.find_place())

    async def fail_registries(self, stop: asyncio.Event) -> None:
        """One fault at a time, and now and then an outage."""
        while not stop.is_set():
            if not await self._pause(1, stop):
                continue
            registry = self._dice.choice(self._registries)
            fault = registry.fault(**_a_fault(self._dice))
            if fault.corrupt_at is not None:
                self._judge.lies()
            await self._pause(3, stop)
            if fault in registry.faults:
                registry.faults.remove(fault)
            if self._dice.random() < 0.08:
                self._judge.saw("outage")
                await registry.stop()
                await self._pause(4, stop)
                await registry.start()

    async def hit_processes(self, stop: asyncio.Event) -> None:
        """The mirror's own processes are killed, stopped for a while, or told to reload."""
        while not stop.is_set():
            if await self._pause(16, stop):
                blow = self._dice.choice(_BLOWS)
                self._judge.saw(blow.value)
                with suppress(ProcessLookupError, IndexError):
                    await self._hit(blow)

    async def _hit(self, blow: _Blow) -> None:
        process, workers = self._mirror.process, sorted(children_of(self._mirror.process))
        match blow:
            case _Blow.KILL_WORKER:
                os.kill(self._dice.choice(workers), signal.SIGKILL)
            case _Blow.STOP_WORKER:
                await self._freeze(self._dice.choice(workers), 2)
            case _Blow.STOP:
                await self._freeze(process.pid, 3)
            case _Blow.RELOAD:
                os.kill(process.pid, signal.SIGHUP)
            case _Blow.RESTART | _Blow.KILL:
                self._judge.restarts()
                await (process.stop() if blow is _Blow.RESTART else process.kill())
                await process.start()
                self._judge.restarts()

    async def _freeze(self, pid: int, most: float) -> None:
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(most * self._dice.random())
        os.kill(pid, signal.SIGCONT)

    async def give_commands(self, stop: asyncio.Event) -> None:
        """An operator at work: that is no trouble, either."""
        while not stop.is_set():
            await self._pause(3, stop)
            place = self._world.find_place()
            image = f"{place.name}:{place.tag}"
            bundle = str(self._directory / "bundle.tar")
            verb = self._dice.choice(
                [
                    ["status"], ["ls"], ["du"], ["du", "--next"], ["gc"], ["verify"], ["pins"],
                    ["rm", image], ["pin", image], ["unpin", image], ["warm", image],
                    ["why", image], ["inspect", image], ["compare", image], ["files", image],
                    ["export", image, "--output", bundle],
                ]
            )  # fmt: skip
            command = (sys.executable, "-m", "mirror", *verb)
            config = self._directory / "mirror.toml"
            try:
                done = await run(*command, "--config", config, check=False, within=120)
            except ProcessFailed as error:
                self._judge.object(str(error))
                continue
            self._judge.saw(f"{verb[0]} {done.returncode}")
            printed = done.stdout + done.stderr
            if "Traceback" in printed or not 0 <= done.returncode <= _DONE:
                self._judge.object(f"{verb} ended with {done.returncode}: {printed[-2000:]}")

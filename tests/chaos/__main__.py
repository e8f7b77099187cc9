"""Everything at once, at random: pulls, pushes, faults, outages, kills, and operators' commands.

    python -m tests.chaos --seconds 300                   another run each time
    python -m tests.chaos --seconds 300 --seed 7          about the same as the last one with 7
    python -m tests.chaos --without kills --without faults

A mirror with two workers runs against three registries. What completes is compared byte for byte,
and in moments of calm everything has to work. Ends with 1 where something was wrong; its log and
its store stay then. As root, one run of three is on a disk that is too small.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from secrets import randbelow
from typing import Any

from tests.chaos.judge import SETTLED, Judge
from tests.chaos.pulling import Puller
from tests.chaos.pushing import Pushes
from tests.chaos.trouble import Trouble
from tests.chaos.world import World
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.process import run
from tests.support.small_disk import small_disk
from tests.support.uploads import Pushes as TakesPushes
from tests.support.upstream import Cdn, ScriptedRegistry

_PARTS = ("pushes", "faults", "kills", "commands")
_PULLERS = 8
_PUSHERS = 2
_TROUBLED = 20.0  # seconds between two moments of calm
_ENDED_WITHIN = 170.0  # seconds; more than a pull or a push may take
_SIZES = ("9 MiB", "20 MiB", "60 MiB")
_DISKS = (64 * 2**20, 96 * 2**20)  # bytes


def main() -> None:
    """Run; exits with 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=randbelow(1_000_000))
    parser.add_argument("--without", choices=_PARTS, action="append", default=[])
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    judge = Judge()
    dice = Random(chosen.seed)  # noqa: S311 - for chance, not for secrets
    asyncio.run(_Chaos(directory, judge, dice, {*chosen.without}).run(chosen.seconds))
    for what, count in sorted(judge.counts.items()):
        print(f"{count:7} {what}")
    if judge.problems:
        print(f"{len(judge.problems)} things were wrong; the log and the store are in {directory}")
        sys.exit(1)
    shutil.rmtree(directory)
    print("nothing was wrong")


class _Chaos:
    def __init__(self, directory: Path, judge: Judge, dice: Random, without: set[str]) -> None:
        self._directory = directory
        self._judge = judge
        self._dice = dice
        self._without = without
        self._hub, self._second, self._quay = (ScriptedRegistry() for _ in range(3))

    @property
    def _registries(self) -> list[ScriptedRegistry]:
        return [self._hub, self._second, self._quay]

    async def run(self, seconds: float) -> None:
        async with AsyncExitStack() as stack:
            for registry in self._registries:
                await stack.enter_async_context(registry)
            self._second.repositories = self._hub.repositories
            self._hub.push = TakesPushes(style=self._dice.choice(["2.8", "3"]))
            self._hub.cdn = self._dice.choice([None, Cdn()])
            world = World(self._dice, {"": self._hub, "quay.io/": self._quay})
            mirror = await stack.enter_async_context(self._mirror())
            await self._play(mirror, world, seconds)
            await self._look_at_the_end(mirror)

    @asynccontextmanager
    async def _mirror(self) -> AsyncIterator[MirrorProcess]:
        hub = {
            "endpoints": [
                {"url": self._hub.url},
                {"url": self._second.url, "tags": self._dice.choice([True, False, "fallback"])},
            ],
            "push": "client",
            "default": True,
        }
        settings: dict[str, dict[str, Any]] = {
            "server": {"workers": 2},
            "store": {
                "max_size": self._dice.choice(_SIZES),
                "memory_cache": self._dice.choice(["0 B", "4 MiB", "128 MiB"]),
            },
            "tags": {"fresh_for": "1s", "missing_for": "1s"},
            "fill": {
                "segment_size": self._dice.choice(["256 KiB", "1 MiB", "8 MiB"]),
                "connections": self._dice.choice([1, 3, 4]),
                "max_active": self._dice.choice([3, 32]),
                "prefetch": self._dice.choice(["off", "platform"]),
                "stall_timeout": "2s", "connect_timeout": "2s", "attempts": 4,
            },
        }  # fmt: skip
        self._judge.is_cramped = settings["store"]["max_size"] != _SIZES[-1]
        upstreams = {"docker.io": hub, "quay.io": upstream_at(self._quay.url)}
        async with AsyncExitStack() as stack:
            if self._dice.random() < 1 / 3:
                disk = small_disk(self._directory / "store", self._dice.choice(_DISKS))
                await stack.enter_async_context(disk)
                settings["store"] |= {"max_size": "1 GiB", "min_free": "16 MiB"}
                self._judge.is_cramped = True
                print("on a small disk")
            print(settings, flush=True)
            yield await stack.enter_async_context(
                running_mirror(self._directory, upstreams, **settings)
            )

    async def _play(self, mirror: MirrorProcess, world: World, seconds: float) -> None:
        stop, judge = asyncio.Event(), self._judge
        trouble = Trouble(mirror, self._directory, self._registries, world, judge)
        url = mirror.url
        parts = [Puller(url, f"127.0.0.{n + 2}", world, judge).run for n in range(_PULLERS)]
        parts.append(trouble.move_tags)
        if "pushes" not in self._without:
            parts += [
                Pushes(url, f"127.0.1.{n + 2}", self._hub, world, judge).run
                for n in range(_PUSHERS)
            ]
        if "faults" not in self._without:
            parts.append(trouble.fail_registries)
        if "kills" not in self._without:
            parts.append(trouble.hit_processes)
        if "commands" not in self._without:
            parts.append(trouble.give_commands)
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part(stop))
            while judge.elapsed < seconds:
                await asyncio.sleep(_TROUBLED)
                await self._calm_down(mirror)
                judge.stir_up()
            await self._calm_down(mirror)
            stop.set()

    async def _calm_down(self, mirror: MirrorProcess) -> None:
        self._judge.calm_down()
        for registry in self._registries:
            registry.faults.clear()
            registry.forget()
        await asyncio.sleep(self._dice.choice([2, SETTLED + 8]))
        faults = await mirror.metric("mirror_internal_errors_total")
        if faults:
            self._judge.object(f"{faults} internal errors; see its log")
        print(f"[{self._judge.elapsed:7.1f}] {sum(self._judge.counts.values())} seen", flush=True)

    async def _look_at_the_end(self, mirror: MirrorProcess) -> None:
        config = self._directory / "mirror.toml"
        command = (sys.executable, "-m", "mirror", "verify", "--config", config)
        done = await run(*command, check=False)
        print(done.stdout[-500:])
        for line in mirror.process.log().splitlines():
            is_killed = "ended with status -9" in line
            if ("ERROR" in line and not is_killed) or "Traceback" in line or "Exception" in line:
                self._judge.object(f"in the log: {line[:400]}")


if __name__ == "__main__":
    main()

"""What operators are told of the disk, which may take its time."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mirror.control.overview import Overview
from mirror.telemetry.collectors import StoreTotals


async def test_a_disk_that_hangs_is_waited_for_but_once() -> None:
    """Whatever it is asked: each of the questions waits until the other has been asked."""
    is_asked_free, is_probed = asyncio.Event(), asyncio.Event()

    async def find_free() -> int:
        is_asked_free.set()
        await is_probed.wait()
        return 5

    async def find_disk_trouble() -> str:
        is_probed.set()
        await is_asked_free.wait()
        return "it hangs"

    store = SimpleNamespace(root=Path("store"), max_size=10, min_free=1)
    parts: Any = SimpleNamespace(
        find_free=find_free, find_disk_trouble=find_disk_trouble, clock=lambda: 0.0,
        monotonic=lambda: 0.0, config=lambda: SimpleNamespace(store=store),
        totals=lambda: StoreTotals(0, 0), disk=lambda: 0, registries=dict, schedules=list,
        company=list, lives=dict, fills=SimpleNamespace(disk_trouble=None),
    )  # fmt: skip
    async with asyncio.timeout(10):
        health = await Overview(parts).health()
    assert [problem.why for problem in health.problems] == ["it hangs"]

"""The guard against leaks sees them."""

import asyncio
from pathlib import Path

import pytest

from tests.support.leaks import LeftBehind, Remains


async def test_a_file_left_open_is_found(tmp_path: Path) -> None:
    remains = Remains()
    with (tmp_path / "left").open("w"), pytest.raises(LeftBehind, match=r"descriptor .*/left"):
        await remains.check(grace=0)
    await remains.check(grace=0)


async def test_a_task_left_running_is_found() -> None:
    remains = Remains()
    done = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(done.wait(), name="forgotten")
        with pytest.raises(LeftBehind, match="forgotten"):
            await remains.check(grace=0)
        done.set()
    await remains.check(grace=0)


async def test_what_ends_within_the_grace_is_no_leak() -> None:
    remains = Remains()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.sleep(0.05))
        await remains.check()

"""The bytes of a course are added to by one at a time."""

import asyncio
from pathlib import Path

import pytest

from mirror.oci.errors import StoreError
from mirror.push.content import Spooled
from mirror.push.growing import Growing
from mirror.storage.errors import NoRoom
from mirror.storage.spools import Spool
from tests.support.clock import FakeClock
from tests.unit.storage.opening import open_store


class Full(Spooled):
    """Waits until it may say that the disk is full."""

    def __init__(self, spool: Spool) -> None:
        super().__init__(spool)
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def append(self, piece: bytes) -> None:
        del piece
        self.asked.set()
        await self.may_answer.wait()
        raise NoRoom("the disk is full")


class Alone(Growing):
    async def _grew(self, *, is_led_anew: bool) -> None:
        pass


async def test_who_waits_for_a_turn_has_it_where_the_one_before_finds_the_disk_full(
    tmp_path: Path,
) -> None:
    async with open_store(tmp_path) as store:
        content = Full(await store.spools.begin("0" * 32))
        growing = Alone(content, FakeClock().monotonic)
        both = asyncio.gather(
            growing.extend(0, b"a", "one"), growing.extend(0, b"a", "another"),
            return_exceptions=True,
        )  # fmt: skip
        await content.asked.wait()
        content.may_answer.set()
        first, second = await asyncio.wait_for(both, 10)
        assert isinstance(first, NoRoom)
        assert second is False  # and looks what has become of it


async def test_what_it_has_not_is_not_read(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        growing = Alone(Spooled(await store.spools.begin("0" * 32)), FakeClock().monotonic)
        with pytest.raises(StoreError, match="no byte"):
            await growing.read(0, 1)

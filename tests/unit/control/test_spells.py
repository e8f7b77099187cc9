"""Spells of endpoints, as they are written down."""

from pathlib import Path

from mirror.control.spells import Spells
from mirror.history.keeper import Keeper
from mirror.history.ports import DAY
from mirror.history.sqlite import Bounds, SqliteHistory
from mirror.oci.errors import StoreError
from tests.conformance.history import spell
from tests.support.clock import FakeClock
from tests.support.process import until
from tests.support.tasks import owned_tasks


class _Away(SqliteHistory):
    """Cannot be read for a moment, when it is asked first."""

    failures = 2

    async def find_next_spell(self) -> int:
        if self.failures:
            self.failures -= 1
            raise StoreError("the disk is away")
        return await super().find_next_spell()


async def test_where_history_cannot_be_read_for_a_moment_it_keeps_what_it_has(
    tmp_path: Path, clock: FakeClock
) -> None:
    bounds = Bounds(DAY, 1000 * DAY, 2**30)
    async with (
        _Away.open(tmp_path / "history.sqlite3", bounds) as history,
        Keeper.keeping(history, private=(), tells_clients=True, clock=clock) as keeper,
        owned_tasks() as tasks,
    ):
        old = [spell(number) for number in range(5, 0, -1)]
        await history.record_spells(old)
        tasks.keep(Spells(keeper, list, clock).run, name="spells")

        async def is_running() -> bool:
            return any(it.state == "running" for it in await history.list_spells(0, None, 9))

        await until(is_running)
        assert (await history.list_spells(0, None, 9))[1:] == old

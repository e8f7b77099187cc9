"""The ledger of turns, in a real PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import pytest

from mirror.shared.database import Database
from mirror.shared.failing import DatabaseDown
from mirror.shared.ledger import PostgresLedger
from tests.conformance.ledger import (
    DIGEST,
    LEASE,
    PATIENCE,
    PRIVATE,
    TERM,
    UPSTREAM,
    LedgerConformance,
    Ledgers,
)
from tests.support.postgres import Postgres
from tests.support.process import until

DICE = Random(14)  # noqa: S311 - for jitter


class TestPostgresLedger(LedgerConformance):
    @pytest.fixture
    async def ledgers(self, tmp_path: Path, postgres: Postgres) -> AsyncIterator[Ledgers]:
        url = await postgres.create_database()
        file = tmp_path / "database"
        file.write_text(url)
        async with AsyncExitStack() as stack:

            async def ledger(name: str, *, had_trouble: bool = False) -> PostgresLedger:
                database = await stack.enter_async_context(
                    Database.open(
                        file,
                        name=name,
                        expected=None,
                        note_fault=_note_fault,
                        dice=DICE,
                    )
                )
                return PostgresLedger(
                    database,
                    name,
                    patience=PATIENCE,
                    read_private=lambda: [PRIVATE],
                    had_trouble=lambda _: had_trouble,
                )

            async def stall() -> None:
                connection = await asyncpg.connect(url)
                await connection.execute(
                    "UPDATE mirror.blobs SET moved_at = now() - $1 * interval '1 second'",
                    PATIENCE + 1,
                )
                await connection.close()

            async def lapse() -> None:
                connection = await asyncpg.connect(url)
                await connection.execute(
                    "UPDATE mirror.blobs SET until = now() - interval '1 second'"
                )
                await connection.close()

            # That the server has been started a moment ago is taken for an outage.
            await until(partial(_is_old, url))
            yield Ledgers(
                await ledger("one"),
                await ledger("two"),
                await ledger("two", had_trouble=True),
                lapse,
                stall,
                await ledger("one"),
            )


async def _is_old(url: str) -> bool:
    connection = await asyncpg.connect(url)
    try:
        return bool(
            await connection.fetchval(
                "SELECT pg_postmaster_start_time() < now() - $1 * interval '1 second'", 2 * LEASE
            )
        )
    finally:
        await connection.close()


def _note_fault(task: str, error: Exception) -> None:
    raise AssertionError(f"{task}: {error}")


class Losing(Database):
    """Loses the answer to one of the next statements that are asked for a row, once it is done."""

    loses = 0
    """Which of them, from 1."""

    async def fetchrow(self, sql: str, *values: object, within: float | None = None) -> Any:
        row = await super().fetchrow(sql, *values, within=within)
        self.loses -= 1
        if not self.loses:
            raise DatabaseDown("the connection was lost")
        return row


@pytest.mark.parametrize("what", ["the turn", "the pieces that are there"])
async def test_a_turn_of_which_the_answer_was_lost_is_taken_by_the_next_claim(
    tmp_path: Path, postgres: Postgres, what: str
) -> None:
    file = tmp_path / "database"
    file.write_text(await postgres.create_database())
    async with Losing.open(
        file, name="one", expected=None, note_fault=_note_fault, dice=DICE
    ) as database:
        one, two = (
            PostgresLedger(
                database, name, patience=PATIENCE, read_private=list, had_trouble=lambda _: False
            )
            for name in ("one", "two")
        )
        await one.begin()
        assert isinstance(database, Losing)
        if what == "the turn":
            database.loses = 1
        else:
            before = await two.claim(UPSTREAM, DIGEST, TERM, LEASE)
            assert before is not None
            await two.release(before.blob, before.epoch)
            database.loses = 2
        with pytest.raises(DatabaseDown):
            await one.claim(UPSTREAM, DIGEST, TERM, LEASE)
        found = await one.find(UPSTREAM, DIGEST)
        assert found is not None
        assert found.is_free
        assert await two.claim(UPSTREAM, DIGEST, TERM, LEASE) is None  # it is one's
        assert await one.claim(UPSTREAM, DIGEST, TERM, LEASE) is not None
        assert await one.claim(UPSTREAM, DIGEST, TERM, LEASE) is None  # whoever has it here

"""The ledger of turns, in a real PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from random import Random

import asyncpg
import pytest

from mirror.shared.database import Database
from mirror.shared.ledger import PostgresLedger
from tests.conformance.ledger import LEASE, PATIENCE, PRIVATE, LedgerConformance, Ledgers
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

"""The ledger of turns, in a real PostgreSQL."""

import asyncio
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
from mirror.shared.ledger import CHANNEL, PostgresLedger, parse_notice
from mirror.shared.pieces import Piece, Told, key
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


async def test_who_listens_is_told_of_a_piece_with_all_that_it_takes_to_read_it(
    tmp_path: Path, postgres: Postgres
) -> None:
    url = await postgres.create_database()
    file = tmp_path / "database"
    file.write_text(url)
    notices = asyncio.Queue[tuple[int, Told | None] | None]()

    def note(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        notices.put_nowait(parse_notice(str(payload)))

    async with Database.open(
        file, name="one", expected=None, note_fault=_note_fault, dice=DICE
    ) as database:
        ledger = PostgresLedger(
            database, "one", patience=PATIENCE, read_private=list, had_trouble=lambda _: False
        )
        turn = await ledger.claim(UPSTREAM, DIGEST, TERM, LEASE)
        assert turn is not None
        listener = await asyncpg.connect(url)
        await listener.add_listener(CHANNEL, note)
        piece = Piece(0, 10, key(DIGEST, turn.epoch, "0123456789abcdef", 0))
        assert await ledger.tell_size(turn.blob, turn.epoch, 10)
        assert await ledger.record(turn.blob, turn.epoch, piece)
        assert await ledger.prove(turn.blob, turn.epoch, 10, [piece.key])
        async with asyncio.timeout(10):
            assert await notices.get() == (turn.blob, None)
            notice = await notices.get()
            assert await notices.get() == (turn.blob, None)
        assert notice is not None
        blob, told = notice
        assert told is not None
        assert (blob, told.of(DIGEST)) == (turn.blob, piece)
        await listener.close()


@pytest.mark.parametrize(
    ("payload", "notice"),
    [
        ("12", (12, None)),
        ("12 0 5 1-0123456789abcdef", (12, Told(0, 5, "1-0123456789abcdef"))),
        ("12 0 5 1-0123456789ABCDEF", (12, None)),
        ("12 0 5 ../x", (12, None)),
        ("12 and what a later version says", (12, None)),
        ("", None),
        ("x", None),
        ("-1", None),
        ("1" * 19, None),
        ("12x", None),
    ],
)
def test_what_is_no_notice_says_nothing(
    payload: str, notice: tuple[int, Told | None] | None
) -> None:
    assert parse_notice(payload) == notice


class Losing(Database):
    """Loses the answer to the next statement that is asked for a row, once it is done."""

    loses = False

    async def fetchrow(self, sql: str, *values: object, within: float | None = None) -> Any:
        row = await super().fetchrow(sql, *values, within=within)
        if self.loses:
            self.loses = False
            raise DatabaseDown("the connection was lost")
        return row


async def test_a_turn_of_which_the_answer_was_lost_is_taken_by_the_next_claim(
    tmp_path: Path, postgres: Postgres
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
        database.loses = True
        with pytest.raises(DatabaseDown):
            await one.claim(UPSTREAM, DIGEST, TERM, LEASE)
        found = await one.find(UPSTREAM, DIGEST)
        assert found is not None
        assert found.is_free
        assert await two.claim(UPSTREAM, DIGEST, TERM, LEASE) is None  # it is one's
        assert await one.claim(UPSTREAM, DIGEST, TERM, LEASE) is not None
        assert await one.claim(UPSTREAM, DIGEST, TERM, LEASE) is None  # whoever has it here

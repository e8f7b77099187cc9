"""Records in a PostgreSQL database: the same promises as in an SQLite file."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.records.ports import Records
from mirror.records.postgres import PostgresRecords
from tests.conformance.records import RecordsConformance
from tests.support.clock import FakeClock
from tests.support.postgres import Postgres, opened


class TestPostgresRecords(RecordsConformance):
    @pytest.fixture
    async def records(
        self, postgres: Postgres, tmp_path: Path, clock: FakeClock
    ) -> AsyncIterator[Records]:
        async with opened(await postgres.create_database(), tmp_path) as database:
            yield PostgresRecords(database, clock=clock, there=clock)

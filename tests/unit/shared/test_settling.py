"""What is from the future in a real PostgreSQL, whose clock was set back by three hours."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from mirror.shared.database import Database
from mirror.shared.settling import settle
from tests.support.postgres import Postgres, opened

LEASE = 15.0
BACK = timedelta(hours=3)

_ASKING = """
  INSERT INTO mirror.checks (path, tag, holder, until)
  VALUES ('docker.io/app', '1', 'one', now() + $1::interval)
"""
_FUTURE = f"""
  WITH future AS (SELECT now() + $1::interval AS at),
  proved AS (
    INSERT INTO mirror.blobs (upstream, digest, epoch, until, moved_at, proved_at, used_at)
    SELECT 'docker.io', 'sha256:1', 1, at, at, at, at FROM future
  ), leaving AS (
    INSERT INTO mirror.blobs (upstream, digest, epoch, until, proved_at, leaving_at)
    SELECT 'docker.io', 'sha256:2', 2, now(), now(), at FROM future
  ), said AS (
    INSERT INTO mirror.events (at, origin, event)
    SELECT at, 'one', event FROM future, unnest(ARRAY['["pause"]', '["no tag"]']) AS said (event)
  ), asking AS ({_ASKING}), pausing AS (
    INSERT INTO mirror.pauses (upstream, endpoint, what, until)
    SELECT 'docker.io', 'hub', 'manifests', at FROM future
  )
  SELECT 1
"""  # noqa: S608
_COUNTS = """
  SELECT
    (SELECT count(*) FROM mirror.blobs WHERE greatest(moved_at, used_at, leaving_at) > now()
      OR until > now() + $1 * interval '1 second') AS blobs,
    (SELECT count(*) FROM mirror.blobs WHERE leaving_at IS NOT NULL) AS leaving,
    (SELECT count(*) FROM mirror.events WHERE at > now()) AS early_events,
    (SELECT count(*) FROM mirror.events) AS events,
    (SELECT count(*) FROM mirror.checks) AS checks,
    (SELECT count(*) FROM mirror.pauses WHERE until > now() + interval '1 minute') AS pauses
"""


@pytest.fixture
async def database(postgres: Postgres, tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(await postgres.create_database(), tmp_path) as database:
        await settle(database, LEASE)
        await database.execute(_FUTURE, BACK)
        yield database


async def test_it_counts_as_of_now(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    await database.execute("UPDATE mirror.chores SET begun_at = begun_at + $1::interval", BACK)
    await settle(database, LEASE)
    assert [*await database.fetchrow(_COUNTS, LEASE)] == [0, 1, 0, 1, 0, 0]
    assert "clock was set back by 10800 s" in caplog.text
    await database.execute(_ASKING, BACK)
    await settle(database, LEASE)  # it is seen to once
    assert (await database.fetchrow(_COUNTS, LEASE))["checks"] == 1


async def test_where_the_clock_goes_on_nothing_is_touched(database: Database) -> None:
    await settle(database, LEASE)
    assert [*await database.fetchrow(_COUNTS, LEASE)] == [2, 1, 2, 2, 1, 1]

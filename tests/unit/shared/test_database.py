"""A database that may be away, somebody else's, or a standby: on a real one."""

import asyncio
import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from mirror.oci.errors import StoreError
from mirror.shared.database import Database
from mirror.shared.failing import DatabaseDown
from mirror.shared.migrating import SCRIPTS, Unusable
from tests.support.postgres import PASSWORD, Postgres, opened, running_pgbouncer
from tests.support.process import until
from tests.support.tls import Authority


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """One that tests stop, kill and suspend."""
    with Postgres.running() as server:
        yield server


async def is_up(database: Database) -> None:
    async def up() -> bool:
        return database.is_up

    await until(up)


async def is_down(database: Database) -> None:
    async def down() -> bool:
        return not database.is_up

    await until(down)


async def test_who_comes_first_makes_what_all_need(postgres: Postgres, tmp_path: Path) -> None:
    url = await postgres.create_database()
    async with (
        opened(url, tmp_path, name="one") as one,
        opened(url, tmp_path, name="two") as two,
    ):
        assert one.deployment == two.deployment
        assert one.deployment is not None
        assert one.deployment.version == len(SCRIPTS)
        assert one.hears
        assert abs(one.now() - time.time()) < 5  # noqa: TID251


async def test_of_many_that_come_at_once_one_makes_it(postgres: Postgres, tmp_path: Path) -> None:
    url = await postgres.create_database()
    found = set()

    async def come(number: int) -> None:
        async with opened(url, tmp_path, name=str(number)) as database:
            assert database.deployment is not None
            found.add(database.deployment.id)

    async with asyncio.TaskGroup() as tasks:
        for number in range(6):
            tasks.create_task(come(number))
    assert len(found) == 1


async def test_what_one_notifies_others_hear(postgres: Postgres, tmp_path: Path) -> None:
    url = await postgres.create_database()
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with opened(url, tmp_path, name="one") as one, opened(url, tmp_path, name="two") as two:
        two.listen("news", heard.put_nowait)

        async def comes() -> bool:
            await one.execute("SELECT pg_notify('news', 'something')")
            return not heard.empty()

        await until(comes)
        assert heard.get_nowait() == "something"


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_while_it_is_down_whoever_asks_is_told_at_once_and_then_it_is_back(
    server: Postgres, tmp_path: Path, end: str
) -> None:
    ups: list[float] = []
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with opened(await server.create_database(), tmp_path) as database:
        database.subscribe_up(lambda: ups.append(database.up_since))
        database.listen("news", heard.put_nowait)
        getattr(server, end)()
        await is_down(database)
        with pytest.raises(DatabaseDown, match="the shared database is down"):
            await database.fetchval("SELECT 1")
        server.start()
        await is_up(database)
        assert await database.fetchval("SELECT 1") == 1
        assert len(ups) == 2

        async def comes() -> bool:
            await database.execute("SELECT pg_notify('news', 'again')")
            return not heard.empty()

        await until(comes)


async def test_one_that_stands_still_keeps_nobody_for_long(
    server: Postgres, tmp_path: Path
) -> None:
    async with opened(await server.create_database(), tmp_path) as database:
        assert await database.fetchval("SELECT 1") == 1
        server.suspend()
        try:
            with pytest.raises(DatabaseDown, match="does not answer in time"):
                await database.fetchval("SELECT 1")
            await is_down(database)
        finally:
            server.proceed()
        await is_up(database)


async def test_a_mirror_begins_without_it(server: Postgres, tmp_path: Path) -> None:
    url = await server.create_database()
    server.stop()
    try:
        async with opened(url, tmp_path) as database:
            assert not database.is_up
            assert database.trouble is not None
            assert "refused" in database.trouble
            server.start()
            await is_up(database)
    finally:
        if not await _runs(server):
            server.start()


async def _runs(server: Postgres) -> bool:
    try:
        await server.execute("SELECT 1")
    except OSError:
        return False
    return True


async def test_a_password_is_in_no_word_of_it(
    postgres: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = (await postgres.create_database()).replace("word", "wort")
    async with opened(url, tmp_path) as database:
        assert not database.is_up
        assert database.trouble is not None
        assert 'password authentication failed for user "mirror"' in database.trouble
        assert "wort" not in caplog.text + database.trouble + repr(database.__dict__)


async def test_a_password_that_has_changed_is_read_anew(postgres: Postgres, tmp_path: Path) -> None:
    url = await postgres.create_database()
    async with opened(url.replace("word", "wort"), tmp_path) as database:
        assert not database.is_up
        await asyncio.to_thread((tmp_path / "database-one").write_text, url)
        await is_up(database)


async def test_a_value_that_no_column_takes_is_no_outage(
    postgres: Postgres, tmp_path: Path
) -> None:
    async with opened(await postgres.create_database(), tmp_path) as database:
        for value in (2**70, "text"):
            with pytest.raises(StoreError, match="does not keep this"):
                await database.fetchval("SELECT $1::bigint", value)
        with pytest.raises(StoreError, match="division by zero"):
            await database.fetchval("SELECT 1 / 0")
        assert database.is_up


async def test_all_of_a_transaction_is_done_or_nothing(postgres: Postgres, tmp_path: Path) -> None:
    async with opened(await postgres.create_database(), tmp_path) as database:

        async def fail_in_the_middle() -> None:
            async with database.transaction() as connection:
                await connection.execute("INSERT INTO mirror.upstreams (name) VALUES ('a')")
                await connection.execute("SELECT 1 / 0")

        with pytest.raises(StoreError, match="division by zero"):
            await fail_in_the_middle()
        assert await database.fetchval("SELECT count(*) FROM mirror.upstreams") == 0


# Whose it is


async def test_another_deployments_database_is_refused(postgres: Postgres, tmp_path: Path) -> None:
    ours, theirs = await postgres.create_database(), await postgres.create_database()
    async with opened(ours, tmp_path) as database:
        assert database.deployment is not None
        expected = database.deployment.id
    async with opened(ours, tmp_path, expected=expected) as database:
        assert database.is_up
    for url in (theirs, await postgres.create_database()):
        if url == theirs:
            async with opened(url, tmp_path):
                pass
        with pytest.raises(Unusable, match=f"belongs to deployment {expected}"):
            async with opened(url, tmp_path, expected=expected):
                pass


async def test_a_database_of_newer_mirrors_is_refused_unless_they_say_otherwise(
    postgres: Postgres, tmp_path: Path
) -> None:
    url = await postgres.create_database()
    async with opened(url, tmp_path):
        pass
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("UPDATE mirror.deployment SET version = 99")
        async with opened(url, tmp_path) as database:
            assert database.is_up  # what they have added does not matter to us
        await connection.execute("UPDATE mirror.deployment SET usable_from = 99")
        with pytest.raises(Unusable, match="is of version 99"):
            async with opened(url, tmp_path):
                pass
    finally:
        await connection.close()


async def test_a_schema_that_is_somebody_elses_is_refused(
    postgres: Postgres, tmp_path: Path
) -> None:
    url = await postgres.create_database()
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE SCHEMA mirror")
    await connection.close()
    with pytest.raises(Unusable, match='has a schema "mirror" that no mirror has made'):
        async with opened(url, tmp_path):
            pass


async def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"shared.database_file holds no database's URL"):
        async with opened("nonsense", tmp_path):
            pass


# What is in between


async def test_a_standby_is_not_written_to_and_told_apart(server: Postgres, tmp_path: Path) -> None:
    url = await server.create_database()
    name = url.rpartition("/")[2]
    async with opened(url, tmp_path):
        pass
    with server.standby() as standby:
        async with opened(standby.url(name), tmp_path) as database:
            assert not database.is_up
            assert database.trouble is not None
            assert "read-only standby: name the primary" in database.trouble
        both = standby.url(name).replace(
            f":{standby.port}/", f":{standby.port},127.0.0.1:{server.port}/"
        )
        async with opened(both, tmp_path) as database:
            assert database.is_up


async def test_behind_pgbouncer_in_transaction_mode_nothing_is_heard_and_all_else_works(
    postgres: Postgres, tmp_path: Path
) -> None:
    url = await postgres.create_database()
    async with (
        running_pgbouncer(tmp_path, postgres) as port,
        opened(postgres.url(url.rpartition("/")[2], port=port), tmp_path) as database,
    ):
        assert database.is_up
        assert not database.hears
        answers = await asyncio.gather(
            *(database.fetchval("SELECT $1::int", number) for number in range(50))
        )
        assert answers == list(range(50))
        assert not await database.fetchval("SELECT count(*) FROM pg_prepared_statements")


async def test_where_sessions_last_a_statement_is_prepared_once(
    postgres: Postgres, tmp_path: Path
) -> None:
    async with opened(await postgres.create_database(), tmp_path) as database:
        for _ in range(2):
            assert await database.fetchval("SELECT $1::int", 7) == 7
        sql = "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT $1::int'"
        assert await database.fetchval(sql) == 1


async def test_a_table_that_a_newer_mirror_changes_is_read_on(
    postgres: Postgres, tmp_path: Path
) -> None:
    url = await postgres.create_database()
    async with opened(url, tmp_path) as database:
        await database.execute("CREATE TABLE mirror.changing (one int)")
        await database.execute("INSERT INTO mirror.changing VALUES (1)")
        assert dict(await database.fetchrow("SELECT * FROM mirror.changing")) == {"one": 1}
        await postgres.execute(
            "ALTER TABLE mirror.changing ADD two int", database=url.rpartition("/")[2]
        )
        assert dict(await database.fetchrow("SELECT * FROM mirror.changing")) == {
            "one": 1, "two": None,
        }  # fmt: skip


async def test_tls_is_verified(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    identity = authority.issue("127.0.0.1")
    with Postgres.running() as server:
        server.identify(identity.certificate_file, identity.private_key_file)
        server.stop()
        server.start()
        url = await server.create_database()
        async with opened(f"{url}?sslrootcert={authority.ca_file}", tmp_path) as database:
            assert database.is_up
            assert await database.fetchval(
                "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            )
        async with opened(f"{url}?sslrootcert={stranger.ca_file}", tmp_path) as database:
            assert not database.is_up
            assert database.trouble is not None
            assert "CERTIFICATE_VERIFY_FAILED" in database.trouble
        assert PASSWORD not in (database.trouble or "")


async def test_however_often_it_is_refused_no_refusal_drags_the_ones_before_along(
    tmp_path: Path,
) -> None:
    database = Database(
        tmp_path / "none",
        name="one",
        monotonic=time.monotonic,
        dice=random.Random(1),  # noqa: S311
    )
    database.refusal = Unusable("it belongs to others")
    lengths = set[int]()
    for _ in range(5):
        with pytest.raises(Unusable, match="belongs to others") as raised:
            await database.fetchval("SELECT 1")
        lengths.add(len(raised.traceback))
    assert len(lengths) == 1


async def test_who_subscribes_anew_is_told_once(postgres: Postgres, tmp_path: Path) -> None:
    """As a task does that was started again after a fault."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    ups: list[int] = []

    def note_up() -> None:
        ups.append(1)

    async with opened(await postgres.create_database(), tmp_path) as database:
        for _ in range(3):
            database.listen("news", heard.put_nowait)
            database.subscribe_up(note_up)

        async def comes() -> bool:
            await database.execute("SELECT pg_notify('news', $1)", str(heard.qsize()))
            return not heard.empty()

        await until(comes)
        database.doubt()
        await database.execute("SELECT pg_notify('news', 'last')")
        found: list[str] = []
        while not found or found[-1] != "last":
            found.append(await heard.get())
        assert found.count("last") == 1
        assert heard.empty()


async def test_a_database_that_is_exchanged_while_mirrors_run_is_refused(
    postgres: Postgres, tmp_path: Path
) -> None:
    """Behind PgBouncer, say, or where an administrator has begun anew."""
    async with opened(await postgres.create_database(), tmp_path) as database:
        await database.execute("DROP SCHEMA mirror CASCADE")
        database.doubt()
        await is_down(database)
        with pytest.raises(Unusable, match="nobody's yet"):
            await database.fetchval("SELECT 1")

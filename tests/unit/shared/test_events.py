"""What others have said, in a real PostgreSQL, where it cannot be done here for a while."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from mirror.oci.errors import StoreError
from mirror.shared.database import Database
from mirror.shared.events import Event, Events, TagForgotten
from tests.support.postgres import Postgres, opened
from tests.support.process import until
from tests.support.tasks import owned_tasks

_SAY = (
    "INSERT INTO mirror.events (origin, event, at) SELECT 'another',"
    " json_build_array('no tag', json_build_array('repository', 'docker.io', 'app'), tag)::text,"
    " now() - $2 * interval '1 second' FROM unnest($1::text[]) AS tags (tag)"
)
MINUTE = 60.0


@dataclass(eq=False)
class Ears:
    """Hears tags that are gone, but for those that it `cannot` do."""

    cannot: set[str] = field(default_factory=set)
    heard: list[str] = field(default_factory=list)
    noted: list[float] = field(default_factory=list)

    async def hear(self, event: Event) -> None:
        assert isinstance(event, TagForgotten)
        if event.tag in self.cannot:
            raise StoreError("disk full")
        self.heard.append(event.tag)

    async def note(self, at: float) -> None:
        self.noted.append(at)

    async def until_heard(self, *tags: str) -> None:
        async def is_heard() -> bool:
            return set(tags) <= set(self.heard)

        await until(is_heard)

    @asynccontextmanager
    async def open(self, database: Database, since: float) -> AsyncIterator[Events]:
        """They hear what was said since then, and what is said inside the block."""
        events = Events(
            database, origin="one", hear=self.hear, heard=since, note_heard=self.note
        )  # fmt: skip
        async with owned_tasks() as tasks:
            tasks.keep(events.follow, name="hear")
            yield events


@pytest.fixture
async def database(postgres: Postgres, tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(await postgres.create_database(), tmp_path) as database:
        yield database


async def test_what_cannot_be_done_keeps_nothing_else_from_being_heard(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    ears = Ears(cannot={"1", "2"})
    await database.execute(_SAY, ["1", "2", "3"], 0.0)
    async with ears.open(database, database.now()) as events:
        await ears.until_heard("3")
        assert (events.undone, events.trouble) == (2, "disk full")
        ears.cannot = {"1"}
        await ears.until_heard("2", "3")
        ears.cannot = set()
        await ears.until_heard("1", "2", "3")

        async def is_well() -> bool:
            return events.trouble is None

        await until(is_well)
        assert events.undone == 0
    assert len(ears.heard) == 3
    assert len([it for it in caplog.messages if "cannot be done here yet" in it]) == 1


async def test_what_could_not_be_done_before_a_restart_is_heard_after_it(
    database: Database,
) -> None:
    ears = Ears(cannot={"old"})
    since = database.now() - 10 * MINUTE
    await database.execute(_SAY, ["old"], 5 * MINUTE)
    await database.execute(_SAY, ["new"], 0.0)
    async with ears.open(database, since):
        await ears.until_heard("new")

        async def is_noted() -> bool:
            return bool(ears.noted)

        await until(is_noted)
    after = Ears()
    async with after.open(database, ears.noted[-1]):
        await after.until_heard("old", "new")


async def test_of_more_than_there_is_room_for_none_is_lost(database: Database) -> None:
    tags = [str(number) for number in range(1100)]
    ears = Ears(cannot=set(tags))
    await database.execute(_SAY, tags, 0.0)
    async with ears.open(database, database.now()) as events:

        async def is_full() -> bool:
            return events.undone == 1000

        await until(is_full)
        await database.execute(_SAY, ["last"], 0.0)
        await ears.until_heard("last")
        ears.cannot = set()
        await ears.until_heard(*tags)


async def test_what_is_said_after_the_clock_was_set_back_is_heard(database: Database) -> None:
    """Also where nobody knows when that was: the mirror was away."""
    await database.execute(_SAY, ["meanwhile"], 20 * MINUTE)
    ears = Ears()
    async with ears.open(database, database.now() + 180 * MINUTE):
        await ears.until_heard("meanwhile")
        await database.execute(_SAY, ["now"], 0.0)
        await ears.until_heard("now")

        async def is_noted() -> bool:
            return bool(ears.noted)

        await until(is_noted)
    assert ears.noted[-1] <= database.now()


async def test_a_pause_that_was_told_of_before_the_clock_was_set_back_is_not_heard_again(
    database: Database,
) -> None:
    """It would hold for hours; `Ears` take it for a fault."""
    paused = '["pause", "docker.io", "hub", "manifests", 2e9]'
    say = "INSERT INTO mirror.events (origin, event, at) VALUES ('another', $1, now() + $2)"
    await database.execute(say, paused, timedelta(hours=3))
    ears = Ears()
    async with ears.open(database, 0.0):
        await database.execute(_SAY, ["now"], 0.0)
        await ears.until_heard("now")

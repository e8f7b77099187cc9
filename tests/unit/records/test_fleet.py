"""A mirror's own records and the shared ones, as one; with the shared ones at times away."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import asyncpg
import msgspec
import pytest

from mirror.oci.digest import digest_of
from mirror.oci.errors import StoreError, Unavailable
from mirror.oci.manifest import OCI_MANIFEST
from mirror.oci.reference import Repository
from mirror.records.fleet import FleetRecords
from mirror.records.fleet_wishes import FleetWishes
from mirror.records.ports import Link, Named, Records, ReferrersRecord, TagRecord
from mirror.records.postgres import PostgresRecords
from mirror.records.sqlite import SqliteRecords
from mirror.records.telling import Teller
from mirror.records.tidying import Tidying
from mirror.records.together import Together
from mirror.records.untold import (
    Entry,
    LinkSaid,
    LinksGone,
    Pinned,
    ReferrersGone,
    TagGone,
    Unpinned,
    Untold,
)
from mirror.records.wishes import PinRecord
from mirror.shared.database import Database
from mirror.shared.events import (
    Event,
    Events,
    LinksForgotten,
    PinsChanged,
    ReferrersForgotten,
    TagForgotten,
    TagMoved,
)
from mirror.sqlite import Database as SqliteDatabase, Row, Statement
from tests.conformance.records import ALPINE, APP, HUB, NGINX, ONE, THREE, TWO, RecordsConformance
from tests.support.clock import FakeClock
from tests.support.postgres import Postgres, opened
from tests.support.process import until
from tests.support.tasks import owned_tasks

HOUR = 3600.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Member:
    """One mirror of several, as far as it has records."""

    records: FleetRecords
    own: SqliteRecords
    shared: PostgresRecords
    untold: Untold
    together: Together
    wishes: FleetWishes
    database: Database
    teller: Teller
    heard: list[Event]
    disk: "Disk"

    async def told(self) -> None:
        """Return when it has told all that it knows."""
        await self.untold.wait_told(30)


@dataclass(eq=False)
class Disk:
    """While it is full, nothing that is heard can be written down: no removals."""

    is_full: bool = False
    refused: asyncio.Event = field(default_factory=asyncio.Event)


Join = Callable[[str], Awaitable[Member]]


@pytest.fixture
async def url(postgres: Postgres) -> str:
    return await postgres.create_database()


@pytest.fixture
async def join(url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Join]:
    """`one = await join("one")`: a mirror with a store of that name."""
    async with AsyncExitStack() as stack:

        async def join(name: str) -> Member:
            return await _join(stack, url, tmp_path, clock, name)

        yield join


async def _join(
    stack: AsyncExitStack, url: str, directory: Path, clock: FakeClock, name: str
) -> Member:
    database = await stack.enter_async_context(opened(url, directory, name=name))
    root = directory / name
    root.mkdir()
    own = await stack.enter_async_context(SqliteRecords.open(root / "records.sqlite3", clock=clock))
    untold = await stack.enter_async_context(Untold.open(root))
    shared = PostgresRecords(database, clock=clock, there=clock)
    running = await stack.enter_async_context(owned_tasks())
    heard: list[Event] = []
    disk = Disk()

    async def hear(event: Event) -> None:
        if disk.is_full and isinstance(event, TagForgotten):
            disk.refused.set()
            raise StoreError("disk full")
        heard.append(event)

    async def note(at: float) -> None:
        await untold.remember("heard", repr(at))

    events = Events(database, origin=name, hear=hear, heard=None, note_heard=note)
    teller = Teller(untold, database, shared, origin=name, holder=name)
    running.keep(teller.tell_forever, name="tell")
    running.keep(events.follow, name="hear")

    async def hears() -> bool:  # what was said before is not for who is new
        return not database.is_up or await untold.recall("heard") is not None

    await until(hears)
    together = Together(
        database, shared, untold, name=name, lease=5.0, monotonic=asyncio.get_running_loop().time
    )
    wishes = FleetWishes(own.wishes, untold, database)
    return Member(
        FleetRecords(own, shared, untold, is_up=lambda: database.is_up, clock=clock),
        own,
        shared,
        untold,
        together,
        wishes,
        database,
        teller,
        heard,
        disk,
    )


class TestFleetRecordsWithoutTheDatabase(RecordsConformance):
    """While it is there, others may know what this mirror has forgotten as of no use to itself."""

    @pytest.fixture
    async def records(
        self, url: str, postgres: Postgres, tmp_path: Path, clock: FakeClock
    ) -> AsyncIterator[Records]:
        nowhere = url.replace(f":{postgres.port}/", ":9/")
        async with AsyncExitStack() as stack:
            yield (await _join(stack, nowhere, tmp_path, clock, "one")).records


async def test_what_one_has_learnt_another_knows_and_keeps(join: Join) -> None:
    one, two = await join("one"), await join("two")
    await one.records.record_manifest(ALPINE, ONE, 5, [Named(TWO, 20)], sent_as=OCI_MANIFEST)
    await one.records.record_sent(HUB, TWO)
    await one.records.record_link(NGINX, THREE, 3)
    await one.records.record_tag(ALPINE, "1", TagRecord(ONE, 1.0, told_by="one.example"))
    await one.records.record_referrers(ALPINE, ONE, ReferrersRecord(b"{}", 1.0))
    await one.told()
    manifest = Link(5, is_confirmed=True, is_sent=True)
    assert await two.records.find_link(ALPINE, ONE) == manifest
    assert await two.records.find_link(ALPINE, TWO) == Link(20, is_confirmed=False, is_sent=True)
    assert await two.records.find_link(NGINX, THREE) == Link(3, is_confirmed=True, is_sent=False)
    assert await two.records.find_link(APP, ONE) is None
    assert await two.records.find_media_type(HUB, ONE) == OCI_MANIFEST
    assert await two.records.list_senders(TWO) == {HUB}
    assert await two.records.list_children(ONE) == [TWO]
    tag = TagRecord(ONE, 1.0, told_by="one.example")
    assert await two.records.find_tag(ALPINE, "1") == tag
    assert await two.records.list_tags(ALPINE, after=None, limit=None) == ["1"]
    assert await two.records.find_referrers(ALPINE, ONE) == ReferrersRecord(b"{}", 1.0)
    # What it has used, it has on record itself.
    assert await two.own.find_link(ALPINE, ONE) == manifest
    assert await two.own.find_tag(ALPINE, "1") == tag
    assert await two.own.list_senders(ONE) == {HUB}


async def test_the_newer_word_on_a_tag_counts_whoever_says_it(join: Join) -> None:
    one, two = await join("one"), await join("two")
    await one.records.record_tag(ALPINE, "1", TagRecord(ONE, 5.0))
    await one.told()
    await two.own.record_tag(ALPINE, "1", TagRecord(TWO, 4.0))  # as after an outage
    assert (await two.records.find_tag(ALPINE, "1")) == TagRecord(ONE, 5.0)
    await two.records.record_tag(ALPINE, "1", TagRecord(THREE, 3.0))
    await two.told()
    assert (await one.records.find_tag(ALPINE, "1")) == TagRecord(ONE, 5.0)


async def test_what_a_mirror_says_of_the_future_is_of_now(join: Join, clock: FakeClock) -> None:
    """Its clock was set back between what it heard and what it told: at its start, or by hand."""
    one, two = await join("one"), await join("two")
    await one.records.record_tag(ALPINE, "1", TagRecord(ONE, clock() + 24 * HOUR))
    await one.records.record_referrers(ALPINE, ONE, ReferrersRecord(b"1", clock() + 24 * HOUR))
    await one.told()
    clock.advance(1)
    await two.records.record_tag(ALPINE, "1", TagRecord(TWO, clock()))
    await two.records.record_referrers(ALPINE, ONE, ReferrersRecord(b"2", clock()))
    await two.told()
    assert await two.shared.find_tag(ALPINE, "1") == TagRecord(TWO, clock())
    assert await two.shared.find_referrers(ALPINE, ONE) == ReferrersRecord(b"2", clock())


async def test_others_hear_what_a_tag_means_now_and_nothing_where_it_means_the_same(
    join: Join,
) -> None:
    one, two = await join("one"), await join("two")
    for at, digest in enumerate((ONE, ONE, TWO), start=1):
        await one.records.record_tag(ALPINE, "1", TagRecord(digest, float(at)))
        await one.told()
    await one.records.forget_tag(ALPINE, "1")

    async def all_is_heard() -> bool:
        return TagForgotten(ALPINE, "1") in two.heard

    await until(all_is_heard)
    moved = TagMoved(ALPINE, "1")
    assert two.heard == [moved, moved, TagForgotten(ALPINE, "1")]
    assert one.heard == []


async def test_links_that_are_forgotten_are_forgotten_everywhere(join: Join) -> None:
    one, two = await join("one"), await join("two")
    digests = [digest_of(b"%d" % number) for number in range(100)]  # more than one event holds
    await one.records.record_manifest(ALPINE, ONE, 5, [Named(it, 1) for it in digests])
    await one.told()
    await one.records.forget_links(ALPINE, digests)
    assert await one.records.find_link(ALPINE, digests[0]) is None
    assert await two.records.find_link(ALPINE, digests[-1]) is None

    async def all_is_heard() -> bool:
        gone = [event.digests for event in two.heard if isinstance(event, LinksForgotten)]
        return sum(map(len, gone)) == 100

    await until(all_is_heard)


async def test_referrers_that_are_forgotten_are_asked_for_anew_everywhere(join: Join) -> None:
    one, two = await join("one"), await join("two")
    await one.records.record_referrers(ALPINE, ONE, ReferrersRecord(b"{}", 1.0))
    await one.told()
    assert await two.records.find_referrers(ALPINE, ONE) == ReferrersRecord(b"{}", 1.0)
    await one.records.forget_referrers(ALPINE, ONE)
    assert await one.records.find_referrers(ALPINE, ONE) is None

    async def is_heard() -> bool:
        return ReferrersForgotten(ALPINE, ONE) in two.heard

    await until(is_heard)
    assert await two.shared.find_referrers(ALPINE, ONE) is None


async def test_what_could_not_be_done_when_it_was_heard_is_done_later(join: Join) -> None:
    one, two = await join("one"), await join("two")
    two.disk.is_full = True
    await one.records.forget_tag(ALPINE, "1")
    await one.records.forget_tag(ALPINE, "2")
    await two.disk.refused.wait()
    await one.records.record_tag(ALPINE, "3", TagRecord(ONE, 1.0))

    async def is_heard() -> bool:  # what needs no disk waits for nothing
        return TagMoved(ALPINE, "3") in two.heard

    await until(is_heard)
    two.disk.is_full = False
    await until(lambda: _has_heard(two, "1"))
    await until(lambda: _has_heard(two, "2"))
    assert len(two.heard) == 3


FORGED = '["no tag",["repository","docker.io","library/alpine"],"forged"]'


@pytest.mark.parametrize(
    "payload",
    [
        "garbage", "9223372036854775808", "999999999999999999",
        '[9223372036854775808, 1.0, "x", "junk"]', json.dumps([7, 1.0, "nobody", FORGED]),
    ],
)  # fmt: skip
async def test_what_anybody_notifies_keeps_no_mirror_from_hearing(join: Join, payload: str) -> None:
    one, two = await join("one"), await join("two")
    await one.records.forget_tag(ALPINE, "1")
    await one.told()

    await until(lambda: _has_heard(two, "1"))
    await one.database.execute("SELECT pg_notify('mirror_events', $1)", payload)
    await one.records.forget_tag(ALPINE, "2")
    await until(lambda: _has_heard(two, "2"))
    assert not await _has_heard(two, "forged")
    # What is said while nobody listens is read then.
    await one.database.execute(
        "INSERT INTO mirror.events (origin, event) VALUES ('one', $1)",
        '["no tag",["repository","docker.io","library/alpine"],"3"]',
    )
    await one.database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'mirror two' AND datname = current_database()"
    )
    await until(lambda: _has_heard(two, "3"))


async def _has_heard(member: Member, tag: str) -> bool:
    return any(isinstance(it, TagForgotten) and it.tag == tag for it in member.heard)


# Turns


async def test_one_asks_and_the_others_take_what_it_finds_out(join: Join, clock: FakeClock) -> None:
    one, two = await join("one"), await join("two")
    since = clock() - 60
    async with one.together.turn(ALPINE, "1", since=since) as told:
        assert told is None
        waiting = asyncio.get_running_loop().create_task(_take(two, ALPINE, since))
        await asyncio.wait([waiting], timeout=0.2)
        assert not waiting.done()
        await one.records.record_tag(ALPINE, "1", TagRecord(ONE, clock()))
    assert await waiting == TagRecord(ONE, clock())
    async with two.together.turn(ALPINE, "1", since=since) as told:
        assert told == TagRecord(ONE, clock())
    clock.advance(61)
    async with two.together.turn(ALPINE, "1", since=clock() - 60) as told:
        assert told is None


async def _take(member: Member, repository: Repository, since: float) -> TagRecord | None:
    async with member.together.turn(repository, "1", since=since) as told:
        return told


@pytest.mark.parametrize("error", [KeyError("no answer for us"), asyncio.CancelledError()])
async def test_one_that_is_refused_lets_the_next_ask(
    join: Join, clock: FakeClock, error: BaseException
) -> None:
    one, two = await join("one"), await join("two")
    waiting: list[asyncio.Task[TagRecord | None]] = []

    async def fail() -> None:
        async with one.together.turn(ALPINE, "1", since=clock()):
            loop = asyncio.get_running_loop()
            waiting.append(loop.create_task(_take(two, ALPINE, clock())))
            await asyncio.wait(waiting, timeout=0.2)
            raise error

    with pytest.raises(type(error)):
        await fail()
    assert await waiting[0] is None


async def test_who_has_waited_for_long_does_not_wait_for_a_silent_upstream_again(
    join: Join, clock: FakeClock
) -> None:
    one, two = await join("one"), await join("two")

    async def fail() -> None:
        async with one.together.turn(ALPINE, "1", since=clock()):
            failing.set()
            await asyncio.wait([waiting], timeout=1.2)
            raise Unavailable("silence")

    async with asyncio.TaskGroup() as tasks:
        failing = asyncio.Event()

        async def wait() -> None:
            await failing.wait()
            with pytest.raises(Unavailable, match="in vain"):
                await _take(two, ALPINE, clock())

        waiting = tasks.create_task(wait())
        with pytest.raises(Unavailable, match="silence"):
            await fail()
    assert await _take(two, ALPINE, clock()) is None  # whoever comes next asks anew


async def test_a_mirror_that_dies_while_it_asks_is_waited_for_no_longer_than_its_turn(
    join: Join, clock: FakeClock
) -> None:
    one, two = await join("one"), await join("two")
    await one.together.turn(ALPINE, "1", since=clock()).__aenter__()  # and is not heard of again
    await two.database.execute("UPDATE mirror.checks SET until = now() + interval '1 s'")
    assert await _take(two, ALPINE, clock()) is None


async def test_manifests_are_had_from_others_with_who_has_sent_them(join: Join) -> None:
    one, two = await join("one"), await join("two")
    content = b'{"schemaVersion": 2}'
    digest = digest_of(content)
    await one.together.put_manifest(digest, content)
    await one.told()
    assert await two.together.find_manifest(digest) is None  # it may be anybody's secret
    await one.records.record_sent(HUB, digest)
    await one.told()
    assert await two.together.find_manifest(digest) == (content, frozenset({HUB}))
    await two.database.execute("UPDATE mirror.manifests SET content = 'something else'")
    assert await two.together.find_manifest(digest) is None


# Pins


async def test_pins_are_those_of_all(join: Join) -> None:
    one, two = await join("one"), await join("two")
    pin = PinRecord("docker.io/library/alpine:1", ("linux/amd64",), 60.0)
    await two.own.wishes.record_pin(PinRecord("docker.io/library/old:1"))
    await two.wishes.bring_own()
    await one.wishes.record_pin(pin)
    for member in (one, two):
        await member.told()

    async def is_heard() -> bool:
        return PinsChanged() in two.heard

    await until(is_heard)
    assert await two.wishes.take_over()
    assert await two.wishes.list_pins() == [pin, PinRecord("docker.io/library/old:1")]
    await two.wishes.forget_pin(pin.image)
    await two.told()
    assert await one.wishes.take_over()
    assert await one.wishes.list_pins() == [PinRecord("docker.io/library/old:1")]


# Away


async def test_what_is_learnt_while_the_database_is_away_is_told_over_restarts(
    postgres: Postgres, tmp_path: Path, clock: FakeClock
) -> None:
    url = await postgres.create_database()
    nowhere = url.replace(f":{postgres.port}/", ":9/")
    async with AsyncExitStack() as stack:
        away = await _join(stack, nowhere, tmp_path, clock, "one")
        await away.records.record_link(ALPINE, ONE, 10)
        await away.records.record_tag(ALPINE, "1", TagRecord(ONE, 1.0))
        assert await away.records.find_tag(ALPINE, "1") == TagRecord(ONE, 1.0)
        assert (await away.records.find_link(ALPINE, ONE)) is not None
        assert await away.records.find_link(ALPINE, TWO) is None
        assert await _take(away, ALPINE, clock()) is None
        assert await away.together.find_manifest(ONE) is None
        assert away.untold.count == 2
    async with opened(url, tmp_path) as database, Untold.open(tmp_path / "one") as untold:
        assert untold.count == 2
        shared = PostgresRecords(database, clock=clock, there=clock)
        async with owned_tasks() as tasks:
            teller = Teller(untold, database, shared, origin="one", holder="one")
            tasks.keep(teller.tell_forever, name="tell")
            await untold.wait_told(30)
            assert teller.told == 2
        assert await shared.find_tag(ALPINE, "1") == TagRecord(ONE, 1.0)


async def _learn(member: Member, at: float) -> None:
    """A manifest, ONE, of TWO and THREE, its tag, a link, and what refers to it."""
    children = [Named(TWO, 20), Named(THREE, 30)]
    await member.records.record_manifest(ALPINE, ONE, 5, children, sent_as=OCI_MANIFEST)
    await member.records.record_link(ALPINE, TWO, 20)
    await member.records.record_link(NGINX, TWO, 20)
    await member.records.record_tag(ALPINE, "1", TagRecord(ONE, at))
    record = ReferrersRecord(b"{}", at)
    await member.records.record_referrers(ALPINE, ONE, record)


async def _tell_late(url: str, tmp_path: Path, *, said_at: float) -> None:
    """Have a mirror tell what it has learnt while it was away, by its clock and the database's."""
    nowhere = "postgresql://mirror@127.0.0.1:9/nothing"
    async with AsyncExitStack() as stack:
        clock = FakeClock(said_at - 2 * HOUR)
        late = await _join(stack, nowhere, tmp_path, clock, "late")
        await late.records.record_link(APP, THREE, 30)
        clock.advance(2 * HOUR)
        await _learn(late, said_at)
    async with (
        opened(url, tmp_path, name="late") as database,
        Untold.open(tmp_path / "late") as untold,
        owned_tasks() as tasks,
    ):
        shared = PostgresRecords(database, clock=time.time)  # noqa: TID251 - as below
        teller = Teller(untold, database, shared, origin="late", holder="late")
        tasks.keep(teller.tell_forever, name="tell")
        await untold.wait_told(30)
        assert untold.count == 0


async def _forget(member: Member) -> None:
    await member.records.forget_tag(ALPINE, "1")
    await member.records.forget_referrers(ALPINE, ONE)
    await member.records.forget_links(ALPINE, [ONE, TWO])
    await member.told()


async def test_what_was_learnt_before_others_forgot_it_is_not_told_late(
    join: Join, url: str, tmp_path: Path
) -> None:
    one = await join("one")
    await _forget(one)
    await _tell_late(url, tmp_path, said_at=_an_hour_ago())
    assert await one.shared.find_tag(ALPINE, "1") is None
    assert await one.shared.find_referrers(ALPINE, ONE) is None
    assert await one.shared.find_link(ALPINE, ONE) is None
    assert await one.shared.find_link(ALPINE, TWO) is None
    assert await one.shared.find_link(NGINX, TWO) is not None  # of that nobody has said anything


async def test_a_manifest_that_is_told_late_brings_no_link_back_that_was_forgotten(
    join: Join, url: str, tmp_path: Path
) -> None:
    one = await join("one")
    await one.records.forget_links(ALPINE, [TWO])
    await one.told()
    await _tell_late(url, tmp_path, said_at=_an_hour_ago())
    assert await one.shared.find_link(ALPINE, ONE) is not None
    assert await one.shared.find_link(ALPINE, TWO) is None
    assert await one.shared.find_link(ALPINE, THREE) is not None
    assert await one.shared.list_children(ONE) == [TWO, THREE]


async def test_what_was_learnt_after_others_forgot_it_is_told_however_late(
    join: Join, url: str, tmp_path: Path
) -> None:
    one = await join("one")
    await _forget(one)
    await one.database.execute("UPDATE mirror.events SET at = at - interval '2 hours'")
    await _tell_late(url, tmp_path, said_at=_an_hour_ago())
    assert await one.shared.find_tag(ALPINE, "1") is not None
    assert await one.shared.find_referrers(ALPINE, ONE) is not None
    assert await one.shared.find_link(ALPINE, ONE) is not None
    assert await one.shared.find_link(ALPINE, TWO) is not None


def _an_hour_ago() -> float:
    return time.time() - HOUR  # noqa: TID251 - the database's clock counts


async def test_what_waits_to_be_told_is_bounded(tmp_path: Path) -> None:
    async with Untold.open(tmp_path, most=20_000) as untold:
        for number in range(1000):
            await untold.add(_said(number))
        kept = await untold.first()
        assert untold.lost > 0
        assert untold.count < 400
        assert kept[-1][1] != _said(0)


async def test_what_nobody_would_learn_anew_is_kept_the_longest(tmp_path: Path) -> None:
    gone: list[Entry] = [LinksGone(NGINX, (ONE,)), TagGone(NGINX, "1"), ReferrersGone(NGINX, ONE)]
    pins: list[Entry] = [Pinned("alpine:1", (), 1.0), Unpinned("alpine:2")]
    async with Untold.open(tmp_path, most=20_000) as untold:
        for entry in (*gone, *pins):
            await untold.add(entry)
        for number in range(1000):
            await untold.add(_said(number))
        assert untold.lost > 0
        kept = [entry for _, entry in await untold.first()]
        assert kept[:5] == [*gone, *pins]
        for number in range(1000):
            await untold.add(TagGone(NGINX, str(number)))
        assert untold.count < 400


async def test_all_that_is_learnt_anew_goes_before_what_is_not(tmp_path: Path) -> None:
    """A tenth of it is little where one entry is large; and many may come at once."""
    gone: list[Entry] = [TagGone(NGINX, str(number)) for number in range(20)]
    large = LinksGone(NGINX, tuple(digest_of(b"%d" % number) for number in range(200)))
    async with Untold.open(tmp_path, most=25_000) as untold:
        for entry in gone:
            await untold.add(entry)
        for number in range(100):
            await untold.add(_said(number))
        assert untold.lost == 0
        await asyncio.gather(untold.add(large), *(untold.add(_said(it)) for it in range(20)))
        kept = [entry for _, entry in await untold.first()]
        assert [entry for entry in kept if not isinstance(entry, LinkSaid)] == [*gone, large]
        assert len(kept) + untold.lost == 141
        assert untold.lost < 100  # no more than has to


class _Synced(SqliteDatabase):
    """Knows what a power cut would leave."""

    synced: list[Row]

    async def write(self, *statements: Statement, is_durable: bool = True) -> None:
        await super().write(*statements, is_durable=is_durable)
        if is_durable:
            self.synced += [row for statement in statements for row in statement.rows]


async def test_a_power_cut_takes_nothing_that_somebody_has_decided(tmp_path: Path) -> None:
    """A pin that is in the mirror's own records and was told nobody is taken for one removed."""
    decided: list[Entry] = [
        LinksGone(NGINX, (ONE,)), TagGone(NGINX, "1"), ReferrersGone(NGINX, ONE),
        Pinned("alpine:1", (), 1.0), Unpinned("alpine:2"),
    ]  # fmt: skip
    async with Untold.open(tmp_path) as untold:
        database = untold._database  # noqa: SLF001 - no power is cut here
        database.__class__ = _Synced
        assert isinstance(database, _Synced)
        database.synced = []
        for entry in (*decided, _said(1)):
            await untold.add(entry)
        assert database.synced == [(msgspec.msgpack.encode(entry),) for entry in decided]


async def test_a_power_cut_brings_nothing_back_that_was_removed(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with SqliteRecords.open(tmp_path / "records.sqlite3", clock=clock) as records:
        database = records._database  # noqa: SLF001 - no power is cut here
        database.__class__ = _Synced
        assert isinstance(database, _Synced)
        database.synced = []
        await records.forget_links(NGINX, [ONE])
        await records.forget_tag(NGINX, "1")
        await records.forget_referrers(NGINX, ONE)
        assert len(database.synced) == 3


async def test_what_is_told_makes_room_however_much_follows(tmp_path: Path) -> None:
    async with Untold.open(tmp_path, most=20_000) as untold:
        await untold.add(_said(0))
        for number in range(1, 500):  # it is never empty
            await untold.add(_said(number))
            [(first, _), _] = await untold.first()
            await untold.remove([first])
        assert (untold.lost, untold.count) == (0, 1)


class _Late(SqliteDatabase):
    """Its answers take a while: until `may_answer`."""

    asked: asyncio.Event
    may_answer: asyncio.Event

    async def page(self, sql: str, values: Row, read: Callable[..., T]) -> list[T]:
        found = await super().page(sql, values, read)
        self.asked.set()
        await self.may_answer.wait()
        return found


async def test_what_comes_while_nothing_was_found_is_told(tmp_path: Path) -> None:
    async with Untold.open(tmp_path) as untold:
        database = untold._database  # noqa: SLF001 - what reads is another thread than what writes
        database.__class__ = _Late
        assert isinstance(database, _Late)
        database.asked, database.may_answer = asyncio.Event(), asyncio.Event()
        looking = asyncio.get_running_loop().create_task(untold.first())
        await database.asked.wait()
        await untold.add(_said(1))
        database.may_answer.set()
        assert await looking == []
        assert untold.more.is_set()
        assert untold.count == 1


async def test_entries_of_a_newer_mirror_are_passed_over(tmp_path: Path) -> None:
    async with Untold.open(tmp_path) as untold:
        await untold._database.write(  # noqa: SLF001 - as a newer mirror would
            _statement(b"\x92\xa6future\x01")
        )
        await untold.add(_said(1))
        assert [entry for _, entry in await untold.first()] == [_said(1)]


async def test_one_entry_that_cannot_be_kept_harms_no_other(
    join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    one = await join("one")
    await one.untold.add(_said(2**62))
    await one.untold.add(_said(2**63))
    await one.untold.add(_said(7))
    await one.told()
    assert await one.shared.find_link(NGINX, digest_of(b"7")) is not None
    assert "not told" in caplog.text


@pytest.mark.parametrize("code", ["disk_full", "insufficient_privilege", "deadlock_detected"])
async def test_nothing_is_lost_while_the_database_takes_nothing(
    join: Join, url: str, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    one = await join("one")
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '{code}'; END $$;"
            " CREATE TRIGGER refuse BEFORE INSERT ON mirror.links EXECUTE FUNCTION refuse()"
        )
        for number in range(5):
            await one.untold.add(_said(number))

        async def is_tried() -> bool:
            return one.teller.trouble is not None

        await until(is_tried)
        assert one.untold.count == 5
        await connection.execute("DROP TRIGGER refuse ON mirror.links")
    finally:
        await connection.close()
    await one.told()
    for number in range(5):
        assert await one.shared.find_link(NGINX, digest_of(b"%d" % number)) is not None
    assert one.teller.trouble is None
    assert caplog.text.count("not told yet") == 1


async def test_what_is_of_no_use_to_anybody_is_forgotten_by_one_at_a_time(
    join: Join, clock: FakeClock
) -> None:
    one, two = await join("one"), await join("two")
    await one.shared.record_manifest(ALPINE, ONE, 5, [Named(TWO, 2)])
    await one.shared.record_link(NGINX, THREE, 3)
    clock.advance(30 * 24 * HOUR)
    await two.records.note_seen([THREE])
    tidying = [
        Tidying(
            it.database, it.shared, forget_after=24 * HOUR, clock=clock,
            monotonic=asyncio.get_running_loop().time,
        )
        for it in (one, two)
    ]  # fmt: skip
    async with one.database.transaction() as connection:
        await connection.execute(f"SELECT pg_advisory_xact_lock({0x6D6974696479})")
        assert not await tidying[1].tidy()
    assert await tidying[0].tidy()
    assert await one.shared.find_link(ALPINE, ONE) is None
    assert not await one.shared.knows(ALPINE)
    assert await one.shared.find_link(NGINX, THREE) is not None


def _said(number: int) -> LinkSaid:
    return LinkSaid(NGINX, digest_of(b"%d" % number), number)


def _statement(entry: bytes) -> Statement:
    return Statement("INSERT INTO untold (entry) VALUES (?)", [(entry,)])

"""What is kept of pulls: one line a pull, with the reason; what it cost and saved."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec
import pytest

from mirror.control.models import Arrivals, Pulls, Status, Totals, Waste
from mirror.history.ports import Pull
from mirror.telemetry.traffic import Result, Why
from tests.support.client import get
from tests.support.clock import FakeClock
from tests.support.images import Image, image, index, random_layer
from tests.support.mirror import (
    InnerMirror,
    Settings,
    document,
    running_mirror,
    start_inner_mirror,
    upstream_at,
)
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

SIZE = 2**20
DAY = 86400.0


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=1)), "org/app", "1")


@pytest.fixture
def settings(upstream: ScriptedRegistry, tmp_path: Path) -> Settings:
    return document(
        {"docker.io": upstream_at(upstream.url)},
        store_root=tmp_path / "store", tags={"fresh_for": "1m"},
    )  # fmt: skip


@pytest.fixture
async def mirror(settings: Settings, clock: FakeClock) -> AsyncIterator[InnerMirror]:
    mirror = await start_inner_mirror(settings, clock)
    try:
        yield mirror
    finally:
        await mirror.stop()


async def ask(mirror: InnerMirror, path: str, **query: Any) -> bytes:
    answer = await get(f"{mirror.admin_url}/api/v1{path}?{urlencode(query)}")
    assert answer.status == 200, answer.body
    return answer.body


async def pulls(mirror: InnerMirror, clock: FakeClock, **query: Any) -> list[Pull]:
    clock.advance(2)  # else what was just told is told again
    return msgspec.json.decode(await ask(mirror, "/pulls", **query), type=Pulls).pulls


async def pull(mirror: InnerMirror, image: Image, repository: str, tag: str) -> None:
    """As docker does: HEAD by tag, GET by digest, the configuration and the layers.

    It is told of at once: what is told is dated by the clock that the test sets.
    """
    assert (await mirror.client.head(f"/v2/{repository}/manifests/{tag}")).status == 200
    assert (await mirror.client.manifest(repository, str(image.digest))).status == 200
    for digest in image.blobs:
        assert (await mirror.client.blob(repository, digest)).status == 200
    await until(lambda: is_idle(mirror))  # which has workers report, too


async def is_idle(mirror: InnerMirror) -> bool:
    answer = await get(f"{mirror.admin_url}/api/v1/status")
    return msgspec.json.decode(answer.body, type=Status).fills == []


async def test_a_pull_is_one_line_whatever_it_asks_for(
    mirror: InnerMirror, clock: FakeClock, app: Image
) -> None:
    await pull(mirror, app, "org/app", "1")
    (told,) = await pulls(mirror, clock)
    assert (told.repository, told.reference, told.digest) == (
        "docker.io/org/app", "1", str(app.digest),
    )  # fmt: skip
    assert (told.result, told.why, told.client) == (Result.MISS, Why.NEVER_SEEN, "127.0.0.1")
    assert told.requests == 2 + len(app.blobs)
    assert told.served == told.fetched == len(app.manifest) + sum(map(len, app.blobs.values()))


async def test_each_pull_has_the_reason_why_it_went_as_it_did(
    upstream: ScriptedRegistry, mirror: InnerMirror, clock: FakeClock, app: Image
) -> None:
    await pull(mirror, app, "org/app", "1")
    clock.advance(30)
    await pull(mirror, app, "org/app", "1")  # fresh
    clock.advance(90)
    await pull(mirror, app, "org/app", "1")  # asked, and the same
    clock.advance(90)
    moved = upstream.add(image(random_layer(SIZE, seed=2)), "org/app", "1")
    await pull(mirror, moved, "org/app", "1")
    clock.advance(90)
    await upstream.stop()
    await pull(mirror, moved, "org/app", "1")
    told = await pulls(mirror, clock)
    assert [(it.result, it.why) for it in reversed(told)] == [
        (Result.MISS, Why.NEVER_SEEN), (Result.HIT, Why.HERE),
        (Result.REVALIDATED, Why.TAG_CONFIRMED), (Result.MISS, Why.TAG_MOVED),
        (Result.STALE, Why.UPSTREAM_DOWN),
    ]  # fmt: skip
    assert [(it.was, it.digest) for it in told][1] == (str(app.digest), str(moved.digest))
    assert {it.requests for it in told} == {2 + len(app.blobs)}


async def test_a_platform_that_nobody_has_pulled_yet_is_told_from_an_image_that_is_new(
    upstream: ScriptedRegistry, mirror: InnerMirror, clock: FakeClock
) -> None:
    one, other = (
        image(random_layer(9, seed=n), architecture=name)
        for n, name in ((1, "amd64"), (2, "arm64"))
    )
    upstream.add(index(one, other), "org/app", "1")
    for member in (one, other):
        assert (await mirror.client.manifest("org/app", "1")).status == 200
        assert (await mirror.client.manifest("org/app", str(member.digest))).status == 200
        await get(f"{mirror.admin_url}/metrics")
        clock.advance(30)
    told = await pulls(mirror, clock)
    assert [it.why for it in told] == [Why.OTHER_PLATFORM, Why.NEVER_SEEN]


async def test_what_was_evicted_is_told_from_what_was_never_here(
    upstream: ScriptedRegistry, tmp_path: Path, clock: FakeClock
) -> None:
    images = [upstream.add(image(random_layer(SIZE, seed=n)), f"org/{n}", "1") for n in range(4)]
    mirror = await start_inner_mirror(
        document(
            {"docker.io": upstream_at(upstream.url)},
            store_root=tmp_path / "store", store={"max_size": f"{SIZE * 5 // 2} B"},
        ),
        clock,
    )  # fmt: skip
    try:
        for number in (0, 1, 2, 3, 0):
            answer = await mirror.client.blob(f"org/{number}", images[number].layers[0])
            assert answer.status == 200
            await get(f"{mirror.admin_url}/metrics")
            clock.advance(3600)
        told = await pulls(mirror, clock)
    finally:
        await mirror.stop()
    assert [it.why for it in told] == [Why.EVICTED, *[Why.NEVER_SEEN] * 4]


async def test_it_is_there_after_a_restart(
    settings: Settings, clock: FakeClock, upstream: ScriptedRegistry, app: Image
) -> None:
    clock.advance(600)  # into the hour
    for _ in range(2):
        mirror = await start_inner_mirror(settings, clock)
        await pull(mirror, app, "org/app", "1")
        await mirror.stop()
        clock.advance(3600)
    mirror = await start_inner_mirror(settings, clock)
    told = await pulls(mirror, clock)
    totals = msgspec.json.decode(await ask(mirror, "/totals", by="repository"), type=Totals).totals
    await mirror.stop()
    assert [it.result for it in told] == [Result.REVALIDATED, Result.MISS]
    size = len(app.manifest) + sum(map(len, app.blobs.values()))
    figures = [(it.repository, it.pulls, it.served, it.fetched, it.saved) for it in totals]
    assert figures == [
        ("docker.io/org/app", 1, size, 0, size), ("docker.io/org/app", 1, size, size, 0),
    ]  # fmt: skip


async def test_names_that_nobody_has_are_lumped_together(
    mirror: InnerMirror, clock: FakeClock, app: Image
) -> None:
    clock.advance(600)  # into the hour: what is told late is of before, and each hour has its sums
    await pull(mirror, app, "org/app", "1")
    for number in range(300):
        assert (await mirror.client.manifest(f"org/made-up-{number}", "1")).status == 404
    lump, kept = await pulls(mirror, clock)
    assert (kept.repository, kept.failed) == ("docker.io/org/app", 0)
    assert (lump.repository, lump.reference, lump.result) == (None, None, Result.MISS)
    assert lump.failed == lump.requests <= 300

    async def are_told() -> bool:  # a busy worker tells of them in its own time
        clock.advance(2)
        totals = msgspec.json.decode(await ask(mirror, "/totals", by="repository"), type=Totals)
        failed = {it.repository: it.failed for it in totals.totals}
        return failed == {"docker.io/org/app": 0, None: 300}

    await until(are_told)


async def test_what_was_fetched_and_never_pulled_is_waste_and_no_loss(
    upstream: ScriptedRegistry, mirror: InnerMirror, clock: FakeClock, app: Image
) -> None:
    layer = app.layers[0]
    answer = await mirror.client.blob("org/app", layer, headers={"Range": "bytes=0-9"})
    assert (answer.status, len(answer.body)) == (206, 10)

    async def is_fetched() -> bool:
        found = await ask(mirror, "/arrivals", digest=layer)
        clock.advance(2)
        return [it.fetched for it in msgspec.json.decode(found, type=Arrivals).arrivals] == [SIZE]

    await until(is_fetched)
    clock.advance(3600)
    waste = msgspec.json.decode(await ask(mirror, "/waste"), type=Waste)
    (unused,) = waste.unused
    assert (unused.digest, unused.fetched, unused.used) == (str(layer), SIZE, 10)
    (cost,) = waste.costs
    assert (cost.fetched, cost.saved, cost.wasted) == (SIZE, 0, SIZE - 10)
    assert (await mirror.client.blob("org/app", layer)).status == 200  # of use after all
    clock.advance(2)
    waste = msgspec.json.decode(await ask(mirror, "/waste"), type=Waste)
    assert (waste.unused, [it.wasted for it in waste.costs]) == ([], [0])
    assert [it.saved for it in waste.costs] == [10]


async def test_whose_pull_it_was_is_not_kept_where_that_is_not_wanted(
    settings: dict[str, Any], clock: FakeClock, app: Image
) -> None:
    for keeps, expected in ((True, ["127.0.0.1"]), (False, [None, None])):
        settings["history"] = {"client_addresses": keeps}
        mirror = await start_inner_mirror(settings, clock)
        await pull(mirror, app, "org/app", "1")
        told = await pulls(mirror, clock)
        await mirror.stop()
        clock.advance(30)
        assert [it.client for it in told] == expected


async def test_pulls_are_told_as_they_happen(
    mirror: InnerMirror, clock: FakeClock, app: Image
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{mirror.admin_url}/api/v1/pulls/events") as response,
    ):
        assert await next_pulls(response) == []
        await mirror.client.manifest("org/app", "1")
        while not (told := await next_pulls(response)):
            clock.advance(2)
        assert [(it.reference, it.why) for it in told] == [("1", Why.NEVER_SEEN)]


async def next_pulls(response: aiohttp.ClientResponse) -> list[Pull]:
    assert await response.content.readline() == b"event: pulls\n"
    data = (await response.content.readline()).removeprefix(b"data: ")
    assert await response.content.readline() == b"\n"
    return msgspec.json.decode(data, type=Pulls).pulls


async def test_pages_and_filters(
    upstream: ScriptedRegistry, mirror: InnerMirror, clock: FakeClock
) -> None:
    for number in range(5):
        upstream.add(image(random_layer(9, seed=number)), f"org/{number}", "1")
        await mirror.client.manifest(f"org/{number}", "1")
    seen: list[str | None] = []
    cursor: dict[str, int] = {}
    while True:
        clock.advance(2)
        page = msgspec.json.decode(await ask(mirror, "/pulls", limit=2, **cursor), type=Pulls)
        seen += [it.repository for it in page.pulls]
        if page.next is None:
            break
        cursor = {"cursor": page.next}
    assert sorted(map(str, seen)) == [f"docker.io/org/{number}" for number in range(5)]
    (found,) = await pulls(mirror, clock, repository="docker.io/org/3", result="miss")
    assert found.repository == "docker.io/org/3"
    assert await pulls(mirror, clock, repository="docker.io/org/3", result="hit") == []
    assert await pulls(mirror, clock, since=clock() + DAY) == []
    assert await pulls(mirror, clock, client="127.0.0.1", digest=str(found.digest)) == [found]


async def test_a_question_that_makes_no_sense_is_refused(mirror: InnerMirror) -> None:
    for path in (
        "/pulls?limit=0",
        "/pulls?colour=red",
        "/totals?span=week",
        "/pulls?limit=1&limit=2",
    ):
        answer = await get(f"{mirror.admin_url}/api/v1{path}")
        assert (answer.status, json.loads(answer.body)["status"]) == (400, 400), path


async def test_a_mirror_that_is_killed_has_lost_seconds_at_most(
    upstream: ScriptedRegistry, tmp_path: Path, app: Image
) -> None:
    async with running_mirror(tmp_path, {"docker.io": upstream_at(upstream.url)}) as mirror:
        await mirror.client.manifest("org/app", "1")

        async def is_kept() -> bool:
            with closing(sqlite3.connect(mirror.store_root / "history.sqlite3")) as database:
                return bool(database.execute("SELECT * FROM pulls").fetchall())

        await until(is_kept)  # nobody has asked for it
        await mirror.process.kill()
        await mirror.process.start()
        answer = await get(f"{mirror.admin_url}/api/v1/pulls")
    (told,) = msgspec.json.decode(answer.body, type=Pulls).pulls
    assert (told.reference, told.why) == ("1", Why.NEVER_SEEN)


@pytest.mark.parametrize("agent", [b"a\xff", b"\xed\xb3\xbf", b"a\x9b31m"])
async def test_an_agent_that_is_no_text_costs_nobody_what_is_told_of_pulls(
    mirror: InnerMirror, clock: FakeClock, app: Image, agent: bytes
) -> None:
    request = b"HEAD /v2/org/app/manifests/1 HTTP/1.1\r\nHost: x\r\nUser-Agent: %b\r\n\r\n"
    reader, writer = await asyncio.open_connection(*mirror.host.split(":"))
    writer.write(request % agent)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    await pull(mirror, app, "org/app", "1")
    writer.close()
    await writer.wait_closed()
    told = await pulls(mirror, clock)
    assert len(told) == 2
    assert sorted("?" in one.agent for one in told) == [False, True]

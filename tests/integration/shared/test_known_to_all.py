"""What one mirror has learnt, all know: tags, links, manifests, pins, and upstream's limits."""

import asyncio
import base64
import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from tests.integration.shared.conftest import StartFleet
from tests.support.auth import BasicAuth
from tests.support.fleet import Fleet
from tests.support.images import Image, image, random_layer
from tests.support.mirror import MirrorProcess
from tests.support.operators import ask, command, pull
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

APP = image(random_layer(2**16, seed=1402))
NEXT = image(random_layer(2**16, seed=1403))
[LAYER] = APP.layers

pytestmark = pytest.mark.chaos


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(APP, "org/app", "1")


async def told(fleet: Fleet) -> None:
    """Return when every mirror has told all that it knows."""
    for mirror in fleet.mirrors:
        await told_by(mirror)


async def told_by(mirror: MirrorProcess) -> None:
    await mirror.until_metric("mirror_shared_untold", 0)


async def health(mirror: MirrorProcess) -> dict[str, Any]:
    return dict((await ask(mirror, "/status"))["health"])


async def test_a_tag_that_one_mirror_has_learnt_costs_the_others_no_question(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    first, second = (fleet := await start_fleet()).mirrors
    await pull(first.client, "org/app", app)
    await told(fleet)
    asked = upstream.questions()
    assert (await second.client.manifest("org/app", "1")).body == app.manifest
    assert (await second.client.manifest("org/app", app.digest)).body == app.manifest
    assert (await second.client.blob("org/app", LAYER)).digest == LAYER
    assert upstream.questions() == asked


async def test_of_several_mirrors_that_are_asked_for_a_new_tag_at_once_one_asks(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    fleet = await start_fleet(3)
    gate = upstream.hold("1")
    asking = [
        asyncio.ensure_future(mirror.client.manifest("org/app", "1"))  # noqa: TID251 - all awaited
        for mirror in fleet.mirrors
    ]
    await gate.reached()
    await asyncio.wait(asking, timeout=0.3)  # for what should not happen
    gate.open()
    assert [answer.digest for answer in await asyncio.gather(*asking)] == [app.digest] * 3
    assert len(upstream.asked("tag")) == 1


async def test_of_several_mirrors_that_have_an_old_tag_one_checks_it(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    fleet = await start_fleet(3, tags={"fresh_for": "0s"}, fill={"connect_timeout": "20s"})
    for mirror in fleet.mirrors:
        await pull(mirror.client, "org/app", app)
        await told(fleet)
    upstream.forget()
    gate = upstream.hold("1")
    asking = [
        asyncio.ensure_future(mirror.client.manifest("org/app", "1"))  # noqa: TID251 - all awaited
        for mirror in fleet.mirrors
    ]
    await gate.reached()
    await asyncio.wait(asking, timeout=0.3)  # for what should not happen
    gate.open()
    assert [answer.digest for answer in await asyncio.gather(*asking)] == [app.digest] * 3
    assert upstream.questions() == [("tag", "HEAD", "1")]


async def test_whoever_waits_for_another_mirror_that_dies_asks_itself(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    first, second = (await start_fleet()).mirrors
    gate = upstream.hold("1")
    lost = asyncio.ensure_future(first.client.manifest("org/app", "1"))  # noqa: TID251 - awaited
    await gate.reached()
    waiting = asyncio.ensure_future(second.client.manifest("org/app", "1"))  # noqa: TID251
    await asyncio.wait([waiting], timeout=0.3)
    await first.process.kill()
    gate.open()
    assert (await waiting).digest == app.digest
    await asyncio.wait([lost])
    assert lost.exception() is not None or lost.result().status == 502  # by a worker of its own


async def test_what_one_mirror_was_refused_another_is_not_refused_by_its_word(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    first, second = (await start_fleet()).mirrors
    fault = upstream.fault(kind="tag", status=404)
    assert (await first.client.manifest("org/app", "1")).status == 404
    upstream.faults.remove(fault)
    assert (await second.client.manifest("org/app", "1")).digest == app.digest


async def test_what_another_mirror_has_found_is_missing_no_longer(
    upstream: ScriptedRegistry, start_fleet: StartFleet
) -> None:
    first, second = (await start_fleet(tags={"missing_for": "1h"})).mirrors
    assert (await second.client.manifest("org/app", "1")).status == 404
    upstream.add(APP, "org/app", "1")
    assert (await first.client.manifest("org/app", "1")).digest == APP.digest

    async def is_found() -> bool:
        return (await second.client.manifest("org/app", "1")).status == 200

    await until(is_found, within=1)


async def test_a_tag_that_is_forgotten_at_one_mirror_is_asked_for_anew_at_all(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    fleet = await start_fleet(tags={"fresh_for": "1h"})
    first, second = fleet.mirrors
    for mirror in fleet.mirrors:
        await pull(mirror.client, "org/app", app)
    await told(fleet)
    upstream.add(NEXT, "org/app", "1")
    assert (await second.client.manifest("org/app", "1")).digest == app.digest
    await ask(first, "/tags/forget", {"image": "docker.io/org/app:1"})

    async def means_the_next() -> bool:
        return (await second.client.manifest("org/app", "1")).digest == NEXT.digest

    await until(means_the_next)


async def test_what_is_removed_at_one_mirror_is_no_other_ones_to_give(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    fleet = await start_fleet(tags={"fresh_for": "1h"})
    first, second = fleet.mirrors
    for mirror in fleet.mirrors:
        await pull(mirror.client, "org/app", app)
    await told(fleet)
    upstream.repositories.clear()
    status, _, error = await command(first, "rm", "docker.io/org/app:1")
    assert (status, error) == (0, "")

    async def is_gone() -> bool:
        return (await second.client.blob("org/app", LAYER)).status == 404

    await until(is_gone)
    assert (await second.client.manifest("org/app", "1")).status == 404


async def test_a_digest_is_no_permission_at_another_mirror_either(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    first, second = (fleet := await start_fleet()).mirrors
    await pull(first.client, "org/app", app)
    await told(fleet)
    upstream.add(NEXT, "org/other", "1")
    assert (await second.client.blob("org/other", LAYER)).status == 404
    assert (await second.client.manifest("org/other", app.digest)).status == 404


async def test_a_login_at_one_mirror_is_none_at_another(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    upstream.auth = BasicAuth(users={"anna": "secret"})
    first, second = (fleet := await start_fleet(access="client")).mirrors
    login = {"Authorization": "Basic " + base64.b64encode(b"anna:secret").decode()}
    for path in ("manifests/1", f"blobs/{LAYER}"):
        assert (await first.client.get(f"/v2/org/app/{path}", headers=login)).status == 200
    await told(fleet)
    for path in ("manifests/1", f"manifests/{app.digest}", f"blobs/{LAYER}"):
        assert (await second.client.get(f"/v2/org/app/{path}")).status == 401
    upstream.forget()
    for path in ("manifests/1", f"blobs/{LAYER}"):
        assert (await second.client.get(f"/v2/org/app/{path}", headers=login)).status == 200
    assert upstream.bytes_sent(LAYER) == upstream.bytes_sent("1") == 0


async def test_an_endpoint_that_limits_one_mirror_is_left_alone_by_all(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    first, second = (await start_fleet()).mirrors
    upstream.fault(kind="tag", status=429, headers={"Retry-After": "3600"})
    assert (await first.client.manifest("org/app", "1")).status == 429

    async def knows_it() -> bool:
        problems = (await health(second))["problems"]
        return any("limits our rate" in problem["what"] for problem in problems)

    await until(knows_it)
    upstream.forget()
    assert (await second.client.manifest("org/app", "2")).status == 429
    assert upstream.requests == []
    await second.process.stop()
    await second.process.start()
    await until(knows_it)


async def test_an_image_that_is_pinned_at_one_mirror_is_pinned_at_all(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    fleet = await start_fleet()
    first, second = fleet.mirrors
    name = "docker.io/org/app:1"
    await ask(first, "/pins", {"image": name})

    async def is_there() -> bool:
        return await second.metric("mirror_pins", state="complete") == 1

    await until(is_there)
    assert upstream.bytes_sent(LAYER) == 2**16
    await ask(second, "/pins/remove", {"image": name})

    async def is_gone() -> bool:
        return not (await ask(first, "/pins"))["pins"]

    await until(is_gone)


async def test_without_the_database_a_mirror_goes_on_and_tells_later(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    fleet = await start_fleet()
    first, second = fleet.mirrors
    await fleet.lines[0].database.stop()
    await first.until_metric("mirror_shared_database_up", 0)
    await pull(first.client, "org/app", app)
    problems = json.dumps((await health(first))["problems"])
    assert "shared database" in problems
    assert await first.metric("mirror_shared_untold") > 0
    await first.process.kill()  # and it is not forgotten by that
    await first.process.start()
    assert (await first.client.manifest("org/app", "1")).digest == app.digest
    await fleet.lines[0].database.start()
    await first.until_metric("mirror_shared_untold", 0)
    asked = upstream.questions()
    assert (await second.client.manifest("org/app", "1")).digest == app.digest
    assert upstream.questions() == asked

    async def is_well() -> bool:
        return bool((await health(first))["status"] == "ok")

    await until(is_well)


async def test_what_was_said_while_a_mirror_was_away_it_hears_when_it_is_back(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    fleet = await start_fleet(tags={"fresh_for": "1h"})
    first, second = fleet.mirrors
    for mirror in fleet.mirrors:
        await pull(mirror.client, "org/app", app)
    await told(fleet)
    await fleet.lines[1].database.stop()
    await second.until_metric("mirror_shared_database_up", 0)
    await ask(first, "/tags/forget", {"image": "docker.io/org/app:1"})
    upstream.add(NEXT, "org/app", "1")
    assert (await first.client.manifest("org/app", "1")).digest == NEXT.digest
    assert (await second.client.manifest("org/app", "1")).digest == app.digest
    await fleet.lines[1].database.start()

    async def means_the_next() -> bool:
        return (await second.client.manifest("org/app", "1")).digest == NEXT.digest

    await until(means_the_next)


async def test_a_mirror_that_has_lost_what_it_noted_of_the_others_hears_of_removals_still(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    fleet = await start_fleet(tags={"fresh_for": "1h"})
    first, second = fleet.mirrors
    for mirror in fleet.mirrors:
        await pull(mirror.client, "org/app", app)
    await told(fleet)
    upstream.repositories.clear()
    await second.process.stop()
    for file in second.store_root.glob("untold.sqlite3*"):
        file.write_bytes(b"nothing that SQLite has written" * 100)
    assert (await command(first, "rm", "docker.io/org/app:1"))[0] == 0
    await told_by(first)
    await fleet.rows("UPDATE mirror.events SET at = at - interval '1 hour'")
    await second.process.start()

    async def is_gone() -> bool:
        return (await second.client.blob("org/app", LAYER)).status == 404

    await until(is_gone)


async def test_a_removal_that_cannot_be_done_keeps_a_mirror_from_hearing_nothing_else(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    fleet = await start_fleet(tags={"fresh_for": "1h"})
    first, second = fleet.mirrors
    for mirror in fleet.mirrors:
        await pull(mirror.client, "org/app", app)
    await told(fleet)
    upstream.repositories.clear()
    with closing(sqlite3.connect(second.store_root / "records.sqlite3")) as another:
        another.execute("BEGIN IMMEDIATE")  # nothing can be written down there
        assert (await command(first, "rm", "docker.io/org/app:1"))[0] == 0

        async def says_so() -> bool:
            return "other mirrors have said" in json.dumps((await health(second))["problems"])

        await until(says_so)
        upstream.fault(kind="tag", status=429, headers={"Retry-After": "3600"})
        assert (await first.client.manifest("org/other", "1")).status == 429

        async def knows_the_limit() -> bool:
            return "limits our rate" in json.dumps((await health(second))["problems"])

        await until(knows_the_limit)
        another.rollback()

    async def is_gone() -> bool:
        return (await second.client.blob("org/app", LAYER)).status in {404, 429}

    await until(is_gone)


async def test_what_is_done_to_a_mirror_that_does_not_run_the_others_hear_when_it_does(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    fleet = await start_fleet(tags={"fresh_for": "1h"})
    first, second = fleet.mirrors
    for mirror in fleet.mirrors:
        await pull(mirror.client, "org/app", app)
    await told(fleet)
    upstream.repositories.clear()
    await first.process.stop()
    assert (await command(first, "rm", "docker.io/org/app:1"))[0] == 0
    assert (await command(first, "pin", "docker.io/org/new:1"))[0] == 0
    assert (await second.client.manifest("org/app", "1")).status == 200
    await first.process.start()

    async def is_gone() -> bool:
        return (await second.client.manifest("org/app", "1")).status == 404

    await until(is_gone)

    async def is_pinned() -> bool:
        return "org/new" in json.dumps(await ask(second, "/pins"))

    await until(is_pinned)
    assert "org/new" in json.dumps(await ask(first, "/pins"))


async def test_what_was_removed_and_pulled_again_stays_when_removals_are_heard_anew(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    fleet = await start_fleet(tags={"fresh_for": "1h"})
    first, second = fleet.mirrors
    other = upstream.add(NEXT, "org/other", "1")
    for mirror in fleet.mirrors:
        await pull(mirror.client, "org/app", app)
        await pull(mirror.client, "org/other", other)
    await told(fleet)
    assert (await command(second, "rm", "docker.io/org/app:1"))[0] == 0
    await told(fleet)
    await pull(second.client, "org/app", app)
    await told(fleet)
    await second.process.stop()
    for file in second.store_root.glob("untold.sqlite3*"):
        file.write_bytes(b"nothing that SQLite has written" * 100)
    assert (await command(first, "rm", "docker.io/org/other:1"))[0] == 0
    await told_by(first)
    await second.process.start()

    async def has_heard() -> bool:  # what was said before that, too
        return "org/other" not in (await command(second, "ls"))[1]

    await until(has_heard)
    assert "org/app" in (await command(second, "ls"))[1]


async def test_what_a_mirror_has_when_it_joins_is_not_what_others_have_removed(
    upstream: ScriptedRegistry, start_fleet: StartFleet, app: Image
) -> None:
    fleet = await start_fleet(tags={"fresh_for": "1h"})
    first, second = fleet.mirrors
    for mirror in fleet.mirrors:
        await pull(mirror.client, "org/app", app)
    await told(fleet)
    await second.process.stop()
    for file in (*second.store_root.glob("untold.sqlite3*"), second.store_root / "deployment-id"):
        file.unlink()  # as if it had been by itself until now
    assert (await command(first, "rm", "docker.io/org/app:1"))[0] == 0
    await told_by(first)
    await fleet.rows("UPDATE mirror.events SET at = at - interval '1 hour'")
    await second.process.start()
    upstream.add(NEXT, "org/new", "1")  # whatever is said next
    assert (await command(first, "pin", "docker.io/org/new:1"))[0] == 0

    async def has_heard() -> bool:
        return "org/new" in (await command(second, "pins"))[1]

    await until(has_heard)
    assert "org/app" in (await command(second, "ls"))[1]

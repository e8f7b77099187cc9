"""`debug` tells what decides a pull, and who asked for it."""

import asyncio
import logging
from pathlib import Path

import pytest

from mirror.telemetry.log import explain
from tests.conftest import StartMirror
from tests.support.clock import FakeClock
from tests.support.images import Image, image, random_layer
from tests.support.mirror import document, start_inner_mirror, upstream_at
from tests.support.operators import pull
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

SIZE = 2**20


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=1)), "org/app", "1")


def facts(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, object]]:
    """What was told with a message, each time."""
    return [
        vars(it)["fields"] | {"request_id": vars(it)["request_id"]}
        for it in caplog.records
        if it.getMessage() == message
    ]


async def test_it_tells_why_upstream_is_asked_and_which_endpoint_has_the_answer(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG, "mirror")
    mirror = await start_mirror()
    await pull(mirror.client, "org/app", app)
    (unknown,) = facts(caplog, "a tag is not known: upstream is asked")
    assert (str(unknown["repository"]), str(unknown["tag"])) == ("docker.io/org/app", "1")
    assert unknown["request_id"]
    assert {it["endpoint"] for it in facts(caplog, "an endpoint has the answer")} == {upstream.url}
    looked = {str(it["digest"]): it for it in facts(caplog, "a blob is looked for")}
    assert looked[app.layers[0]]["link"] == "named"
    assert looked[app.layers[0]]["is_here"] is False
    assert {str(it["digest"]) for it in facts(caplog, "a download begins")} == {*app.blobs}


async def test_it_tells_how_old_a_tag_is_and_that_it_is_served_stale(
    upstream: ScriptedRegistry, tmp_path: Path, clock: FakeClock, app: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG, "mirror")
    settings = document({"docker.io": upstream_at(upstream.url)}, store_root=tmp_path / "store")
    mirror = await start_inner_mirror(settings, clock)
    try:
        await pull(mirror.client, "org/app", app)
        await mirror.until_metric("mirror_fills_active", 0)
        clock.advance(3600)
        await upstream.stop()
        assert (await mirror.client.manifest("org/app", "1")).status == 200
        assert (await mirror.client.blob("org/app", app.layers[0])).status == 200
    finally:
        await mirror.stop()
    judged = facts(caplog, "a tag is judged by its age")[-1]
    assert (judged["freshness"], judged["age"]) == ("expired", 3600)
    (unsaid,) = facts(caplog, "upstream does not say what the tag means")
    assert unsaid["is_served_stale"] is True
    assert "cannot be reached" in str(facts(caplog, "an endpoint has no answer")[-1]["why"])
    assert facts(caplog, "a blob that is here is judged")[-1]["verdict"] == "serve"


async def test_it_tells_who_joins_a_download_and_who_shares_an_answer(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG, "mirror")
    mirror = await start_mirror()
    assert (await mirror.client.manifest("org/app", "1")).status == 200
    gate = upstream.hold(app.layers[0], after=SIZE // 2)

    async def has_joined() -> bool:
        return bool(facts(caplog, "a download is joined"))

    async with asyncio.TaskGroup() as clients:
        _ = clients.create_task(mirror.client.blob("org/app", app.layers[0]))
        await gate.reached()
        _ = clients.create_task(
            mirror.client.blob("org/app", app.layers[0], headers={"Range": "bytes=0-99"})
        )
        await until(has_joined)
        gate.open()


async def test_it_tells_who_was_chosen_to_go(
    upstream: ScriptedRegistry, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "mirror")
    images = [upstream.add(image(random_layer(SIZE, seed=n)), f"org/{n}", "1") for n in range(4)]
    settings = document(
        {"docker.io": upstream_at(upstream.url)}, store_root=tmp_path / "store",
        store={"max_size": f"{SIZE * 5 // 2} B"},
    )  # fmt: skip
    mirror = await start_inner_mirror(settings, clock)
    try:
        for number, one in enumerate(images):
            await pull(mirror.client, f"org/{number}", one)
            clock.advance(3600)
    finally:
        await mirror.stop()
    gone = {str(it["digest"]): it for it in facts(caplog, "chosen to go")}
    assert gone[images[0].layers[0]]["kind"] == "blob"


def test_nothing_is_told_of_it_where_nobody_wants_to_know(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Dear:
        def __str__(self) -> str:
            raise AssertionError("this costs something")

    caplog.set_level(logging.INFO, "mirror")
    explain(logging.getLogger("mirror.x"), "decided", what=Dear())
    assert caplog.records == []

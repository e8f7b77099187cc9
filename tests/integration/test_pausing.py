"""An endpoint that an operator has paused is asked nothing, and that is said everywhere."""

import asyncio
from pathlib import Path

import pytest

from mirror.oci.errors import Unavailable
from tests.conftest import StartMirror
from tests.support.client import get
from tests.support.clock import FakeClock
from tests.support.edge import registry_at
from tests.support.images import Image, image, random_bytes, random_layer
from tests.support.mirror import (
    InnerMirror,
    MirrorProcess,
    document,
    running_mirror,
    upstream_at,
)
from tests.support.operators import ask, command
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

HUB = {"upstream": "docker.io"}


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(5000, seed=1)), "org/app", "1")


async def pause(mirror: InnerMirror, **wanted: str) -> list[dict[str, str]]:
    answer = await ask(mirror, "/endpoints/pause", HUB | wanted)
    paused: list[dict[str, str]] = answer["paused"]
    return paused


async def test_what_is_paused_is_asked_nothing_and_the_cache_goes_on(
    start_mirror: StartMirror, upstream: ScriptedRegistry, app: Image, clock: FakeClock
) -> None:
    mirror = await start_mirror(tags={"fresh_for": "1s"})
    assert (await mirror.client.manifest("org/app", "1")).status == 200
    await pause(mirror)
    upstream.forget()
    clock.advance(60)
    stale = await mirror.client.manifest("org/app", "1")
    assert stale.headers["Cache-Status"] == "mirror; hit; detail=stale"
    assert (await mirror.client.manifest("org/app", "2")).status >= 500
    assert (await mirror.client.blob("org/app", app.layers[0])).status >= 500
    clock.advance(3600)
    assert upstream.questions() == []
    assert (await ask(mirror, "/endpoints/resume", HUB))["paused"] == []
    assert (await mirror.client.blob("org/app", app.layers[0])).digest == app.layers[0]


async def test_others_answer_in_its_place(
    start_mirror: StartMirror, upstream: ScriptedRegistry, app: Image
) -> None:
    async with ScriptedRegistry() as second:
        second.add(app, "org/app", "1")
        mirror = await start_mirror({"docker.io": upstream_at(upstream.url, second.url)})
        [paused] = await pause(mirror, endpoint=upstream.host)
        assert paused["endpoint"] == upstream.host
        assert (await mirror.client.manifest("org/app", "1")).status == 200
        assert (await mirror.client.blob("org/app", app.layers[0])).digest == app.layers[0]
        assert upstream.questions() == []


async def test_what_is_under_way_goes_on(
    start_mirror: StartMirror, upstream: ScriptedRegistry, app: Image
) -> None:
    digest = upstream.add_blob(random_bytes(300_000, seed=3), "org/app")
    gate = upstream.hold(digest, after=100_000)
    mirror = await start_mirror(fill={"connections": 1})
    async with mirror.client.open(f"/v2/org/app/blobs/{digest}") as answer:
        await gate.reached()
        await pause(mirror)
        gate.open()
        assert len(await answer.read()) == 300_000


async def test_it_is_said_in_status_metric_and_log(
    start_mirror: StartMirror,
    upstream: ScriptedRegistry,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mirror = await start_mirror()
    assert await mirror.metric("mirror_upstream_paused", endpoint=upstream.host) == 0
    await pause(mirror)
    [endpoint] = (await ask(mirror, "/endpoints"))["endpoints"]
    assert (endpoint["paused_since"], endpoint["is_up"]) == (clock(), True)
    health = (await get(f"{mirror.admin_url}/status")).body
    assert b"an operator has paused it: mirror resume docker.io" in health
    assert await mirror.metric("mirror_upstream_paused", endpoint=upstream.host) == 1
    assert "an endpoint is asked nothing: an operator says so" in caplog.text
    clock.advance(100)
    [again] = await pause(mirror)
    assert again["since"] == endpoint["paused_since"]


async def test_one_that_is_down_is_probed_again_once_it_is_resumed(
    start_mirror: StartMirror, upstream: ScriptedRegistry, app: Image
) -> None:
    mirror = await start_mirror(fill={"connect_timeout": "500ms"})
    await upstream.stop()
    await mirror.client.manifest("org/app", "1")
    await pause(mirror)
    await upstream.start()
    upstream.forget()
    await ask(mirror, "/endpoints/resume", HUB)
    await upstream.was_asked("ping")


async def test_nobody_probes_one_that_is_paused(
    upstream: ScriptedRegistry, clock: FakeClock
) -> None:
    async def has_no_probe() -> bool:
        return "probe" not in {task.get_name() for task in asyncio.all_tasks()}

    async with registry_at(upstream.url, clock) as registry:
        [endpoint] = registry.endpoints
        await upstream.stop()
        with pytest.raises(Unavailable):
            await endpoint.ask_in("")
        assert not await has_no_probe()
        endpoint.condition.pause(clock())
        await upstream.start()
        clock.advance(3600)
        await until(has_no_probe, within=20)
        assert upstream.questions() == []
        endpoint.condition.pause(None)
        await upstream.was_asked("ping")


async def test_a_reload_leaves_it_paused(
    start_mirror: StartMirror, upstream: ScriptedRegistry, app: Image, tmp_path: Path
) -> None:
    mirror = await start_mirror()
    await pause(mirror)
    other = {"docker.io": upstream_at(upstream.url, max_connections=7)}
    await mirror.reload(document(other, store_root=tmp_path / "store"))
    assert (await mirror.client.manifest("org/app", "1")).status >= 500
    assert upstream.questions() == []


async def test_what_there_is_not_cannot_be_paused(
    start_mirror: StartMirror, upstream: ScriptedRegistry
) -> None:
    mirror = await start_mirror()
    for wanted in ({"upstream": "ghcr.io"}, HUB | {"endpoint": "nowhere.example"}):
        refused = await ask(mirror, "/endpoints/pause", wanted, status=404)
        assert "by the configuration" in refused["detail"]


async def test_a_pause_outlasts_a_restart_and_ends_with_the_endpoint(
    start_mirror: StartMirror, upstream: ScriptedRegistry, app: Image
) -> None:
    mirror = await start_mirror()
    await pause(mirror)
    await mirror.stop()
    mirror = await start_mirror()
    assert (await mirror.client.manifest("org/app", "1")).status >= 500
    assert upstream.questions() == []
    await mirror.stop()
    mirror = await start_mirror({"ghcr.io": upstream_at(upstream.url)})
    assert (await mirror.client.manifest("org/app", "1")).status == 200


async def test_a_file_that_makes_no_sense_says_what_to_do(
    start_mirror: StartMirror, tmp_path: Path
) -> None:
    await (await start_mirror()).stop()
    (tmp_path / "store" / "paused-endpoints.json").write_text("{")
    with pytest.raises(Exception, match="remove it, and no endpoint is paused"):
        await start_mirror()


@pytest.fixture
def process_directory(tmp_path: Path) -> Path:
    return tmp_path


async def test_commands_pause_and_resume(
    upstream: ScriptedRegistry, app: Image, process_directory: Path
) -> None:
    hub = {"docker.io": upstream_at(upstream.url)}
    async with running_mirror(process_directory, hub) as mirror:
        await _commands(mirror, upstream)


async def _commands(mirror: MirrorProcess, upstream: ScriptedRegistry) -> None:
    done, shown, _ = await command(mirror, "pause", "docker.io", upstream.url)
    assert (done, f"docker.io {upstream.host}: paused since" in shown) == (0, True)
    _, shown, _ = await command(mirror, "status", "--once")
    assert "paused since" in shown
    done, _, complaint = await command(mirror, "pause", "docker.io", "nowhere")
    assert (done, "docker.io has no endpoint nowhere" in complaint) == (1, True)
    assert (await command(mirror, "resume", "docker.io"))[1] == "docker.io: asked again\n"
    done, shown, _ = await command(mirror, "resume", "docker.io", "--json")
    assert (done, shown) == (0, '{\n  "paused": []\n}\n')

"""The operators' API: what it tells of a running mirror, what it does, and for whom."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from mirror.control.models import Status
from mirror.storage.files import Files
from mirror.storage.usage import Usage
from tests.conftest import StartMirror
from tests.support.client import Answer, get
from tests.support.clock import FakeClock
from tests.support.images import Image, image, random_layer
from tests.support.mirror import InnerMirror, document, start_inner_mirror, upstream_at
from tests.support.process import until
from tests.support.upstream import RateLimit, ScriptedRegistry

SIZE = 2**20


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=1)), "org/app", "1")


@pytest.fixture
async def mirror(upstream: ScriptedRegistry, tmp_path: Path) -> AsyncIterator[InnerMirror]:
    settings = document({"docker.io": upstream_at(upstream.url)}, store_root=tmp_path / "store")
    mirror = await start_inner_mirror(settings, FakeClock())
    try:
        yield mirror
    finally:
        await mirror.stop()


async def status(mirror: InnerMirror) -> Status:
    answer = await get(f"{mirror.admin_url}/api/v1/status")
    assert answer.status == 200
    return msgspec.json.decode(answer.body, type=Status)


async def send(mirror: InnerMirror, method: str, path: str, **options: Any) -> Answer:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{mirror.admin_url}/api/v1{path}", **options) as response,
    ):
        return Answer(response.status, response.headers, await response.read())


async def until_status(mirror: InnerMirror, condition: Callable[[Status], bool]) -> Status:
    """The first status of which this is true."""
    seen = [await status(mirror)]

    async def is_there() -> bool:
        seen[0] = await status(mirror)
        return condition(seen[0])

    await until(is_there)
    return seen[0]


async def test_a_download_is_shown_while_it_goes_on(
    upstream: ScriptedRegistry, mirror: InnerMirror, app: Image
) -> None:
    gate = upstream.hold(str(app.layers[0]), after=SIZE // 2)
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(mirror.client.blob("org/app", app.layers[0]))
        await gate.reached()
        seen = await until_status(mirror, lambda it: bool(it.fills and it.fills[0].written))
        gate.open()
    fill = seen.fills[0]
    assert (fill.upstream, fill.repository) == ("docker.io", "docker.io/org/app")
    assert (fill.digest, fill.size, fill.readers) == (str(app.layers[0]), SIZE, 1)
    assert 0 < fill.written <= SIZE // 2
    assert fill.state == "streaming"
    assert reading.result().status == 200
    ended = await until_status(mirror, lambda it: not it.fills)
    assert ended.store.bytes >= SIZE


@pytest.mark.parametrize(("disk", "asking"), [(Usage, "_find_free"), (Files, "_probe")])
async def test_store_and_fills_are_of_the_same_moment(
    mirror: InnerMirror,
    app: Image,
    monkeypatch: pytest.MonkeyPatch,
    disk: type[Usage | Files],
    asking: str,
) -> None:
    """Whatever it is that the disk takes its time for."""
    asked, may_answer = threading.Event(), threading.Event()
    ask = getattr(disk, asking)

    def ask_later(*args: object) -> object:
        if not asked.is_set():  # who makes room for the fill asks, too
            asked.set()
            may_answer.wait(20)
        return ask(*args)

    async def no_fill_is_active() -> bool:
        return await mirror.metric("mirror_fills_active") == 0

    monkeypatch.setattr(disk, asking, ask_later)
    async with asyncio.TaskGroup() as tasks:
        telling = tasks.create_task(status(mirror))
        await asyncio.to_thread(asked.wait, 20)
        await mirror.client.blob("org/app", app.layers[0])
        await until(no_fill_is_active)
        may_answer.set()
    seen = telling.result()
    assert sum(fill.written for fill in seen.fills) + seen.store.bytes >= SIZE


async def test_what_was_served_is_told_beside_what_was_fetched_for_it(
    mirror: InnerMirror, app: Image
) -> None:
    for _ in range(4):
        assert (await mirror.client.blob("org/app", app.layers[0])).status == 200
        await until_status(mirror, lambda it: not it.fills)  # who comes before that has joined
    served = (await status(mirror)).served
    assert (served.lookups, served.hits) == (4, 3)
    assert served.bytes == 4 * SIZE
    assert SIZE <= served.fetched < 2 * SIZE
    assert served.saved == served.bytes - served.fetched


async def test_an_endpoint_that_is_down_is_told_with_the_reason(
    upstream: ScriptedRegistry, mirror: InnerMirror, app: Image
) -> None:
    assert (await status(mirror)).health.status == "ok"
    await upstream.stop()
    await mirror.client.manifest("org/app", "2")
    told = await status(mirror)
    (endpoint,) = told.endpoints
    assert not endpoint.is_up
    assert endpoint.trouble is not None
    assert "cannot be reached: Connection refused ('127.0.0.1', " in endpoint.trouble
    assert told.health.status == "degraded"
    (problem,) = told.health.problems
    assert upstream.url in problem.what
    assert problem.why == endpoint.trouble
    short = json.loads((await get(f"{mirror.admin_url}/status")).body)
    assert short == {"status": "degraded", "problems": [{"what": problem.what, "why": problem.why}]}


async def test_pulls_that_upstream_has_left_for_us_are_told(
    upstream: ScriptedRegistry, mirror: InnerMirror, app: Image
) -> None:
    upstream.rate_limit = RateLimit(limit=100, remaining=77)
    await mirror.client.manifest("org/app", "1")
    (endpoint,) = (await status(mirror)).endpoints
    assert endpoint.quota is not None
    assert (endpoint.quota.limit, endpoint.quota.remaining) == (100, 76)
    assert endpoint.quota.until is not None


async def test_the_log_tells_more_once_somebody_wants_to_know(mirror: InnerMirror) -> None:
    answer = await send(mirror, "PUT", "/log-level", json={"level": "debug"})
    assert (answer.status, answer.body) == (200, b'{"level":"debug"}')
    assert (await send(mirror, "PUT", "/log-level", json={"level": "info"})).status == 200


async def test_who_watches_is_told_again_and_again(mirror: InnerMirror) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{mirror.admin_url}/api/v1/events") as response,
    ):
        assert response.headers["Content-Type"] == "text/event-stream"
        for _ in range(2):
            lines = [await response.content.readline() for _ in range(3)]
            assert lines[0] == b"event: status\n"
            msgspec.json.decode(lines[1].removeprefix(b"data: "), type=Status)
            assert lines[2] == b"\n"


@pytest.mark.parametrize(
    ("method", "path", "options", "wanted"),
    [
        ("GET", "/nothing", {}, 404),
        ("POST", "/status", {}, 405),
        ("DELETE", "/openapi.json", {}, 405),
        ("PUT", "/log-level", {"json": {"level": "loud"}}, 400),
        ("PUT", "/log-level", {"data": {"level": "info"}}, 415),
        ("PUT", "/log-level", {"data": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ("GET", "/status", {"headers": {"Host": "rebound.example"}}, 421),
        ("POST", "/reload", {"headers": {"Sec-Fetch-Site": "cross-site"}}, 403),
        ("POST", "/reload", {"headers": {"Origin": "https://evil.example"}}, 403),
        ("POST", "/reload", {"headers": {"Origin": "null"}}, 403),
    ],
)
async def test_what_is_not_done_is_explained_in_one_form(
    mirror: InnerMirror, method: str, path: str, options: dict[str, Any], wanted: int
) -> None:
    answer = await send(mirror, method, path, **options)
    assert answer.status == wanted
    assert answer.headers["Content-Type"] == "application/problem+json"
    told = json.loads(answer.body)
    assert told["status"] == wanted
    assert told["title"]
    assert told["detail"]


async def test_a_token_lets_in_and_nothing_else_does(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("open sesame\n")
    settings = document(
        {"docker.io": upstream_at(upstream.url)},
        store_root=tmp_path / "store",
        admin={"token_file": str(token)},
    )
    mirror = await start_inner_mirror(settings, FakeClock())
    try:
        for header, wanted in {
            "Bearer open sesame": 200, "Bearer open": 401, "Basic open sesame": 401, "": 401,
        }.items():  # fmt: skip
            answer = await send(mirror, "GET", "/status", headers={"Authorization": header})
            assert answer.status == wanted
        assert (await send(mirror, "GET", "/status")).headers["WWW-Authenticate"]
        assert (await get(f"{mirror.admin_url}/metrics")).status == 200
        token.write_text("another\n")
        sent = {"Authorization": "Bearer another"}
        assert (await send(mirror, "GET", "/status", headers=sent)).status == 200
    finally:
        await mirror.stop()


async def test_the_configuration_in_effect_is_told_without_secrets(
    start_mirror: StartMirror, upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    hub = upstream_at(upstream.url, username="me", password_file=str(secret), max_bandwidth="2 MB")
    hooks = [{"url": "https://hooks.example/T0/hunter2", "occasions": ["disk"]}]
    mirror = await start_mirror({"docker.io": hub}, notify=hooks)
    answer = await send(mirror, "GET", "/configuration")
    told = json.loads(answer.body)["configuration"]
    [endpoint] = told["upstream"]["docker.io"]["endpoints"]
    assert (endpoint["password_file"], endpoint["max_bandwidth"]) == (str(secret), "2 MB")
    assert told["notify"][0]["url"] == "hooks.example"
    assert told["tags"]["fresh_for"] == "1m"
    assert b"hunter2" not in answer.body


async def test_beyond_this_host_nothing_is_done_without_a_token(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    settings = document(
        {"docker.io": upstream_at(upstream.url)},
        store_root=tmp_path / "store",
        server={"listen": "127.0.0.1:0", "admin_listen": "0.0.0.0:0"},
    )
    mirror = await start_inner_mirror(settings, FakeClock())
    try:
        mirror.admin_host = mirror.admin_host.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        answer = await send(mirror, "GET", "/status")
        assert answer.status == 403
        assert b"admin.token_file" in answer.body
        assert (await get(f"{mirror.admin_url}/metrics")).status == 200
        assert (await get(f"{mirror.admin_url}/readyz")).status == 200
    finally:
        await mirror.stop()


async def test_the_description_names_everything_that_there_is(mirror: InnerMirror) -> None:
    described = json.loads((await get(f"{mirror.admin_url}/api/v1/openapi.json")).body)
    assert described["openapi"] == "3.1.0"
    names = [it["operationId"] for path in described["paths"].values() for it in path.values()]
    assert len(set(names)) == len(names)
    for path, methods in described["paths"].items():
        assert re.fullmatch(r"/api/v1(/[a-z-]+)+", path)
        if "get" in methods:
            is_enough = not any(it["required"] for it in methods["get"].get("parameters", ()))
            expected = 200 if is_enough else 400
            assert (await get(f"{mirror.admin_url}{path}")).status == expected, path

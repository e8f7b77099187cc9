"""What belongs to upstreams with `access = "client"`: for who may read the store, and marked."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mirror.control.guard import KEY_FIELD, KEY_FILE
from tests.support.client import get
from tests.support.clock import FakeClock
from tests.support.images import Image, image, random_layer
from tests.support.mirror import InnerMirror, document, start_inner_mirror, upstream_at
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

SIZE = 2**20
VIEWS = ("now", "history?by=repository", "pulls", "waste", "endpoints", "store", "images")
LISTS = (
    "/status", "/fills", "/pulls", "/pulls?repository=ghcr.io/secret/plan", "/arrivals",
    "/totals?by=repository", "/totals?repository=ghcr.io/secret/plan", "/waste", "/configuration",
)  # fmt: skip


@pytest.fixture
def plan(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=1)), "secret/plan", "1")


@pytest.fixture
async def mirror(
    upstream: ScriptedRegistry, tmp_path: Path, clock: FakeClock, plan: Image
) -> AsyncIterator[InnerMirror]:
    """A public upstream and a private one, both pulled from."""
    app = upstream.add(image(random_layer(SIZE, seed=2)), "org/app", "1")
    private = upstream_at(upstream.url) | {"access": "client", "allow": ["secret/*"]}
    upstreams = {"docker.io": upstream_at(upstream.url), "ghcr.io": private}
    mirror = await start_inner_mirror(document(upstreams, store_root=tmp_path / "store"), clock)
    try:
        for name, pulled in (("org/app", app), ("ghcr.io/secret/plan", plan)):
            assert (await mirror.client.manifest(name, "1")).status == 200
            assert (await mirror.client.blob(name, pulled.layers[0])).status == 200
        await until(lambda: is_told(mirror, clock))
        yield mirror
    finally:
        await mirror.stop()


async def is_told(mirror: InnerMirror, clock: FakeClock) -> bool:
    clock.advance(2)
    return len((await ask(mirror, "/pulls", KEY))["pulls"]) == 2


KEY = "shows the key"


async def ask(mirror: InnerMirror, path: str, key: str = "") -> Any:
    file = mirror.store_root / KEY_FILE
    headers = {KEY_FIELD: file.read_text()} if key else {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{mirror.admin_url}/api/v1{path}", headers=headers) as answer,
    ):
        assert answer.status == 200
        return await answer.json()


@pytest.mark.parametrize("path", LISTS)
async def test_no_name_of_it_is_told_who_may_not_read_the_store(
    mirror: InnerMirror, path: str
) -> None:
    told = json.dumps(await ask(mirror, path))
    assert "secret" not in told


@pytest.mark.parametrize("path", ["/pulls", "/arrivals", "/totals?by=repository", "/waste"])
async def test_who_may_read_the_store_sees_it_marked(mirror: InnerMirror, path: str) -> None:
    told = await ask(mirror, path, KEY)
    rows = told.get("costs") or next(it for it in told.values() if isinstance(it, list))
    marked = {it["repository"]: it["is_private"] for it in rows}
    assert marked == {"docker.io/org/app": False, "ghcr.io/secret/plan": True}


async def test_a_download_of_it_is_seen_and_not_what_comes(
    upstream: ScriptedRegistry, mirror: InnerMirror
) -> None:
    late = upstream.add(image(random_layer(SIZE, seed=3)), "secret/late", "1")
    gate = upstream.hold(str(late.layers[0]), after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        assert (await mirror.client.manifest("ghcr.io/secret/late", "1")).status == 200
        _ = clients.create_task(mirror.client.blob("ghcr.io/secret/late", late.layers[0]))
        await gate.reached()
        (others,) = (await ask(mirror, "/status"))["fills"]
        (ours,) = (await ask(mirror, "/fills", KEY))["fills"]
        gate.open()
    assert (others["repository"], others["digest"], others["is_private"]) == (None, None, True)
    assert (ours["repository"], ours["digest"]) == ("ghcr.io/secret/late", str(late.layers[0]))


async def test_events_tell_no_more_than_answers(mirror: InnerMirror) -> None:
    async with aiohttp.ClientSession() as session:
        for path in ("/api/v1/pulls/events", "/api/v1/events", "/page/pulls/events"):
            async with session.get(f"{mirror.admin_url}{path}") as answer:
                assert answer.status == 200
                assert b"secret" not in await answer.content.readuntil(b"\n\n")


@pytest.mark.parametrize("view", VIEWS)
async def test_the_page_shows_none_of_it_and_says_so(mirror: InnerMirror, view: str) -> None:
    shown = (await get(f"{mirror.admin_url}/page/{view}")).body.decode()
    assert "secret" not in shown
    if view not in {"endpoints", "store"}:
        assert "not shown here" in shown
        assert "admin.token_file" in shown


async def test_where_an_operator_shows_the_token_the_page_shows_it_marked(
    upstream: ScriptedRegistry, tmp_path: Path, clock: FakeClock, plan: Image
) -> None:
    token = tmp_path / "token"
    token.write_text("open sesame\n")
    upstreams = {"docker.io": upstream_at(upstream.url) | {"access": "client"}}
    mirror = await start_inner_mirror(
        document(
            upstreams, store_root=tmp_path / "store", admin={"token_file": str(token)}
        ), clock,
    )  # fmt: skip
    try:
        assert (await mirror.client.manifest("secret/plan", "1")).status == 200
        async with aiohttp.ClientSession(
            headers={"Authorization": "Bearer open sesame"}
        ) as session:

            async def is_shown() -> bool:
                clock.advance(20)
                async with session.get(f"{mirror.admin_url}/page/history?by=repository") as answer:
                    text = await answer.text()
                return "docker.io/secret/plan" in text and ">private<" in text

            await until(is_shown)
    finally:
        await mirror.stop()
    assert plan.layers

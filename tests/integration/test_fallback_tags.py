"""`tags = "fallback"`: where Docker Hub cannot be reached, an accelerator says what tags mean."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import StartMirror
from tests.support.client import Answer
from tests.support.clock import FakeClock
from tests.support.images import Image, artifact, image, random_layer
from tests.support.mirror import InnerMirror
from tests.support.upstream import ScriptedRegistry

OLD = image(random_layer(1_000, seed=61))
NEW = image(random_layer(1_000, seed=62))
SAID = '299 - "upstream could not be asked; by the word of an endpoint that may lag behind"'


@pytest.fixture
async def accelerator() -> AsyncIterator[ScriptedRegistry]:
    """What Docker Hub has, a while ago."""
    async with ScriptedRegistry() as registry:
        registry.add(OLD, "library/app", "1")
        yield registry


@pytest.fixture
async def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(NEW, "library/app", "1")


def settings(accelerator: ScriptedRegistry, upstream: ScriptedRegistry) -> dict[str, Any]:
    endpoints = [{"url": accelerator.url, "tags": "fallback"}, {"url": upstream.url}]
    return {"docker.io": {"endpoints": endpoints}}


def is_marked(answer: Answer) -> bool:
    marks = answer.headers["Cache-Status"].endswith("; detail=fallback")
    assert marks == (answer.headers.get("Warning") == SAID)
    return marks


async def back(upstream: ScriptedRegistry, mirror: InnerMirror) -> None:
    """The registry can be asked again, and the mirror knows."""
    await upstream.start()
    await mirror.until_metric("mirror_upstream_up", 1, endpoint=upstream.host)


async def test_while_the_registry_can_be_asked_the_fallback_is_not(
    upstream: ScriptedRegistry, accelerator: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(settings(accelerator, upstream))
    answer = await mirror.client.manifest("app", "1")
    assert answer.body == NEW.manifest
    assert not is_marked(answer)
    assert (await mirror.client.manifest("app", "2")).status == 404
    upstream.fault(kind="tag", status=403)
    assert (await mirror.client.manifest("app", "3")).status == 403
    assert accelerator.asked("tag") == []
    assert await mirror.metric("mirror_upstream_fallback_answers_total") == 0


@pytest.mark.parametrize("outage", [None, 503, 429])
async def test_where_docker_hub_cannot_be_asked_an_accelerator_tells_and_it_is_marked(
    upstream: ScriptedRegistry,
    accelerator: ScriptedRegistry,
    start_mirror: StartMirror,
    app: Image,
    clock: FakeClock,
    *,
    outage: int | None,
) -> None:
    mirror = await start_mirror(settings(accelerator, upstream))
    if outage is None:
        await upstream.stop()
    else:
        upstream.fault(status=outage)
    seen = []
    for wait in (0, 0, 61):
        clock.advance(wait)
        answer = await mirror.client.manifest("app", "1")
        assert answer.body == OLD.manifest
        assert is_marked(answer)
        seen.append(answer.headers["Cache-Status"].removesuffix("; detail=fallback"))
    assert seen[0] == "mirror; fwd=miss; stored"
    assert seen[1] in {"mirror; hit", "mirror; fwd=stale; fwd-status=304"}  # a 503 may be over
    assert seen[2] == "mirror; fwd=stale; fwd-status=304"
    told = await mirror.metric("mirror_upstream_fallback_answers_total", endpoint=accelerator.host)
    assert told >= 2


async def test_what_a_fallback_has_said_is_checked_again_as_soon_as_the_registry_is_back(
    upstream: ScriptedRegistry, accelerator: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(settings(accelerator, upstream))
    await upstream.stop()
    assert is_marked(await mirror.client.manifest("app", "1"))
    await back(upstream, mirror)
    answer = await mirror.client.manifest("app", "1")  # though it would be fresh
    assert answer.body == NEW.manifest
    assert not is_marked(answer)
    assert (await mirror.client.manifest("app", "1")).headers["Cache-Status"] == "mirror; hit"


async def test_that_it_was_a_fallbacks_word_is_known_after_a_restart(
    upstream: ScriptedRegistry, accelerator: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(settings(accelerator, upstream))
    await upstream.stop()
    await mirror.client.manifest("app", "1")
    await mirror.stop()
    await upstream.start()
    mirror = await start_mirror(settings(accelerator, upstream))
    assert (await mirror.client.manifest("app", "1")).body == NEW.manifest


async def test_a_fallback_without_the_tag_says_nothing_and_what_is_cached_serves(
    upstream: ScriptedRegistry,
    accelerator: ScriptedRegistry,
    start_mirror: StartMirror,
    app: Image,
    clock: FakeClock,
) -> None:
    mirror = await start_mirror(settings(accelerator, upstream))
    await mirror.client.manifest("app", "1")
    del accelerator.repositories["library/app"]
    await upstream.stop()
    clock.advance(61)
    answer = await mirror.client.manifest("app", "1")
    assert answer.body == NEW.manifest
    assert answer.headers["Cache-Status"] == "mirror; hit; detail=stale"
    assert (await mirror.client.manifest("app", "2")).status == 502  # not 404: nobody knows


async def test_lists_are_told_by_a_fallback_too(
    upstream: ScriptedRegistry, accelerator: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    signature = accelerator.add(artifact(b"signature", subject=OLD), "library/app")
    mirror = await start_mirror(settings(accelerator, upstream))
    await upstream.stop()
    tags = await mirror.client.get("/v2/app/tags/list")
    assert json.loads(tags.body)["tags"] == ["1"]
    assert is_marked(tags)
    target = f"/v2/app/referrers/{OLD.digest}"
    referrers = await mirror.client.get(target)
    assert signature.digest.encode() in referrers.body
    assert is_marked(referrers)
    await back(upstream, mirror)
    again = await mirror.client.get(target)
    assert not is_marked(again)
    assert signature.digest.encode() not in again.body


async def test_a_fallback_does_not_say_who_is_let_in(
    upstream: ScriptedRegistry, accelerator: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    upstreams = settings(accelerator, upstream)
    upstreams["docker.io"]["access"] = "client"
    mirror = await start_mirror(upstreams)
    await upstream.stop()
    assert (await mirror.client.manifest("app", "1")).status == 502
    assert accelerator.asked("tag") == []

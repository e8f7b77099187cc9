"""What is told of endpoints over time: up and down, first byte, quota, certificates."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mirror.control.models import Endpoint, Endpoints, Spells
from mirror.history.ports import Spell
from tests.support.client import get
from tests.support.clock import FakeClock
from tests.support.images import image, random_layer
from tests.support.mirror import InnerMirror, Settings, document, start_inner_mirror, upstream_at
from tests.support.process import until
from tests.support.tls import Authority
from tests.support.upstream import RateLimit, ScriptedRegistry

DAY = 86400
WINDOW = 21600


@pytest.fixture
def settings(upstream: ScriptedRegistry, tmp_path: Path) -> Settings:
    upstream.add(image(random_layer(9, seed=1)), "org/app", "1")
    return document({"docker.io": upstream_at(upstream.url)}, store_root=tmp_path / "store")


@pytest.fixture
async def mirror(settings: Settings, clock: FakeClock) -> AsyncIterator[InnerMirror]:
    mirror = await start_inner_mirror(settings, clock)
    try:
        yield mirror
    finally:
        await mirror.stop()


async def spells(mirror: InnerMirror, query: str = "") -> list[Spell]:
    answer = await get(f"{mirror.admin_url}/api/v1/endpoints/spells{query}")
    assert answer.status == 200
    return msgspec.json.decode(answer.body, type=Spells).spells


async def endpoint(mirror: InnerMirror) -> Endpoint:
    answer = await get(f"{mirror.admin_url}/api/v1/endpoints")
    (found,) = msgspec.json.decode(answer.body, type=Endpoints).endpoints
    return found


async def test_an_outage_is_told_of_later_with_its_reason_also_after_a_restart(
    upstream: ScriptedRegistry, settings: Settings, clock: FakeClock
) -> None:
    async def goes_on() -> bool:
        clock.advance(5)
        return any(it.state == "down" and it.ended > it.began for it in await spells(running))

    async def is_over() -> bool:
        return (await endpoint(running)).is_up

    running = await start_inner_mirror(settings, clock)
    try:
        await upstream.stop()
        await running.client.manifest("org/app", "1")
        await until(goes_on)
        await upstream.start()
        await until(is_over)
    finally:
        await running.stop()
    clock.advance(3600)
    mirror = await start_inner_mirror(settings, clock)
    try:
        told = [it for it in await spells(mirror) if it.state == "down"]
        since = await spells(mirror, f"?since={clock() + DAY}")
    finally:
        await mirror.stop()
    (outage,) = told
    assert (outage.upstream, 0 < outage.ended - outage.began < 3600) == ("docker.io", True)
    assert "cannot be reached" in str(outage.why)
    assert since == []


async def test_the_first_byte_is_told_once_something_was_answered(
    mirror: InnerMirror, clock: FakeClock
) -> None:
    assert (await endpoint(mirror)).first_byte is None
    await mirror.client.manifest("org/app", "1")

    async def is_told() -> bool:
        clock.advance(10)
        found = (await endpoint(mirror)).first_byte
        return found is not None and found.answers > 0 and 0 < found.median <= found.p90

    await until(is_told)


async def test_a_quota_holds_until_the_end_of_its_window_at_the_latest(
    upstream: ScriptedRegistry, mirror: InnerMirror, clock: FakeClock
) -> None:
    upstream.rate_limit = RateLimit(limit=100, remaining=50, window=WINDOW)

    async def quota(remaining: int) -> Any:
        upstream.rate_limit = RateLimit(limit=100, remaining=remaining, window=WINDOW)
        await mirror.client.manifest("org/app", "1")
        clock.advance(120)  # the tag is asked for anew
        found = (await endpoint(mirror)).quota
        assert found is not None
        return found.until

    began = clock()
    assert await quota(50) == pytest.approx(began + WINDOW, abs=1)
    assert await quota(49) == pytest.approx(began + WINDOW, abs=1)  # of the same window
    anew = clock()
    assert await quota(99) == pytest.approx(anew + WINDOW, abs=1)
    clock.advance(WINDOW)
    found = (await endpoint(mirror)).quota
    assert found is not None
    assert found.until is None


async def test_the_end_of_the_certificate_that_an_endpoint_shows_is_told(
    tmp_path: Path, clock: FakeClock
) -> None:
    authority = Authority(tmp_path / "tls")
    async with ScriptedRegistry(server_context=authority.server_context(), clock=clock) as secure:
        secure.add(image(random_layer(9, seed=1)), "org/app", "1")
        hub = upstream_at(secure.url, ca_file=str(authority.ca_file))
        mirror = await start_inner_mirror(
            document({"docker.io": hub}, store_root=tmp_path / "store"), clock
        )
        try:
            assert (await endpoint(mirror)).certificate_ends is None
            assert (await mirror.client.manifest("org/app", "1")).status == 200
            ends = (await endpoint(mirror)).certificate_ends
            shown = await get(f"{mirror.admin_url}/page/endpoints")
        finally:
            await mirror.stop()
    assert ends is not None
    assert b"days left" in shown.body

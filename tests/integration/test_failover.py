"""Several endpoints, of which some are down, slow, full, or behind the times."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

import aiohttp
import pytest

from tests.conftest import StartMirror, StartRelay
from tests.support.clock import FakeClock
from tests.support.images import Image, image, random_layer
from tests.support.mirror import InnerMirror, Settings, upstream_at
from tests.support.process import free_port, until
from tests.support.upstream import RateLimit, ScriptedRegistry

SIZE = 100_000
APP = image(random_layer(SIZE, seed=3))
NEW = image(random_layer(SIZE, seed=4))
[DIGEST] = APP.layers


@pytest.fixture
async def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(APP, "library/app", "1")


@pytest.fixture
async def second() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as registry:
        registry.add(APP, "library/app", "1")
        yield registry


def _hub(*urls: str, **settings: object) -> dict[str, Settings]:
    return {"docker.io": upstream_at(*urls, **settings)}


def _with_accelerator(accelerator: str, origin: str) -> dict[str, Settings]:
    """An accelerator first: for content by digest only."""
    return {"docker.io": {"endpoints": [{"url": accelerator, "tags": False}, {"url": origin}]}}


async def test_while_the_first_endpoint_answers_the_second_is_not_asked(
    upstream: ScriptedRegistry, second: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(_hub(upstream.url, second.url))
    await mirror.client.manifest("app", "1")
    await mirror.client.blob("app", DIGEST)
    assert second.requests == []


@pytest.mark.parametrize(
    "trouble", [{"status": 500}, {"status": 503}, {"status": 429}, {"drop": True}]
)
async def test_what_one_endpoint_cannot_give_the_next_one_does(
    upstream: ScriptedRegistry,
    second: ScriptedRegistry,
    start_mirror: StartMirror,
    app: Image,
    trouble: Settings,
) -> None:
    mirror = await start_mirror(_hub(upstream.url, second.url))
    upstream.fault(**trouble)
    assert (await mirror.client.manifest("app", "1")).digest == APP.digest
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert second.bytes_sent(DIGEST) == SIZE


async def test_an_endpoint_that_refuses_connections_is_passed_over(
    second: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    mirror = await start_mirror(_hub(f"http://{nobody}", second.url))
    assert (await mirror.client.manifest("app", "1")).digest == APP.digest
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert await mirror.metric("mirror_upstream_up", endpoint=nobody) == 0
    assert await mirror.metric("mirror_upstream_up", endpoint=second.host) == 1
    failed = await mirror.metric("mirror_upstream_requests_total", endpoint=nobody, status="none")
    assert failed == 1  # the blob was not asked for there


async def test_a_name_that_does_not_resolve_is_an_outage_like_any_other(
    second: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror(_hub("http://registry.invalid", second.url))
    assert (await mirror.client.manifest("app", "1")).digest == APP.digest
    assert await mirror.metric("mirror_upstream_up", endpoint="registry.invalid") == 0


async def test_an_endpoint_that_swallows_everything_costs_one_request_its_patience(
    second: ScriptedRegistry, start_mirror: StartMirror, start_relay: StartRelay
) -> None:
    relay = await start_relay(second.port)
    relay.black_hole = True
    mirror = await start_mirror(_hub(relay.url, second.url), fill={"stall_timeout": "300ms"})
    assert (await mirror.client.manifest("app", "1")).digest == APP.digest
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert relay.connections == 1


async def test_during_an_outage_only_the_first_request_asks(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror(_hub(upstream.url))
    upstream.fault(drop=True)
    assert (await mirror.client.manifest("app", "1")).status == 502
    await mirror.until_metric("mirror_upstream_up", 0)  # `/v2/` is asked for: is it all of it?
    asked = [it for it in upstream.requests if it.kind != "ping"]
    for _ in range(20):
        assert (await mirror.client.manifest("app", "1")).status == 502
        assert (await mirror.client.blob("app", DIGEST)).status == 502
    assert [it for it in upstream.requests if it.kind != "ping"] == asked  # probes go on


async def test_two_answers_of_503_are_no_outage_yet(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    upstream.fault(status=503, times=2)
    for _ in range(2):
        assert (await mirror.client.manifest("app", "1")).status == 502
    assert await mirror.metric("mirror_upstream_up") == 1
    assert (await mirror.client.manifest("app", "1")).digest == APP.digest


async def test_that_upstream_is_back_is_found_out_without_any_client(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(_hub(upstream.url))
    await upstream.stop()
    assert (await mirror.client.manifest("app", "1")).status == 502
    assert await mirror.metric("mirror_upstream_up") == 0
    await upstream.start()
    await mirror.until_metric("mirror_upstream_up", 1)
    assert upstream.questions() == [("ping", "GET", "")]
    assert (await mirror.client.manifest("app", "1")).status == 200


async def test_nobody_waits_out_the_timeout_of_a_silent_upstream_twice(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, clock: FakeClock
) -> None:
    """Half of it is what the first client waits; a second wait would see the question's end."""
    mirror = await start_mirror(_hub(upstream.url), fill={"connect_timeout": "3s"})
    assert (await mirror.client.manifest("app", "1")).status == 200
    clock.advance(120)
    upstream.fault(kind="tag", hang=True)
    upstream.forget()
    for _ in range(5):
        answer = await mirror.client.manifest("app", "1")
        assert answer.headers["Cache-Status"] == "mirror; hit; detail=stale"
    # One question: over the connection that was kept, and over another where that one is silent.
    assert {asked.ended for asked in upstream.asked("tag")} == {False}
    assert len(upstream.asked("tag")) <= 2


async def test_an_endpoint_that_asks_for_a_pause_gets_it(
    upstream: ScriptedRegistry, second: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(_hub(upstream.url, second.url))
    upstream.rate_limit = RateLimit(limit=100, remaining=0, retry_after="3600")
    assert (await mirror.client.manifest("app", "1")).digest == APP.digest
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert (await mirror.client.manifest("app", APP.digest)).digest == APP.digest
    assert len([asked for asked in upstream.requests if asked.kind != "blob"]) == 1
    assert await mirror.metric("mirror_upstream_up", endpoint=upstream.host) == 1


async def test_a_rate_limit_is_passed_on_where_nothing_else_can_answer(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    upstream.rate_limit = RateLimit(remaining=0, retry_after="120")
    answer = await mirror.client.manifest("app", "1")
    assert (answer.status, answer.headers["Retry-After"]) == (429, "120")


async def test_the_remaining_quota_is_a_metric(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    upstream.rate_limit = RateLimit(limit=100, remaining=76)
    await mirror.client.manifest("app", "1")
    assert await mirror.metric("mirror_upstream_ratelimit_limit", endpoint=upstream.host) == 100
    assert await mirror.metric("mirror_upstream_ratelimit_remaining") == 75


async def test_an_accelerator_that_lags_behind_never_says_what_a_tag_means(
    upstream: ScriptedRegistry,
    second: ScriptedRegistry,
    start_mirror: StartMirror,
    clock: FakeClock,
) -> None:
    upstream.add(NEW, "library/app", "1")
    mirror = await start_mirror(_with_accelerator(second.url, upstream.url))
    assert (await mirror.client.manifest("app", "1")).digest == NEW.digest
    clock.advance(3600)
    assert (await mirror.client.manifest("app", "1")).digest == NEW.digest
    assert second.asked("tag") == []


async def test_an_accelerator_provides_what_it_has_by_digest(
    upstream: ScriptedRegistry, second: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(_with_accelerator(second.url, upstream.url))
    await mirror.client.manifest("app", "1")
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert second.bytes_sent(DIGEST) == SIZE
    assert upstream.asked("blob") == []


@pytest.mark.parametrize("status", [403, 404, 401, 500])
async def test_what_an_accelerator_refuses_comes_from_the_origin(
    upstream: ScriptedRegistry,
    second: ScriptedRegistry,
    start_mirror: StartMirror,
    app: Image,
    status: int,
) -> None:
    mirror = await start_mirror(_with_accelerator(second.url, upstream.url))
    fault = second.fault(status=status)
    assert (await mirror.client.manifest("app", APP.digest)).digest == APP.digest
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert fault.struck


async def test_an_accelerator_with_another_blob_is_not_believed(
    upstream: ScriptedRegistry, second: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(_with_accelerator(second.url, upstream.url))
    await mirror.client.manifest("app", "1")
    second.fault(kind="blob", body=b"<html>")
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST


@pytest.mark.parametrize("store", [{}, {"max_size": "50 KB"}], ids=["kept", "passed through"])
async def test_an_accelerator_that_lies_about_a_blob_is_asked_for_it_once(
    upstream: ScriptedRegistry,
    second: ScriptedRegistry,
    start_mirror: StartMirror,
    app: Image,
    store: Settings,
) -> None:
    other = second.add_blob(b"true", "library/app")
    mirror = await start_mirror(_with_accelerator(second.url, upstream.url), store=store)
    await mirror.client.manifest("app", "1")
    second.fault(kind="blob", reference=DIGEST, corrupt_at=100)
    with suppress(aiohttp.ClientPayloadError):  # where it has come in one piece, it is refused
        assert (await mirror.client.blob("app", DIGEST)).status in {200, 502}
    for _ in range(2):
        assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert len(second.asked("blob")) == 1
    assert (await mirror.client.blob("app", other)).digest == other  # of others it may tell


async def test_an_accelerator_that_lied_is_asked_last_but_asked(
    upstream: ScriptedRegistry, second: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(_with_accelerator(second.url, upstream.url))
    await mirror.client.manifest("app", "1")
    second.fault(kind="blob", corrupt_at=100, times=1)
    with pytest.raises(aiohttp.ClientPayloadError):
        await mirror.client.blob("app", DIGEST)
    upstream.fault(kind="blob", status=503, times=1)
    assert (await mirror.client.blob("app", DIGEST)).digest == DIGEST
    assert [asked.status for asked in upstream.asked("blob")] == [503]
    assert len(second.asked("blob")) == 2


async def test_an_accelerator_with_another_manifest_is_not_believed(
    upstream: ScriptedRegistry, second: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(_with_accelerator(second.url, upstream.url))
    second.fault(kind="manifest", body=NEW.manifest)
    assert (await mirror.client.manifest("app", APP.digest)).digest == APP.digest


@pytest.mark.parametrize(
    ("statuses", "answer"),
    [
        ((404, 404), 404),
        ((404, 403), 403),
        ((403, 404), 403),
        ((503, 403), 403),
        ((404, 503), 502),  # perhaps the other one has it
        ((503, 404), 502),
        ((503, 503), 502),
    ],
)
async def test_a_denial_weighs_more_than_an_outage_and_that_more_than_a_miss(
    upstream: ScriptedRegistry,
    second: ScriptedRegistry,
    start_mirror: StartMirror,
    statuses: tuple[int, int],
    answer: int,
) -> None:
    mirror = await start_mirror(_hub(upstream.url, second.url))
    for registry, status in zip((upstream, second), statuses, strict=True):
        registry.fault(status=status)
    assert (await mirror.client.manifest("app", "1")).status == answer
    assert (await mirror.client.blob("app", DIGEST)).status == answer


async def test_an_accelerators_denial_with_the_origin_down_is_an_outage(
    upstream: ScriptedRegistry, second: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(_with_accelerator(second.url, upstream.url))
    second.fault(status=403)
    upstream.fault(status=503)
    assert (await mirror.client.blob("app", DIGEST)).status == 502


async def _active(mirror: InnerMirror, count: int) -> bool:
    return await mirror.metric("mirror_fills_active") == count


async def test_a_question_does_not_wait_until_a_layer_is_through(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(_hub(upstream.url, max_connections=2))
    other = upstream.add_blob(b"other" * 1000, "library/app")
    gate = upstream.hold(DIGEST, after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        pulls = [clients.create_task(mirror.client.blob("app", DIGEST))]
        await gate.reached()
        pulls.append(clients.create_task(mirror.client.blob("app", other)))
        await until(partial(_active, mirror, 2))
        assert (await mirror.client.manifest("app", "1")).digest == APP.digest
        gate.open()
    assert [pull.result().digest for pull in pulls] == [DIGEST, other]
    assert upstream.peaks["blob"] == 1


async def test_a_client_of_a_black_hole_is_told_within_the_connect_timeout(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    """It accepts and is silent; `stall_timeout` is for those who have begun to answer."""
    mirror = await start_mirror(
        _hub(upstream.url), fill={"connect_timeout": "300ms", "stall_timeout": "60s"}
    )
    upstream.fault(hang=True)
    async with asyncio.timeout(10):
        assert (await mirror.client.manifest("app", "1")).status == 504
        assert (await mirror.client.blob("app", DIGEST)).status == 502  # known by now: at once


async def test_an_endpoint_that_still_sends_is_not_down_because_an_answer_is_late(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    """A full line delays everyone; giving the endpoint up would make a slow pull a broken one."""
    mirror = await start_mirror(_hub(upstream.url), fill={"connect_timeout": "300ms"})
    gate = upstream.hold(DIGEST, after=100)
    async with mirror.client.open(f"/v2/app/blobs/{DIGEST}") as blob:
        await gate.reached()
        upstream.fault(kind="tag", hang=True)
        late = asyncio.ensure_future(mirror.client.manifest("app", "1"))  # noqa: TID251 - awaited below
        await upstream.was_asked("tag")
        gate.open()
        assert len(await blob.read()) == len(APP.blobs[DIGEST])
        assert (await late).status == 504
    assert await mirror.metric("mirror_upstream_up") == 1

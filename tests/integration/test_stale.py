"""Upstream down, slow, rate-limited or lying: what is cached goes on being served, marked."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import StartMirror
from tests.support.clock import FakeClock
from tests.support.images import Image, image, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

STALE = "mirror; hit; detail=stale"
COULD_NOT_ASK = '299 - "served from cache; upstream could not be asked"'
NO_LONGER = '299 - "served from cache; upstream no longer has this tag"'
DAY = 86400

DOCKER = "docker/27.0 go/go1.22 UpstreamClient(Docker-Client/27.0 (linux))"
CONTAINERD = "containerd/2.0.0"
PODMAN = "containers/5.30 (github.com/containers/image)"
CURL = "curl/8.0"


@pytest.fixture
def alpine(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(1000, seed=1)), "library/alpine", "3.20")


@pytest.fixture
async def mirror(start_mirror: StartMirror, alpine: Image) -> InnerMirror:
    """A mirror that holds the tag."""
    mirror = await start_mirror(fill={"connect_timeout": "500ms"})
    await mirror.client.manifest("alpine", "3.20")
    return mirror


async def go_down(upstream: ScriptedRegistry) -> None:
    await upstream.stop()


async def answer_503(upstream: ScriptedRegistry) -> None:
    upstream.fault(status=503)


async def answer_429(upstream: ScriptedRegistry) -> None:
    upstream.fault(status=429, headers={"Retry-After": "30"})


async def hang(upstream: ScriptedRegistry) -> None:
    upstream.fault(hang=True)


async def send_a_login_page(upstream: ScriptedRegistry) -> None:
    upstream.fault(kind="tag", status=200, body=b"<html>Please accept our terms</html>")


async def send_what_it_did_not_promise(upstream: ScriptedRegistry) -> None:
    upstream.add(image(random_layer(1000, seed=2)), "library/alpine", "3.20")
    upstream.fault(method="GET", corrupt_at=10)


async def promise_nothing_and_send_something_else(upstream: ScriptedRegistry) -> None:
    await send_what_it_did_not_promise(upstream)
    upstream.fault(method="HEAD", omit=["Docker-Content-Digest"])


@pytest.mark.parametrize(
    "trouble",
    [
        go_down, answer_503, answer_429, hang, send_a_login_page, send_what_it_did_not_promise,
        promise_nothing_and_send_something_else,
    ],
)  # fmt: skip
async def test_an_outage_is_answered_from_the_cache(
    upstream: ScriptedRegistry,
    mirror: InnerMirror,
    alpine: Image,
    clock: FakeClock,
    trouble: Callable[[ScriptedRegistry], Awaitable[None]],
) -> None:
    await trouble(upstream)
    upstream.forget()
    clock.advance(29 * DAY)
    answer = await mirror.client.manifest("alpine", "3.20")
    assert ("tag", "HEAD", "3.20") in upstream.questions() or trouble is go_down
    assert (answer.status, answer.body) == (200, alpine.manifest)
    assert answer.headers["Content-Type"] == alpine.media_type
    assert answer.headers["Docker-Content-Digest"] == alpine.digest
    assert answer.headers["Cache-Status"] == STALE
    assert answer.headers["Warning"] == COULD_NOT_ASK
    assert await mirror.metric("mirror_lookups_total", kind="tag", result="stale") == 1


async def test_content_by_digest_is_never_stale(
    upstream: ScriptedRegistry, mirror: InnerMirror, alpine: Image, clock: FakeClock
) -> None:
    for digest in alpine.blobs:
        await mirror.client.blob("alpine", digest)
    await upstream.stop()
    clock.advance(400 * DAY)
    manifest = await mirror.client.manifest("alpine", alpine.digest)
    blobs = [await mirror.client.blob("alpine", digest) for digest in alpine.blobs]
    for answer in (manifest, *blobs):
        assert answer.status == 200
        assert "Warning" not in answer.headers


async def test_a_tag_is_not_served_for_longer_than_stale_for(
    upstream: ScriptedRegistry, mirror: InnerMirror, clock: FakeClock
) -> None:
    await upstream.stop()
    clock.advance(30 * DAY)
    answer = await mirror.client.manifest("alpine", "3.20")
    assert answer.status == 502
    assert "Warning" not in answer.headers


def _remove_blobs(store_root: Path) -> None:
    for file in store_root.rglob("sha256/*/*"):
        file.unlink()


@pytest.mark.parametrize("trouble", [go_down, answer_503, hang])
async def test_an_expired_tag_whose_manifest_was_evicted_is_an_outage_and_no_fault_of_ours(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    mirror: InnerMirror,
    clock: FakeClock,
    trouble: Callable[[ScriptedRegistry], Awaitable[None]],
) -> None:
    await mirror.stop()
    _remove_blobs(mirror.store_root)
    mirror = await start_mirror(fill={"connect_timeout": "500ms"})
    await trouble(upstream)
    clock.advance(60)
    for told in (504 if trouble is hang else 502, 502):  # silent; then known to be so
        answer = await mirror.client.manifest("alpine", "3.20")
        assert answer.status == told
        assert json.loads(answer.body)["errors"][0]["code"] == "UNAVAILABLE"


async def test_a_tag_is_fresh_again_when_upstream_is_back(
    upstream: ScriptedRegistry, mirror: InnerMirror, clock: FakeClock
) -> None:
    fault = upstream.fault(status=503, times=1)
    clock.advance(60)
    assert (await mirror.client.manifest("alpine", "3.20")).headers["Cache-Status"] == STALE
    assert fault.struck
    answer = await mirror.client.manifest("alpine", "3.20")
    assert answer.headers["Cache-Status"] == "mirror; fwd=stale; fwd-status=304"
    assert (await mirror.client.manifest("alpine", "3.20")).headers["Cache-Status"] == "mirror; hit"


async def test_the_answer_that_came_too_late_for_one_client_serves_the_next(
    upstream: ScriptedRegistry, mirror: InnerMirror, alpine: Image, clock: FakeClock
) -> None:
    gate = upstream.hold("3.20")
    clock.advance(60)
    assert (await mirror.client.manifest("alpine", "3.20")).headers["Cache-Status"] == STALE
    gate.open()
    await upstream.was_asked("tag", method="HEAD", ended=True)

    async def is_fresh() -> bool:
        answer = await mirror.client.manifest("alpine", "3.20")
        return answer.headers["Cache-Status"] in {
            "mirror; hit",
            "mirror; fwd=stale; fwd-status=304",
        }

    await until(is_fresh)


async def test_a_known_outage_costs_a_stale_answer_nothing(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    """The first who asks waits for connect_timeout, the others wait for nobody."""
    one = upstream.add(image(random_layer(10, seed=1)), "library/one", "1")
    mirror = await start_mirror(fill={"connect_timeout": "500ms"})
    await mirror.client.manifest("one", "1")
    await upstream.stop()
    clock.advance(60)
    await mirror.client.manifest("one", "1")
    assert await mirror.metric("mirror_upstream_up") == 0
    asked = await mirror.metric("mirror_upstream_requests_total")
    for _ in range(10):
        answer = await mirror.client.manifest("one", "1")
        assert (answer.body, answer.headers["Cache-Status"]) == (one.manifest, STALE)
    assert await mirror.metric("mirror_upstream_requests_total") <= asked + 1  # at most a probe


# A denial is an answer


@pytest.mark.parametrize(("status", "told"), [(401, 403), (403, 403)])
async def test_a_denial_is_never_answered_from_the_cache(
    upstream: ScriptedRegistry, mirror: InnerMirror, clock: FakeClock, status: int, told: int
) -> None:
    upstream.fault(kind="tag", status=status, headers={"WWW-Authenticate": 'Basic realm="theirs"'})
    clock.advance(60)
    for agent in (DOCKER, CONTAINERD, PODMAN, CURL):
        headers = {"User-Agent": agent}
        answer = await mirror.client.get("/v2/alpine/manifests/3.20", headers=headers)
        assert answer.status == told
        assert json.loads(answer.body)["errors"][0]["code"] == "DENIED"
        # A challenge here would collect the passwords that clients have for the registry itself.
        assert "WWW-Authenticate" not in answer.headers
    assert await mirror.metric("mirror_lookups_total", kind="tag", result="denied") == 4


async def test_a_tag_that_upstream_deleted_is_served_and_marked_until_stale_for(
    upstream: ScriptedRegistry, mirror: InnerMirror, alpine: Image, clock: FakeClock
) -> None:
    del upstream.repositories["library/alpine"].tags["3.20"]
    upstream.forget()
    clock.advance(60)
    for _ in range(2):
        answer = await mirror.client.manifest("alpine", "3.20")
        assert (answer.status, answer.body) == (200, alpine.manifest)
        assert answer.headers["Cache-Status"] == STALE
        assert answer.headers["Warning"] == NO_LONGER
    # GET has the last word; remembered for missing_for
    assert upstream.questions() == [("tag", "HEAD", "3.20"), ("tag", "GET", "3.20")]
    clock.advance(30 * DAY)
    assert (await mirror.client.manifest("alpine", "3.20")).status == 404


# With nothing cached: what sends this client to the origin


@pytest.mark.parametrize(
    ("agent", "unavailable", "limited"),
    [
        (DOCKER, 404, 404),
        (CONTAINERD, 502, 404),
        (PODMAN, 502, 404),
        (CURL, 502, 429),
        ("", 502, 429),
    ],
)
@pytest.mark.parametrize("kind", ["manifests/3.20", "blobs"])
async def test_each_client_is_told_what_makes_it_turn_to_the_origin(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    alpine: Image,
    *,
    kind: str,
    agent: str,
    unavailable: int,
    limited: int,
) -> None:
    mirror = await start_mirror()
    target = f"/v2/alpine/{kind}" if "/" in kind else f"/v2/alpine/blobs/{alpine.layers[0]}"
    missing = "BLOB_UNKNOWN" if kind == "blobs" else "MANIFEST_UNKNOWN"
    headers = {"User-Agent": agent}

    upstream.fault(status=503, times=1)
    answer = await mirror.client.get(target, headers=headers)
    assert answer.status == unavailable
    assert answer.headers["Content-Type"] == "application/json"
    code = json.loads(answer.body)["errors"][0]["code"]
    assert code == (missing if unavailable == 404 else "UNAVAILABLE")

    upstream.fault(status=429, headers={"Retry-After": "7"}, times=1)
    answer = await mirror.client.get(target, headers=headers)
    assert answer.status == limited
    code = json.loads(answer.body)["errors"][0]["code"]
    assert code == (missing if limited == 404 else "TOOMANYREQUESTS")
    assert answer.headers.get("Retry-After") == (None if limited == 404 else "7")
    assert (await mirror.client.head(target, headers=headers)).body == b""


async def test_a_silent_upstream_is_a_gateway_timeout(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    upstream.fault(hang=True)
    mirror = await start_mirror(fill={"stall_timeout": "100ms", "connect_timeout": "100ms"})
    answer = await mirror.client.get(
        "/v2/alpine/manifests/3.20", headers={"User-Agent": CONTAINERD}
    )
    assert answer.status == 504


async def test_an_outage_of_one_upstream_is_none_of_the_others(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    mirror = await start_mirror(
        {"docker.io": upstream_at(upstream.url), "quay.io": upstream_at("http://127.0.0.1:9")}
    )
    assert (await mirror.client.manifest("quay.io/org/app", "1")).status == 502
    assert (await mirror.client.manifest("alpine", "3.20")).status == 200


async def test_after_the_first_byte_a_loss_breaks_the_connection(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    size = 600_000
    digest = upstream.add_blob(random_layer(size, seed=2).blob, "library/alpine")
    mirror = await start_mirror(fill={"attempts": 1})
    upstream.fault(kind="blob", truncate_at=size // 2)
    upstream.fault(kind="blob", truncate_at=0)  # what is left of it
    with pytest.raises(aiohttp.ClientPayloadError):
        await mirror.client.blob("alpine", digest)


async def test_an_upstream_that_was_slow_with_a_manifest_is_asked_again(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, clock: FakeClock
) -> None:
    """It has said that the tag moved, and kept a client waiting for what it moved to."""
    mirror = await start_mirror(fill={"connect_timeout": "400ms"})
    await mirror.client.manifest("alpine", "3.20")
    newer = upstream.add(image(random_layer(10, seed=77)), "library/alpine", "3.20")
    gate = upstream.hold(newer.digest)
    clock.advance(60)
    assert (await mirror.client.manifest("alpine", "3.20")).headers["Cache-Status"] == STALE
    gate.open()
    await upstream.was_asked("manifest", reference=newer.digest, ended=True)
    newest = upstream.add(image(random_layer(10, seed=78)), "library/alpine", "3.20")

    async def is_newest() -> bool:
        clock.advance(60)
        return (await mirror.client.manifest("alpine", "3.20")).body == newest.manifest

    await until(is_newest)

"""An answer about one thing closes that thing only; and a refusal is an answer."""

from typing import Any

import aiohttp
import pytest

from tests.conftest import StartMirror
from tests.support.clock import FakeClock
from tests.support.images import Image, image, random_layer
from tests.support.mirror import upstream_at
from tests.support.upstream import Cdn, ScriptedRegistry

APP = image(random_layer(1_000, seed=71))
OTHER = image(random_layer(1_000, seed=72))
NEW = image(random_layer(1_000, seed=73))
[LAYER] = APP.layers
[OTHER_LAYER] = OTHER.layers


@pytest.fixture
async def app(upstream: ScriptedRegistry) -> Image:
    upstream.add(OTHER, "library/other", "1")
    return upstream.add(APP, "library/app", "1")


async def test_blobs_come_while_docker_hub_limits_manifests(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    upstream.fault(kind="tag", status=429, headers={"Retry-After": "600"})
    assert (await mirror.client.manifest("other", "1")).status == 429
    assert (await mirror.client.blob("app", LAYER)).status == 200


@pytest.mark.parametrize("status", [429, 503])
async def test_storage_in_trouble_for_one_blob_touches_no_other(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, status: int
) -> None:
    upstream.cdn = Cdn(host="localhost")
    mirror = await start_mirror()
    upstream.fault(kind="cdn", reference=LAYER, status=status, headers={"Retry-After": "3600"})
    for _ in range(4):
        assert (await mirror.client.blob("app", LAYER)).status in {429, 502}
    assert (await mirror.client.blob("other", OTHER_LAYER)).status == 200
    assert (await mirror.client.manifest("app", "1")).status == 200
    assert len(upstream.asked("cdn", reference=LAYER)) == 1


@pytest.mark.parametrize(
    "trouble", [{"drop": True}, {"status": 500}, {"status": 429}, {"hang": True}], ids=str
)
async def test_a_token_server_in_trouble_is_none_of_a_repositorys_that_wants_no_token(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, trouble: dict[str, Any]
) -> None:
    """As where a registry has some open projects: containerd, going direct, asks first."""
    mirror = await start_mirror(fill={"connect_timeout": "1s"})
    challenge = f'Bearer realm="{upstream.url}/token",service="a"'
    upstream.fault(repository="library/other", status=401, headers={"WWW-Authenticate": challenge})
    upstream.fault(kind="token", **trouble)
    for _ in range(3):
        assert (await mirror.client.manifest("other", "1")).status in {429, 502, 504}
    assert len(upstream.asked("tag", repository="library/other")) == 1
    assert (await mirror.client.manifest("app", "1")).status == 200
    assert (await mirror.client.blob("app", LAYER)).digest == LAYER
    assert (await mirror.client.get("/v2/app/tags/list")).status == 200


async def test_a_repository_that_always_answers_500_takes_no_other_with_it(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    upstream.fault(repository="library/broken", status=500)
    for number in range(8):
        assert (await mirror.client.manifest("broken", str(number))).status == 502
    assert len(upstream.asked("tag", repository="library/broken")) == 3
    assert (await mirror.client.manifest("app", "1")).status == 200
    assert await mirror.metric("mirror_upstream_up") == 1


@pytest.mark.parametrize("times", [1, 2, 8])
@pytest.mark.parametrize("breaks", [{"drop": True}, {"truncate_at": 10}], ids=str)
async def test_a_connection_that_breaks_is_no_trouble_of_what_others_ask_for(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    app: Image,
    breaks: dict[str, Any],
    times: int,
) -> None:
    """On a bad line, or behind a firewall that looks at names: `/v2/` and all others are well."""
    mirror = await start_mirror()
    upstream.fault(repository="library/broken", **breaks)
    upstream.add(NEW, "library/broken", "1")
    for _ in range(times):
        assert (await mirror.client.manifest("broken", "1")).status == 502
        assert await mirror.metric("mirror_upstream_up") == 1
    assert (await mirror.client.manifest("app", "1")).status == 200
    assert (await mirror.client.blob("app", LAYER)).digest == LAYER
    assert (await mirror.client.get("/v2/app/tags/list")).status == 200


async def test_a_page_that_upstream_finds_too_long_is_its_400_and_no_stale_list(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("app", "1")
    body = b'{"errors": [{"code": "PAGINATION_NUMBER_INVALID", "message": "n is too large"}]}'
    upstream.fault(kind="tags", status=400, body=body)
    answer = await mirror.client.get("/v2/app/tags/list?n=10000")
    assert answer.status == 400
    assert b"PAGINATION_NUMBER_INVALID" in answer.body
    assert b"n is too large" in answer.body


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 501])
async def test_where_head_of_a_manifest_is_refused_get_decides_and_head_rests(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, clock: FakeClock, status: int
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("app", "1")
    upstream.fault(method="HEAD", status=status)
    upstream.add(NEW, "library/app", "1")
    for _ in range(3):
        clock.advance(61)
        assert (await mirror.client.manifest("app", "1")).body == NEW.manifest
    assert len(upstream.asked("tag", method="HEAD")) == 1


async def test_an_accelerators_octet_stream_is_corrected_by_the_manifest_itself(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    upstream.fault(headers={"Content-Type": "application/octet-stream"})
    for reference in ("1", APP.digest):
        answer = await mirror.client.manifest("app", reference)
        assert answer.headers["Content-Type"] == APP.media_type


async def test_after_a_mismatch_the_digest_is_missing_so_that_clients_go_to_the_origin(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    upstream.fault(kind="blob", reference=LAYER, corrupt_at=500)
    for _ in range(2):
        with pytest.raises(aiohttp.ClientPayloadError):
            await mirror.client.blob("app", LAYER)
    upstream.forget()
    target = f"/v2/app/blobs/{LAYER}"
    assert (await mirror.client.get(target)).status == 404
    assert (await mirror.client.head(target)).status == 404
    assert upstream.asked("blob") == []
    assert (await mirror.client.blob("other", OTHER_LAYER)).status == 200


async def test_so_is_the_digest_of_a_manifest_and_its_tag_is_asked_for_again(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    lie = upstream.fault(kind="manifest", reference=APP.digest, corrupt_at=50)
    for status in (502, 502, 404):
        assert (await mirror.client.manifest("app", APP.digest)).status == status
    assert len(lie.struck) == 2
    assert (await mirror.client.manifest("app", "1")).body == APP.manifest
    assert (await mirror.client.manifest("app", APP.digest)).status == 200


async def test_one_endpoint_that_lies_about_a_manifest_is_no_reason_for_a_404(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    async with ScriptedRegistry() as liar:
        liar.add(APP, "library/app", "1")
        liar.fault(kind="manifest", corrupt_at=50)
        mirror = await start_mirror({"docker.io": upstream_at(liar.url, upstream.url)})
        outage = upstream.fault(status=503, times=2)
        for status in (502, 502, 200):
            assert (await mirror.client.manifest("app", APP.digest)).status == status
        assert len(outage.struck) == 2

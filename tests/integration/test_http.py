"""HTTP itself: methods, versions, connections, and what is said of a request in the log."""

import asyncio
import logging
import re

import pytest

from tests.conftest import StartMirror
from tests.support.client import get, raw_request
from tests.support.images import Image, image, random_bytes, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.upstream import ScriptedRegistry

SIZE = 600_000


@pytest.fixture
def alpine(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=1)), "library/alpine", "3.20")


async def raw(mirror: InnerMirror, request: str) -> bytes:
    host, _, port = mirror.host.partition(":")
    return await raw_request(host, int(port), request.replace("\n", "\r\n").encode("latin-1"))


async def test_the_ping_is_answered_at_once_and_by_ourselves(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    await upstream.stop()
    mirror = await start_mirror()
    for target in ("/v2/", "/v2", "/v2/?ns=docker.io"):
        answer = await mirror.client.get(target)
        assert (answer.status, answer.body) == (200, b"{}")
        assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0"
        assert "WWW-Authenticate" not in answer.headers
    assert (await mirror.client.head("/v2/")).status == 200
    assert upstream.requests == []


@pytest.mark.parametrize("method", ["PUT", "PATCH", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("target", ["/v2/alpine/blobs/uploads/", "/v2/alpine/manifests/1", "/v2/"])
async def test_a_mirror_cannot_be_written_to(
    upstream: ScriptedRegistry, start_mirror: StartMirror, method: str, target: str
) -> None:
    mirror = await start_mirror()
    async with mirror.client.open(target, method=method) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET, HEAD"
        assert (await response.json())["errors"][0]["code"] == "UNSUPPORTED"
    assert upstream.requests == []
    assert await mirror.metric("mirror_requests_total", method="other", status="405") == 1


async def test_http_1_0_is_spoken(
    start_mirror: StartMirror, alpine: Image, upstream: ScriptedRegistry
) -> None:
    mirror = await start_mirror()
    layer = alpine.layers[0]
    head, _, body = (await raw(mirror, f"GET /v2/alpine/blobs/{layer} HTTP/1.0\n\n")).partition(
        b"\r\n\r\n"
    )
    assert head.startswith(b"HTTP/1.0 200 OK")
    assert body == alpine.blobs[layer]


async def test_a_blob_of_unknown_length_reaches_http_1_0_whole(
    start_mirror: StartMirror, alpine: Image, upstream: ScriptedRegistry
) -> None:
    layer = alpine.layers[0]
    upstream.fault(kind="blob", chunked=True, ignore_range=True)
    mirror = await start_mirror()
    head, _, body = (await raw(mirror, f"GET /v2/alpine/blobs/{layer} HTTP/1.0\n\n")).partition(
        b"\r\n\r\n"
    )
    assert b"chunked" not in head
    assert body == alpine.blobs[layer]


async def test_requests_in_one_go_are_answered_one_after_the_other(
    start_mirror: StartMirror, alpine: Image
) -> None:
    mirror = await start_mirror()
    layer = alpine.layers[0]
    await mirror.client.blob("alpine", layer)
    request = (
        f"GET /v2/alpine/blobs/{layer} HTTP/1.1\nHost: x\nRange: bytes=0-9\n\n"
        f"HEAD /v2/alpine/blobs/{layer} HTTP/1.1\nHost: x\n\n"
        f"GET /v2/alpine/blobs/{layer} HTTP/1.1\nHost: x\n\n"
        "GET /v2/ HTTP/1.1\nHost: x\nConnection: close\n\n"
    )
    answer = await raw(mirror, request)
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", answer)
    assert statuses == [b"206", b"200", b"200", b"200"]
    assert answer.count(alpine.blobs[layer]) == 1
    assert answer.endswith(b"\r\n\r\n{}")


async def test_an_error_to_a_head_has_no_body(start_mirror: StartMirror, alpine: Image) -> None:
    mirror = await start_mirror()
    answer = await raw(
        mirror, "HEAD /v2/alpine/manifests/none HTTP/1.1\nHost: x\nConnection: close\n\n"
    )
    assert answer.startswith(b"HTTP/1.1 404")
    assert answer.endswith(b"\r\n\r\n")


async def test_a_client_that_leaves_in_the_middle_harms_nobody(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    layer = alpine.layers[0]
    mirror = await start_mirror()
    gate = upstream.hold(layer, after=SIZE // 2)
    async with mirror.client.open(f"/v2/alpine/blobs/{layer}") as response:
        await response.content.readexactly(100)
    await mirror.until_metric("mirror_requests_total", 1, status="499")
    assert await mirror.metric("mirror_fill_readers") == 0
    gate.open()  # the fill goes on without anyone
    await mirror.until_metric("mirror_store_bytes", SIZE)
    assert (await mirror.client.blob("alpine", layer)).body == alpine.blobs[layer]
    assert upstream.questions() == [("blob", "GET", layer)]


async def test_what_a_client_has_taken_when_it_leaves_is_told(
    upstream: ScriptedRegistry, start_mirror: StartMirror, caplog: pytest.LogCaptureFixture
) -> None:
    size = 32 * 2**20  # more than sockets hold
    large = upstream.add(image(random_layer(size, seed=2)), "library/large", "1")
    caplog.set_level(logging.INFO, "mirror.front.api.frontend")
    mirror = await start_mirror()
    layer = large.layers[0]
    assert len((await mirror.client.blob("large", layer)).body) == size
    before = await mirror.metric("mirror_served_bytes_total")
    async with mirror.client.open(f"/v2/large/blobs/{layer}") as response:
        await response.content.readexactly(size // 8)
    await mirror.until_metric("mirror_requests_total", 1, status="499")
    [told] = [
        vars(record)["fields"]["bytes"]
        for record in caplog.records
        if vars(record)["fields"]["status"] == 499
    ]
    assert size // 8 <= told < size
    assert await mirror.metric("mirror_served_bytes_total") == before + told


async def test_an_error_says_how_it_came_about_and_where_to_find_it_in_the_log(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    alpine: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "mirror.front.api.frontend")
    mirror = await start_mirror()
    missing = await mirror.client.manifest("alpine", "none")
    assert missing.headers["Cache-Status"] == "mirror; fwd=miss; detail=missing"
    again = await mirror.client.manifest("alpine", "none")
    assert again.headers["Cache-Status"] == "mirror; hit; detail=negative"
    layer = alpine.layers[0]
    beyond = {"Range": f"bytes={SIZE}-"}
    nothing = await mirror.client.get(f"/v2/alpine/blobs/{layer}", headers=beyond)
    assert nothing.status == 416
    assert nothing.headers["Cache-Status"].startswith("mirror; fwd=miss")
    await upstream.stop()
    failed = await mirror.client.get("/v2/alpine/manifests/3.20")
    assert failed.headers["Cache-Status"] == "mirror; fwd=miss; detail=error"
    await mirror.until_metric("mirror_requests_total", 4)
    ids = [
        vars(record)["request_id"]
        for record in caplog.records
        if record.name == "mirror.front.api.frontend"
    ]
    answers = (missing, again, nothing, failed)
    assert [answer.headers["X-Request-Id"] for answer in answers] == ids


async def test_no_answer_tells_what_software_it_is_of(
    start_mirror: StartMirror, alpine: Image
) -> None:
    mirror = await start_mirror()
    answers = [
        await mirror.client.get("/v2/"),
        await mirror.client.get("/elsewhere"),
        await mirror.client.manifest("alpine", "3.20"),
        await mirror.client.manifest("alpine", "3.20"),
        await mirror.client.blob("alpine", alpine.layers[0]),
        await get(f"{mirror.admin_url}/healthz"),
        await get(f"{mirror.admin_url}/nowhere"),
    ]
    assert {answer.headers["Server"] for answer in answers} == {"mirror"}
    assert b"\r\nServer: mirror\r\n" in await raw(mirror, "c2VjcmV0\n\n")


async def test_a_client_that_leaves_before_its_answer_counts_as_no_error(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    mirror = await start_mirror()
    gate = upstream.hold("3.20")
    async with asyncio.TaskGroup() as clients:
        leaving = clients.create_task(mirror.client.manifest("alpine", "3.20"))
        await gate.reached()
        leaving.cancel()
    await mirror.until_metric("mirror_requests_total", 1, status="499")
    gate.open()
    assert await mirror.metric("mirror_lookups_total", kind="tag") == 0


# The log


async def test_every_request_leaves_one_line_with_its_id(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    alpine: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "mirror.front.api.frontend")
    mirror = await start_mirror()
    layer = alpine.layers[0]
    await mirror.client.get("/v2/alpine/manifests/3.20?ns=docker.io")
    await mirror.client.get(f"/v2/alpine/blobs/{layer}", headers={"Range": "bytes=0-9"})
    await mirror.client.head("/v2/alpine/manifests/none")
    await mirror.client.get("/elsewhere", headers={"User-Agent": "x\ty"})
    lines = [record for record in caplog.records if record.name == "mirror.front.api.frontend"]
    assert [line.getMessage() for line in lines] == [
        "GET /v2/alpine/manifests/3.20?ns=docker.io",
        f"GET /v2/alpine/blobs/{layer}",
        "HEAD /v2/alpine/manifests/none",
        "GET /elsewhere",
    ]
    facts = [vars(line)["fields"] for line in lines]
    assert [fact["status"] for fact in facts] == [200, 206, 404, 404]
    assert [fact["bytes"] for fact in facts] == [len(alpine.manifest), 10, 0, 0]
    assert [fact["result"] for fact in facts] == ["miss", "miss", "miss", "error"]
    assert [fact["upstream"] for fact in facts] == [*["docker.io"] * 3, "-"]
    assert [fact["repository"] for fact in facts] == [*["library/alpine"] * 3, "-"]
    digests = [str(fact["digest"]) for fact in facts]
    assert digests == [str(alpine.digest), str(layer), "-", "-"]
    assert len({vars(line)["request_id"] for line in lines}) == len(lines)


async def test_a_line_names_the_endpoint_that_has_sent_the_bytes_and_of_a_hit_none(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    alpine: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "mirror.front.api.frontend")
    async with ScriptedRegistry() as second:
        second.add(alpine, "library/alpine", "3.20")
        upstream.fault(kind="blob", status=404)
        mirror = await start_mirror({"docker.io": upstream_at(upstream.url, second.url)})
        for _ in range(2):
            await mirror.client.manifest("alpine", "3.20")
            await mirror.client.blob("alpine", alpine.layers[0])
            await mirror.until_metric("mirror_fills_active", 0)  # else the next one joins it
        await mirror.until_metric("mirror_requests_total", 4)
        facts = [
            vars(record)["fields"]
            for record in caplog.records
            if record.name == "mirror.front.api.frontend"
        ]
        assert [fact.get("endpoint") for fact in facts] == [upstream.host, second.host, None, None]


async def test_what_is_passed_through_names_its_endpoint_too(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    alpine: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "mirror.front.api.frontend")
    large = upstream.add_blob(random_bytes(3_000_000, seed=9), "library/alpine")
    mirror = await start_mirror(store={"max_size": "2 MB"})
    assert (await mirror.client.blob("alpine", large)).digest == large
    await mirror.until_metric("mirror_requests_total", 1)
    [line] = [it for it in caplog.records if it.name == "mirror.front.api.frontend"]
    assert vars(line)["fields"]["why"] == "not-kept"
    assert vars(line)["fields"]["endpoint"] == upstream.host


async def test_reasons_are_counted_by_upstream(start_mirror: StartMirror, alpine: Image) -> None:
    mirror = await start_mirror()
    for _ in range(2):
        await mirror.client.manifest("alpine", "3.20")
    await mirror.client.manifest("alpine", "none")
    for why in ("never-seen", "here", "missing"):
        where = {"upstream": "docker.io", "why": why}
        assert await mirror.metric("mirror_reasons_total", **where) == 1


async def test_how_long_answers_take_is_told_by_upstream(
    start_mirror: StartMirror, alpine: Image
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("alpine", "3.20")
    await mirror.client.manifest("alpine", "3.20")
    for result in ("miss", "hit"):
        where = {"upstream": "docker.io", "result": result}
        assert await mirror.metric("mirror_answer_seconds_count", **where) == 1


async def test_what_a_fill_logs_carries_the_id_of_the_request_that_began_it(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    alpine: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "mirror")
    mirror = await start_mirror()
    upstream.fault(kind="blob", status=404)
    await mirror.client.blob("alpine", alpine.layers[0])
    ids = {
        record.name: vars(record)["request_id"]
        for record in caplog.records
        if record.name.startswith(("mirror.pull.fill", "mirror.front.api.frontend"))
    }
    assert len(ids) == 2
    assert len(set(ids.values())) == 1


async def test_a_download_that_has_ended_leaves_one_line(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    alpine: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mirror = await start_mirror()
    layer = alpine.layers[0]
    upstream.fault(kind="blob", reset_at=SIZE // 2, times=1)
    caplog.set_level(logging.INFO, "mirror.pull.fill.fill")
    await mirror.client.blob("alpine", layer)
    await mirror.until_metric("mirror_fills_total", 1, outcome="committed")
    [facts] = [
        vars(record)["fields"]
        for record in caplog.records
        if record.getMessage() == "download ended"
    ]
    assert (facts["outcome"], str(facts["digest"])) == ("committed", str(layer))
    assert (facts["repository"], facts["upstream"]) == ("docker.io/library/alpine", "docker.io")
    assert (facts["size"], facts["received"], facts["resumes"]) == (SIZE, SIZE, 1)
    assert facts["endpoints"] == upstream.url.partition("://")[2]


# What is no request

MALFORMED = {
    "a space before the colon": "GET /v2/ HTTP/1.1\nHost: x\nAuthorization : Basic c2VjcmV0\n\n",
    "a NUL in a value": "GET /v2/ HTTP/1.1\nHost: x\nAuthorization: Basic c2VjcmV0\0\n\n",
    "a line that is too long": f"GET /v2/{'c2VjcmV0' * 2000} HTTP/1.1\nHost: x\n\n",
    "another protocol": "c2VjcmV0\n\n",
}


@pytest.mark.parametrize("request_text", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_no_request_is_counted_and_one_line_without_its_text(
    start_mirror: StartMirror, caplog: pytest.LogCaptureFixture, request_text: str
) -> None:
    mirror = await start_mirror()
    caplog.set_level(logging.INFO)
    answer = await raw(mirror, request_text)
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert b"c2VjcmV0" not in answer
    [record] = [record for record in caplog.records if record.name != "asyncio"]
    assert record.exc_info is None
    assert "c2VjcmV0" not in record.getMessage() + repr(vars(record))
    assert await mirror.metric("mirror_requests_total", method="other") == 1


async def test_a_connection_is_good_for_any_number_of_requests(start_mirror: StartMirror) -> None:
    """One after another, or a few at a time: what has been answered is not held against it."""
    mirror = await start_mirror()
    host, port = mirror.host.split(":")
    request = f"GET /v2/ HTTP/1.1\r\nHost: {mirror.host}\r\nX-Pad: {'x' * 2000}\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for together in (1, 3):
            for _ in range(200):
                writer.write(request * together)
                for _ in range(together):
                    head = await reader.readuntil(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 200 ")
                    await reader.readexactly(len(b"{}"))
    finally:
        writer.close()

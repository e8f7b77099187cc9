"""HTTP as registries speak it, where dockerd and containerd (Go's net/http) take it."""

import asyncio
from contextlib import suppress

import pytest

from tests.conftest import StartMirror
from tests.support.evil import Ask, Evil, head, redirects, tells
from tests.support.images import OCI_MANIFEST, image, random_layer
from tests.support.mirror import upstream_at

APP = image(random_layer(2_000, seed=52))
ANSWERS = {
    "200 header fields (Artifact Registry)": tells(
        APP.manifest, *(b"X-Field-%d: a" % number for number in range(200))
    ),
    "a field of 16 KiB (a policy)": tells(APP.manifest, b"X-Policy: " + b"a" * 2**14),
    "21 KiB of fields (GCR)": tells(
        APP.manifest, *(b"X-%d: " % n + b"a" * 1000 for n in range(21))
    ),
    "a field whose name has a space": tells(APP.manifest, b"X Served By: cache-1"),
    "a signed Location of 16 KiB": redirects("/elsewhere?signature=" + "a" * 2**14),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_what_dockerd_takes_the_mirror_takes(start_mirror: StartMirror, name: str) -> None:
    async with Evil() as evil:
        evil.on("/elsewhere", tells(APP.manifest))
        evil.on("/v2/", ANSWERS[name])
        mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
        answer = await mirror.client.manifest("app", APP.digest)
        assert (answer.status, answer.digest) == (200, APP.digest)


@pytest.mark.parametrize(
    "fields", [[b"X-%d: a" % number for number in range(5000)], [b"X-Long: " + b"a" * 2**20]]
)
async def test_a_header_without_end_is_no_answer(
    start_mirror: StartMirror, fields: list[bytes]
) -> None:
    async with Evil() as evil:
        evil.on("/v2/", tells(APP.manifest, *fields))
        mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
        assert (await mirror.client.manifest("app", APP.digest)).status == 502


async def test_what_nobody_asked_for_is_not_the_next_answer(start_mirror: StartMirror) -> None:
    """HAProxy says 408 to a connection that it has waited on for long (distribution#1704)."""
    late = head(b"HTTP/1.1 408 Request Time-out", b"Content-Length: 0")
    has_said_so = asyncio.Event()

    async def answers_and_loses_patience(ask: Ask) -> None:
        await tells(APP.manifest)(ask)
        await asyncio.sleep(0.1)  # the answer is through
        await ask.send(late)
        has_said_so.set()

    async with Evil() as evil:
        evil.on("/manifests/", answers_and_loses_patience)
        mirror = await start_mirror({"docker.io": upstream_at(evil.url)}, tags={"fresh_for": "0s"})
        for tag in ("1", "2", "3"):
            assert (await mirror.client.manifest("app", tag)).status == 200
            await has_said_so.wait()
            has_said_so.clear()
            await asyncio.sleep(0.1)  # it has arrived
        assert await mirror.metric("mirror_upstream_up") == 1


@pytest.mark.parametrize("nonsense", [b"zz\r\n", b"-1\r\n", b"f" * 17 + b"\r\n"])
@pytest.mark.parametrize("pause", [0, 0.1])
async def test_a_body_whose_coding_breaks_is_fetched_once_more(
    start_mirror: StartMirror, caplog: pytest.LogCaptureFixture, pause: float, nonsense: bytes
) -> None:
    [layer] = APP.layers
    content = APP.blobs[layer]

    async def breaks(ask: Ask) -> None:
        begun = b"64\r\n" + content[:100] + b"\r\n"
        await ask.send(head(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked"), begun)
        await asyncio.sleep(pause)
        evil.on("/blobs/", tells(content))
        with suppress(ConnectionError):
            await ask.send(nonsense)

    async with Evil() as evil:
        evil.on("/manifests/", tells(APP.manifest, b"Content-Type: " + OCI_MANIFEST.encode()))
        evil.on("/blobs/", breaks)
        mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
        async with asyncio.timeout(10):
            assert (await mirror.client.manifest("app", APP.digest)).status == 200
            assert (await mirror.client.blob("app", layer)).body == content
        assert "a fault" not in caplog.text

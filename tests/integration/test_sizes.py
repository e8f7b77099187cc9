"""The digest is the proof: a size that nobody has proved is a hint, and heals."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import StartMirror
from tests.support.images import Image, digest_of, image, index, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.upstream import Cdn, ScriptedRegistry

SEGMENT = 64 * 2**10
SIZE = 10 * SEGMENT + 77
APP = image(random_layer(SIZE, seed=61))
[LAYER] = APP.layers
FILL = {"connections": 4, "segment_size": "64 KiB", "stall_timeout": "500ms"}


def _lying(size: int) -> Image:
    """As APP, but its manifest promises another size of the layer."""
    document = json.loads(APP.manifest)
    document["layers"][0]["size"] = size
    return Image(json.dumps(document).encode(), APP.media_type, APP.blobs)


@pytest.fixture
async def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(APP, "library/app", "1")


@pytest.fixture
async def second() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as registry:
        registry.add(APP, "library/app", "1")
        yield registry


def _left(mirror: InnerMirror) -> list[int]:
    partials: list[Path] = list((mirror.store_root / "partial").rglob("sha256-*"))
    return [path.stat().st_size for path in partials if path.is_file() and not path.suffix]


@pytest.mark.parametrize("promised", [0, 1, SEGMENT, SIZE - 1, SIZE + 1, 10 * SIZE, 2**50])
@pytest.mark.parametrize("fault", [{}, {"ignore_range": True}, {"chunked": True}])
async def test_a_blob_is_had_whatever_size_a_manifest_promises(
    upstream: ScriptedRegistry, start_mirror: StartMirror, promised: int, fault: dict[str, bool]
) -> None:
    upstream.add(_lying(promised), "library/app", "1")
    mirror = await start_mirror(fill=FILL)
    await mirror.client.manifest("app", "1")
    upstream.fault(kind="blob", method="GET", **fault)
    for _ in range(2):  # what is promised to be larger than the store is passed through, once
        assert (await mirror.client.blob("app", LAYER)).digest == LAYER
        await mirror.until_metric("mirror_fills_active", 0)
    answer = await mirror.client.blob("app", LAYER)
    assert (answer.digest, answer.headers["Content-Length"]) == (LAYER, str(SIZE))


@pytest.mark.parametrize("promised", [0, 1, 10 * SIZE, 2**50])
async def test_a_wrong_promise_is_kept_out_of_what_is_told_and_stored_after_one_pull(
    upstream: ScriptedRegistry, start_mirror: StartMirror, promised: int
) -> None:
    upstream.add(_lying(promised), "library/app", "1")
    mirror = await start_mirror()
    await mirror.client.manifest("app", "1")
    for _ in range(2):
        assert (await mirror.client.blob("app", LAYER)).digest == LAYER
        await mirror.until_metric("mirror_fills_active", 0)
    head = await mirror.client.head(f"/v2/app/blobs/{LAYER}")
    assert head.headers["Content-Length"] == str(SIZE)
    upstream.forget()
    answer = await mirror.client.blob("app", LAYER)
    assert (answer.digest, answer.headers["Cache-Status"]) == (LAYER, "mirror; hit")
    assert upstream.requests == []


@pytest.mark.parametrize("promised", [1, SIZE // 2, 10 * SIZE, 2**50])
async def test_a_lie_in_one_repository_costs_another_ones_partial_nothing(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, promised: int
) -> None:
    upstream.add(_lying(promised), "library/liar", "1")
    mirror = await start_mirror(fill={"attempts": 1})
    await mirror.client.manifest("app", "1")
    await mirror.client.manifest("liar", "1")
    upstream.fault(kind="blob", reset_at=400_000, times=1)
    broken = upstream.fault(kind="blob", reset_at=0)
    with pytest.raises(aiohttp.ClientPayloadError):
        await mirror.client.blob("app", LAYER)
    assert _left(mirror) == [400_000]
    broken.status = 503  # the liar gets nothing, or what it gets breaks; what is there stays
    answer = await mirror.client.blob("liar", LAYER)
    assert answer.status == 502
    assert _left(mirror) == [400_000]
    upstream.faults.clear()
    upstream.requests = [asked for asked in upstream.requests if asked.sent and asked.status < 300]
    assert (await mirror.client.blob("app", LAYER)).digest == LAYER
    assert upstream.bytes_sent(LAYER) == SIZE


@pytest.mark.parametrize("wrong", [None, 0, 1, 10**7, 2**50])
@pytest.mark.parametrize("part", ["config", "layers", "manifests"])
async def test_what_a_manifest_names_at_a_wrong_size_or_none_comes_all_the_same(
    upstream: ScriptedRegistry, start_mirror: StartMirror, part: str, wrong: int | None
) -> None:
    """As dockerd and podman pull it direct: a layer, a configuration, or an image of an index."""
    images = index(APP) if part == "manifests" else APP
    document = json.loads(images.manifest)
    named = document[part] if part == "config" else document[part][0]
    named.pop("size")
    if wrong is not None:
        named["size"] = wrong
    lying = replace(images, manifest=json.dumps(document).encode())
    upstream.add(lying, "library/app", "1")
    mirror = await start_mirror()
    assert (await mirror.client.manifest("app", "1")).body == lying.manifest
    for _ in range(3):  # what cannot be kept by its size's word alone is passed through, once
        if part == "manifests":
            assert (await mirror.client.manifest("app", APP.digest)).body == APP.manifest
        for digest, content in APP.blobs.items():
            head = await mirror.client.head(f"/v2/app/blobs/{digest}")
            assert head.status == 200
            assert wrong or head.headers["Content-Length"] == str(len(content))
            assert (await mirror.client.blob("app", digest)).body == content
            await mirror.until_metric("mirror_fills_active", 0)
    answer = await mirror.client.blob("app", LAYER)
    assert answer.headers["Cache-Status"] == "mirror; hit"


@pytest.mark.parametrize("length", ["0", "1", "1000000000"])
@pytest.mark.parametrize("kept", [True, False])
async def test_whatever_head_says_of_the_length_the_blob_comes_over_restarts_too(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, length: str, *, kept: bool
) -> None:
    """A proxy in front of Nexus, and Artifactory for remote blobs, answer HEAD with a 0."""
    store = {} if kept else {"max_size": "50 KB"}
    for _ in range(2):
        mirror = await start_mirror(store=store)
        upstream.fault(kind="blob", method="HEAD", headers={"Content-Length": length})
        await mirror.client.head(f"/v2/app/blobs/{LAYER}")
        for _ in range(2):
            answer = await mirror.client.blob("app", LAYER)
            assert (answer.status, answer.digest) == (200, LAYER)
            await mirror.until_metric("mirror_fills_active", 0)
        await mirror.stop()


@pytest.mark.parametrize("length", ["0", "1", "1000000000"])
@pytest.mark.parametrize("named_by", ["nobody", "a lying manifest"])
async def test_of_what_is_here_head_tells_the_proved_size_whatever_storage_or_a_manifest_says(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, length: str, named_by: str
) -> None:
    upstream.add(_lying(int(length) + 3), "library/other", "1")
    upstream.cdn = Cdn(host="localhost")
    mirror = await start_mirror()
    await mirror.client.blob("app", LAYER)
    await mirror.until_metric("mirror_fills_active", 0)
    upstream.fault(kind="cdn", method="HEAD", headers={"Content-Length": length})
    if named_by == "a lying manifest":
        await mirror.client.manifest("other", "1")
    for _ in range(2):
        head = await mirror.client.head(f"/v2/other/blobs/{LAYER}")
        assert (head.status, head.headers["Content-Length"]) == (200, str(SIZE))
        assert (await mirror.client.blob("other", LAYER)).digest == LAYER


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("promised", [None, 0, SIZE])
async def test_an_empty_body_is_never_a_complete_answer_for_what_is_not_empty(
    upstream: ScriptedRegistry, start_mirror: StartMirror, promised: int | None, *, kept: bool
) -> None:
    upstream.add(_lying(promised or 0), "library/app", "1")
    mirror = await start_mirror(store={} if kept else {"max_size": "50 KB"})
    if promised is not None:
        await mirror.client.manifest("app", "1")
    upstream.fault(kind="blob", method="GET", body=b"", ignore_range=True)
    for _ in range(3):
        with suppress(aiohttp.ClientPayloadError):
            assert (await mirror.client.blob("app", LAYER)).status != 200


async def _broken_off(upstream: ScriptedRegistry, mirror: InnerMirror) -> None:
    """Leave a partial of 400,000 bytes."""
    await mirror.client.manifest("app", "1")
    upstream.fault(kind="blob", reset_at=400_000, times=1)
    upstream.fault(kind="blob", reset_at=0)
    with pytest.raises(aiohttp.ClientPayloadError):
        await mirror.client.blob("app", LAYER)
    upstream.faults.clear()
    assert _left(mirror) == [400_000]


async def test_a_senders_absurd_length_costs_what_is_there_nothing(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill={"attempts": 1})
    await _broken_off(upstream, mirror)
    absurd = {"Content-Length": str(10**15)}
    upstream.fault(kind="blob", headers=absurd, ignore_range=True, truncate_at=1000)
    with pytest.raises(aiohttp.ClientPayloadError):
        await mirror.client.blob("app", LAYER)
    assert _left(mirror) == [400_000]


async def test_who_has_nothing_to_send_where_there_is_more_is_given_up(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(fill={"attempts": 2})
    await mirror.client.manifest("app", "1")
    upstream.fault(kind="blob", reset_at=400_000, times=1)
    nothing = upstream.fault(
        kind="blob", status=416, skip=1, headers={"Content-Range": f"bytes */{SIZE}"}
    )
    with pytest.raises(aiohttp.ClientPayloadError):
        await mirror.client.blob("app", LAYER)
    assert len(nothing.struck) < 10
    assert _left(mirror) == [400_000]


async def test_a_page_of_another_length_in_the_middle_is_left_for_who_has_the_blob(
    upstream: ScriptedRegistry, second: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    """An accelerator's login page must not replace good bytes."""
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url, second.url)})
    await mirror.client.manifest("app", "1")
    upstream.fault(kind="blob", reset_at=SIZE // 2, times=1)
    second.fault(kind="blob", body=b"<html>please log in</html>", ignore_range=True)
    assert (await mirror.client.blob("app", LAYER)).digest == LAYER
    assert upstream.bytes_sent(LAYER) == SIZE


async def test_where_nobody_sends_what_is_there_a_fill_starts_over_once(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """A sender with a longer body had begun, and broke; it is gone, and the right one is there."""
    right = APP.blobs[LAYER][: SIZE // 4]
    digest = upstream.add_blob(right, "library/app")
    mirror = await start_mirror(fill={"attempts": 1})
    wrong = upstream.fault(
        kind="blob", body=APP.blobs[LAYER][::-1], ignore_range=True, truncate_at=SIZE // 2
    )
    with pytest.raises(aiohttp.ClientPayloadError):
        await mirror.client.blob("app", digest)
    upstream.faults.remove(wrong)
    assert _left(mirror) == [SIZE // 2]
    assert (await mirror.client.blob("app", digest)).digest == digest


@pytest.mark.parametrize("promised", [None, SIZE, 26])
async def test_nobody_gets_into_a_fill_that_is_being_discarded(
    upstream: ScriptedRegistry, start_mirror: StartMirror, promised: int | None
) -> None:
    """Wrong bytes once, and a crowd that keeps coming: each gets the blob, or an error."""
    upstream.add(_lying(promised or SIZE), "library/app", "1")
    mirror = await start_mirror()
    if promised is not None:
        await mirror.client.manifest("app", "1")
    upstream.fault(kind="blob", body=b"<html>please log in</html>", ignore_range=True, times=1)

    async def pull() -> str:
        try:
            answer = await mirror.client.blob("app", LAYER)
        except aiohttp.ClientPayloadError:
            return "aborted"
        return digest_of(answer.body) if answer.status == 200 else str(answer.status)

    ends: set[str] = set()
    for _ in range(10):
        ends |= set(await asyncio.gather(*(pull() for _ in range(5))))
    assert ends <= {LAYER, "aborted", "502"}
    assert LAYER in ends


async def test_an_empty_blob_that_is_promised_to_be_empty_is_asked_for(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """What is not empty, and promised to be, is not concluded to be wrong either."""
    upstream.add(_lying(0), "library/app", "1")
    mirror = await start_mirror()
    await mirror.client.manifest("app", "1")
    assert (await mirror.client.blob("app", LAYER)).digest == LAYER

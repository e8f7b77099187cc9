"""Pushes by way of the mirror: 201 means that upstream has it, and what the line does is ours."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from io import FileIO
from pathlib import Path

import pytest

from mirror.storage import spools
from tests.conftest import StartMirror
from tests.support.client import get
from tests.support.clock import FakeClock
from tests.support.images import (
    artifact,
    digest_of,
    image,
    index,
    random_bytes,
    random_layer,
)
from tests.support.mirror import InnerMirror, running_mirror, upstream_at
from tests.support.process import until
from tests.support.pusher import Pusher, codes, in_pieces
from tests.support.pushing import NAME, bytes_taken, held, spooled, start_pushing
from tests.support.uploads import Pushes
from tests.support.upstream import ScriptedRegistry

APP = image(random_layer(300_000, seed=1), random_layer(500, seed=2))
LARGE = random_bytes(12 << 20, seed=3)
DIGEST = digest_of(LARGE)


pytestmark = pytest.mark.usefixtures("takes_pushes")


@pytest.fixture
async def mirror(upstream: ScriptedRegistry, start_mirror: StartMirror) -> InnerMirror:
    return await start_pushing(start_mirror, upstream)


@pytest.fixture
def pusher(mirror: InnerMirror) -> Pusher:
    return Pusher(mirror.client, NAME)


async def test_an_image_that_was_pushed_is_upstreams_and_its_next_pull_asks_nobody(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    await pusher.image(APP, "1")
    there = upstream.repositories[NAME]
    assert there.tags == {"1": APP.digest}
    assert there.blobs == APP.blobs
    upstream.forget()
    for reference in ("1", APP.digest):
        answer = await mirror.client.manifest(NAME, reference)
        assert (answer.status, answer.body) == (200, APP.manifest)
    for digest, content in APP.blobs.items():
        assert (await mirror.client.blob(NAME, digest)).body == content
    assert not upstream.requests
    assert not spooled(mirror)


async def test_a_tag_that_was_pushed_anew_means_that_at_once(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    before = upstream.add(image(random_layer(100, seed=9)), NAME, "1")
    assert (await mirror.client.manifest(NAME, "1")).digest == before.digest
    assert (await mirror.client.manifest(NAME, "1")).digest == before.digest
    await pusher.image(APP, "1")
    assert (await mirror.client.manifest(NAME, "1")).digest == APP.digest


async def test_of_two_who_push_one_tag_at_once_upstream_says_whose_it_is(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    other = image(random_layer(90, seed=21))
    for one in (APP, other):
        await pusher.image(one, one.digest)
    upstream.fault(kind="tag", method="PUT", delay=0.2)
    async with asyncio.TaskGroup() as group:
        for one in (APP, other):
            group.create_task(pusher.manifest(one, "1"))
    told = (await mirror.client.manifest(NAME, "1")).digest
    assert told == upstream.repositories[NAME].tags["1"]
    assert upstream.asked("tag", method="GET")


async def test_what_was_missing_a_moment_ago_is_there_once_it_was_pushed(
    mirror: InnerMirror, pusher: Pusher
) -> None:
    digest = digest_of(b"soon")
    assert (await mirror.client.blob(NAME, digest)).status == 404
    assert (await mirror.client.manifest(NAME, "1")).status == 404
    await pusher.blob(b"soon")
    await pusher.image(APP, "1")
    assert (await mirror.client.blob(NAME, digest)).body == b"soon"
    assert (await mirror.client.manifest(NAME, "1")).status == 200


async def test_what_was_deleted_upstream_a_moment_after_it_was_pushed_is_sent_again(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    for _ in range(3):
        assert await pusher.blob(LARGE) == DIGEST
        assert held(upstream, DIGEST) == LARGE
        assert (await mirror.client.blob(NAME, DIGEST)).body == LARGE
        del upstream.repositories[NAME].blobs[DIGEST]
    assert bytes_taken(upstream) == 3 * len(LARGE)


async def test_referrers_of_what_a_pushed_manifest_refers_to_are_asked_for_anew(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    await pusher.image(APP, "1")
    target = f"/v2/{NAME}/referrers/{APP.digest}"
    assert b"sha256" not in (await mirror.client.get(target)).body
    signature = artifact(b"signed", subject=APP)
    for content in signature.blobs.values():
        await pusher.blob(content)
    answer = await pusher.manifest(signature, signature.digest)
    assert answer.headers["OCI-Subject"] == APP.digest
    assert signature.digest.encode() in (await mirror.client.get(target)).body


async def test_an_index_is_pushed_after_what_it_names(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    whole = index(APP, image(random_layer(80, seed=4)))
    await pusher.image(whole, "all")
    upstream.forget()
    assert (await mirror.client.manifest(NAME, "all")).body == whole.manifest
    assert not upstream.requests


async def test_a_manifest_whose_blobs_upstream_has_not_is_refused_in_upstreams_words(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    answer = await pusher.manifest(APP, "1")
    assert (answer.status, set(codes(answer))) == (400, {"MANIFEST_BLOB_UNKNOWN"})


async def test_bytes_go_upstream_while_they_arrive_and_the_client_is_held_to_their_pace(
    upstream: ScriptedRegistry, takes_pushes: Pushes, pusher: Pusher
) -> None:
    gate, content = takes_pushes.hold(after=1 << 20), LARGE * 4
    upload = await pusher.begin()
    given = 0

    async def bring() -> AsyncIterator[bytes]:
        nonlocal given
        async for piece in in_pieces(content):
            yield piece
            given += len(piece)

    async with asyncio.TaskGroup() as group:
        patching = group.create_task(upload.patch(bring()))
        asked = await gate.reached()
        assert asked.received <= 1 << 20
        _, waiting = await asyncio.wait([patching], timeout=0.3)
        assert waiting
        assert given < 36 << 20  # what is on its way, in buffers of sockets and of the mirror
        gate.open()
    assert patching.result().status == 202
    digest = digest_of(content)
    assert (await upload.put(b"", digest)).status == 201
    assert held(upstream, digest) == content
    assert bytes_taken(upstream) == len(content)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("content", [b"", b"small", LARGE[: 1 << 20]], ids=["0", "5", "1 MiB"])
@pytest.mark.parametrize("way", ["patch", "put", "post"])
async def test_a_blob_is_pushed_in_every_way_that_the_spec_has(
    upstream: ScriptedRegistry,
    mirror: InnerMirror,
    pusher: Pusher,
    *,
    way: str,
    content: bytes,
    algorithm: str,
) -> None:
    digest = digest_of(content, algorithm)
    if way == "patch":
        await pusher.blob(content, algorithm)
    elif way == "put":
        answer = await (await pusher.begin()).put(content, digest)
        assert answer.status == 201
        assert answer.headers["Location"] == f"/v2/{NAME}/blobs/{digest}"
    else:
        answer = await pusher.post(f"?digest={digest}", content)
        if answer.status == 202:  # to a POST without a body
            assert not content
            return
        assert answer.status == 201
    assert held(upstream, digest) == content
    upstream.forget()
    assert (await mirror.client.blob(NAME, digest)).body == content
    assert not upstream.requests


async def test_operators_are_told_what_is_being_pushed(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    upload = await pusher.begin()
    await upload.patch(LARGE[: 1 << 20])
    await upstream.was_asked("upload", method="PATCH", ended=True)
    answer = await get(f"{mirror.admin_url}/api/v1/status")
    [push] = json.loads(answer.body)["pushes"]
    assert (push["repository"], push["received"], push["clients"]) == (NAME, 1 << 20, 1)
    page = await get(f"{mirror.admin_url}/")
    assert b"docker.io/library/app" in page.body
    await upload.cancel()
    answer = await get(f"{mirror.admin_url}/api/v1/status")
    assert json.loads(answer.body)["pushes"] == []


async def test_the_log_tells_of_each_request_of_a_push_and_what_it_has_brought(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    settings = {"docker.io": upstream_at(upstream.url) | {"push": "client"}}
    async with running_mirror(tmp_path, settings, log={"format": "json"}) as mirror:
        await Pusher(mirror.client, NAME).blob(LARGE)

        async def is_told() -> bool:
            return "PUT /v2/" in mirror.process.log()

        await until(is_told)
        told = [json.loads(line) for line in mirror.process.log().splitlines()]
    pushed = [line for line in told if line["message"].startswith(("PATCH ", "PUT "))]
    assert [line["status"] for line in pushed] == [202, 201]
    assert pushed[0]["received"] == len(LARGE)
    assert pushed[1]["digest"] == DIGEST
    assert {line["repository"] for line in pushed} == {NAME}


async def test_a_wrong_digest_is_400_and_nothing_is_kept(
    upstream: ScriptedRegistry, takes_pushes: Pushes, mirror: InnerMirror, pusher: Pusher
) -> None:
    upload = await pusher.begin()
    await upload.patch(LARGE[: 1 << 20])
    answer = await upload.put(b"", digest_of(b"something else"))
    assert (answer.status, codes(answer)) == (400, ["DIGEST_INVALID"])
    assert (await upload.status()).status == 404
    assert not spooled(mirror)
    await upstream.was_asked("upload", method="DELETE")
    assert not takes_pushes.uploads


async def test_a_cancelled_upload_is_gone_here_and_there(
    upstream: ScriptedRegistry, takes_pushes: Pushes, mirror: InnerMirror, pusher: Pusher
) -> None:
    for content in (b"", LARGE[: 1 << 20]):
        upload = await pusher.begin()
        await upload.patch(content)
        assert (await upload.cancel()).status == 204
        assert (await upload.status()).status == 404
        assert not spooled(mirror)
    await upstream.was_asked("upload", method="DELETE", count=2)
    assert not takes_pushes.uploads


async def test_a_spool_is_not_closed_while_a_thread_still_writes_to_it(
    mirror: InnerMirror, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is opened next would have its number, and its bytes."""
    begins, goes_on, was_closed = threading.Event(), threading.Event(), list[bool]()

    def write(file: FileIO, *_: object) -> None:
        begins.set()
        goes_on.wait(30)
        was_closed.append(file.closed)

    monkeypatch.setattr(spools, "_write_all", write)
    upload = await pusher.begin()
    async with asyncio.TaskGroup() as group:
        group.create_task(upload.patch(LARGE[: 1 << 20]))
        await asyncio.to_thread(begins.wait, 30)
        cancelling = group.create_task(upload.cancel())
        await asyncio.wait([cancelling], timeout=0.3)
        goes_on.set()
    assert cancelling.result().status == 204
    assert not any(was_closed)
    assert not spooled(mirror)


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE", "GET"])
@pytest.mark.parametrize("what", ["manifests/1", "blobs/uploads/", "blobs/uploads/x"])
async def test_where_pushes_are_off_all_is_as_it_was(
    upstream: ScriptedRegistry, start_mirror: StartMirror, method: str, what: str
) -> None:
    other = upstream_at(upstream.url) | {"push": "client", "hosts": ["other.example"]}
    answers = []
    for upstreams in (None, {"docker.io": upstream_at(upstream.url), "ghcr.io": other}):
        mirror = await start_mirror(upstreams)
        async with mirror.client.open(f"/v2/{NAME}/{what}", method=method) as response:
            answers.append((response.status, await response.read()))
        await mirror.stop()
    if method != "GET":
        assert answers[0][0] == 405
        assert answers[0] == answers[1]
    assert not upstream.asked("upload")


async def test_content_is_not_deleted_by_way_of_the_mirror(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    upstream.add(APP, NAME, "1")
    for what in ("manifests/1", f"manifests/{APP.digest}", f"blobs/{APP.config}"):
        answer = await pusher.ask("DELETE", f"/v2/{NAME}/{what}")
        assert (answer.status, codes(answer)) == (405, ["UNSUPPORTED"])
    assert not upstream.requests


@pytest.mark.parametrize("name", ["library/app", "team/app"])
async def test_only_what_allow_push_names_is_pushed_to(
    upstream: ScriptedRegistry, start_mirror: StartMirror, name: str
) -> None:
    mirror = await start_pushing(start_mirror, upstream, settings={"allow_push": ["team/**"]})
    answer = await Pusher(mirror.client, name).post()
    assert answer.status == (202 if name == "team/app" else 403)
    if answer.status != 202:
        assert codes(answer) == ["DENIED"]
        assert not upstream.requests


async def test_head_of_a_blob_is_upstreams_word_for_who_may_push(
    upstream: ScriptedRegistry, mirror: InnerMirror
) -> None:
    upstream.add(APP, NAME, "1")
    digest = APP.layers[0]
    assert (await mirror.client.blob(NAME, digest)).status == 200
    del upstream.repositories[NAME].blobs[digest]
    pusher = Pusher(mirror.client, NAME, {"Authorization": "Basic c29tZW9uZTp4"})
    assert (await pusher.head(digest)).status == 404
    assert (await mirror.client.head(f"/v2/{NAME}/blobs/{digest}")).status == 200  # who only pulls
    await upstream.stop()
    assert (await pusher.head(digest)).status == 200


async def test_head_of_a_blob_is_upstreams_word_where_anybody_may_push(
    upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    await pusher.image(APP, "1")
    upstream.repositories[NAME].blobs.clear()
    assert (await pusher.manifest(APP, "2")).status == 400
    for digest in APP.blobs:
        assert (await pusher.head(digest)).status == 404
    await pusher.image(APP, "2")
    assert upstream.repositories[NAME].blobs == APP.blobs


async def test_an_upload_that_nobody_goes_on_with_is_let_go(
    upstream: ScriptedRegistry,
    takes_pushes: Pushes,
    start_mirror: StartMirror,
    clock: FakeClock,
) -> None:
    mirror = await start_pushing(start_mirror, upstream, push={"keep_for": "1h"})
    pusher = Pusher(mirror.client, NAME)
    upload = await pusher.begin()
    await upload.patch(LARGE[: 1 << 20])
    assert spooled(mirror)
    clock.advance(3601)
    await upstream.was_asked("upload", method="DELETE")
    assert (await upload.status()).status == 404
    assert not takes_pushes.uploads

"""Who pushes, or is pushed to, and means it ill; or whose line is not what was thought of."""

import asyncio
from typing import Any

import pytest

from mirror.push import courses, uploads
from tests.conftest import StartMirror
from tests.support.images import digest_of, image, random_bytes, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.pusher import Pusher, Upload
from tests.support.uploads import Pushes
from tests.support.upstream import ScriptedRegistry

NAME = "library/app"
APP = image(random_layer(3000, seed=1))
LARGE = random_bytes(12 << 20, seed=3)


pytestmark = pytest.mark.usefixtures("takes_pushes")


async def start_pushing(
    start_mirror: StartMirror, upstream: ScriptedRegistry, **overrides: Any
) -> InnerMirror:
    others, push = overrides.pop("others", {}), overrides.pop("limits", {})
    settings = upstream_at(upstream.url) | {"push": "client"} | overrides
    fill = {"stall_timeout": "2s", "attempts": 3}
    return await start_mirror({"docker.io": settings} | others, fill=fill, push=push)


async def test_a_line_that_cuts_late_does_not_have_the_client_wait_for_itself(
    upstream: ScriptedRegistry, start_mirror: StartMirror, takes_pushes: Pushes
) -> None:
    takes_pushes.style = "2.8"
    upstream.fault(kind="upload", method="PATCH", cut_body_at=20 << 20, times=1)
    mirror = await start_pushing(start_mirror, upstream)
    content = LARGE * 4
    async with asyncio.timeout(60):
        upload = await Pusher(mirror.client, NAME).begin()
        assert (await upload.bring(content)).status == 202
        assert (await upload.put(b"", digest_of(content))).status == 201


async def test_a_pull_asks_by_head_for_what_may_not_be_pushed_to(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    upstream.add(APP, NAME, "1")
    mirror = await start_pushing(start_mirror, upstream, allow_push=["team/**"])
    puller = Pusher(mirror.client, NAME, {"Authorization": "Basic c29tZW9uZTp4"})
    assert (await puller.head(APP.layers[0])).status == 200


async def test_what_a_pusher_shows_is_not_shown_to_another_registry_that_a_mount_names(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    async with ScriptedRegistry() as other:
        other.add(APP, NAME, "1")
        theirs = upstream_at(other.url) | {"access": "client"}
        mirror = await start_pushing(start_mirror, upstream, others={"other.example": theirs})
        secret = {"Authorization": "Basic c29tZW9uZTp4"}
        pusher = Pusher(mirror.client, NAME, secret)
        answer = await pusher.post(f"?mount={APP.layers[0]}&from=other.example/{NAME}")
        assert answer.status == 202
        assert not [it for it in other.requests if "Authorization" in it.headers]


async def test_a_line_that_upstream_keeps_nothing_of_is_given_up(
    upstream: ScriptedRegistry, start_mirror: StartMirror, takes_pushes: Pushes
) -> None:
    takes_pushes.loses_what_breaks = True
    for more in range(40):  # it never breaks where it broke before
        cut = (1 << 20) + (1 << 16) * (more % 3)
        upstream.fault(kind="upload", method="PATCH", cut_body_at=cut, times=1)
    mirror = await start_pushing(start_mirror, upstream)
    upload = await Pusher(mirror.client, NAME).begin()
    assert (await upload.bring(LARGE)).status == 502
    assert len([it for it in upstream.asked("upload") if it.method == "PATCH"]) <= 4


async def test_uploads_that_begin_at_once_are_no_more_than_one_client_may_have(
    upstream: ScriptedRegistry, start_mirror: StartMirror, takes_pushes: Pushes
) -> None:
    mirror = await start_pushing(start_mirror, upstream, limits={"max_uploads": 3})
    pusher = Pusher(mirror.client, NAME)
    answers = await asyncio.gather(*(pusher.post() for _ in range(12)))
    assert sorted(answer.status for answer in answers) == [202] * 3 + [429] * 9
    assert takes_pushes.peak == 3


async def test_who_may_not_push_learns_nothing_of_an_upload_and_does_not_end_it(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_pushing(start_mirror, upstream)
    upload = await Pusher(mirror.client, NAME, {"Authorization": "Basic YTph"}).begin()
    await upload.patch(LARGE[: 1 << 20])
    fault = upstream.fault(kind="upload", method="POST", status=401)
    stranger = Upload(Pusher(mirror.client, NAME, {"Authorization": "Basic Yjpi"}), upload.location)
    for answer in (await stranger.status(), await stranger.cancel(), await stranger.patch(b"x")):
        assert answer.status in {401, 403}
        assert "Range" not in answer.headers
    upstream.faults.remove(fault)
    assert (await upload.put(b"", digest_of(LARGE[: 1 << 20]))).status == 201


async def test_uploads_that_nobody_goes_on_with_make_place(
    upstream: ScriptedRegistry, start_mirror: StartMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courses, "_MOST", 3)
    mirror = await start_pushing(start_mirror, upstream)
    pusher = Pusher(mirror.client, NAME)
    contents = [random_bytes(1 << 17, seed=number) for number in range(6)]
    begun = [await pusher.begin() for _ in contents]
    for upload, content in zip(begun, contents, strict=True):
        assert (await upload.patch(content)).status == 202
    assert len(list((mirror.store_root / "push").glob("*.json"))) == 3
    assert (await begun[-1].put(b"", digest_of(contents[-1]))).status == 201


async def test_what_a_pusher_calls_a_manifest_is_not_what_all_are_told_that_it_is(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_pushing(start_mirror, upstream)
    upstream.add(APP, NAME, "1")
    upstream.add(APP, "evil/app", "1")
    target = f"/v2/evil/app/manifests/{APP.digest}"
    wrong = {"Content-Type": "application/x-nothing; charset=utf-8"}
    answer = await Pusher(mirror.client, "evil/app").ask("PUT", target, APP.manifest, wrong)
    assert answer.status == 201
    pulled = await mirror.client.manifest(NAME, APP.digest)
    assert pulled.headers["Content-Type"] == APP.media_type


async def test_a_location_has_nothing_in_it_that_only_a_client_has_written(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_pushing(start_mirror, upstream)
    query = "?ns=x%0d%0aX-Evil:%20y&ns=docker.io"
    answer = await Pusher(mirror.client, NAME).post(query)
    assert answer.status in {202, 400, 404}
    assert "Evil" not in answer.headers.get("Location", "")


async def test_however_many_clients_there_are_their_uploads_are_bounded(
    upstream: ScriptedRegistry, start_mirror: StartMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_MOST_UPLOADS", 3)
    mirror = await start_pushing(start_mirror, upstream)
    pusher = Pusher(mirror.client, NAME)
    assert [(await pusher.post()).status for _ in range(4)] == [202, 202, 202, 429]

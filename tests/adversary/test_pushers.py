"""Who pushes, or is pushed to, and means it ill; or whose line is not what was thought of."""

import asyncio
from typing import Any

import pytest

from tests.conftest import StartMirror
from tests.support.images import digest_of, image, random_bytes, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.pusher import Pusher, in_pieces
from tests.support.uploads import Pushes
from tests.support.upstream import ScriptedRegistry

NAME = "library/app"
APP = image(random_layer(3000, seed=1))
LARGE = random_bytes(12 << 20, seed=3)


@pytest.fixture(autouse=True)
def takes_pushes(upstream: ScriptedRegistry) -> Pushes:
    upstream.push = Pushes(style="3")
    return upstream.push


async def start_pushing(
    start_mirror: StartMirror, upstream: ScriptedRegistry, **overrides: Any
) -> InnerMirror:
    others, push = overrides.pop("others", {}), overrides.pop("limits", {})
    settings = upstream_at(upstream.url) | {"push": "client"} | overrides
    fill = {"stall_timeout": "2s"}
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
        assert (await upload.patch(in_pieces(content))).status == 202
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

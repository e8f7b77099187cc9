"""Who pushes, or is pushed to, and means it ill; or whose line is not what was thought of."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import StartMirror
from tests.support.images import digest_of, random_bytes
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.pusher import Pusher, in_pieces
from tests.support.uploads import Pushes
from tests.support.upstream import ScriptedRegistry

NAME = "library/app"
LARGE = random_bytes(12 << 20, seed=3)


@pytest.fixture(autouse=True)
def takes_pushes(upstream: ScriptedRegistry) -> Pushes:
    upstream.push = Pushes(style="3")
    return upstream.push


async def start_pushing(
    start_mirror: StartMirror, upstream: ScriptedRegistry, **settings: Any
) -> InnerMirror:
    settings = upstream_at(upstream.url) | {"push": "client"} | settings
    return await start_mirror({"docker.io": settings}, fill={"stall_timeout": "2s"})


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

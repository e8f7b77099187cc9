"""The mirror, or its workers, end in the middle of a push."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from tests.support.images import digest_of, random_bytes
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.process import children_of, until
from tests.support.pusher import Pusher, in_pieces
from tests.support.pushing import NAME, bytes_taken, held, spooled
from tests.support.upstream import ScriptedRegistry

LARGE = random_bytes(24 << 20, seed=15)
DIGEST = digest_of(LARGE)
SIXTY_PERCENT = len(LARGE) * 6 // 10

pytestmark = pytest.mark.usefixtures("takes_pushes")


async def bring(
    upstream: ScriptedRegistry, end: Callable[[], Awaitable[None]]
) -> AsyncIterator[bytes]:
    """LARGE, until most of its first sixty percent is upstream; then `end`, and no more."""

    async def most_has_come() -> bool:
        return bytes_taken(upstream) >= SIXTY_PERCENT - (6 << 20)

    sent = 0
    async for piece in in_pieces(LARGE):
        yield piece
        sent += len(piece)
        if sent >= SIXTY_PERCENT:
            await until(most_has_come)
            await end()
            await asyncio.Event().wait()  # until the connection has ended


async def kill(mirror: MirrorProcess) -> None:
    """Whoever brings something notices at once, and waits for nothing here."""
    os.kill(mirror.process.pid, signal.SIGKILL)


async def test_killed_at_sixty_percent_the_next_try_sends_upstream_only_what_is_lacking(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    settings = {"docker.io": upstream_at(upstream.url) | {"push": "client"}}
    async with running_mirror(tmp_path, settings) as mirror:
        upload = await Pusher(mirror.client, NAME).begin()

        with suppress(aiohttp.ClientError, ConnectionError):
            await upload.patch(bring(upstream, lambda: kill(mirror)))
        await mirror.process.kill()  # as it is, and seen to the end
        assert len(spooled(mirror)) == 2
        await mirror.process.start()
        assert await Pusher(mirror.client, NAME).blob(LARGE) == DIGEST
        assert held(upstream, DIGEST) == LARGE
        assert bytes_taken(upstream) <= 1.05 * len(LARGE)
        assert not spooled(mirror)
        upstream.forget()
        assert (await mirror.client.blob(NAME, DIGEST)).body == LARGE
        assert not upstream.asked("blob")  # an upload that was not needed is cancelled meanwhile


async def stop(mirror: MirrorProcess) -> None:
    """A restart: what is under way has a second."""
    os.kill(mirror.process.pid, signal.SIGTERM)


async def kill_workers(mirror: MirrorProcess) -> None:
    """They are started anew by themselves."""
    for child in children_of(mirror.process):
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("end", [stop, kill_workers])
async def test_who_tries_again_after_a_restart_or_a_fault_sends_upstream_what_is_lacking(
    upstream: ScriptedRegistry, tmp_path: Path, end: Callable[[MirrorProcess], Awaitable[None]]
) -> None:
    settings = {"docker.io": upstream_at(upstream.url) | {"push": "client"}}
    server = {"drain_timeout": "1s", "workers": 2}
    async with running_mirror(tmp_path, settings, server=server) as mirror:
        upload = await Pusher(mirror.client, NAME).begin()

        with suppress(aiohttp.ClientError, ConnectionError):
            await upload.patch(bring(upstream, lambda: end(mirror)))
        if end is stop:
            await mirror.process.wait()
            await mirror.process.start()

        async def answers() -> bool:
            with suppress(aiohttp.ClientError):
                return (await mirror.client.get("/v2/")).status == 200
            return False

        await until(answers)
        assert await Pusher(mirror.client, NAME).blob(LARGE) == DIGEST
        assert held(upstream, DIGEST) == LARGE
        assert bytes_taken(upstream) <= 1.05 * len(LARGE)
        assert not spooled(mirror)

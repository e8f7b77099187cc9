"""The mirror, or its workers, end in the middle of a push."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import StartMirror
from tests.support.images import digest_of, random_bytes
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.process import children_of, until
from tests.support.pusher import Pusher, in_pieces
from tests.support.pushing import NAME, bytes_taken, held, spooled, start_pushing
from tests.support.uploads import Pushes
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


SMALL = random_bytes(100, seed=16)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer mine"}], ids=["open", "shown"])
async def test_what_the_registry_had_taken_when_the_mirror_was_killed_is_in_the_cache(
    upstream: ScriptedRegistry, takes_pushes: Pushes, tmp_path: Path, headers: dict[str, str]
) -> None:
    settings = {"docker.io": upstream_at(upstream.url) | {"push": "client"}}
    digest = digest_of(SMALL)
    async with running_mirror(tmp_path, settings) as mirror:
        upload = await Pusher(mirror.client, NAME, headers).begin()
        await upload.patch(SMALL)
        answer = takes_pushes.hold_end()
        putting = asyncio.get_running_loop().create_task(upload.put(b"", digest))
        await answer.reached()
        await kill(mirror)
        with suppress(aiohttp.ClientError, ConnectionError):
            await putting
        await mirror.process.kill()
        answer.cut()
        assert held(upstream, digest) == SMALL
        await mirror.process.start()
        assert len(spooled(mirror)) == 2
        assert (await Pusher(mirror.client, NAME, headers).head(digest)).status == 200
        assert not spooled(mirror)
        assert (await upload.put(b"", digest)).status == 201
        await upstream.stop()
        assert (await mirror.client.blob(NAME, digest, headers=headers)).body == SMALL


async def test_what_the_registry_has_taken_and_has_not_said_so_is_in_the_cache(
    upstream: ScriptedRegistry, takes_pushes: Pushes, start_mirror: StartMirror
) -> None:
    mirror = await start_pushing(start_mirror, upstream, fill={"attempts": 1})
    pusher, digest = Pusher(mirror.client, NAME), digest_of(SMALL)
    upload, answer = await pusher.begin(), takes_pushes.hold_end()
    await upload.patch(SMALL)
    putting = asyncio.get_running_loop().create_task(upload.put(b"", digest))
    await answer.reached()
    upstream.fault(kind="upload", status=503)  # nor is it told what has come of it
    silence = upstream.fault(kind="blob", method="HEAD", status=503)
    answer.cut()
    assert (await putting).status in {502, 503, 504}
    assert len(spooled(mirror)) == 2
    upstream.faults.remove(silence)
    assert (await pusher.head(digest)).status == 200
    assert not spooled(mirror)
    await upstream.stop()
    assert (await mirror.client.blob(NAME, digest)).body == SMALL

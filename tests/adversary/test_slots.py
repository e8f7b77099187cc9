"""However many downloads one upstream drips, or one client asks for, its neighbours' go on."""

import asyncio
from contextlib import AsyncExitStack, suppress

import pytest

from tests.conftest import StartMirror
from tests.support.client import client
from tests.support.evil import Ask, Behaviour, Evil, drips, hangs, head, tells
from tests.support.images import digest_of, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.upstream import ScriptedRegistry

ACTIVE = 8
LATER = "later.example"


async def _begins(ask: Ask) -> None:
    ask.ends = True
    await ask.send(head(b"HTTP/1.1 200 OK", b"Content-Length: 5000000"), b"x" * 100)
    with suppress(ConnectionError):
        await ask.writer.wait_closed()


BEHAVIOURS = {"hangs": hangs, "begins": _begins, "drips": drips(b"x" * 200, every=0.2)}


async def _mirror(
    start_mirror: StartMirror, upstream: ScriptedRegistry, *evil: Evil
) -> InnerMirror:
    names = {f"evil-{number}.example": upstream_at(it.url) for number, it in enumerate(evil)}
    return await start_mirror(
        {"docker.io": upstream_at(upstream.url), **names},
        fill={"max_active": ACTIVE, "connect_timeout": "10s"},
    )


async def _ask_for_many(
    mirror: InnerMirror, clients: asyncio.TaskGroup, name: str
) -> list[asyncio.Task[None]]:
    async def ask(number: int) -> None:
        with suppress(Exception):
            await mirror.client.blob(f"{name}/app", digest_of(b"%d" % number))

    return [clients.create_task(ask(number)) for number in range(2 * ACTIVE)]


@pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=BEHAVIOURS)
@pytest.mark.parametrize("upstreams", [1, 2])
async def test_downloads_that_clients_wait_for_leave_slots_to_a_healthy_neighbour(
    upstream: ScriptedRegistry, start_mirror: StartMirror, behaviour: Behaviour, upstreams: int
) -> None:
    blobs = [random_layer(1000, seed=seed).blob for seed in range(3)]
    digests = [upstream.add_blob(blob, "library/app") for blob in blobs]
    async with AsyncExitStack() as stack:
        evil = [await stack.enter_async_context(Evil()) for _ in range(upstreams)]
        mirror = await _mirror(start_mirror, upstream, *evil)
        asking = []
        async with asyncio.TaskGroup() as clients:
            for number, it in enumerate(evil):
                it.on("blobs/", behaviour)
                asking += await _ask_for_many(mirror, clients, f"evil-{number}.example")
            await mirror.until_metric("mirror_fills_active", 2 * ACTIVE * upstreams)
            for digest, blob in zip(digests, blobs, strict=True):
                answer = await mirror.client.blob("app", digest)
                assert (answer.status, answer.body) == (200, blob)
            for task in asking:
                task.cancel()


@pytest.mark.parametrize("behaviour", [hangs, _begins], ids=["hangs", "begins"])
async def test_downloads_whose_clients_have_left_are_in_nobodys_way(
    upstream: ScriptedRegistry, start_mirror: StartMirror, behaviour: Behaviour
) -> None:
    """Also of the same upstream, and though they were all read when the next one began to wait."""
    async with Evil() as evil:
        mirror = await _mirror(start_mirror, upstream, evil)
        evil.on("blobs/", behaviour)
        well = random_layer(1000, seed=5).blob
        async with asyncio.TaskGroup() as clients:
            asking = await _ask_for_many(mirror, clients, "evil-0.example")
            await mirror.until_metric("mirror_fills_active", 2 * ACTIVE)
            digest = digest_of(well)
            evil.on(digest, tells(well))
            waiting = clients.create_task(mirror.client.blob("evil-0.example/app", digest))
            await mirror.until_metric("mirror_fills_active", 2 * ACTIVE + 1)
            for task in asking:
                task.cancel()
        assert waiting.result().body == well


MINE, OTHERS, THIRD = "127.0.0.1", "127.0.0.2", "127.0.0.3"


@pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=BEHAVIOURS)
@pytest.mark.parametrize("upstreams", [1, 2])
async def test_one_clients_wish_for_many_blobs_is_not_before_anothers_for_one(
    start_mirror: StartMirror, behaviour: Behaviour, upstreams: int
) -> None:
    """Of the same upstream; the many are asked for, and waited for, before the one."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as clients:
        evil = [await stack.enter_async_context(Evil()) for _ in range(upstreams)]
        mirror = await start_mirror(
            {f"evil-{number}.example": upstream_at(it.url) for number, it in enumerate(evil)},
            fill={"max_active": ACTIVE, "connect_timeout": "10s"},
        )
        asking = []
        for number, it in enumerate(evil):
            it.on("blobs/", behaviour)
            asking += await _ask_for_many(mirror, clients, f"evil-{number}.example")
        await mirror.until_metric("mirror_fills_active", 2 * ACTIVE * upstreams)
        for seed, address in enumerate((OTHERS, THIRD)):
            well = random_layer(1000, seed=seed).blob
            for it in evil:
                it.on(digest_of(well), tells(well))
            async with client(mirror.url, address=address) as other:
                answer = await other.blob("evil-0.example/app", digest_of(well))
                assert (answer.status, answer.body) == (200, well)
        for task in asking:
            task.cancel()


async def test_what_one_client_has_to_wait_for_comes_when_another_asks_for_it(
    start_mirror: StartMirror,
) -> None:
    """It is among the many that the first one has asked for, and behind them all."""
    async with Evil() as evil, asyncio.TaskGroup() as clients:
        mirror = await start_mirror(
            {"evil.example": upstream_at(evil.url)},
            fill={"max_active": ACTIVE, "connect_timeout": "30s"},
        )
        evil.on("blobs/", _begins)
        asking = await _ask_for_many(mirror, clients, "evil.example")
        await mirror.until_metric("mirror_fills_active", 2 * ACTIVE)
        well = random_layer(1000, seed=9).blob
        evil.on(digest_of(well), tells(well))
        mine = clients.create_task(mirror.client.blob("evil.example/app", digest_of(well)))
        await mirror.until_metric("mirror_fills_active", 2 * ACTIVE + 1)
        assert not mine.done()
        async with client(mirror.url, address=OTHERS) as other:
            answer = await other.blob("evil.example/app", digest_of(well))
        assert (answer.status, answer.body) == (200, well)
        assert (await mine).body == well
        for task in asking:
            task.cancel()


async def test_one_clients_many_downloads_leave_a_connection_to_anothers(
    start_mirror: StartMirror,
) -> None:
    async with Evil() as evil, asyncio.TaskGroup() as clients:
        mirror = await start_mirror(
            {"evil.example": upstream_at(evil.url, max_connections=5)},
            fill={"max_active": 4 * ACTIVE, "connect_timeout": "10s"},
        )
        evil.on("blobs/", _begins)
        asking = await _ask_for_many(mirror, clients, "evil.example")
        await mirror.until_metric("mirror_fills_active", 2 * ACTIVE)
        well = random_layer(1000, seed=10).blob
        evil.on(digest_of(well), tells(well))
        async with client(mirror.url, address=OTHERS) as other:
            answer = await other.blob("evil.example/app", digest_of(well))
        assert (answer.status, answer.body) == (200, well)
        for task in asking:
            task.cancel()

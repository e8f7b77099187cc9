"""Several workers: to clients they are one mirror, and to upstream too.

Here they live in this process (tests/integration/test_worker_processes.py has them as processes);
each client has a connection of its own, and connections are dealt to the workers in turn.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import aiohttp
import pytest

from tests.conftest import StartMirror
from tests.support.auth import BearerAuth
from tests.support.client import Answer, Client, client
from tests.support.clock import FakeClock
from tests.support.images import Image, image, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.upstream import ScriptedRegistry

SIZE = 600_000  # bytes: more than what is served from memory
SMALL = 1000
WORKERS = 3

Connect = Callable[[InnerMirror], Awaitable[list[Client]]]


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=1)), "org/app", "1")


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """`await connect(mirror)`: as many clients as there are workers, each at another one."""
    async with AsyncExitStack() as stack:

        async def connect(mirror: InnerMirror) -> list[Client]:
            clients = [await stack.enter_async_context(client(mirror.url)) for _ in range(WORKERS)]
            for one in clients:  # connected now, and each stays with its worker
                assert (await one.get("/v2/")).status == 200
            return clients

        yield connect


async def everyone(asking: list[Awaitable[Answer]]) -> list[Answer]:
    return [*await asyncio.gather(*asking)]


def workers_told(caplog: pytest.LogCaptureFixture) -> Counter[str]:
    """How many requests each worker has logged: the first half of an id is the worker's."""
    ids = [vars(record).get("request_id", "") for record in caplog.records]
    return Counter(identity.partition("-")[0] for identity in ids if identity)


async def test_connections_are_dealt_in_turn_and_each_worker_gets_its_share(
    start_mirror: StartMirror, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mirror")
    mirror = await start_mirror(server={"workers": WORKERS})
    for _ in range(4):
        await connect(mirror)
    assert [*workers_told(caplog).values()] == [4] * WORKERS


async def test_requests_of_one_connection_stay_with_one_worker(
    start_mirror: StartMirror, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = await start_mirror(server={"workers": WORKERS})
    clients = await connect(mirror)
    caplog.set_level(logging.INFO, "mirror")
    for _ in range(5):
        await clients[0].get("/v2/")
    assert [*workers_told(caplog).values()] == [5]


async def test_one_worker_is_enough(
    upstream: ScriptedRegistry, start_mirror: StartMirror, connect: Connect, app: Image
) -> None:
    mirror = await start_mirror(server={"workers": 1})
    clients = await connect(mirror)
    answers = await everyone([one.blob("org/app", app.layers[0]) for one in clients])
    assert {answer.body for answer in answers} == {app.blobs[app.layers[0]]}
    assert upstream.questions() == [("blob", "GET", app.layers[0])]


# Upstream is asked once


async def test_a_cold_blob_that_clients_of_all_workers_want_is_one_transfer(
    upstream: ScriptedRegistry, start_mirror: StartMirror, connect: Connect, app: Image
) -> None:
    [layer] = app.layers
    mirror = await start_mirror(server={"workers": WORKERS})
    clients = [*await connect(mirror), *await connect(mirror)]
    gate = upstream.hold(layer, after=SIZE // 2)
    async with asyncio.TaskGroup() as pulls:
        pulling = [pulls.create_task(one.blob("org/app", layer)) for one in clients]
        await gate.reached()
        await mirror.until_metric("mirror_fill_readers", len(clients))
        gate.open()
    assert {task.result().body for task in pulling} == {app.blobs[layer]}
    told = Counter(task.result().headers["Cache-Status"] for task in pulling)
    assert told["mirror; fwd=miss; collapsed"] >= len(clients) - 2
    assert upstream.questions() == [("blob", "GET", layer)]
    assert upstream.bytes_sent(layer) == SIZE


async def test_every_worker_sends_what_there_is_of_a_growing_blob(
    upstream: ScriptedRegistry, start_mirror: StartMirror, connect: Connect, app: Image
) -> None:
    [layer] = app.layers
    content = app.blobs[layer]
    mirror = await start_mirror(server={"workers": WORKERS})
    clients = await connect(mirror)
    gate = upstream.hold(layer, after=SIZE // 2)
    async with AsyncExitStack() as stack:
        responses = [
            await stack.enter_async_context(one.open(f"/v2/org/app/blobs/{layer}"))
            for one in clients
        ]
        for response in responses:
            assert await response.content.readexactly(SIZE // 2) == content[: SIZE // 2]
        gate.open()
        for response in responses:
            assert await response.read() == content[SIZE // 2 :]


async def test_a_blob_that_is_broken_completes_at_no_worker(
    upstream: ScriptedRegistry, start_mirror: StartMirror, connect: Connect, app: Image
) -> None:
    [layer] = app.layers
    upstream.fault(kind="blob", corrupt_at=SIZE // 3, times=1)
    mirror = await start_mirror(server={"workers": WORKERS})
    clients = await connect(mirror)
    gate = upstream.hold(layer, after=SIZE // 2)
    async with asyncio.TaskGroup() as pulls:
        pulling = [pulls.create_task(is_cut_short(one, layer)) for one in clients]
        await mirror.until_metric("mirror_fill_readers", WORKERS)
        gate.open()
    assert [task.result() for task in pulling] == [True] * WORKERS
    assert (await clients[0].blob("org/app", layer)).body == app.blobs[layer]


async def is_cut_short(one: Client, layer: str) -> bool:
    try:
        await one.blob("org/app", layer)
    except aiohttp.ClientPayloadError:
        return True
    return False


async def test_a_tag_that_is_fresh_costs_one_upstream_request_at_all_workers_together(
    upstream: ScriptedRegistry, start_mirror: StartMirror, connect: Connect, app: Image
) -> None:
    mirror = await start_mirror(server={"workers": WORKERS})
    clients = await connect(mirror)
    first = await everyone([one.manifest("org/app", "1") for one in clients])
    again = await everyone([one.manifest("org/app", "1") for one in clients])
    assert {answer.body for answer in (*first, *again)} == {app.manifest}
    assert {answer.headers["Cache-Status"] for answer in again} == {"mirror; hit"}
    assert upstream.questions() == [("tag", "GET", "1")]


async def test_a_tag_that_is_no_longer_fresh_costs_one_head_at_all_workers_together(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    connect: Connect,
    app: Image,
    clock: FakeClock,
) -> None:
    mirror = await start_mirror(server={"workers": WORKERS})
    clients = await connect(mirror)
    for _ in range(2):
        await everyone([one.manifest("org/app", "1") for one in clients])
    for _ in range(2):
        upstream.forget()
        clock.advance(60)
        for one in clients:
            assert (await one.manifest("org/app", "1")).body == app.manifest
        assert upstream.questions() == [("tag", "HEAD", "1")]


async def test_a_tag_that_is_stale_is_stale_at_every_worker_also_when_the_clock_is_set_back(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    connect: Connect,
    app: Image,
    clock: FakeClock,
) -> None:
    mirror = await start_mirror(server={"workers": WORKERS})
    clients = await connect(mirror)
    assert (await clients[0].manifest("org/app", "1")).body == app.manifest
    await upstream.stop()
    for seconds in (60, -3600):
        clock.advance(seconds)
        answers = [await one.manifest("org/app", "1") for one in clients * 2]
        told = {(answer.headers["Cache-Status"], answer.body) for answer in answers}
        assert told == {("mirror; hit; detail=stale", app.manifest)}


async def test_a_tag_that_has_moved_has_moved_for_every_worker_once_it_is_no_longer_fresh(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    connect: Connect,
    app: Image,
    clock: FakeClock,
) -> None:
    """No worker tells of the old one for longer than another, or than the mirror itself."""
    mirror = await start_mirror(server={"workers": WORKERS})
    clients = await connect(mirror)
    assert (await clients[0].manifest("org/app", "1")).body == app.manifest
    clock.advance(30)
    assert (await clients[1].manifest("org/app", "1")).body == app.manifest
    moved = upstream.add(image(random_layer(SMALL, seed=2)), "org/app", "1")
    clock.advance(29)
    assert (await clients[1].manifest("org/app", "1")).body == app.manifest
    clock.advance(1)
    answers = await everyone([one.manifest("org/app", "1") for one in reversed(clients)])
    assert {answer.body for answer in answers} == {moved.manifest}
    assert upstream.questions() == [
        ("tag", "GET", "1"),
        ("tag", "HEAD", "1"),
        ("manifest", "GET", moved.digest),
    ]


async def test_what_is_missing_is_missing_at_every_worker_for_one_request(
    upstream: ScriptedRegistry, start_mirror: StartMirror, connect: Connect, app: Image
) -> None:
    mirror = await start_mirror(server={"workers": WORKERS})
    clients = await connect(mirror)
    for one in clients:
        assert (await one.manifest("org/app", "2")).status == 404
    assert upstream.questions() == [("tag", "GET", "2")]
    assert await mirror.metric("mirror_lookups_total", result="negative") == WORKERS - 1


# What is counted


async def test_counts_of_all_workers_add_up_and_are_there_with_the_answer(
    start_mirror: StartMirror, connect: Connect, app: Image
) -> None:
    [layer] = app.layers
    mirror = await start_mirror(server={"workers": WORKERS})
    clients = await connect(mirror)
    total = partial(mirror.metric, "mirror_requests_total")
    for count, one in enumerate(clients * 3, start=1):
        await one.manifest("org/app", "1")
        assert await total(kind="tag", method="GET", status="200") == count
        await one.blob("org/app", layer)
        assert await total(kind="blob") == count
        assert await mirror.metric("mirror_served_bytes_total") == count * (
            len(app.manifest) + SIZE
        )
        assert await mirror.metric("mirror_request_seconds_count", kind="blob") == count
    assert await mirror.metric("mirror_lookups_total", kind="tag", result="hit") == WORKERS * 3 - 1


async def test_what_is_served_from_a_workers_memory_only_is_in_use_and_stays(
    upstream: ScriptedRegistry, start_mirror: StartMirror, connect: Connect, clock: FakeClock
) -> None:
    """The mirror's process does not see these requests; it hears of them with the counts."""
    used, unused, new = (
        upstream.add_blob(random_layer(8_000, seed=number).blob, "org/app") for number in range(3)
    )
    mirror = await start_mirror(
        server={"workers": WORKERS},
        store={"max_size": "26 KB"},  # two blobs, and not one on its way beside them
    )
    clients = await connect(mirror)

    async def pull(digest: str) -> None:
        clock.advance(1)
        assert (await clients[0].blob("org/app", digest)).digest == digest
        await mirror.until_metric("mirror_fills_active", 0)  # it asks for the counts

    for digest in (used, unused):
        await pull(digest)  # from the fill
        await pull(digest)  # from memory: now it is at hand
    clock.advance(86_400)
    await pull(used)
    await pull(new)
    kept = {file.name for file in mirror.store_root.rglob("*") if file.is_file()}
    assert {digest for digest in (used, unused, new) if digest[7:] in kept} == {used, new}
    assert await mirror.metric("mirror_evicted_blobs_total") == 1


# Whose is it


@pytest.mark.parametrize("size", [SMALL, SIZE], ids=["small", "large"])
async def test_what_a_worker_has_sent_to_one_client_it_has_at_hand_for_no_other(
    upstream: ScriptedRegistry, start_mirror: StartMirror, connect: Connect, size: int
) -> None:
    app = upstream.add(image(random_layer(size, seed=3)), "org/app", "1")
    upstream.auth = BearerAuth(
        users={"anna": "secret", "bert": "hidden"},
        private={"org/app": {"anna"}},
        realm=f"{upstream.url}/token",
    )
    mirror = await start_mirror(
        {"ghcr.io": {**upstream_at(upstream.url), "access": "client"}},
        server={"workers": WORKERS},
    )
    clients = await connect(mirror)
    targets = [
        "/v2/org/app/manifests/1",
        f"/v2/org/app/manifests/{app.digest}",
        *(f"/v2/org/app/blobs/{digest}" for digest in app.blobs),
    ]
    anna = await token(upstream, "anna", "secret")
    others = [{}, await token(upstream, "bert", "hidden"), {"Authorization": "Bearer made-up"}]

    async def statuses(headers: dict[str, str]) -> set[int]:
        return {
            (await method(target, headers=headers)).status
            for one in clients
            for target in targets
            for method in (one.get, one.head)
        }

    for _ in range(2):
        assert await statuses(anna) == {200}
        for other in others:
            assert await statuses(other) == {401}


async def token(upstream: ScriptedRegistry, name: str, password: str) -> dict[str, str]:
    """What a client gets when it follows the challenge."""
    query = "service=registry.test&scope=repository:org/app:pull"
    login = aiohttp.encode_basic_auth(name, password)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{upstream.url}/token?{query}", headers={"Authorization": login}) as response,
    ):
        return {"Authorization": f"Bearer {(await response.json())['token']}"}

"""What the mirror has its workers forget, none of them serves any more; here they are processes.

Their clocks go on as they do. The mirror's is set forward where a tag shall be old for the mirror
and fresh for a worker: so it can be told who answers.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirror.app import run
from mirror.config import parse
from mirror.front.workers.spawn import spawn_process
from mirror.oci.digest import parse_digest
from mirror.oci.reference import Repository, Tag
from mirror.pull.forget import Forgettable, Forgetting, TagOf
from tests.support.client import Client, client
from tests.support.images import Image, image, random_layer
from tests.support.mirror import document, upstream_at
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

WORKERS = 2
APP = Repository("docker.io", "org/app")


@dataclass
class Served:
    """A mirror, a client of each worker, and what makes everyone forget."""

    clients: list[Client]
    forgettings: list[Forgetting]
    offset: float = 0.0  # seconds

    def forget(self, what: Forgettable) -> None:
        self.forgettings[0].forget(what)

    async def manifests(self) -> list[bytes]:
        """What each worker says that the tag means."""
        return [(await one.manifest("org/app", "1")).body for one in self.clients]


def add(upstream: ScriptedRegistry, seed: int) -> Image:
    return upstream.add(image(random_layer(1000, seed=seed)), "org/app", "1")


@pytest.fixture
async def served(
    monkeypatch: pytest.MonkeyPatch, upstream: ScriptedRegistry, tmp_path: Path
) -> AsyncIterator[Served]:
    forgettings: list[Forgetting] = []

    class Seen(Forgetting):
        def __init__(self) -> None:
            super().__init__()
            forgettings.append(self)

    monkeypatch.setattr("mirror.app.Forgetting", Seen)
    settings = document(
        {"docker.io": upstream_at(upstream.url)},
        store_root=tmp_path / "store",
        server={"workers": WORKERS},
        tags={"fresh_for": "1h"},
    )
    config = parse(settings)
    served = Served([], forgettings)

    def clock() -> float:
        return time.time() + served.offset  # noqa: TID251 - the workers' own clock, but for that

    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(
            run(config, clock=clock, spawn=spawn_process(config.log))
        )
        url = "http://{}:{}".format(*running.listen[0])
        for _ in range(WORKERS):
            one = await stack.enter_async_context(client(url))
            assert (await one.get("/v2/")).status == 200  # each stays with its worker
            served.clients.append(one)
        yield served


@pytest.mark.parametrize("kind", ["tag", "repository", "digest"])
async def test_what_is_forgotten_is_served_by_no_worker(
    upstream: ScriptedRegistry, served: Served, kind: str
) -> None:
    old = add(upstream, 1)
    assert await served.manifests() == [old.manifest] * WORKERS
    new = add(upstream, 2)
    served.offset = 7200
    assert await served.manifests() == [old.manifest] * WORKERS  # as they remember it
    whats: dict[str, Forgettable] = {
        "tag": TagOf(APP, Tag("1")),
        "repository": APP,
        "digest": parse_digest(old.digest),
    }
    served.forget(whats[kind])
    assert await served.manifests() == [new.manifest] * WORKERS


async def test_an_answer_that_is_under_way_is_given_and_not_kept(
    upstream: ScriptedRegistry, served: Served
) -> None:
    old = add(upstream, 1)
    gate = upstream.hold("1", after=10)  # bytes: what it is has been decided
    early, late = served.clients

    async def held_twice() -> bool:
        return len(gate.held) == WORKERS

    async with asyncio.TaskGroup() as tasks:
        before = tasks.create_task(early.manifest("org/app", "1"))
        await gate.reached()
        served.forget(TagOf(APP, Tag("1")))
        new = add(upstream, 2)
        after = tasks.create_task(late.manifest("org/app", "1"))
        await until(held_twice)
        gate.open()
    assert (before.result().body, after.result().body) == (old.manifest, new.manifest)
    assert await served.manifests() == [new.manifest] * WORKERS

"""A database server and a bucket for all tests here; each test has a deployment of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.bucket import BucketServer, RunBucket, begin_obstore
from tests.support.fleet import Fleet, running_fleet
from tests.support.mirror import upstream_at
from tests.support.postgres import Postgres
from tests.support.upstream import ScriptedRegistry

StartFleet = Callable[..., Awaitable[Fleet]]


@pytest.fixture(scope="session", autouse=True)
def obstore_has_begun() -> None:
    begin_obstore()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres.running() as server:
        yield server


@pytest.fixture(scope="session")
def bucket_server(
    tmp_path_factory: pytest.TempPathFactory, run_bucket: RunBucket
) -> Iterator[BucketServer]:
    with asyncio.Runner() as runner:
        running = run_bucket(tmp_path_factory.mktemp("bucket"))
        yield runner.run(running.__aenter__())
        runner.run(running.__aexit__(None, None, None))


@pytest.fixture
async def start_fleet(
    tmp_path: Path, upstream: ScriptedRegistry, postgres: Postgres, bucket_server: BucketServer
) -> AsyncIterator[StartFleet]:
    """`fleet = await start_fleet(3)`: so many mirrors, docker.io at `upstream`, or at a `url`."""
    async with AsyncExitStack() as stack:

        async def start(
            count: int = 2,
            url: str | None = None,
            access: str = "mirror",
            push: str = "off",
            **settings: Any,
        ) -> Fleet:
            docker = upstream_at(url or upstream.url) | {"access": access, "push": push}
            return await stack.enter_async_context(
                running_fleet(
                    tmp_path, {"docker.io": docker},
                    postgres=postgres, bucket_server=bucket_server, count=count, **settings,
                )
            )  # fmt: skip

        yield start

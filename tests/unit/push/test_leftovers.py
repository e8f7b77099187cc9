"""What an earlier process has left of uploads is kept for what is left of `push.keep_for`."""

import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from mirror.aio.tasks import owned_tasks
from mirror.config import Push
from mirror.oci.reference import Repository
from mirror.pull.fill.retries import RetryPolicy
from mirror.push import remains
from mirror.push.content import Spooled
from mirror.push.course import Course, Means
from mirror.push.upload import Upload
from mirror.push.uploads import Uploads
from mirror.storage.store import LocalStorage
from mirror.telemetry.push_metrics import PushCounts
from tests.support.clock import FakeClock
from tests.unit.storage.opening import open_store

HOUR = 3600
KEEP_FOR = 10 * HOUR
WHERE = Repository("docker.io", "library/app")
NAME = "0" * 32
CENTURY = 100 * 365 * 24 * HOUR


async def _arrived(_: Course) -> None:
    raise AssertionError("nothing is sent here")


class Restarts:
    """Mirrors one after another, on one disk."""

    def __init__(self, root: Path, stack: AsyncExitStack) -> None:
        self.clock = FakeClock()
        self.file = root / "push" / NAME
        self._root = root
        self._stack = stack
        self._store: LocalStorage | None = None

    async def start(self) -> Uploads:
        """The next one; the one before has ended."""
        await self._stack.aclose()
        tasks = await self._stack.enter_async_context(owned_tasks(lambda *_: None))
        self._store = await self._stack.enter_async_context(open_store(self._root))
        means = Means(
            tasks, RetryPolicy(3), random.Random(), self.clock.monotonic,  # noqa: S311 - jitter
            PushCounts(CollectorRegistry()), _arrived, remains.keep,
        )  # fmt: skip
        uploads = Uploads(
            self._store.spools, means, Push.model_validate({"keep_for": "10h"}),
            capacity=lambda: 2**30, wall=self.clock,
        )  # fmt: skip
        await uploads.recover(lambda _: True)
        return uploads

    async def leave(self, uploads: Uploads) -> None:
        """An upload whose last byte has come now."""
        assert self._store is not None
        spool = await self._store.spools.begin(NAME)
        content = Spooled(spool)
        await content.append(b"pushed")
        course = uploads.courses.add(WHERE, content, None)
        course.leader = "upload"
        await remains.keep(course)
        self.written(self.clock())

    def written(self, at: float) -> None:
        """What the disk says of when the last byte came."""
        os.utime(self.file, (at, at))


@pytest.fixture
async def restarts(tmp_path: Path) -> AsyncIterator[Restarts]:
    async with AsyncExitStack() as stack:
        found = Restarts(tmp_path / "store", stack)
        await found.leave(await found.start())
        yield found


def left(uploads: Uploads) -> list[Upload]:
    """The uploads that a client can go on with, by what follows the courses."""
    return [it for course in uploads.courses for it in course.followers if isinstance(it, Upload)]


async def test_restarts_do_not_make_what_was_left_any_younger(restarts: Restarts) -> None:
    for _ in range(2):
        restarts.clock.advance(2 * HOUR)
        await restarts.start()
    restarts.clock.advance(2 * HOUR)
    uploads = await restarts.start()
    restarts.clock.advance(4 * HOUR - 1)
    await uploads.tidy()
    assert len(left(uploads)) == 1
    restarts.clock.advance(1)
    await uploads.tidy()
    assert not left(uploads)
    assert not restarts.file.exists()


@pytest.mark.parametrize("age", [CENTURY, KEEP_FOR + 1])
async def test_what_a_clock_says_is_too_old_is_kept_for_a_while(
    restarts: Restarts, age: int
) -> None:
    """It may be the clock; and after a long outage clients come back when the mirror does."""
    restarts.written(restarts.clock() - age)
    uploads = await restarts.start()
    restarts.clock.advance(HOUR - 1)
    await uploads.tidy()
    assert len(left(uploads)) == 1
    restarts.clock.advance(1)
    await uploads.tidy()
    assert not restarts.file.exists()


async def test_what_a_clock_has_dated_ahead_ages_from_the_restart_on(restarts: Restarts) -> None:
    restarts.written(restarts.clock() + CENTURY)
    uploads = await restarts.start()
    await uploads.tidy()
    assert len(left(uploads)) == 1
    restarts.clock.advance(6 * HOUR)
    uploads = await restarts.start()
    restarts.clock.advance(4 * HOUR - 1)
    await uploads.tidy()
    assert len(left(uploads)) == 1
    restarts.clock.advance(1)
    await uploads.tidy()
    assert not restarts.file.exists()

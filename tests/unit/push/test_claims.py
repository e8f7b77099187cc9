"""What rests here, and is at the registry by its own word, has arrived."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from mirror.aio.tasks import owned_tasks
from mirror.config import Push
from mirror.oci.digest import Digest, Hasher, digest_of, parse_digest
from mirror.oci.errors import StoreError
from mirror.oci.reference import Repository
from mirror.pull.fill.retries import RetryPolicy
from mirror.push.content import Spooled
from mirror.push.course import Course, Means
from mirror.push.courses import Courses
from mirror.push.states import CourseState
from mirror.sources.targets import Target
from mirror.storage.spools import Spool
from mirror.telemetry.push_metrics import PushCounts
from tests.support.clock import FakeClock
from tests.support.images import digest_of as digest_by
from tests.unit.storage.opening import open_store

WHERE = Repository("docker.io", "library/app")
CONTENT = b"pushed"
DIGEST = digest_of(CONTENT)
OTHER = digest_of(b"others")  # of the same size
NOBODY = cast("Target", None)  # nothing is asked of it: there is no upload there


class Counting(Spooled):
    """Counts how often it is hashed, which waits until it may."""

    def __init__(self, spool: Spool) -> None:
        super().__init__(spool)
        self.hashed = 0
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.fails = False

    async def hasher(self, algorithm: str) -> Hasher:
        self.hashed += 1
        self.asked.set()
        await self.may_answer.wait()
        if self.fails:
            raise StoreError("the disk is gone")
        return await super().hasher(algorithm)


class Resting:
    """One course that rests."""

    def __init__(self, courses: Courses, course: Course, content: Counting) -> None:
        self.courses = courses
        self.course = course
        self.content = content
        self.arrived: list[Digest | None] = []

    async def claim(self, digest: Digest = DIGEST, size: int = len(CONTENT)) -> None:
        await self.courses.claim(WHERE, digest, size, NOBODY)


@asynccontextmanager
async def resting(root: Path) -> AsyncIterator[Resting]:
    async with open_store(root) as store, owned_tasks(lambda *_: None) as tasks:

        async def arrived(course: Course) -> None:
            it.arrived.append(course.sealed)

        async def keep(_: Course) -> None:
            pass

        means = Means(
            tasks, RetryPolicy(3), random.Random(), FakeClock().monotonic,  # noqa: S311 - jitter
            PushCounts(CollectorRegistry()), arrived, keep,
        )  # fmt: skip

        def let_go(_: Course) -> None:
            pass

        courses = Courses(
            store.spools, means, Push(), capacity=lambda: 2**30, let_go=let_go
        )  # fmt: skip
        content = Counting(await store.spools.begin("0" * 32))
        await content.append(CONTENT)
        it = Resting(courses, courses.add(WHERE, content, None), content)
        yield it


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_what_is_there_is_hashed_once_however_often_something_else_is_asked_for(
    tmp_path: Path, algorithm: str
) -> None:
    async with resting(tmp_path) as it:
        for _ in range(3):
            await it.claim(parse_digest(digest_by(b"others", algorithm)))
        assert it.content.hashed == 1
        assert it.course.is_resting
        await it.claim(digest := parse_digest(digest_by(CONTENT, algorithm)))
        assert it.content.hashed == 1
        assert it.arrived == [digest]
        assert it.course.state is CourseState.DONE


async def test_of_two_who_ask_at_one_moment_both_wait_and_one_is_noted(tmp_path: Path) -> None:
    async with resting(tmp_path) as it:
        await asyncio.gather(it.claim(), it.claim(OTHER), it.claim())
        assert it.arrived == [DIGEST]


async def test_what_is_of_another_size_or_sealed_otherwise_is_not_hashed(tmp_path: Path) -> None:
    async with resting(tmp_path) as it:
        await it.claim(size=len(CONTENT) + 1)
        it.course.sealed = OTHER
        await it.claim()
        assert not it.content.hashed
        assert not it.arrived


async def test_bytes_that_come_while_it_is_hashed_leave_it_as_it_is(tmp_path: Path) -> None:
    async with resting(tmp_path) as it, asyncio.TaskGroup() as tasks:
        it.content.may_answer.clear()
        asking = tasks.create_task(it.claim())
        await it.content.asked.wait()
        assert await it.course.extend(len(CONTENT), b"more", "upload")
        it.content.may_answer.set()
        await asking
        assert it.course.sealed is None
        assert it.course.is_resting
        await it.claim(digest_of(CONTENT + b"more"), len(CONTENT) + 4)
        assert it.course.state is CourseState.DONE


async def test_what_is_dropped_while_it_is_hashed_does_not_arrive(tmp_path: Path) -> None:
    async with resting(tmp_path) as it, asyncio.TaskGroup() as tasks:
        it.content.may_answer.clear()
        asking = tasks.create_task(it.claim())
        await it.content.asked.wait()
        await it.courses.drop(it.course)
        await asking
        assert not it.arrived


async def test_who_asks_hears_nothing_of_a_disk_that_fails_and_it_may_arrive_later(
    tmp_path: Path,
) -> None:
    async with resting(tmp_path) as it:
        it.content.fails = True
        await it.claim()
        assert it.course.state is CourseState.RESTING
        it.content.fails = False
        await it.claim()
        assert it.arrived == [DIGEST]

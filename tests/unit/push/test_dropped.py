"""Courses are dropped at any moment: while they are compared, asked after, or have just begun."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from mirror.aio.sending import FilePart
from mirror.aio.tasks import owned_tasks
from mirror.config import Push
from mirror.oci.digest import Hasher
from mirror.oci.reference import Repository
from mirror.pull.fill.retries import RetryPolicy
from mirror.push.content import Content, Spooled
from mirror.push.course import Course, Means
from mirror.push.upload import Upload
from mirror.push.uploads import Uploads
from mirror.storage.store import LocalStorage
from mirror.telemetry.push_metrics import PushCounts
from tests.support.clock import FakeClock
from tests.support.images import random_bytes
from tests.unit.storage.opening import open_store

WHERE = Repository("docker.io", "library/app")
FIRST = random_bytes(2**16, seed=51)  # enough to find a course by
MAX_SPOOL = 4 * 2**20


class Slow:
    """A `Content` that is read only when it is told to be."""

    def __init__(self, content: bytes) -> None:
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.is_closed = False
        self._content = content

    @property
    def size(self) -> int:
        return len(self._content)

    async def read(self, offset: int, length: int) -> bytes:
        self.asked.set()
        await self.may_answer.wait()
        assert not self.is_closed
        return self._content[offset : offset + length]

    def part(self, offset: int, length: int) -> FilePart:  # noqa: ARG002 - of the port
        raise AssertionError("nothing is sent here")

    async def hasher(self, algorithm: str) -> Hasher:  # noqa: ARG002 - of the port
        raise AssertionError("nothing is finished here")

    def close(self) -> None:
        self.is_closed = True


class Pushes:
    """Uploads of one client, on a disk, of which no registry is sent anything."""

    def __init__(self, store: LocalStorage, means: Means) -> None:
        self.store = store
        self.uploads = Uploads(
            store.spools, means, Push.model_validate({"max_spool": "4 MiB"}),
            capacity=lambda: 2**30, wall=FakeClock(),
        )  # fmt: skip
        self.is_kept = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def keep(self, _: Course) -> None:
        self.is_kept.set()
        await self.may_go_on.wait()

    async def spooled(self, name: str, content: bytes) -> Course:
        """A course that has come so far, and rests."""
        found = Spooled(await self.store.spools.begin(name * 32))
        await found.append(content)
        return self.add(found)

    def add(self, content: Content) -> Course:
        return self.uploads.courses.add(WHERE, content, None)

    def begin(self) -> Upload:
        """An upload with a request under way."""
        upload = Upload("upload", WHERE, now=0.0, client="127.0.0.1")
        upload.requests = 1
        return upload


@asynccontextmanager
async def pushing(root: Path) -> AsyncIterator[Pushes]:
    async with open_store(root) as store, owned_tasks(lambda *_: None) as tasks:

        async def arrived(_: Course) -> None:
            raise AssertionError("nothing is sent here")

        async def keep(course: Course) -> None:
            await pushes.keep(course)

        means = Means(
            tasks, RetryPolicy(3), random.Random(), FakeClock().monotonic,  # noqa: S311 - jitter
            PushCounts(CollectorRegistry()), arrived, keep,
        )  # fmt: skip
        pushes = Pushes(store, means)
        yield pushes


async def test_what_is_dropped_while_others_are_compared_is_not_followed(tmp_path: Path) -> None:
    async with pushing(tmp_path) as pushes, asyncio.TaskGroup() as tasks:
        gone, other = await pushes.spooled("0", FIRST), Slow(FIRST[:1000] + bytes(1000))
        pushes.add(other)
        upload = pushes.begin()
        writing = tasks.create_task(pushes.uploads.write(upload, 0, FIRST))
        await other.asked.wait()
        await pushes.uploads.courses.drop(gone)
        other.may_answer.set()
        await writing
        await pushes.uploads.write(upload, len(FIRST), FIRST)
        [followed] = upload.followed
        assert followed is not gone
        assert await followed.content.read(0, 2 * len(FIRST)) == 2 * FIRST


async def test_what_is_dropped_while_it_is_compared_is_closed_after_that(tmp_path: Path) -> None:
    async with pushing(tmp_path) as pushes, asyncio.TaskGroup() as tasks:
        content = Slow(FIRST)
        course, upload = pushes.add(content), pushes.begin()
        writing = tasks.create_task(pushes.uploads.write(upload, 0, FIRST))
        await content.asked.wait()
        dropping = tasks.create_task(pushes.uploads.courses.drop(course))
        await asyncio.sleep(0)
        content.may_answer.set()
        await writing
        await dropping
        assert content.is_closed
        assert upload.followed
        assert upload.followed != [course]


async def test_what_has_just_begun_makes_no_room_for_others(tmp_path: Path) -> None:
    async with pushing(tmp_path) as pushes, asyncio.TaskGroup() as tasks:
        alike, upload = await pushes.spooled("0", FIRST + b"other"), pushes.begin()
        await pushes.uploads.write(upload, 0, FIRST)
        assert upload.followed == [alike]
        pushes.may_go_on.clear()
        writing = tasks.create_task(pushes.uploads.write(upload, len(FIRST), FIRST))
        await pushes.is_kept.wait()
        await pushes.uploads.courses.make_room(None, MAX_SPOOL - len(FIRST) - 10)
        pushes.may_go_on.set()
        await writing
        assert [*pushes.uploads.courses] == upload.followed != [alike]

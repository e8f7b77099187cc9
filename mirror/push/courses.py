"""All courses, and what bounds them: the disk that they take, the files that are open, and time.

A course that nobody goes on with rests, for `push.keep_for`. What rests makes room for what does
not, that which has rested longest first; where nothing rests, whoever has more of the disk than
others makes room for who has less than an equal share, and else is told to wait.
"""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from mirror.aio.slots import client
from mirror.config import Push
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode, Refused, Unavailable
from mirror.oci.reference import Repository
from mirror.push.caution import Caution
from mirror.push.content import Content, Spooled
from mirror.push.course import Course, Means
from mirror.push.states import CourseState
from mirror.sources.targets import Standing, Target
from mirror.storage.errors import NoRoom
from mirror.storage.spools import Spools
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_DONE_FOR = 60.0  # seconds for which who pushes the same a moment later shares what is done
_COMPARED = 64  # courses that the first bytes of an upload are compared with
_MOST = 512  # files that are open
_COPIED = 2**20  # bytes at a time
_CLAIMED_WITHIN = 10.0  # seconds for which a question waits; no client is patient for ever
_FULL = 507  # RFC 4918, 11.5

RETRY_AFTER = 30.0
"""Seconds after which whoever is told that there is no place may try again."""


class Courses:
    """By repository, the latest last.

    `capacity` gives the bytes that the store may take. `let_go` is told of each course that is
    dropped, before it is.
    """

    def __init__(
        self,
        spools: Spools,
        means: Means,
        settings: Push,
        *,
        capacity: Callable[[], int],
        let_go: Callable[[Course], None],
    ) -> None:
        self.settings = settings
        self._spools = spools
        self._means = means
        self._capacity = capacity
        self._let_go = let_go
        self._courses: dict[Repository, list[Course]] = {}
        self._cautions: dict[str, Caution] = {}

    def __iter__(self) -> Iterator[Course]:
        for courses in [*self._courses.values()]:
            yield from [*courses]

    @property
    def spooled(self) -> int:
        """Bytes of the disk that all of them take."""
        return sum(it.size for it in self if isinstance(it.content, Spooled) and not it.is_over)

    def on_their_way(self) -> list[Course]:
        """Those that have not ended, for people to look at."""
        return [course for course in self if not course.is_over]

    def find(self, repository: Repository) -> list[Course]:
        """Those of a repository that bytes can be had of, or added to."""
        there = self._courses.get(repository, [])
        return [it for it in there if it.state is not CourseState.FAILED]

    def list_comparable(self, repository: Repository) -> list[Course]:
        """What the first bytes of an upload are compared with."""
        return [it for it in self.find(repository) if it.size][-_COMPARED:]

    def add(
        self, repository: Repository, content: Content, standing: Standing | None, *,
        is_found: bool = False,
    ) -> Course:  # fmt: skip
        """A course of its own for this content."""
        caution = self._cautions.setdefault(repository.namespace, Caution())
        course = Course(
            repository, content, self._means, caution, standing=standing, is_found=is_found
        )
        self._courses.setdefault(repository, []).append(course)
        return course

    async def copy(self, length: int, find_origin: Callable[[], Course]) -> Spooled:
        """Begin a spool with so many bytes of a course, which is found anew for each piece.

        Raises:
            RegistryError: What `find_origin` raises; or there is no room.
        """
        await self._make_place()
        spool = await self._spools.begin(secrets.token_hex(16))
        content = Spooled(spool)
        try:
            while content.size < length:
                await self.make_room(None, _COPIED)
                step = min(_COPIED, length - content.size)
                await content.append(await find_origin().read(content.size, step))
        except BaseException:
            content.close()
            await spool.remove()
            raise
        return content

    async def make_room(self, growing: Course | None, size: int) -> None:
        """See that `push.max_spool` is kept.

        Raises:
            Refused: It is full (507).
        """
        limit = min(self.settings.max_spool, self._capacity() // 2)
        while self.spooled + size > limit:
            idle = [
                it for it in self
                if not (it.is_active or it.is_over or it is growing or it.is_busy)
                and isinstance(it.content, Spooled)
            ]  # fmt: skip
            idle = idle or self._of_who_has_most(growing, size, limit)
            if not idle:
                raise _full("the mirror has no room for more uploads (push.max_spool); try later")
            await self.drop(min(idle, key=lambda it: it.since))

    def _of_who_has_most(self, growing: Course | None, size: int, limit: int) -> list[Course]:
        """What a client brings that has more than its share of the disk, for one that has less.

        What several bring counts for each of them, and stays for one that has no more than that:
        who comes from two addresses has the shares of both, and no more.
        """
        held, asking = Counter[str | None](), client.get()
        held[asking] += size
        for it in self:
            if isinstance(it.content, Spooled) and not it.is_over:
                held.update(dict.fromkeys(_clients_of(it), it.size))
        rich = {one for one, size in held.items() if size * len(held) > limit}
        if asking in rich:
            return []
        theirs = [
            it for it in self
            if it is not growing and not it.is_over and _clients_of(it) <= rich
            and isinstance(it.content, Spooled)
        ]  # fmt: skip
        most = max((held[one] for it in theirs for one in _clients_of(it)), default=0)
        return [it for it in theirs if any(held[one] == most for one in _clients_of(it))]

    async def _make_place(self) -> None:
        """See that there are not too many files: each is open, however little is in it.

        Raises:
            Unavailable: All of them are in use (429).
        """
        while sum(1 for _ in self) >= _MOST:
            idle = [it for it in self if not (it.is_active or it.is_busy)]
            if not idle:
                raise Unavailable(
                    "the mirror has as many uploads under way as it can",
                    code=ErrorCode.TOOMANYREQUESTS, retry_after=RETRY_AFTER,
                )  # fmt: skip
            await self.drop(min(idle, key=lambda it: it.since))

    async def drop(self, course: Course) -> None:
        """It is not wanted any more. Raises StoreError."""
        if course.is_dropped:
            return
        self._let_go(course)
        courses = self._courses.get(course.repository, [])
        if course in courses:
            courses.remove(course)
        if not courses:
            self._courses.pop(course.repository, None)
        await course.drop()

    def may_claim(self, repository: Repository) -> bool:
        """Whether anything rests there that the registry may have by now."""
        return any(it.is_resting for it in self.find(repository))

    async def claim(
        self, repository: Repository, digest: Digest, size: int, target: Target
    ) -> None:
        """The registry has this: so it is with what is here of it, and rests.

        Whoever was to be told so has gone with the mirror before, or with the answer; and a client
        that hears from the registry that it is there does not bring it again. To hash what is
        large takes its time: beyond `_CLAIMED_WITHIN`, that goes on by itself.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLAIMED_WITHIN):
                for course in self.find(repository):
                    await course.claim(digest, size, target)

    async def tidy(self, now: float) -> None:
        """Let go what nobody has gone on with for too long. Raises StoreError."""
        for course in self:
            patience = _DONE_FOR if course.is_over else self.settings.keep_for
            if not (course.is_active or course.is_busy) and now - course.since >= patience:
                await self.drop(course)


def _clients_of(course: Course) -> set[str | None]:
    return {it.client for it in course.followers}


async def is_there_yet(course: Course, target: Target) -> bool:
    """Whether the registry has, at this moment, what a course has brought there a moment ago.

    Somebody may have deleted it there; and 201 means that it has it. Raises RegistryError.
    """
    if course.state is not CourseState.DONE or course.sealed is None:
        return True
    return await target.find_blob(course.sealed) is not None


@contextmanager
def translated() -> Iterator[None]:
    """What a full disk is to clients, inside the block."""
    try:
        yield
    except NoRoom as error:
        _logger.warning("no room for what is pushed: %s", error, extra=fields())
        raise _full("the mirror's disk is full; try later") from error


def _full(message: str) -> Refused:
    """There is no room on the disk."""
    return Refused(_FULL, message, [{"code": ErrorCode.SIZE_INVALID, "message": message}])

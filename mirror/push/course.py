"""A course: bytes on their way to a registry, under one upload there, whoever brings them.

    state      means                                               next
    resting    nothing is to be sent, or nobody sees to it         sending, done, failed
    sending    they are being sent, or asked after, or ended       resting, waiting, denied, done,
                                                                   failed
    waiting    the line broke: it is tried again in a moment       sending, resting, failed
    denied     the registry wants other credentials                sending, resting, failed
    done       the registry has all of it, as one blob             -
    failed     it never will; nothing is kept                      -

One request lasts for as long as bytes come, as docker's does. When it breaks, the registry is asked
how far it has come, and the rest follows; where it has forgotten all of it, everything does, with
`caution`. Whoever brings bytes is held back to what has gone out, so that what clients are shown of
their progress is true. A course belongs to the application: it goes on when whoever waits leaves.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from random import Random

from mirror.aio.tasks import Tasks
from mirror.oci.digest import Digest, Hasher
from mirror.oci.errors import (
    Denied,
    ErrorCode,
    Missing,
    Refused,
    RegistryError,
    Unavailable,
)
from mirror.oci.reference import Repository
from mirror.pull.fill.retries import Failure, RetryPolicy, Streak
from mirror.push.caution import ENOUGH, Caution
from mirror.push.content import Content, Spooled
from mirror.push.following import Alike
from mirror.sources.targets import Standing, Target
from mirror.telemetry.log import fields
from mirror.telemetry.push_metrics import PushCounts

_logger = logging.getLogger(__name__)

AHEAD = 4 * 2**20
"""Bytes by which a client may be ahead of what was sent."""

_PIECE = 2**18  # bytes read at a time
_PATIENCE = 10.0  # seconds without a byte of the client's, before a request to the registry ends
_TOO_LARGE = 413  # some refuse the size of a request, and not that of the blob


class CourseState(Enum):
    """See the table at the top of this module."""

    RESTING = "resting"
    SENDING = "sending"
    WAITING = "waiting"
    DENIED = "denied"
    DONE = "done"
    FAILED = "failed"


_NEXT = {
    CourseState.RESTING: {CourseState.SENDING, CourseState.DONE, CourseState.FAILED},
    CourseState.SENDING: {
        CourseState.RESTING, CourseState.WAITING, CourseState.DENIED, CourseState.DONE,
        CourseState.FAILED,
    },
    CourseState.WAITING: {CourseState.SENDING, CourseState.RESTING, CourseState.FAILED},
    CourseState.DENIED: {CourseState.SENDING, CourseState.RESTING, CourseState.FAILED},
    CourseState.DONE: set[CourseState](),
    CourseState.FAILED: set[CourseState](),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Means:
    """What every course needs. `clock` is never set back.

    `arrived` is told, before anybody else, of what the registry has now; `keep` puts down on disk
    how a course stands, for a mirror that starts after this one has died.
    """

    tasks: Tasks
    policy: RetryPolicy
    random: Random
    clock: Callable[[], float]
    counts: PushCounts
    arrived: Callable[["Course"], Awaitable[None]]
    keep: Callable[["Course"], Awaitable[None]]


class Follower:
    """Whoever brings the bytes of a course, or waits for it."""

    requests = 0
    """How many of its are under way."""

    is_settled = True
    """Whether there is one course only whose bytes are its own, for all that is known."""


class Course:
    """See the top of this module. `standing`: of an upload that was begun for it already."""

    def __init__(
        self,
        repository: Repository,
        content: Content,
        means: Means,
        caution: Caution,
        *,
        standing: Standing | None = None,
        is_found: bool = False,
    ) -> None:
        self.repository = repository
        self.content = content
        self.standing = standing
        self.target: Target | None = None
        self.sealed: Digest | None = None
        self.leader = ""  # the upload that has brought the last bytes
        self.followers: set[Follower] = set()
        self.state = CourseState.RESTING
        self.since = means.clock()  # of its last change
        self.error: RegistryError | None = None
        self._means = means
        self._caution = caution
        self._denied: Target | None = None  # by whom it was tried in vain
        self._must_ask = is_found
        self._is_resumed = False
        self._sent = 0 if standing is None else standing.offset  # as far as that was begun
        self._streak = Streak(0)
        self._restarts = 0
        self._is_extending = False
        self._task: asyncio.Task[None] | None = None
        self._waiters: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"<Course to {self.repository}: {self.state.value}, {self.content.size} bytes>"

    @property
    def size(self) -> int:
        """Bytes that are here."""
        return self.content.size

    @property
    def sent(self) -> int:
        """Bytes of these that are at the registry, or on their way."""
        return self._sent

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in {CourseState.DONE, CourseState.FAILED}

    @property
    def is_active(self) -> bool:
        """Whether somebody brings bytes, or waits."""
        return any(it.requests and it.is_settled for it in self.followers)

    @property
    def is_busy(self) -> bool:
        """Whether something is under way with the registry."""
        return self._task is not None

    # What uploads do with it

    def go_on(self, target: Target | None = None) -> None:
        """Somebody brings bytes, or waits: see to it. `target`: a request has come, by which to."""
        if target is not None and not self.is_over:
            self.target, self._denied, self.error = target, None, None
        self._tell()
        if self._task is None and self._has_work():
            self._task = self._means.tasks.create_task(self._run(), name="push")

    def touch(self) -> None:
        """Somebody has just been here."""
        self.since = self._means.clock()
        if isinstance(self.content, Spooled) and not self.is_active:
            self.content.spool.rest()
        self.go_on()
        if not self.is_active:
            self.content.let_go(self.size)  # it may be a day before there is more

    async def compare(self, offset: int, piece: bytes) -> Alike:
        """How a piece is like what is here from `offset` on. Raises StoreError."""
        there = min(max(0, self.size - offset), len(piece))
        is_closed = self.sealed is not None or self.is_over or not isinstance(self.content, Spooled)
        if offset > self.size or self.state is CourseState.FAILED:
            return Alike(0, is_equal=False, is_closed=True)
        position = offset
        while position < offset + there:
            found = await self.content.read(position, offset + there - position)
            if found != piece[position - offset : position - offset + len(found)]:
                return Alike(0, is_equal=False, is_closed=True)
            position += len(found)
        return Alike(there, is_equal=True, is_closed=is_closed)

    async def extend(self, offset: int, piece: bytes, leader: str) -> bool:
        """Take what follows; False: something else has happened meanwhile.

        Raises:
            NoRoom, StoreError: It cannot be kept.
        """
        if self._is_extending:
            await self._until(lambda: not self._is_extending)
            return False
        if offset != self.size or self.sealed or self.is_over:
            return False
        assert isinstance(self.content, Spooled)  # noqa: S101 - others cannot be extended
        self._is_extending = True
        try:
            await self.content.append(piece)
        finally:
            self._is_extending = False
        if self.leader != leader:
            self.leader = leader
            await self._note()
        self.go_on()
        return True

    async def keep_pace(self, position: int) -> None:
        """Return once what was sent is not far behind `position`.

        Raises:
            RegistryError: It will never be.
        """
        await self._until(
            lambda: position - self._sent <= max(AHEAD, self._least()) or self._is_held_up()
        )
        if self.error is not None and not self._waits_for_a_login():
            raise self.error

    async def finish(self, digest: Digest, target: Target) -> None:
        """This is all of it: return when the registry has it.

        Raises:
            RegistryError: It never will, or not on that authority, or not now.
        """
        self.sealed = digest
        self.go_on(target)
        await self._until(lambda: self.is_over or self._is_held_up())
        if self.state is not CourseState.DONE:
            raise self.error or Unavailable("the mirror has stopped pushing it")

    async def hasher(self, algorithm: str) -> Hasher:
        """What has taken in all of it. Raises StoreError."""
        return await self.content.hasher(algorithm)

    async def drop(self) -> None:
        """It is not wanted: the registry is told, and nothing is kept. Raises StoreError."""
        if not self.is_over:
            self._fail(Missing(ErrorCode.BLOB_UPLOAD_UNKNOWN, "the upload was given up"))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        try:
            if isinstance(self.content, Spooled):
                await self.content.spool.remove()
        finally:
            self.content.close()

    def _is_held_up(self) -> bool:
        return self.error is not None

    def _waits_for_a_login(self) -> bool:
        """Whether all that is lacking is a token, which comes with the client's next request."""
        error = self.error
        return isinstance(error, Denied) and error.code is ErrorCode.UNAUTHORIZED

    # What happens by itself

    def _has_work(self) -> bool:
        if self.is_over or self.target is None or self.target == self._denied:
            return False
        done = 0 if self.standing is None else self.standing.offset
        return self.sealed is not None or (self.size > done and self.is_active)

    async def _run(self) -> None:
        try:
            while self._has_work() and self.error is None:
                await self._try()
        except Exception:
            self._fail(Unavailable("the mirror has a fault; see its log"))
            raise
        finally:
            self._task = None
        if self.state in {CourseState.SENDING, CourseState.WAITING}:
            self._move(CourseState.RESTING)

    async def _try(self) -> None:
        target = self.target
        assert target is not None  # noqa: S101 - there is work
        self._move(CourseState.SENDING)
        try:
            await self._step(target)
        except Denied as error:
            self._must_ask, self._denied, self.error = True, target, error
            self._move(CourseState.DENIED)
        except Missing as error:
            await self._begin_anew(target, error)
        except Unavailable as error:
            await self._pause(error)
        except Refused as error:
            if not self._can_do_without(error):
                self._fail(error)
        except RegistryError as error:
            self._fail(error)

    async def _step(self, target: Target) -> None:
        standing = self.standing
        if standing is None:
            standing = self.standing = await target.begin()
            assert standing is not None  # noqa: S101 - nothing was to be mounted
            await self._note()
        elif self._must_ask:
            standing = await self._ask(target, standing)
        if self.sealed is not None and standing.offset == self.size:
            self._must_ask = True
            await target.finish(standing, self.sealed)
            await self._end()
        else:
            await self._send(target, standing)

    async def _ask(self, target: Target, standing: Standing) -> Standing:
        found = await target.ask(standing)
        if found.offset > self.size:
            raise Missing(ErrorCode.BLOB_UPLOAD_UNKNOWN, "upstream has more than there is")
        self._must_ask, self.standing, self._sent = False, found, found.offset
        self._is_resumed = True
        self._means.counts.resumed(self.repository.namespace)
        await self._note()
        return found

    async def _send(self, target: Target, standing: Standing) -> None:
        start, length = standing.offset, await self._length_of_next(standing)
        self._sent, self._must_ask = start, True
        chunks = self._feed(start, None if length is None else start + length)
        try:
            self.standing = await target.send(standing, chunks, length=length)
        finally:
            await chunks.aclose()
        if not 0 <= self.standing.offset <= self.size:
            raise Missing(ErrorCode.BLOB_UPLOAD_UNKNOWN, "upstream has more than it was sent")
        self._must_ask, self._sent = False, self.standing.offset
        await self._note()

    async def _length_of_next(self, standing: Standing) -> int | None:
        """How much goes into the next request; None: for as long as there is more."""
        chunk = self._caution.at(self._means.clock())
        if not chunk:
            return None
        chunk, start = max(chunk, standing.least), standing.offset
        enough = min(chunk, max(AHEAD, standing.least))  # a client that is held back brings no more
        await self._until(lambda: self.size - start >= enough or not self._is_growing())
        return min(chunk, self.size - start)

    def _least(self) -> int:
        """Bytes that upstream wants to have in one request, before it takes any."""
        return 0 if self.standing is None else self.standing.least

    async def _feed(self, start: int, stop: int | None) -> AsyncGenerator[bytes, None]:
        position, mark, began = start, start, self._means.clock()
        while stop is None or position < stop:
            if not await self._has_more_soon(position, start):
                return
            limit = self.size if stop is None else min(stop, self.size)
            if position >= limit:
                return
            piece = await self.content.read(position, min(_PIECE, limit - position))
            yield piece
            position += len(piece)
            self._sent = position
            self.content.let_go(position)
            self._means.counts.sent(self.repository.namespace, len(piece))
            self._tell()
            if stop is None and position - mark >= ENOUGH:
                now = self._means.clock()
                if self._caution.is_enough(position - mark, now - began, now=now):
                    return
                mark, began = position, now

    async def _has_more_soon(self, position: int, start: int) -> bool:
        """Wait for what follows; not for ever: others need the connection that a request has."""
        may_end = position - start >= max(1, self._least()) and not self._caution.takes_no_parts
        try:
            async with asyncio.timeout(_PATIENCE if may_end else None):
                await self._until(lambda: self.size > position or not self._is_growing())
        except TimeoutError:
            return False
        return True

    def _is_growing(self) -> bool:
        return self.sealed is None and self.is_active and not self.is_over

    async def _begin_anew(self, target: Target, error: Missing) -> None:
        """The registry knows the upload no longer: it has the blob by now, or nothing."""
        got_through = self._sent - (0 if self.standing is None else self.standing.offset)
        try:
            if self.sealed is not None and await target.find_blob(self.sealed) == self.size:
                await self._end()
                return
        except RegistryError:
            pass  # it will be asked again
        self._restarts += 1
        if self._restarts > self._means.policy.attempts or self.standing is None:
            self._fail(error)
            return
        self._caution.note_forgotten(got_through, now=self._means.clock())
        self.standing, self._must_ask, self._sent = None, False, 0
        _logger.info(
            "upstream has forgotten an upload: it begins anew",
            extra=fields(repository=self.repository, chunk=self._caution.chunk),
        )

    def _can_do_without(self, error: Refused) -> bool:
        """Whether what upstream refuses can be had in another way.

        Some proxies before registries bound a request, and not a blob; and a registry that cannot
        go on where it was has something else than what it was sent.
        """
        now, standing = self._means.clock(), self.standing
        self._restarts += 1
        if standing is None or self._restarts > self._means.policy.attempts:
            return False
        if error.status == _TOO_LARGE:
            before = self._caution.at(now)
            self._caution.note_forgotten(self._sent - standing.offset, now=now)
            return self._caution.chunk != before
        is_digest = any(it.get("code") == ErrorCode.DIGEST_INVALID for it in error.errors)
        if standing.offset < self.size or (self._is_resumed and is_digest):
            # It takes no part of a blob; or it has put the parts together in another way.
            if not standing.offset and not self._is_resumed:
                return False
            self._caution.note_no_parts(now=now)
            self.standing, self._must_ask, self._is_resumed, self._sent = None, False, False, 0
            return True
        return False

    async def _pause(self, error: Unavailable) -> None:
        policy = self._means.policy
        # What was sent is no progress where upstream keeps none of it.
        failures = self._streak.add(0 if self.standing is None else self.standing.offset)
        wait = policy.decide(
            Failure.BROKEN, failures, has_begun=True, wait=error.retry_after or 0.0,
            roll=self._means.random.random(),
        )  # fmt: skip
        _logger.info(
            "a push has broken: %s", error,
            extra=fields(repository=self.repository, at=self._sent, again_in=wait),
        )  # fmt: skip
        self._must_ask = self.standing is not None
        if wait is None:  # whoever waits is told; what is here stays for the next try
            self.error, self._streak = error, Streak(0)
            self._move(CourseState.RESTING)
            return
        self._move(CourseState.WAITING)
        await asyncio.sleep(wait)

    async def _end(self) -> None:
        self._sent = self.size
        await self._means.arrived(self)
        self._move(CourseState.DONE)

    def _fail(self, error: RegistryError) -> None:
        self.error = error
        if self.standing is not None and self.target is not None and self.standing.location:
            canceling = self.target.cancel(self.standing)
            _ = self._means.tasks.create_task(canceling, name="push")
            self.standing = None
        self._move(CourseState.FAILED)

    async def _note(self) -> None:
        if isinstance(self.content, Spooled):
            await self._means.keep(self)

    # States, and who waits for them

    def _move(self, state: CourseState) -> None:
        if state is not self.state:
            assert state in _NEXT[self.state], f"{self.state} -> {state}"  # noqa: S101
            self.state = state
            self.since = self._means.clock()
        self._tell()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def _tell(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

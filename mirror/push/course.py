"""A course: bytes on their way to a registry, under one upload there, whoever brings them.

`states.py` has the table of its states, and `bearings.py` what is tried where it gets no further.
One request lasts for as long as bytes come, as docker's does. When it breaks, the registry is asked
how far it has come, and the rest follows; where it has forgotten all of it, everything does, with
`caution`. Whoever brings bytes is held back to what has gone out, so that what clients are shown of
their progress is true. A course belongs to the application: it goes on when whoever waits leaves.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from mirror.aio.tasks import Tasks
from mirror.oci.digest import Digest, Hasher
from mirror.oci.errors import (
    Denied,
    ErrorCode,
    Missing,
    Refused,
    RegistryError,
    StoreError,
    Unavailable,
)
from mirror.oci.reference import Repository
from mirror.pull.fill.retries import RetryPolicy
from mirror.push.bearings import Bearings
from mirror.push.caution import Caution
from mirror.push.content import Content, Spooled
from mirror.push.feed import AHEAD, Feed
from mirror.push.growing import Growing
from mirror.push.states import CourseState
from mirror.sources.targets import Standing, Target
from mirror.telemetry.log import fields
from mirror.telemetry.push_metrics import PushCounts

_logger = logging.getLogger(__name__)


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

    client: str | None = None
    """Who it is, where that is known."""

    requests = 0
    """How many of its are under way."""

    told = 0
    """As far as it says that it brings them, in the request that is under way (0: not said)."""

    is_settled = True
    """Whether there is one course only whose bytes are its own, for all that is known."""


class Course(Growing):
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
        super().__init__(content, means.clock)
        self.repository = repository
        self.target: Target | None = None
        self.followers: set[Follower] = set()
        self.error: RegistryError | None = None
        self._means = means
        self._caution = caution
        self._denied: Target | None = None  # by whom it was tried in vain
        self._bearings = Bearings(caution, means.policy, standing, must_ask=is_found)
        self._feed = Feed(self, self._bearings, caution, means.clock, means.counts)
        self._task: asyncio.Task[None] | None = None
        self._claim: asyncio.Task[None] | None = None  # the same, while it is that
        self._hashed: dict[str, tuple[int, Hasher]] = {}  # by algorithm: of so many bytes

    def __repr__(self) -> str:
        return f"<Course to {self.repository}: {self.state.value}, {self.content.size} bytes>"

    @property
    def sent(self) -> int:
        """Bytes of these that are at the registry, or on their way."""
        return self._bearings.sent

    @property
    def standing(self) -> Standing | None:
        """Of its upload at the registry."""
        return self._bearings.standing

    @property
    def is_active(self) -> bool:
        """Whether somebody brings bytes, or waits."""
        return any(it.requests and it.is_settled for it in self.followers)

    @property
    def told(self) -> int:
        """As far as anybody says that bytes come; 0: nobody does."""
        return max((it.told for it in self.followers if it.is_settled), default=0)

    @property
    def is_busy(self) -> bool:
        """Whether something is under way with the registry."""
        return self._task is not None

    @property
    def is_resting(self) -> bool:
        """Whether it waits for somebody to go on with it."""
        return self.state is CourseState.RESTING and not self.is_active and not self.is_dropped

    # What uploads do with it

    def go_on(self, target: Target | None = None) -> None:
        """Somebody brings bytes, or waits: see to it. `target`: a request has come, by which to."""
        if target is not None and not self.is_over:
            self.target, self._denied, self.error = target, None, None
        self.tell()
        if self._task is None and self._has_work():
            self._task = self._means.tasks.create_task(self._run(), name="push")

    def touch(self) -> None:
        """Somebody has just been here."""
        self.since = self._means.clock()
        if isinstance(self.content, Spooled) and not self.is_active:
            self.content.spool.rest()
        self.go_on()

    async def keep_pace(self, position: int) -> None:
        """Return once what was sent is not far behind `position`.

        Raises:
            RegistryError: It will never be.
        """
        await self.until(
            lambda: (
                position - self.sent <= max(AHEAD, self._bearings.least) or self.error is not None
            )
        )
        if self.error is not None and not self._waits_for_a_login():
            raise self.error

    async def finish(self, digest: Digest, target: Target) -> None:
        """This is all of it: return when the registry has it.

        Raises:
            RegistryError: It never will, or not on that authority, or not now.
        """
        self.sealed = digest
        if isinstance(self.content, Spooled):
            self.content.spool.flush()  # while the registry takes the end of it
        self.go_on(target)
        await self.until(lambda: self.is_over or self.error is not None)
        if self.state is not CourseState.DONE:
            raise self.error or Unavailable("the mirror has stopped pushing it")

    async def claim(self, digest: Digest, size: int, target: Target) -> None:
        """Upstream has this: where that is what rests here, it has arrived. Nothing is raised.

        Whoever waits no longer leaves it going. Meanwhile nothing else is begun for it.
        """
        while self._claim is not None and not self._claim.done():
            await asyncio.wait([self._claim])
        if self._task is None and self.is_resting and self._may_be(digest, size):
            settling = self._settle(digest, size, target)
            self._task = self._claim = self._means.tasks.create_task(settling, name="push")
            await asyncio.wait([self._claim])

    def _may_be(self, digest: Digest, size: int) -> bool:
        """Whether it is this, for all that is known."""
        known_size, hasher = self._hashed.get(digest.algorithm, (size, None))
        return (
            self.state is CourseState.RESTING
            and not (self.is_dropped or self._is_extending)
            and isinstance(self.content, Spooled)
            and self.size == size
            and self.sealed in {None, digest}
            and (hasher is None or known_size != size or digest.matches(hasher))
        )

    async def _settle(self, digest: Digest, size: int, target: Target) -> None:
        """Who asks again and again has it hashed once; bytes may come while it is."""
        try:
            if self._hashed.get(digest.algorithm, (-1, None))[0] != size:
                hasher = await self.content.hasher(digest.algorithm)
                if self.size != size:
                    return
                self._hashed[digest.algorithm] = size, hasher
            if self._may_be(digest, size):
                self.sealed, self.error = digest, None  # also that of an answer that was lost
                await self._end()
                self._give_up(target)
        except StoreError as error:
            _logger.warning("what upstream has is not read here: %s", error, extra=fields())
        finally:
            self._task = self._claim = None
            self.go_on()

    async def drop(self) -> None:
        """It is not wanted: the registry is told, and nothing is kept. Raises StoreError."""
        self.is_dropped = True
        if not self.is_over:
            self._fail(Missing(ErrorCode.BLOB_UPLOAD_UNKNOWN, "the upload was given up"))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._put_away()

    def _waits_for_a_login(self) -> bool:
        """Whether all that is lacking is a token, which comes with the client's next request."""
        error = self.error
        return isinstance(error, Denied) and error.code is ErrorCode.UNAUTHORIZED

    # What happens by itself

    def _has_work(self) -> bool:
        if self.is_over or self.target is None or self.target == self._denied:
            return False
        more = self.size - self._bearings.offset
        return self.sealed is not None or (more >= max(1, self._bearings.least) and self.is_active)

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
            self._bearings.must_ask, self._denied, self.error = True, target, error
            self._move(CourseState.DENIED)
        except Missing as error:
            await self._begin_anew(target, error)
        except Unavailable as error:
            await self._pause(error)
        except Refused as error:
            if not self._bearings.refused(error, size=self.size, now=self._means.clock()):
                self._fail(error)
        except RegistryError as error:
            self._fail(error)

    async def _step(self, target: Target) -> None:
        standing = self.standing
        if standing is None:
            standing = await target.begin()
            assert standing is not None  # noqa: S101 - nothing was to be mounted
            self._bearings.found(standing, now=self._means.clock())
            await self._note()
        elif self._bearings.must_ask:
            standing = await self._ask(target, standing)
        rest = self.size - standing.offset
        if self.sealed is not None and (not rest or rest < standing.least):
            await self._finish(target, standing, self.sealed)
        else:
            await self._send(target, standing)

    async def _ask(self, target: Target, standing: Standing) -> Standing:
        found = await target.ask(standing)
        if found.offset > self.size:
            raise Missing(ErrorCode.BLOB_UPLOAD_UNKNOWN, "upstream has more than there is")
        self._bearings.resumed(found, now=self._means.clock())
        self._means.counts.resumed(self.repository.namespace)
        await self._note()
        return found

    async def _send(self, target: Target, standing: Standing) -> None:
        start, length = standing.offset, await self._feed.length_of_next(standing)
        self._bearings.sending(standing)
        chunks, began = (
            self._feed.chunks(start, None if length is None else start + length),
            self._means.clock(),
        )
        try:
            kept = await target.send(
                standing, chunks, length=length, is_alone=self._caution.chunk > 0
            )
        finally:
            await chunks.aclose()
        if not 0 <= kept.offset <= self.size:
            raise Missing(ErrorCode.BLOB_UPLOAD_UNKNOWN, "upstream has more than it was sent")
        now = self._means.clock()
        self._caution.note_through(kept.offset - start, now - began, now=now)
        self._bearings.found(kept, now=now)
        await self._note()

    async def _finish(self, target: Target, standing: Standing, digest: Digest) -> None:
        """End it there, with what is too little for a part of its own."""
        self._bearings.sending(standing)
        chunks, length = self._feed.chunks(standing.offset, self.size), self.size - standing.offset
        try:
            await target.finish(standing, digest, chunks if length else None, length=length)
        finally:
            await chunks.aclose()
        await self._end()

    async def _begin_anew(self, target: Target, error: Missing) -> None:
        """The registry knows the upload no longer: it has the blob by now, or nothing."""
        try:
            if self.sealed is not None and await target.find_blob(self.sealed) == self.size:
                await self._end()
                return
        except RegistryError:
            pass  # it will be asked again
        if not self._bearings.begin_anew(now=self._means.clock()):
            self._fail(error)
            return
        _logger.info(
            "upstream has forgotten an upload: it begins anew",
            extra=fields(repository=self.repository, chunk=self._caution.chunk),
        )

    async def _pause(self, error: Unavailable) -> None:
        wait = self._bearings.broke(
            retry_after=error.retry_after or 0.0, roll=self._means.random.random()
        )
        _logger.info(
            "a push has broken: %s", error,
            extra=fields(repository=self.repository, at=self.sent, again_in=wait),
        )  # fmt: skip
        if wait is None:  # whoever waits is told; what is here stays for the next try
            self.error = error
            self._move(CourseState.RESTING)
            return
        self._move(CourseState.WAITING)
        await asyncio.sleep(wait)

    async def _end(self) -> None:
        self._bearings.sent = self.size
        await self._means.arrived(self)
        self._move(CourseState.DONE)

    def _fail(self, error: RegistryError) -> None:
        self.error = error
        if self.target is not None:
            self._give_up(self.target)
        self._move(CourseState.FAILED)

    def _give_up(self, target: Target) -> None:
        """The registry need not keep its upload any longer."""
        if self.standing is not None and self.standing.location:
            canceling = target.cancel(self.standing)
            _ = self._means.tasks.create_task(canceling, name="push")
            self._bearings.standing = None

    async def _grew(self, *, is_led_anew: bool) -> None:
        if is_led_anew:
            await self._note()
        self.go_on()

    async def _note(self) -> None:
        if isinstance(self.content, Spooled):
            await self._means.keep(self)

"""The crew: the connections that fetch one blob, claim after claim.

It begins as one connection. Others join it once it shows that one alone would take long: on a fast
line they would only cost more, since bytes out of order are read again to be hashed. They join it
at once where a reader waits for what none of them fetches; then there may be one more than
`connections`. Where nobody wants the rest of a blob, the crew waits for wants, and rests when
nobody has any.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from random import Random

from mirror.aio.group import Group
from mirror.aio.slots import Urgency
from mirror.oci.digest import Chunk, Digest
from mirror.oci.errors import Denied, Missing, Refused, Unavailable
from mirror.pull.fill.authorities import Authorities
from mirror.pull.fill.claims import Claim
from mirror.pull.fill.plan import Plan
from mirror.pull.fill.retries import Failure, RetryPolicy, Streak
from mirror.sources.ports import BlobSource, Body, Sender, TooSlow
from mirror.storage.ports import Pen, Writer
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_LONG = 1.0  # seconds that a blob may take over the connections there are


@dataclass(frozen=True, slots=True)
class Pace:
    """How fills go about it, and how far.

    `whole`: what a blob that is asked for by ranges has beyond them follows.
    """

    connections: int
    segment_size: int  # bytes
    retries: RetryPolicy
    alone: float = 0.25  # seconds, before a second connection is thought of
    whole: bool = True
    lingers: float = 10.0  # seconds that a crew waits for wants where the rest is not to follow


class Odd(Unavailable):
    """A body that is of another size than others have told, or promised."""

    def __init__(self, sender: Sender) -> None:
        super().__init__("upstream's blob has not the size that was expected")
        self.sender = sender


class Rested(Unavailable):
    """Nobody wants the rest."""

    def __init__(self) -> None:
        super().__init__("nobody waits for more of it")


class _Broken(Unavailable):
    """A body that broke, and who sent it: the next try prefers another."""

    def __init__(self, error: Unavailable, sender: Sender) -> None:
        super().__init__(error.message, timed_out=error.timed_out)
        self.sender = sender
        self.expected = error.expected if isinstance(error, TooSlow) else 1  # bytes


@dataclass(kw_only=True, eq=False, slots=True)
class Crew:
    """Fetches what `plan` has to do into `writer`.

    `accept` is told of each body before it is read, and raises Odd for one that is not to be;
    `through` gives where to take bytes from on a source's authority: itself, or other mirrors.
    `progressed` is called whenever there is more to read, `resumed` when a sender continues where
    another one broke. `is_read`: somebody may want more of it. Tell it by `wake`.
    """

    digest: Digest
    authorities: Authorities
    writer: Writer
    plan: Plan
    pace: Pace
    urgency: Urgency
    clock: Callable[[], float]
    random: Random
    through: Callable[[BlobSource], BlobSource]
    accept: Callable[[Body], Awaitable[int | None]]
    progressed: Callable[[], None]
    resumed: Callable[[Sender], None]
    is_read: Callable[[], bool]

    received: int = 0  # bytes
    _has_begun: bool = False  # a body has been accepted
    _broken: set[int] = field(default_factory=set)  # positions that nobody has continued yet
    _working: int = 0
    _pausing: int = 0  # of those, before they try again
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def __repr__(self) -> str:
        return f"<Crew: {self.received} received, {self.plan}>"

    async def fetch(self) -> None:
        """Return when everything is written.

        Raises:
            Rested: Nobody waits for more of it.
            RegistryError: What upstream says, or the store, or that upstream says nothing.
        """
        while not self.plan.is_complete:
            await self._until_wanted()
            tasks = Group()
            tasks.create_task(self._work())
            tasks.create_task(self._call_help(tasks))
            await tasks.wait()

    def wake(self) -> None:
        """Somebody wants something, or all that is left is for nobody any more."""
        self._news.set()

    async def _until_wanted(self) -> None:
        while self._has_begun and not self.plan.is_wanted(self.clock()):
            if not await self._has_news(within=self.pace.lingers) and not self.is_read():
                raise Rested

    async def _call_help(self, tasks: Group) -> None:
        is_alone, began_at = True, None
        while True:
            await self._has_news(
                within=self.pace.alone if is_alone or self.plan.has_wants else None
            )
            if not self._working:
                return
            if not self._has_begun:
                continue
            now, most = self.clock(), self.pace.connections
            began_at = now if began_at is None else began_at  # until then nothing can be told
            calls = min(self.plan.calls(now) - self._pausing, most + 1 - self._working)
            has_shown = bool(self.plan.active) and now - began_at >= self.pace.alone
            if is_alone and has_shown and self.plan.seconds_left(now) > _LONG:
                is_alone, calls = False, max(calls, min(self.plan.waiting, most - self._working))
            for _ in range(calls):
                tasks.create_task(self._work())

    async def _has_news(self, *, within: float | None) -> bool:
        try:
            async with asyncio.timeout(within):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """One more connection inside the block; the last to leave says that all is over."""
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self.wake()

    async def _work(self) -> None:
        """Fetch claim after claim over one connection at a time."""
        streak, avoid = Streak(self.received), None
        with self._at_work():
            while (claim := self._claim()) is not None:
                source = self.authorities.current
                try:
                    if not await self._fetch(claim, source, avoid):
                        return
                    streak, avoid = Streak(self.received), None
                except (Denied, Missing, Refused) as error:
                    self.authorities.refuse(source, error)
                except Unavailable as error:
                    if self._has_begun:
                        self._broken.add(claim.position)
                    self.plan.release(claim, now=self.clock())
                    avoid = error.sender if isinstance(error, (Odd, _Broken)) else None
                    await self._wait_before_retry(error, streak, source)
                finally:
                    self.plan.release(claim, now=self.clock())

    def _claim(self) -> Claim | None:
        claim = self.plan.claim(now=self.clock())
        if claim is None and not self._has_begun and not self.plan.active:
            return self.plan.claim_least(now=self.clock())
        return claim

    async def _fetch(self, claim: Claim, source: BlobSource, avoid: Sender | None) -> bool:
        """Fetch one claim; False: this connection is of no use."""
        stop = None if self.plan.is_whole(claim) else claim.stop
        async with self.through(source).open_blob(
            self.digest, claim.start, stop, avoid=avoid, urgency=self.urgency
        ) as body:
            has_sent_range = (claim.start, stop) != (0, None)
            ignores_ranges = has_sent_range and not body.is_range and body.stop != body.start
            if len(self.plan.active) > 1 and not body.is_range:
                if ignores_ranges:  # one connection will have to do
                    self.plan.forgo_ranges(claim, now=self.clock())
                return False
            if ignores_ranges and self.plan.lacks_before(claim):  # then better from there
                self.plan.forgo_ranges(claim, now=self.clock())
                return True
            size = await self.accept(body)
            self._note_accepted(source, body)
            claim.body_stop = body.stop
            if not body.is_range:
                self.plan.take_rest(claim, size, ignores_ranges=ignores_ranges)
            elif size is not None:
                self.plan.learn_size(size)
            if not self._has_begun:
                self._has_begun = True
                self.wake()
            if claim.start in self._broken:
                self._broken.remove(claim.start)
                self.resumed(body.sender)
            await self._receive(body, claim)
        return True

    def _note_accepted(self, source: BlobSource, body: Body) -> None:
        """It is upstream's word that it sends the blob itself: another mirror's copy is none."""
        if body.copied_from is None:
            self.authorities.note_accepted(source)

    async def _receive(self, body: Body, claim: Claim) -> None:
        try:
            async with aclosing(body.chunks) as chunks, self.writer.pen(self.progressed) as pen:
                async for chunk in chunks:
                    await self._take(chunk, claim, pen)
                    if claim.is_done:
                        return
            if claim.stop is None:
                self.plan.end(claim)
            elif not claim.is_done and body.stop != claim.position:
                raise Unavailable("upstream sent less than it promised")  # noqa: TRY301
            elif not claim.is_done and claim.position == claim.start:
                raise Unavailable("upstream has nothing to send")  # noqa: TRY301
        except Unavailable as error:
            if error.timed_out or claim.position == claim.start:
                body.sender.broke(timed_out=error.timed_out)  # else the line: continue, trust it
            raise _Broken(error, body.sender) from error

    async def _take(self, chunk: Chunk, claim: Claim, pen: Pen) -> None:
        if claim.stop is not None:
            chunk = chunk[: claim.left]  # somebody else fetches the rest
        position = claim.position
        claim.position += len(chunk)
        self.received += len(chunk)
        await pen.write(position, [chunk])

    async def _wait_before_retry(
        self, error: Unavailable, streak: Streak, source: BlobSource
    ) -> None:
        delay = self.pace.retries.decide(
            _KINDS.get(type(error), Failure.REFUSED),
            streak.add(self.received, enough=error.expected if isinstance(error, _Broken) else 1),
            has_begun=self._has_begun,
            wait=source.wait(),
            roll=self.random.random(),
        )
        if delay is None:
            raise _plain(error)
        _logger.info(
            "fill interrupted: %s", error.message,
            extra=fields(digest=self.digest, received=self.received, retry_in=round(delay, 2)),
        )  # fmt: skip
        self._pausing += 1
        try:
            await asyncio.sleep(delay)
        finally:
            self._pausing -= 1


_KINDS: dict[type[Unavailable], Failure] = {Odd: Failure.ODD, _Broken: Failure.BROKEN}


def _plain(error: Unavailable) -> Unavailable:
    """Without the sender: it travels to whoever reads."""
    return Unavailable(
        error.message,
        code=error.code,
        retry_after=error.retry_after,
        timed_out=error.timed_out,
        status_seen=error.status_seen,
    )

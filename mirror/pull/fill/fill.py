"""A fill: one download of one blob, shared by everyone who reads it while it arrives.

    state        means                                   next
    waiting      for a place among fill.max_active       connecting, verifying, failed
    connecting   upstream has not answered yet           streaming, failed
    streaming    bytes arrive, readers follow            verifying, failed
    verifying    all bytes are there                     proved, failed
    proved       readers may finish; being kept          ended, failed
    ended        on disk and on record                   -
    failed       every reader gets the same error        -

A fill belongs to the application and goes on when its readers leave. While it streams, a broken
connection is continued where it broke; readers notice nothing. No reader gets the last byte of its
response before the digest is proved.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from io import FileIO
from random import Random

from mirror.aio.backoff import Backoff
from mirror.aio.slots import Slots, Urgency
from mirror.oci.digest import Digest
from mirror.oci.errors import Denied, DigestMismatch, Missing, RegistryError, Unavailable
from mirror.pull.answers import Progress
from mirror.pull.fill.plan import Claim, Plan
from mirror.sources.registry.endpoint import Endpoint, Scope
from mirror.sources.registry.receiver import Chunk
from mirror.sources.registry.registry import Body, Registry
from mirror.storage.errors import NoRoom
from mirror.storage.ports import Pen, Storage, Writer
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import Metrics, Outcome

_logger = logging.getLogger(__name__)

_LONG = 1.0  # seconds that a blob may take over the connections there are
_PATIENCE = 60.0  # seconds; readers are not kept waiting for an upstream that wants more


class State(Enum):
    """See the table at the top of this module."""

    WAITING = "waiting"
    CONNECTING = "connecting"
    STREAMING = "streaming"
    VERIFYING = "verifying"
    PROVED = "proved"
    ENDED = "ended"
    FAILED = "failed"


_NEXT = {
    State.WAITING: {State.CONNECTING, State.VERIFYING, State.FAILED},
    State.CONNECTING: {State.STREAMING, State.FAILED},
    State.STREAMING: {State.VERIFYING, State.FAILED},
    State.VERIFYING: {State.PROVED, State.FAILED},
    State.PROVED: {State.ENDED, State.FAILED},
    State.ENDED: set[State](),
    State.FAILED: set[State](),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How fills go about it: `[fill]`, in bytes and tries, and what is not for operators."""

    connections: int
    segment_size: int
    attempts: int
    alone: float = 0.25  # seconds, before a second connection is thought of
    retry: Backoff = field(default_factory=lambda: Backoff(first=0.4, most=15.0))


class Fill:
    """One download. `run` does it; `started` and `follow` are for those who wait for it."""

    def __init__(
        self,
        digest: Digest,
        scope: Scope,
        registry: Registry,
        store: Storage,
        *,
        size: int | None,
        settings: Settings,
        places: Slots,
        urgency: Urgency,
        metrics: Metrics,
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        self.digest = digest
        self.scope = scope
        self.size = size  # bytes; None until it is known, which may be at the end
        self.readers = 0
        self.state = State.WAITING
        self._registry = registry
        self._store = store
        self._settings = settings
        self._places = places
        self._urgency = urgency
        self._metrics = metrics
        self._clock = clock
        self._random = random
        self.error: RegistryError | None = None
        self._changed = asyncio.Event()
        self._writer: Writer | None = None
        self._plan: Plan | None = None
        self._received = 0  # bytes
        self._senders: set[Endpoint] = set()
        self._broken: set[int] = set()  # where a connection has broken, and none has continued yet
        self.is_proved = False  # every byte is there and is what the digest promises

    def __repr__(self) -> str:
        return f"<Fill {self.digest}: {self.state.value}, {self._received} received, {self._plan}>"

    # For those who wait

    async def started(self) -> None:
        """Return when bytes can be read and `size` is known, if upstream tells it at all.

        Raises:
            RegistryError: What upstream says, or that it says nothing.
            NoRoom: The blob cannot be kept.
        """
        while self.state in {State.WAITING, State.CONNECTING}:
            await self._changed.wait()
        self._check()

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        written = 0 if self._writer is None else self._writer.written
        return Progress(written, self.size, self.is_proved)

    async def follow(self, seen: Progress) -> None:
        """Wait until it has come farther than that.

        Raises:
            RegistryError, NoRoom: It will not.
        """
        self._check()
        while self.progress == seen:
            await self._changed.wait()
            self._check()

    @property
    def file(self) -> FileIO:
        """The growing file; there is one once the fill has started."""
        assert self._writer is not None  # noqa: S101 - callers have waited for `started`
        return self._writer.file

    def join(self, scope: Scope) -> None:
        """One more reader: somebody waits for it, and may have the fresher token."""
        if scope.repository == self.scope.repository:
            self.scope = scope
        self.readers += 1
        self._urgency.is_urgent = True
        self._metrics.fill_readers.inc()

    def leave(self) -> None:
        """One reader less; the file is closed when nobody needs it any more."""
        self.readers -= 1
        self._metrics.fill_readers.dec()
        self._close_if_unused()

    def _check(self) -> None:
        if self.error is not None:
            raise self.error.with_traceback(None)  # one error for all: it would grow

    # The download

    async def run(self) -> None:
        """Download; every outcome is for the readers, and none is raised."""
        self._metrics.fills_active.inc()
        try:
            async with self._places.take(self._urgency):
                await self._download()
            outcome = Outcome.COMMITTED
        except asyncio.CancelledError:
            outcome = Outcome.STOPPED
            self._fail(Unavailable("the mirror is being stopped"))
            raise
        except Exception as error:  # noqa: BLE001 - a fill has no caller to tell
            outcome = self._explain(error)
        finally:
            self._metrics.fills_active.dec()
            self._metrics.fills.labels(self._registry.name, outcome).inc()
            self._close_if_unused()

    async def _download(self) -> None:
        writer = self._writer = await self._store.open_writer(
            self._registry.name, self.digest, self.size
        )
        try:
            await self._complete(writer)
            self._move(State.VERIFYING)
            self._prove(writer)
            await writer.commit()
            self._move(State.ENDED)
        except (Unavailable, Missing, Denied, asyncio.CancelledError):
            await writer.suspend()  # what is there is continued when somebody asks again
            raise
        except BaseException:
            await writer.discard()
            raise

    async def _complete(self, writer: Writer) -> None:
        """Fetch what is missing."""
        missing: list[tuple[int, int | None]] = [(writer.written, None)]
        if writer.size is not None:
            missing = list(writer.missing())
        if not missing:
            return
        self._move(State.CONNECTING)
        self._plan = Plan(
            missing,
            segment_size=self._settings.segment_size,
            connections=self._settings.connections,
        )
        while not self._plan.is_complete:
            try:
                async with asyncio.TaskGroup() as workers:
                    crew = _Crew(writer, self._plan, workers)
                    workers.create_task(self._work(crew))
                    workers.create_task(self._call_help(crew))
            except BaseExceptionGroup as group:
                raise _first(group) from group

    async def _call_help(self, crew: "_Crew") -> None:
        """Open more connections once it shows that one alone would take long.

        On a fast line they would only cost more: bytes out of order are read again to be hashed.
        """
        while not await crew.is_over(within=self._settings.alone):
            seconds = crew.plan.seconds_left(self._clock())
            if self.state is State.STREAMING and crew.plan.active and seconds > _LONG:
                for _ in range(min(crew.plan.waiting, self._settings.connections - 1)):
                    crew.workers.create_task(self._work(crew))
                return

    async def _work(self, crew: "_Crew") -> None:
        """Fetch claim after claim over one connection at a time."""
        with crew.at_work():
            await self._fetch_claims(crew)

    async def _fetch_claims(self, crew: "_Crew") -> None:
        plan = crew.plan
        failures, received = 0, self._received  # failures: without any progress
        avoid: Endpoint | None = None
        while (claim := plan.claim(now=self._clock())) is not None:
            try:
                is_all = claim.start == 0 and claim.stop == self.size  # asked for as everyone does
                async with self._registry.open_blob(
                    self.scope, self.digest, claim.start, None if is_all else claim.stop,
                    size=self.size, avoid=avoid, urgency=self._urgency,
                ) as body:  # fmt: skip
                    if not await self._begin(body, claim, crew):
                        return
                    self._count_resume(claim, body.endpoint)
                    await self._receive(body, claim, crew)
                failures, avoid = 0, None
            except Unavailable as error:
                failures = 0 if self._received > received else failures + 1
                received = self._received
                self._broken.add(claim.position)
                avoid = error.endpoint if isinstance(error, _Broken) else None
                plan.release(claim, now=self._clock())
                await self._wait_before_retry(error, failures)
            finally:
                plan.release(claim, now=self._clock())

    async def _begin(self, body: Body, claim: Claim, crew: "_Crew") -> bool:
        """Take note of what a response promises; False: this connection is of no use."""
        plan = crew.plan
        self._senders.add(body.endpoint)
        if body.is_range and body.size is not None:
            plan.learn_size(claim, body.size)
        elif len(plan.active) > 1:
            return False  # upstream ignores ranges: one connection will have to do
        else:
            plan.take_rest(claim, self.size if body.size is None else body.size)
        if body.size is not None and self.size is None:
            await crew.writer.expect(body.size)
            self.size = body.size
        if self.state is State.CONNECTING:
            self._move(State.STREAMING)
        return True

    async def _receive(self, body: Body, claim: Claim, crew: "_Crew") -> None:
        try:
            async with aclosing(body.chunks) as chunks, crew.writer.pen(self._wake) as pen:
                async for chunk in chunks:
                    await self._take(chunk, claim, pen)
                    if claim.is_done:
                        return
            if claim.stop is None:
                crew.plan.end(claim)
            elif not claim.is_done and body.stop != claim.position:
                raise Unavailable("upstream sent less than it promised")  # noqa: TRY301
        except Unavailable as error:
            if error.timed_out or claim.position == claim.start:
                body.endpoint.failed(grave=False)  # else it is the line: continue, and trust it
            raise _Broken(error, body.endpoint) from error

    async def _take(self, chunk: Chunk, claim: Claim, pen: Pen) -> None:
        if claim.stop is not None:
            chunk = chunk[: claim.left]  # somebody else fetches the rest
        position = claim.position
        claim.position += len(chunk)
        self._received += len(chunk)
        await pen.write(position, [chunk])

    async def _wait_before_retry(self, error: Unavailable, failures: int) -> None:
        wait = self._registry.wait()
        given_up = failures >= self._settings.attempts or wait > _PATIENCE
        if self.state is State.CONNECTING or given_up:
            # Without the endpoint: it travels to whoever reads.
            raise Unavailable(
                error.message,
                code=error.code,
                retry_after=error.retry_after,
                timed_out=error.timed_out,
                status_seen=error.status_seen,
            )
        retry = self._settings.retry
        delay = retry.delay(failures, roll=self._random.random())
        delay = max(delay, min(wait, retry.most))
        _logger.info(
            "fill interrupted: %s", error.message,
            extra=fields(digest=self.digest, received=self._received, retry_in=round(delay, 2)),
        )  # fmt: skip
        await asyncio.sleep(delay)

    def _count_resume(self, claim: Claim, endpoint: Endpoint) -> None:
        if claim.start not in self._broken:
            return
        self._broken.remove(claim.start)
        label = endpoint.label
        self._metrics.fill_resumes.labels(label.upstream, label.endpoint).inc()

    # Changes of state: synchronous, and the only ones

    def _move(self, state: State) -> None:
        assert state in _NEXT[self.state], f"{self.state} to {state}"  # noqa: S101 - the table above
        self.state = state
        self._wake()

    def _prove(self, writer: Writer) -> None:
        if not writer.is_proved():
            self._registry.distrust(self.digest, self._senders)
            raise DigestMismatch("upstream sent bytes that are not what their digest says")
        self.size, self.is_proved = writer.written, True
        self._move(State.PROVED)

    def _fail(self, error: RegistryError) -> None:
        if State.FAILED in _NEXT[self.state]:
            if not self.is_proved:
                self.error = error
            self._move(State.FAILED)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _close_if_unused(self) -> None:
        over = self.state in {State.ENDED, State.FAILED}
        if over and not self.readers and self._writer is not None:
            self._writer.close()

    def _explain(self, error: Exception) -> Outcome:
        """Tell the readers and the operator; the outcome for the metric."""
        if isinstance(error, NoRoom):
            self._fail(error)
            return Outcome.NO_ROOM
        if not isinstance(error, RegistryError):
            _logger.error("fill failed", exc_info=error, extra=fields(digest=self.digest))
            self._fail(Unavailable("the mirror has a fault of its own; see its log"))
            return Outcome.FAILED
        _logger.warning(
            "fill failed: %s", error,
            extra=fields(digest=self.digest, repository=self.scope.repository),
        )  # fmt: skip
        self._fail(error)
        for kind, outcome in _OUTCOMES.items():
            if isinstance(error, kind):
                return outcome
        return Outcome.FAILED


_OUTCOMES = {
    DigestMismatch: Outcome.MISMATCH,
    Missing: Outcome.MISSING,
    Denied: Outcome.DENIED,
    Unavailable: Outcome.UNAVAILABLE,
}


@dataclass(slots=True)
class _Crew:
    """The connections that fetch one blob, and what they share."""

    writer: Writer
    plan: Plan
    workers: asyncio.TaskGroup
    busy: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """One more connection inside the block; the last to leave says that all is over."""
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1
            if not self.busy:
                self.over.set()

    async def is_over(self, *, within: float) -> bool:
        """Whether everyone has left, within so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self.over.wait()
        return self.over.is_set()


class _Broken(Unavailable):
    """A body that broke, and where it came from: the next try prefers another endpoint."""

    def __init__(self, error: Unavailable, endpoint: Endpoint) -> None:
        super().__init__(error.message, timed_out=error.timed_out)
        self.endpoint = endpoint


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What ended the workers; the others were only cancelled for it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

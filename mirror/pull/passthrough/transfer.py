"""A transfer: a blob's bytes from one position on, from upstream to all who read along.

It is read from upstream only while one of its readers waits for more, and what the fastest of them
has had is held for the others in a bounded window. One who is farther behind makes the others wait
for a while (`mirror.pull.passthrough.seats`); then it is left behind, and finds another transfer.

    of the bytes from the first on      hashed as they arrive; the last piece waits for the proof
    of a part                           handed on as they come: nothing less than all is proved
    small, and from another host        all of it waits for the proof

A connection that breaks is continued by `Range`, as a fill's is (`mirror.pull.fill.retries`).
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from random import Random

from mirror.aio.slots import Urgency
from mirror.aio.tasks import NoteFault
from mirror.oci.digest import Chunk, Digest
from mirror.oci.errors import DigestMismatch, RegistryError, Unavailable
from mirror.pull.fill.retries import Failure, RetryPolicy, Streak
from mirror.pull.passthrough.seats import Seat, Seats
from mirror.pull.passthrough.window import MOST, Piece, Window
from mirror.pull.prefix import Prefix
from mirror.sources.ports import BlobSource, Body, Sender
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import Metrics
from mirror.telemetry.mismatches import Mismatch

_logger = logging.getLogger(__name__)

SMALL = 2**16
"""Bytes of a body from another host that wait until there are more of them, or a proof."""


@dataclass(frozen=True, slots=True)
class Course:
    """What transfers go by; `clock` in seconds, from anywhere."""

    retries: RetryPolicy
    metrics: Metrics
    note_fault: NoteFault
    random: Random
    clock: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Part:
    """What a transfer brings: from `start` to `stop` (None: the blob's end).

    `size` is the blob's, where it is known. `prefix` is of all before `start`, where that has been
    hashed. `is_continued`: a reader holds what lies before it, and will not be told an error.
    """

    start: int
    stop: int | None
    size: int | None
    prefix: Prefix | None
    is_continued: bool


class Unprovable(Unavailable):
    """What might be anything, and so short that nothing less than all of it may leave."""

    def __init__(self) -> None:
        super().__init__("a part of what is so short cannot be proved")


class Transfer:
    """One passage of a part of a blob. `run` does it; it ends when nobody reads any more.

    `deserted` is called when the last reader has left, `news` when a body has been accepted, has
    turned out to be wrong, or all has been proved.
    """

    def __init__(
        self,
        source: BlobSource,
        digest: Digest,
        part: Part,
        *,
        course: Course,
        deserted: Callable[["Transfer"], None],
        news: Callable[["Transfer"], None],
    ) -> None:
        self.source = source
        self.digest = digest
        self.part = part
        self.size = part.size
        self.error: RegistryError | None = None
        self.is_proved = self.is_wrong = False
        self.needs_whole = False  # upstream sends no part, or none that could be handed on
        self.task: asyncio.Task[None] | None = None
        self._course = course
        self._deserted = deserted
        self._news = news
        self._urgency = Urgency.of_client()  # who began it
        self._seats = Seats(course.clock())
        self._window = Window(part.start, part.prefix)
        self._held: list[Piece] = []  # nobody may have them yet
        self._arrived = part.start
        self._prefix = part.prefix
        self._is_suspicious = False
        self._has_accepted = False  # a body
        self.sender: str | None = None  # of the first
        self._has_begun = self._is_over = False
        self._is_broken = self._was_odd = False
        self._changed = asyncio.Event()  # for readers
        self._wanted = asyncio.Event()  # by one of them

    def __repr__(self) -> str:
        return f"<Transfer {self.source.upstream} {self.digest}: {self._window} of {self.part}>"

    # For readers

    def reaches(self, position: int, stop: int | None, *, ahead: int | None) -> bool:
        """Whether bytes from `position` on are here, or come soon, and enough of them.

        Soon: when no more than `ahead` bytes come before them (None: whatever comes).
        """
        window, end = self._window, self.part.stop
        if self.error is not None or position < window.start:
            return False
        if self._is_over and position >= window.position:
            return False
        if ahead is None:
            return end is None
        wanted = position + ahead if stop is None else min(stop, position + ahead)
        return position <= window.position + ahead and (end is None or wanted <= end)

    def prefix_at(self, position: int) -> Prefix | None:
        """What has been hashed until there, where that is known."""
        return self._window.prefix_at(position)

    def sit(self, position: int) -> Seat:
        """One more reader; `leave` when done."""
        return self._seats.sit(position, now=self._course.clock())

    def leave(self, seat: Seat) -> None:
        """One less."""
        if seat in self._seats:
            self._seats.leave(seat)
            self._wanted.set()
            if not self._seats:
                self._deserted(self)

    async def begun(self, *, patience: float | None) -> None:
        """Return when the size may be told, if anybody tells it.

        Raises:
            RegistryError: What upstream says, or that it says nothing for so many seconds.
        """
        try:
            async with asyncio.timeout(patience):
                while not self._has_begun:
                    self._check()
                    await self._changed.wait()
        except TimeoutError as error:
            raise Unavailable("the blob has not begun to arrive in time", timed_out=True) from error

    async def next_piece(self, seat: Seat) -> Piece | None:
        """What a reader has not had yet; None: nothing more is to be had here.

        Raises:
            RegistryError: There will be no more.
        """
        while (piece := self._window.find(seat.position)) is None:
            if seat.position < self._window.start:
                return None  # it has been left behind
            self._check()
            if self._is_over:
                return None
            seat.waits = True
            self._wanted.set()
            try:
                await self._changed.wait()
            finally:
                seat.waits = False
        seat.position = piece.stop
        self._wanted.set()
        return piece

    def is_end(self, position: int) -> bool:
        """Whether the blob ends there."""
        return self._is_over and position == self.size

    def require_size(self, size: int | None, last: Piece) -> None:
        """See that a piece which comes so far is the blob's last, and so was proved.

        Raises Unavailable. None: no matter.
        """
        if size is not None and last.stop >= size and self.size != size:
            raise Unavailable("upstream's blob has not the size that was expected")

    def _check(self) -> None:
        if self.error is not None:
            raise self.error.with_traceback(None)  # one error for all: it would grow

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # Fetching

    async def run(self) -> None:
        """Fetch; every outcome is for the readers, and none is raised."""
        try:
            await self._fetch()
            self._end()
        except RegistryError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - a transfer has no caller to tell
            self._course.note_fault("passthrough", error)
            self._fail(Unavailable("the mirror has a fault of its own; see its log"))
        finally:
            if not self._is_over:  # cancelled
                self._fail(Unavailable("the transfer was stopped"))

    async def _fetch(self) -> None:
        streak, avoid = Streak(self._arrived), None
        while not self._is_complete():
            attempt = _Attempt()
            try:
                await self._receive(attempt, avoid)
            except Unprovable:
                raise
            except Unavailable as error:
                avoid = attempt.sender
                await self._wait_before_retry(error, attempt, streak)
            else:
                streak = Streak(self._arrived)

    async def _receive(self, attempt: "_Attempt", avoid: Sender | None) -> None:
        """Fetch as much as one body brings. Raises RegistryError."""
        began_at = self._arrived
        async with self.source.open_blob(
            self.digest, began_at, self.part.stop, avoid=avoid, urgency=self._urgency
        ) as body:
            attempt.sender = body.sender
            self._accept(body, attempt)
            try:
                await self._read(body)
            except Unavailable as error:
                attempt.kind = Failure.BROKEN
                if error.timed_out or self._arrived == began_at:
                    body.sender.broke(timed_out=error.timed_out)  # else the line: trust it
                raise

    async def _read(self, body: Body) -> None:
        began_at = self._arrived
        async with aclosing(body.chunks) as chunks:
            async for chunk in chunks:
                await self._take(chunk, body.sender)
                if self._is_complete():
                    return
                await self._until_wanted()
        if body.stop is None:
            self.size = self._arrived  # nobody has known it
        elif self._arrived < body.stop:
            raise Unavailable("upstream sent less than it promised")
        elif self._arrived == began_at and not self._is_complete():
            raise Unavailable("upstream has nothing to send")

    def _accept(self, body: Body, attempt: "_Attempt") -> None:
        """Take a body, and tell readers. Raises Unavailable for one that is not to be read."""
        is_part = self._arrived > 0 or self.part.stop is not None
        if body.is_range and not is_part:
            raise Unavailable("upstream sends a part where all was asked for")
        if self.size is None:
            self.size = body.size
        elif body.size not in {None, self.size}:
            self.source.distrust(self.digest, [body.sender], is_disproved=False)
            attempt.kind, self.is_wrong = Failure.ODD, True
            raise Unavailable("upstream's blob has not the size that was expected")
        is_short = body.is_from_elsewhere and (body.size or 0) <= SMALL
        if is_short and not body.is_range and body.size is None and self._arrived > SMALL:
            is_short = False  # so much has come before our part
        if is_short and self._prefix is None:
            self.needs_whole = True
            raise Unprovable
        self.needs_whole |= is_part and not body.is_range and body.stop != body.start
        self._has_accepted = True
        self.sender = self.sender or body.sender.name
        self._is_suspicious |= is_short
        if self._is_broken:
            self._is_broken = False
            self._course.metrics.fill_resumes.labels(self.source.upstream, body.sender.name).inc()
        if self.size is None or (self.size and not self._is_suspicious):
            self._begin()

    async def _take(self, chunk: Chunk, sender: Sender) -> None:
        if self.part.stop is not None:
            chunk = chunk[: self.part.stop - self._arrived]
        if not chunk:
            return
        if self.size is not None and self._arrived + len(chunk) > self.size:
            self.is_wrong = True
            self.source.distrust(self.digest, [sender], is_disproved=False)
            raise Unavailable("upstream sends more than the blob's size")
        if self._prefix is None:
            content = bytes(chunk)
        else:
            content, self._prefix = await asyncio.to_thread(_hashed, self._prefix, chunk, sender)
        piece = Piece(self._arrived, content, self._prefix)
        self._arrived = piece.stop
        self._held.append(piece)
        self._hand_out(len(self._held) - self._held_back())

    def _held_back(self) -> int:
        """How many of the pieces that arrived last nobody may have yet."""
        if self._prefix is None:
            return 0
        if self._is_suspicious and self._arrived <= SMALL:
            return len(self._held)
        return 1 if self.size in {None, self._arrived} else 0

    async def _until_wanted(self) -> None:
        """Return when a reader waits for more, and none would be left behind, or for too long."""
        while self._has_begun:  # until then, all of them wait
            self._wanted.clear()
            patience, behind = None, list[Seat]()
            began_at = self._course.clock()
            if self._seats.is_waiting:
                patience, behind = self._seats.find_behind(self._window, now=began_at)
                if not behind:
                    return
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._wanted.wait()
            if behind:
                self._seats.note_lost(self._course.clock() - began_at, behind)

    def _is_complete(self) -> bool:
        return self._arrived == self.part.stop or (
            self.size is not None and self._arrived >= self.size
        )

    async def _wait_before_retry(
        self, error: Unavailable, attempt: "_Attempt", streak: Streak
    ) -> None:
        if attempt.kind is Failure.ODD and self._was_odd:
            attempt.kind = Failure.REFUSED  # nobody sends what was expected
        self._was_odd |= attempt.kind is Failure.ODD
        delay = self._course.retries.decide(
            attempt.kind,
            streak.add(self._arrived),
            has_begun=self.part.is_continued or self._has_accepted,
            wait=self.source.wait(),
            roll=self._course.random.random(),
        )
        if delay is None:
            raise error
        self._is_broken |= attempt.kind is Failure.BROKEN
        _logger.info(
            "transfer interrupted: %s", error.message,
            extra=fields(digest=self.digest, received=self._arrived, retry_in=round(delay, 2)),
        )  # fmt: skip
        await asyncio.sleep(delay)

    # Changes of state: synchronous, and the only ones

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._news(self)
            self._wake()

    def _hand_out(self, count: int) -> None:
        if count:
            self._begin()
        for piece in self._held[:count]:
            self._window.add(piece)
        del self._held[:count]
        read = self._seats.first_position(default=self._window.position)
        self._seats.serve(self._window.position)
        # What everybody has had is for whoever comes a little later: to the start of a blob.
        self._window.trim(read=read, kept=0 if self._prefix is None else MOST)
        self._wake()

    def _end(self) -> None:
        if self._prefix is not None and self._arrived == self.size:
            if not self.digest.matches(self._prefix.hasher):
                self.is_wrong = True
                self.source.distrust(self.digest, self._prefix.senders, is_disproved=True)
                senders = tuple(sorted({it.name for it in self._prefix.senders}))
                told = Mismatch(self.source.upstream, str(self.digest), senders)
                self._course.metrics.mismatches.note(told)
                raise DigestMismatch("upstream sent bytes that are not what their digest says")
            self.is_proved = True
        elif self._is_suspicious and self._arrived <= SMALL:
            self.needs_whole = True
            raise Unprovable
        self._is_over = True
        self._hand_out(len(self._held))
        self._begin()
        self._news(self)

    def _fail(self, error: RegistryError) -> None:
        self.error, self._is_over = error, True
        self._news(self)
        self._wake()
        if self._seats:
            _logger.warning(
                "blob not passed through: %s", error,
                extra=fields(digest=self.digest, upstream=self.source.upstream),
            )  # fmt: skip


@dataclass(slots=True)
class _Attempt:
    """One request, and what went wrong with it."""

    sender: Sender | None = None
    kind: Failure = Failure.REFUSED


def _hashed(prefix: Prefix, chunk: Chunk, sender: Sender) -> tuple[bytes, Prefix]:
    return bytes(chunk), prefix.extended(chunk, sender)

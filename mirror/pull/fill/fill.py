"""A fill: one download of one blob from one upstream.

    state        means                                        next
    waiting      for a slot among fill.max_active             connecting, ending
    connecting   no body has been accepted yet                streaming, verifying, ending
    streaming    bytes arrive, readers follow                 verifying, ending
    verifying    all bytes are there                          proved, ending
    proved       readers may finish; being kept               ended, ending
    ending       it has failed, and puts away what it wrote   failed
    ended        on disk and on record                        -
    failed       every reader has the same error              -

It belongs to the application and goes on when its readers leave. Only while it waits for a slot,
it is given up with the last of them; and one without readers gives its slot to a client that waits
for one (what it has fetched stays). Whoever comes while it ends waits, and begins anew. So ends one
that is asked for by ranges only, where the rest is not to follow (`fill.whole`).

When readers are let in, `admission` says; what follows from how it ends, `ends`.
"""

import logging
from collections.abc import Awaitable, Callable
from enum import Enum
from random import Random

from mirror.aio.slots import Slots, Urgency
from mirror.aio.tasks import NoteFault
from mirror.aio.waiting import to_the_end
from mirror.oci.digest import Digest
from mirror.oci.errors import DigestMismatch, RegistryError, StoreError, Unavailable
from mirror.pull.fill.admission import SMALL, Admission
from mirror.pull.fill.authorities import Authorities
from mirror.pull.fill.crew import Crew, Odd, Pace, Rested
from mirror.pull.fill.ends import is_continued, outcome_of
from mirror.pull.fill.others import Others, Part
from mirror.pull.fill.plan import Plan
from mirror.pull.fill.readers import Readers
from mirror.pull.fill.sizes import Sizes
from mirror.pull.fill.wants import Want, Wants
from mirror.pull.prefix import Cut, Prefix
from mirror.sources.ports import BlobSource, Body, Sender
from mirror.storage.ports import Writer, Writers
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import FillOutcome, Metrics
from mirror.telemetry.mismatches import Mismatch

_logger = logging.getLogger(__name__)

NoteSent = Callable[[str, Digest], Awaitable[None]]
"""Told that an upstream has sent the bytes of a digest, before they are kept."""


class State(Enum):
    """See the table at the top of this module."""

    WAITING = "waiting"
    CONNECTING = "connecting"
    STREAMING = "streaming"
    VERIFYING = "verifying"
    PROVED = "proved"
    ENDING = "ending"
    ENDED = "ended"
    FAILED = "failed"


_NEXT = {
    State.WAITING: {State.CONNECTING, State.ENDING},
    State.CONNECTING: {State.STREAMING, State.VERIFYING, State.ENDING},
    State.STREAMING: {State.VERIFYING, State.ENDING},
    State.VERIFYING: {State.PROVED, State.ENDING},
    State.PROVED: {State.ENDED, State.ENDING},
    State.ENDING: {State.FAILED},
    State.ENDED: set[State](),
    State.FAILED: set[State](),
}


class Fill:
    """One download. `run` does it; `authorities` and `readers` are of those who wait for it.

    `is_doubted`: what came before was not what its digest says, so that ranges too are proved.
    `others` are the mirrors that are one with this one, if there are any.
    """

    _resumes = 0
    first_sender: str | None = None  # of a body that was taken
    _part: Part | None = None
    _has_copied = False  # something of it comes from another mirror
    is_of_another = False  # another upstream has sent what comes, to another mirror

    def __init__(
        self,
        digest: Digest,
        source: BlobSource,
        storage: Writers,
        *,
        promised: int | None,
        is_size_proved: bool,
        is_doubted: bool,
        was_given_up: bool = False,
        pace: Pace,
        slots: Slots,
        is_shared: bool,
        urgency: Urgency,
        deserted: Callable[[], None],
        metrics: Metrics,
        note_fault: NoteFault,
        note_sent: NoteSent,
        clock: Callable[[], float],
        random: Random,
        others: Others | None = None,
    ) -> None:
        self.digest = digest
        self.upstream = source.upstream
        self.authorities = Authorities(source)
        is_small = promised is not None and promised <= SMALL
        self._wants = Wants(is_whole=pace.whole or is_doubted or is_small or not urgency.is_urgent)
        self.readers = Readers(metrics.fill_readers, deserted, self._wants, is_doubted=is_doubted)
        self.state = State.WAITING
        self._storage = storage
        self._proved = promised if is_size_proved else None
        self.sizes = Sizes(promised or None)  # nothing is ever promised to be empty
        self._pace = pace
        self._slots = slots
        self._sharer = self.upstream if is_shared else None
        self._urgency = urgency
        self._is_expected = not urgency.is_urgent  # somebody will come for it
        self._metrics = metrics
        self._note_fault = note_fault
        self._note_sent = note_sent
        self._clock = clock
        self._random = random
        self._others = others
        self._writer: Writer | None = None
        self._crew: Crew | None = None
        self._senders: set[Sender] = set()
        self._admission = Admission(was_given_up=was_given_up)
        self.cut: Cut | None = None  # where the disk has refused to go on
        self.is_given_up = False  # for want of an answer, or of bytes
        self.began = clock()

    def __repr__(self) -> str:
        return f"<Fill {self.upstream} {self.digest}: {self.state.value}, {self._crew}>"

    @property
    def is_over(self) -> bool:
        """Whether it has failed, or is about to: there is nothing to join."""
        return self.state in {State.ENDING, State.FAILED}

    @property
    def repository(self) -> str:
        """Where it is asked for, for people; another repository's readers may be with it."""
        return self.authorities.current.repository

    @property
    def written(self) -> int:
        """Bytes that are there, wherever they lie."""
        return 0 if self._writer is None else self._writer.total

    @property
    def size(self) -> int | None:
        """In bytes, by the best word there is."""
        return self.sizes.promised if self.sizes.told is None else self.sizes.told

    def join(self, source: BlobSource, client: str | None, want: Want | None = None) -> None:
        """One more reader waits for it, on the authority of `source`; of this client.

        `want`: what is read, where that is not all.
        """
        self.authorities.add(source)
        self.readers.join()
        self._urgency.join(client)
        if want is None:
            self._wants.want_whole()
        else:
            self._wants.add(want)
        if self.state is State.WAITING:  # until now for another client's turn
            self._slots.reconsider(self._urgency)

    def leave(self, client: str | None, want: Want | None = None) -> None:
        """One less; of this client."""
        self._urgency.leave(client)
        if want is not None:
            self._wants.discard(want)
            if self._crew is not None:
                self._crew.plan.let_go()
        self.readers.leave()

    @property
    def is_waited_for(self) -> bool:
        """Whether a client waits for it to have a slot."""
        return self.state is State.WAITING and self.readers.count > 0

    @property
    def may_give_way(self) -> bool:
        """Whether it has a slot that nobody waits on."""
        return self.state in {State.CONNECTING, State.STREAMING} and not self.readers.count

    def give_way(self) -> None:
        """Let nobody join any more: the task of `run` is about to be cancelled."""
        self._move(State.ENDING)

    async def run(self) -> None:
        """Download; every outcome is for the readers, and none is raised."""
        self._metrics.fills_active.inc()
        outcome = FillOutcome.STOPPED
        try:
            async with self._slots.take(self._urgency, sharer=self._sharer):
                if not self.readers.count and not self._is_expected:
                    self._end(Unavailable("nobody waits for it any more"))
                    return
                self._move(State.CONNECTING)
                await self._download_with_others()
            outcome = FillOutcome.COMMITTED
        except Exception as error:  # noqa: BLE001 - a fill has no caller to tell
            outcome = self._explain(error)
        finally:
            if self.state not in {State.ENDED, State.FAILED}:  # cancelled
                self._end(Unavailable("the fill was stopped"))
            self._metrics.fills_active.dec()
            self._metrics.fills.labels(self.upstream, outcome).inc()
            self._tell(outcome)
            self.readers.end(self._writer)

    async def _download_with_others(self) -> None:
        if self._others is not None:
            self._part = self._others.take_part(self.upstream, self.digest)
        error: BaseException | None = None
        try:
            await self._download()
        except BaseException as failure:
            error = failure
            raise
        finally:
            if self._part is not None:
                self._part.ended(error)

    async def _download(self) -> None:
        writer = self._writer = await self._open()
        try:
            try:
                await self._fetch(writer)
            except _StartOver as news:
                # What is there, and nobody has read, is not what anybody sends: once, it goes.
                if self._part is not None:
                    self._part.starts_over()
                await writer.discard()
                writer.close()
                self.sizes = Sizes(news.size)
                writer = self._writer = await self._open()
                await self._fetch(writer)
            self._prove(writer)
            await to_the_end(self._keep(writer))
        except BaseException as error:
            if self.state is not State.ENDING:
                self._move(State.ENDING)
            has_received = self._crew is not None and self._crew.received > 0
            is_kept = is_continued(error, has_received=has_received)
            await (writer.suspend() if is_kept else writer.discard())
            raise
        self._move(State.ENDED)

    async def _keep(self, writer: Writer) -> None:
        """Keep what is proved; first it is on record who has sent it."""
        for upstream in {self.upstream} if self._part is None else self._part.senders:
            await self._note_sent(upstream, self.digest)
        await writer.commit()

    async def _open(self) -> Writer:
        """Begin, or continue; what was promised is a hint, and cuts nothing of what is there."""
        promised = self.sizes.promised
        is_proved = promised is not None and promised == self._proved
        writer = await self._storage.open_writer(
            self.upstream, self.digest, promised, is_size_proved=is_proved
        )
        if writer.size is None:
            self.sizes.promised = None  # more is there than was promised: that was no promise
        if self._part is not None:
            self._part.write_to(writer)
        return writer

    async def _fetch(self, writer: Writer) -> None:
        """Fetch what is missing."""
        missing: list[tuple[int, int | None]] = [(writer.written, None)]
        if writer.size:  # that a blob is empty, upstream has to say
            missing = list(writer.missing())
        source = self.authorities.current
        plan = Plan(
            missing,
            segment_size=self._pace.segment_size,
            connections=self._pace.connections if source.is_lasting else 1,
            size=writer.size or None,
            wants=self._wants,
        )
        self._crew = Crew(
            digest=self.digest, authorities=self.authorities, writer=writer, plan=plan,
            pace=self._pace, urgency=self._urgency, clock=self._clock, random=self._random,
            through=_directly if self._part is None else self._part.through,
            accept=self._accept, progressed=self._progressed, resumed=self._count_resume,
            is_read=lambda: self.readers.count > 0,
        )  # fmt: skip
        self._wants.changed = self._crew.wake
        await self._crew.fetch()
        self._move(State.VERIFYING)

    async def _accept(self, body: Body) -> int | None:
        """Take a body, and let readers in; the size that has been told.

        Raises:
            Odd: It is of another size than was expected.
            NoRoom, StoreError: The blob cannot be kept.
        """
        sizes, writer = self.sizes, self._writer
        assert writer is not None  # noqa: S101 - a crew has one
        if not sizes.accepts(body.size, reach=writer.reach):
            if self._part is not None and (self._has_copied or body.copied_from is not None):
                self._part.disagrees()
            self.authorities.current.distrust(self.digest, [body.sender], is_disproved=False)
            raise Odd(body.sender)
        if body.size is not None and body.size < writer.reach:
            raise _StartOver(body.size)
        self._senders.add(body.sender)
        self._has_copied |= body.copied_from is not None
        self.is_of_another = body.copied_from not in {None, self.upstream}
        self.first_sender = self.first_sender or body.sender.name
        is_news = sizes.told is None
        sizes.begin(body.size)  # before anything is awaited: another body may come meanwhile
        if is_news:
            await writer.expect(body.size, is_whole=self._wants.is_whole)
        if (sizes.told or 0) <= SMALL:  # also ranges wait: the proof is near
            self._wants.want_whole()
            self.readers.is_doubted = True
        if self._admission.admits(body, sizes, written=writer.written):
            self._let_in(writer)
        return sizes.told

    def _let_in(self, writer: Writer) -> None:
        self.readers.let_in(writer, self.sizes.told)
        if self.state is State.CONNECTING:
            self._move(State.STREAMING)

    def _progressed(self) -> None:
        """More bytes are there."""
        writer, admission = self._writer, self._admission
        if admission.is_pending and writer is not None and admission.admits_after(writer.written):
            self._let_in(writer)
        if self._part is not None:
            self._part.progressed()
        self.readers.wake()

    def _count_resume(self, sender: Sender) -> None:
        self._resumes += 1
        self._metrics.fill_resumes.labels(self.upstream, sender.name).inc()

    def _tell(self, outcome: FillOutcome) -> None:
        """One line for each download: what it brought, how fast, and who sent it."""
        seconds = self._clock() - self.began
        received = 0 if self._crew is None else self._crew.received
        _logger.info(
            "download ended",
            extra=fields(
                outcome=outcome, upstream=self.upstream, repository=self.repository,
                digest=self.digest, size="-" if self.size is None else self.size,
                received=received, seconds=round(seconds, 3),
                rate=round(received / seconds) if seconds > 0 else 0,
                endpoints=",".join(sorted({it.name for it in self._senders})) or "-",
                resumes=self._resumes,
            ),
        )  # fmt: skip

    # Changes of state: synchronous, and the only ones

    def _move(self, state: State) -> None:
        assert state in _NEXT[self.state], f"{self.state} to {state}"  # noqa: S101 - the table above
        self.state = state
        self.readers.wake()

    def _prove(self, writer: Writer) -> None:
        if not writer.is_proved():
            self.authorities.current.distrust(self.digest, self._senders, is_disproved=True)
            senders = tuple(sorted({it.name for it in self._senders}))
            self._metrics.mismatches.note(Mismatch(self.upstream, str(self.digest), senders))
            raise DigestMismatch("upstream sent bytes that are not what their digest says")
        if self._part is not None and not self._part.senders:
            self.is_of_another = True  # it was all here, and may be
        self.readers.prove(writer)
        if self._part is not None:
            self._part.proved(writer.written)
        self._move(State.PROVED)

    def _end(self, error: RegistryError) -> None:
        if self.state is not State.ENDING:
            self._move(State.ENDING)
        self._move(State.FAILED)
        self.readers.fail(error)

    def _explain(self, error: Exception) -> FillOutcome:
        """Tell the readers and the operator; the outcome for the metric."""
        if not isinstance(error, RegistryError):
            self._note_fault("fill", error)
            error = Unavailable("the mirror has a fault of its own; see its log")
        elif isinstance(error, StoreError):
            self._cut_off(error)
        elif not isinstance(error, Rested):
            self.is_given_up = isinstance(error, Unavailable)
            _logger.warning(
                "fill failed: %s", error,
                extra=fields(digest=self.digest, upstream=self.upstream),
            )  # fmt: skip
        self._end(error)
        return outcome_of(error)

    def _cut_off(self, error: StoreError) -> None:
        """Note up to where there is something; readers get the rest past the disk."""
        writer = self._writer
        if writer is None or self._crew is None or not self._crew.received:
            return  # nobody has read anything
        prefix = Prefix(writer.hasher(), frozenset(self._senders))
        self.cut = Cut(writer.written, self.sizes.told, prefix, error.explanation)
        _logger.warning(
            "fill given up; its readers get the rest past the disk: %s", error,
            extra=fields(
                digest=self.digest, upstream=self.upstream,
                kept=writer.written, readers=self.readers.count,
            ),
        )  # fmt: skip


def _directly(source: BlobSource) -> BlobSource:
    """There are no other mirrors."""
    return source


class _StartOver(Exception):
    """Nobody sends what is there already; somebody has a blob of another `size`."""

    def __init__(self, size: int) -> None:
        super().__init__(f"start over at {size} bytes")
        self.size = size

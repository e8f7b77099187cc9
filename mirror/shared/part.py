"""One mirror's part in one fill, where several mirrors are one: whose bytes they are, and what for.

A fill asks its part (`through`) where to take bytes from (`source.py`): from upstream, where it is
this mirror's turn or nobody can be asked, or else from the pieces that another puts. `publish.py`
puts those of this mirror, from the fill's own file: local readers wait for nothing of it. Turns are
tended here, by the rules of `turns.py`.

A part outlives its fill, until the others can have what the fill has brought.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Collection
from contextlib import suppress

from mirror.oci.digest import Digest
from mirror.oci.errors import DigestMismatch, StoreError
from mirror.shared.ahead import Memory
from mirror.shared.hearing import Hearing
from mirror.shared.pieces import Piece, Pieces, Span
from mirror.shared.ports import Bucket, Ledger
from mirror.shared.source import Shared
from mirror.shared.turns import Act, State, Turn
from mirror.sources.ports import BlobSource
from mirror.storage.ports import OpenBlob, Writer
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_RELEASED_WITHIN = 2.0  # seconds for a last word to the database
_LONGEST_REST = 1.0  # seconds, before who waits looks at the clock


class Part:
    """See above. `tend` does it; all else is for the fill, and for `Publisher`.

    `monotonic` in seconds. `memory` is for what is read ahead. `is_down`: whether the database is
    known to be away.
    """

    def __init__(
        self,
        upstream: str,
        digest: Digest,
        turn: Turn,
        *,
        ledger: Ledger,
        bucket: Bucket,
        memory: Memory,
        is_down: Callable[[], bool],
        monotonic: Callable[[], float],
        is_private: bool = False,
    ) -> None:
        self.upstream = upstream
        self._is_private = is_private
        self.digest = digest
        self.turn = turn
        self.ledger = ledger
        self.bucket = bucket
        self.memory = memory
        self._is_down = is_down
        self.monotonic = monotonic
        self.pieces = Pieces()
        self._hearing = Hearing(self.pieces)
        self._is_news = False  # something has been heard that asks for a look
        self.vouched: set[str] = set()  # keys of the pieces whose bytes are in this mirror's file
        self.blob: int | None = None  # the number of the copy
        self.size: int | None = None  # in bytes, by the best word there is
        self.copied_from: str | None = None  # the upstream that has sent the copy
        self.sent_by = set[str]()  # the upstreams whose bytes have come
        self.file: int | None = None  # a descriptor of what is written here
        self.writer: Writer | None = None
        self.is_proved_here = False
        self.is_published = False
        self._has_ended = False
        self._is_of_copy = True  # every byte here
        self._is_disproved = False
        self._is_broken = False  # the copy, in the bucket
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Part {self.upstream} {self.digest}: {self.turn.state.value}, {self.pieces}>"

    # For the fill

    def through(self, source: BlobSource) -> BlobSource:
        """Where to take bytes from, for who would ask `source`."""
        return Shared(source, self)

    def write_to(self, writer: Writer) -> None:
        """What comes is written there."""
        self._close()
        self.writer, self.file = writer, os.dup(writer.file.fileno())
        self._is_of_copy &= not writer.total
        self.wake()

    def offer(self, blob: OpenBlob) -> None:
        """There is no fill: all of it is here, and proved, and this upstream has sent it."""
        self.sent_by.add(self.upstream)
        self.file = os.dup(blob.file.fileno())
        self.turn.begun(self.monotonic())
        self.proved(blob.size)
        self.ended(None)

    def note_fetched(self) -> None:
        """Upstream is about to send some of it to this mirror."""
        self.sent_by.add(self.upstream)
        self._is_of_copy = False

    def progressed(self) -> None:
        """More is written."""
        self.wake()

    def disagrees(self) -> None:
        """Upstream's word on the size is another than that of the copy: it goes on by itself."""
        self._is_disproved |= self.turn.leads
        self.turn.give_up()
        self.wake()

    def starts_over(self) -> None:
        """What is written here is nothing that anybody sends."""
        self.turn.give_up()
        self.wake()

    def proved(self, size: int) -> None:
        """The fill has hashed everything, and keeps it."""
        self.size, self.is_proved_here = size, True
        if not self.senders:
            self.turn.give_up()
        self.wake()

    def ended(self, error: BaseException | None) -> None:
        """The fill has ended; with this, where it has not ended well."""
        self._has_ended = True
        if not self.is_proved_here:
            self._is_disproved |= isinstance(error, DigestMismatch)
            self.turn.end()
        self.wake()

    def written(self) -> list[Span]:
        """What of it is written here."""
        if self.file is None:
            return []
        if self.is_proved_here:
            return [(0, self.size or 0)]
        writer = self.writer
        if writer is None:
            return []
        if not writer.size:
            return [(0, writer.end_at(0))]
        spans, position = list[Span](), 0
        for start, stop in [*writer.missing(), (writer.size, writer.size)]:
            if position < start:
                spans.append((position, start))
            position = stop
        return spans

    @property
    def senders(self) -> Collection[str]:
        """The upstreams that have sent what the fill has brought, whichever mirror it came to.

        Where bytes of several are in one file, none of them has sent it: then it is that of the
        whole copy alone. Where a mirror before has left all of it on the disk, and died, nobody can
        tell whose copy that was: no upstream is said to have sent it, but for one that is private,
        whose secret it may be. Then upstream is asked whether it has it, as for what is adopted.
        """
        if not self.sent_by and not self._is_private:
            return ()
        if self.sent_by <= {self.upstream}:
            return {self.upstream}
        return self.sent_by - {self.upstream}

    # Tending the turn

    async def tend(self) -> None:
        """See to the turn until the fill has ended, and the others can have what it has brought."""
        while not self.is_over:
            act, delay = self.turn.next(self.monotonic())
            if act is Act.REST:
                await self.news()
            elif delay > 0:
                await self.news(within=delay)
            else:
                await self._do(act)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        state = self.turn.state
        is_left = state in {State.ALONE, State.READING} or self.is_published
        return state is State.OVER or (self.is_proved_here and self._has_ended and is_left)

    async def _do(self, act: Act) -> None:
        self._is_news = False
        try:
            match act:
                case Act.CLAIM:
                    await self._claim()
                case Act.RENEW:
                    await self.renew()
                case _:
                    await self._look()
        except StoreError:
            self.turn.unreachable(self.monotonic(), is_down=self._is_down())
        else:
            if self._is_news:  # it may have come too late for the answer
                self.turn.heard(self.monotonic())
        self.wake()

    async def _claim(self) -> None:
        turn, now = self.turn, self.monotonic()
        copy = await self.ledger.find(self.upstream, self.digest)
        if copy is not None and (copy.is_proved or not copy.is_free):
            self._begin(copy.blob, copy.upstream, copy.pieces, copy.size)
            if copy.is_proved:
                turn.is_proved(now)
            else:
                turn.is_anothers(now)
            return
        claimed = await self.ledger.claim(self.upstream, self.digest, turn.term, turn.lease)
        if claimed is None:
            turn.was_taken(now)
            return
        self._begin(
            claimed.blob, self.upstream, claimed.pieces, None if copy is None else copy.size
        )
        turn.won(claimed.epoch, now)

    def _begin(self, blob: int, upstream: str, pieces: tuple[Piece, ...], size: int | None) -> None:
        self.pieces.clear()  # what the database does not tell of now, it may have forgotten
        self.blob, self.copied_from = blob, upstream
        self._add(pieces, size)

    def _add(self, pieces: tuple[Piece, ...], size: int | None) -> bool:
        is_news = [self.pieces.add(piece) for piece in pieces]
        for piece in pieces:
            self._hearing.note_read(piece)
        if size is not None and self.size is None:
            self.size = size
            self.turn.begun(self.monotonic())
        return any(is_news)

    async def renew(self) -> None:
        """Keep the turn, or learn that it is another's. Raises StoreError."""
        turn, now = self.turn, self.monotonic()
        if self.blob is None or turn.epoch is None:
            return
        if await self.ledger.renew(self.blob, turn.epoch, turn.term):
            turn.renewed(now)
        else:
            self.lost(turn.epoch)

    async def make_sure(self) -> None:
        """Renew a turn that may be another's by now; if nobody can be asked, it is kept."""
        try:
            await self.renew()
        except StoreError:
            self.turn.unreachable(self.monotonic(), is_down=self._is_down())

    def lost(self, epoch: int) -> None:
        """The turn of this epoch is another's."""
        if self.turn.leads and self.turn.epoch == epoch:
            _logger.info(
                "another mirror fetches it now",
                extra=fields(digest=self.digest, upstream=self.upstream, epoch=epoch),
            )
            self.turn.lost(self.monotonic())
            self.wake()

    async def _look(self) -> None:
        turn, now = self.turn, self.monotonic()
        assert self.blob is not None  # noqa: S101 - there is something to look at
        copy = await self.ledger.look(self.blob, self.pieces.reach(0))
        if copy is None:
            self.pieces.clear()
            turn.gone(now)
        else:
            if self._add(copy.pieces, copy.size):
                turn.moved(now)
            if copy.is_proved:
                turn.is_proved(now)
            elif copy.is_free:
                turn.is_free(now)
            else:
                turn.is_anothers(now)

    def heard(self, word: str) -> None:
        """Something has changed about the copy (`hearing.py`)."""
        now, reach = self.monotonic(), self.pieces.reach(0)
        if self.turn.state is not State.FOLLOWING or not self._hearing.hear(word):
            self._is_news = True
            self.turn.heard(now)
        elif self.pieces.reach(0) > reach:  # else there is a gap: what fills it may be lost
            self.turn.told(now)
        self.wake()

    # Waiting

    def wake(self) -> None:
        """Something is new."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def news(self, *, within: float | None = None) -> None:
        """Wait until something is, so many seconds at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._changed.wait()

    async def come(self, position: int) -> bool:
        """Wait for the piece that a position is in; False: not from here, or not any more."""
        while self.turn.may_read or self.turn.state is State.ASKING:
            if self.pieces.find(position) is not None:
                return True
            if self.turn.state is State.READING:  # and still it is not there
                self.turn.gone(self.monotonic())
            self.turn.waited(self.monotonic())
            self.wake()
            await self.news(within=_LONGEST_REST)
        return False

    def unreadable(self, *, is_missing: bool) -> None:
        """The pieces cannot be had here; `is_missing`: nor anywhere, for they are not there."""
        self._is_broken |= is_missing and self.turn.state is State.READING
        self.turn.unreadable()
        self.wake()

    async def settled(self) -> None:
        """Return when it is known where the bytes come from, and how many there are."""
        turn = self.turn
        while not turn.may_fetch and turn.state is not State.OVER:
            if turn.may_read and (self.size is not None or len(self.pieces)):
                return
            turn.waited(self.monotonic())
            await self.news(within=_LONGEST_REST)

    # The end

    async def finish(self) -> None:
        """Leave the turn to others, and what is wrong to nobody."""
        self._close()
        turn, blob = self.turn, self.blob
        if blob is None or self.is_published:
            return
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_RELEASED_WITHIN):
                if self._is_broken or (self._is_disproved and self._is_of_copy):
                    await self.ledger.abandon(blob, None)
                elif turn.epoch is not None and self._is_disproved:
                    await self.ledger.abandon(blob, turn.epoch)
                elif turn.epoch is not None:
                    await self.ledger.release(blob, turn.epoch)

    def _close(self) -> None:
        if self.file is not None:
            os.close(self.file)
        self.writer, self.file = None, None

"""Publishing: pieces are put from what a fill has written, and others told of them.

A piece is put when all of its bytes are in the file, in order where there is a choice, and a few at
a time. Only then it is recorded, under the turn's epoch. The bucket may be slow, or away: the fill
and its readers do not notice. What a mirror before has put is left as it is where it has been read
here, and so is proved with the rest; where this mirror has the bytes from elsewhere, it puts its
own in its place.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from random import Random
from secrets import token_hex

from mirror.aio.backoff import Backoff
from mirror.aio.group import Group
from mirror.oci.errors import StoreError
from mirror.shared.part import Part
from mirror.shared.pieces import Piece, Span, key, without
from mirror.shared.ports import BucketDown
from mirror.shared.redirecting import LARGE
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_READ = 2**23  # bytes at a time
_AT_ONCE = 3  # pieces of one blob, as far as there are slots
_LEAST_RATE = 2**18  # bytes a second, at which the bucket has to take a piece

_BACKOFF = Backoff(first=0.2, most=5.0)


class Publisher:
    """Puts what one part has. `slots` bounds how many pieces are held in memory at once.

    `joins`: what is large is put as a whole, too.
    """

    def __init__(
        self,
        part: Part,
        *,
        joins: bool,
        slots: asyncio.Semaphore,
        random: Random,
        note_put: Callable[[int], None],
    ) -> None:
        self._part = part
        self._slots = slots
        self._joins = joins
        self._random = random
        self._note_put = note_put
        self._word = token_hex(8)  # others' notifications are believed by it
        self._told: tuple[int, int] | None = None  # the size, and under which epoch
        self._puts = 0  # at work
        self._putting = set[Span]()

    async def publish(self) -> None:
        """Put what there is whenever it is this mirror's turn, until the part is over."""
        work = Group()
        work.create_task(self._publish(work), name="publish")
        await work.wait()

    async def _publish(self, work: Group) -> None:
        part = self._part
        while not part.is_over:
            epoch = part.turn.epoch
            if not part.turn.leads or epoch is None or part.blob is None:
                await part.news()
            elif part.size is not None and self._told != (part.size, epoch):
                await self._tell_size(part.blob, epoch, part.size)
            elif self._puts < _AT_ONCE and self._next_span() is not None:
                self._puts += 1
                work.create_task(self._put(part.blob, epoch), name="put")
            elif not self._puts and part.is_proved_here and part.size is not None:
                await self._prove(part.blob, epoch, part.size)
            else:
                await part.news(within=part.turn.patience / 4)

    def _next_span(self) -> Span | None:
        """The first that is written here, and neither on its way nor in the bucket as it is."""
        part = self._part
        hurries = part.turn.must_hurry(part.monotonic())
        written = without(part.written(), self._putting)
        return part.pieces.next_span(written, part.size, part.vouched, hurries=hurries)

    async def _tell_size(self, blob: int, epoch: int, size: int) -> None:
        async def tell() -> bool:
            return await self._part.ledger.tell_size(blob, epoch, size)

        if await self._tell(epoch, tell):
            self._told = (size, epoch)

    async def _put(self, blob: int, epoch: int) -> None:
        """Put what is next by then, and record it."""
        part, span = self._part, None
        try:
            async with self._slots:
                if not part.turn.leads or part.turn.epoch != epoch:
                    return
                span = self._next_span()
                if span is None:  # another has taken it meanwhile
                    return
                self._putting.add(span)
                piece = await self._put_span(blob, epoch, *span)
            if piece is not None:
                await self._record(blob, epoch, piece)
        finally:
            if span is not None:
                self._putting.remove(span)
            self._puts -= 1
            part.wake()

    async def _put_span(self, blob: int, epoch: int, start: int, stop: int) -> Piece | None:
        part = self._part
        if part.file is None:
            return None
        piece = Piece(start, stop, key(part.digest, epoch, self._word, start))
        content = await asyncio.to_thread(os.pread, part.file, stop - start, start)
        if len(content) < stop - start:  # the disk has lost it
            part.starts_over()
            return None
        return piece if await self._try_to_put(piece, content, blob, epoch) else None

    async def _record(self, blob: int, epoch: int, piece: Piece) -> None:
        part = self._part

        async def record() -> bool:
            return await part.ledger.record(blob, epoch, piece)

        if await self._tell(epoch, record):
            part.pieces.add(piece)
            part.vouched.add(piece.key)
            part.turn.moved(part.monotonic())
            self._note_put(piece.stop - piece.start)

    async def _try_to_put(self, piece: Piece, content: bytes, blob: int, epoch: int) -> bool:
        """Put it, however often that takes; False: it is another's turn, or nobody's now."""
        part, failures = self._part, 0
        patience = part.turn.lease + len(content) / _LEAST_RATE
        while part.turn.epoch == epoch and part.turn.leads:
            try:
                async with asyncio.timeout(patience):
                    await part.bucket.put(piece.key, content)
            except (BucketDown, TimeoutError) as error:
                failures += 1
                if part.turn.refused(part.monotonic()):
                    await self._give_up(blob, epoch, error)
                    return False
                await asyncio.sleep(_BACKOFF.delay(failures, roll=self._random.random()))
            else:
                return True
        return False

    async def _give_up(self, blob: int, epoch: int, error: Exception) -> None:
        part = self._part
        _logger.warning(
            "the bucket takes nothing; others fetch this for themselves: %s",
            str(error) or "it does not answer in time",
            extra=fields(digest=part.digest, upstream=part.upstream),
        )
        part.wake()
        with suppress(StoreError):
            await part.ledger.release(blob, epoch)

    async def _prove(self, blob: int, epoch: int, size: int) -> None:
        part = self._part
        if any(piece.stop > size for piece in part.pieces):
            # There are pieces of what had another size.
            async def abandon() -> bool:
                await part.ledger.abandon(blob, epoch)
                return False

            await self._tell(epoch, abandon)
            return

        async def prove() -> bool:
            keys = [piece.key for piece in part.pieces if piece.key in part.vouched]
            return await part.ledger.prove(blob, epoch, size, keys)

        if await self._tell(epoch, prove):
            part.is_published = True
            part.wake()
            if self._joins and size >= LARGE and len(part.pieces) > 1:
                with suppress(BucketDown, StoreError):
                    await self._join(blob, epoch, size)

    async def _join(self, blob: int, epoch: int, size: int) -> None:
        """Have it as one object, too, to which clients can be sent."""
        part, word = self._part, f"{self._random.getrandbits(64):016x}"
        assert part.file is not None  # noqa: S101 - all of it has been put from there
        whole = Piece(0, size, key(part.digest, epoch, word, 0))
        await part.bucket.put_large(whole.key, _read(part.file, size))
        await part.ledger.join(blob, whole)

    async def _tell(self, epoch: int, tell: Callable[[], Awaitable[bool]]) -> bool:
        """Have it on record, however long the database is away; False: the turn is another's."""
        part, failures = self._part, 0
        while part.turn.leads and part.turn.epoch == epoch:
            try:
                is_done = await tell()
            except StoreError:
                failures += 1
                await part.news(within=_BACKOFF.delay(failures, roll=self._random.random()))
            else:
                if not is_done:
                    part.lost(epoch)
                return is_done
        return False


async def _read(file: int, size: int) -> AsyncIterator[bytes]:
    for start in range(0, size, _READ):
        length = min(_READ, size - start)
        chunk = await asyncio.to_thread(os.pread, file, length, start)
        if len(chunk) < length:
            raise OSError("the disk has lost some of it")
        yield chunk

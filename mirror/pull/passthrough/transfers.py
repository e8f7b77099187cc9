"""Blobs that cannot be kept: whoever wants the same bytes of one, of the same source, shares them.

A reader looks for a transfer (`mirror.pull.passthrough.transfer`) that has what it wants next, or
will have it soon, and else begins one: of all the blob where it reads all of it, of a part by
`Range` where it wants a part. When a transfer ends, or has left it behind, it looks again.

They are by source and digest: nobody shares what another repository's, or client's, authority gets.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

from cachetools import TTLCache

from mirror.aio.tasks import NoteFault, Starter
from mirror.oci.digest import Digest
from mirror.oci.errors import Unavailable
from mirror.pull.fill.retries import RetryPolicy
from mirror.pull.passthrough.seats import Seat
from mirror.pull.passthrough.transfer import SMALL, Course, Part, Transfer, Unprovable
from mirror.pull.prefix import Cut, Prefix
from mirror.sources.ports import BlobSource
from mirror.telemetry.metrics import Metrics, PassedThrough

_NEAR = 2**20  # bytes; so much is waited for rather than asked for once more
_CLAIM = (8 * 2**20, 128 * 2**20)  # bytes of a part at first, and at most: it may not be read on
_REMEMBERED = 1024  # blobs
_REMEMBERED_FOR = 600.0  # seconds

_Key = tuple[BlobSource, Digest]

FindCut = Callable[[int], Cut | None]
"""The fill that was cut off at a position: its readers go on from there."""


class Transfers:
    """Starts transfers, and finds those that run. They belong to `tasks`.

    `patience` is for how many seconds a client waits for the start of a blob; `proved` is told of
    the size, in bytes, of each blob that is.
    """

    def __init__(
        self,
        retries: RetryPolicy,
        *,
        patience: float,
        tasks: Starter,
        metrics: Metrics,
        note_fault: NoteFault,
        proved: Callable[[str, Digest, int], None],
        random: Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._course = Course(retries, metrics, note_fault, random, clock)
        self._patience = patience
        self._tasks = tasks
        self._proved = proved
        self._running: dict[_Key, list[Transfer]] = {}
        self._sizes: TTLCache[_Key, int] = TTLCache(_REMEMBERED, _REMEMBERED_FOR, timer=clock)
        self._whole_only: TTLCache[_Key, bool] = TTLCache(_REMEMBERED, _REMEMBERED_FOR, timer=clock)

    @asynccontextmanager
    async def open(self, source: BlobSource, digest: Digest) -> AsyncIterator["Unkept"]:
        """A blob that is not kept, and its size if anybody tells it.

        Where that is remembered, upstream is asked for the first time with the first bytes.

        Raises:
            Missing, Denied, Unavailable, DigestMismatch: What upstream says, or that it says
                nothing.
        """
        self._course.metrics.passed_through.labels(source.upstream, PassedThrough.ALL).inc()
        stream = Unkept(self, source, digest, self._sizes.get((source, digest)))
        try:
            if stream.size is None:
                await stream.ask()
            yield stream
        finally:
            stream.release()

    @asynccontextmanager
    async def go_on(
        self, source: BlobSource, digest: Digest, find_cut: FindCut
    ) -> AsyncIterator["Unkept"]:
        """The rest of a blob whose readers hold a part of it already; nobody is asked yet.

        `find_cut` knows what is before it. Who reads to the end without saying where that is, has
        read from the start, and has the end only where all of it can be proved.
        """
        self._course.metrics.passed_through.labels(source.upstream, PassedThrough.REST).inc()
        stream = Unkept(self, source, digest, None, find_cut=find_cut)
        try:
            yield stream
        finally:
            stream.release()

    # For its readers

    def join(self, key: _Key, part: Part) -> tuple[Transfer, Seat]:
        """A place in a transfer that brings a part, or the first of it; begun now if need be."""
        found = self._find(key, part) or self._start(key, part)
        return found, found.sit(part.start)

    async def begun(self, transfer: Transfer) -> None:
        """Return when its size may be told. Raises as `open`."""
        await transfer.begun(patience=None if transfer.part.is_continued else self._patience)

    def _find(self, key: _Key, part: Part) -> Transfer | None:
        ahead = None if self._comes_whole(key, part) else _NEAR
        for transfer in self._running.get(key, ()):
            if not transfer.reaches(part.start, part.stop, ahead=ahead):
                continue
            if part.prefix is None or part.prefix.is_like(transfer.prefix_at(part.start)):
                return transfer
        return None

    def _comes_whole(self, key: _Key, part: Part) -> bool:
        """Whether nothing less is asked for: a part of it would come no sooner, or unproved."""
        is_small = part.size is not None and part.size <= SMALL
        return is_small or (key in self._whole_only and part.prefix is None)

    def _start(self, key: _Key, part: Part) -> Transfer:
        source, digest = key
        if self._comes_whole(key, part) and (part.start == 0 or part.prefix is None):
            part = Part(0, None, part.size, Prefix.empty(digest), part.is_continued)
        transfer = Transfer(
            source, digest, part, course=self._course, deserted=self._end, news=self._note
        )
        self._running.setdefault(key, []).append(transfer)
        transfer.task = self._tasks.create_task(transfer.run(), name="passthrough")
        return transfer

    def _end(self, transfer: Transfer) -> None:
        """Nobody reads it any more."""
        key = (transfer.source, transfer.digest)
        self._running[key].remove(transfer)
        if not self._running[key]:
            del self._running[key]
        if transfer.task is not None:
            transfer.task.cancel()

    def _note(self, transfer: Transfer) -> None:
        key = (transfer.source, transfer.digest)
        if transfer.is_wrong:
            self._sizes.pop(key, None)
        elif transfer.size is not None and transfer.error is None:
            self._sizes[key] = transfer.size
        if transfer.is_proved and transfer.size is not None:
            self._proved(transfer.source.upstream, transfer.digest, transfer.size)
        if transfer.needs_whole:
            self._whole_only[key] = True


class Unkept:
    """One reader's blob: the `Stream` of its answer. `size` in bytes, None if nobody tells it."""

    def __init__(
        self,
        transfers: Transfers,
        source: BlobSource,
        digest: Digest,
        size: int | None,
        *,
        find_cut: FindCut | None = None,
    ) -> None:
        self.size = size
        self.sender: str | None = None  # whose bytes they are, as far as that is known
        self._transfers = transfers
        self._key = (source, digest)
        self._find_cut = find_cut
        self._place: tuple[Transfer, Seat] | None = None  # until it is read

    async def ask(self) -> None:
        """Begin with all of it, and learn its size. Raises as `Transfers.open`."""
        part = Part(0, None, None, Prefix.empty(self._key[1]), is_continued=False)
        transfer, _ = self._place = self._transfers.join(self._key, part)
        await self._transfers.begun(transfer)
        self.size, self.sender = transfer.size, transfer.sender

    def release(self) -> None:
        """Nobody reads from where it began."""
        if self._place is not None:
            (transfer, seat), self._place = self._place, None
            transfer.leave(seat)

    async def chunks(self, start: int, stop: int | None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to `stop` (None: to the end), as they come.

        Who reads the last byte of a blob, and all before it, reads it once it is proved.

        Raises:
            RegistryError: The bytes are wrong, or there will be no more.
        """
        position, prefix = start, self._prefix_at(start)
        stop = self._end(prefix) if stop is None else stop
        proved_end = stop if prefix is not None and stop == self.size else None
        length, most = _CLAIM
        while stop is None or position < stop:
            end = self._end_of_claim(position, stop, prefix, length)
            is_continued = position > start or self._find_cut is not None
            part = Part(position, end, self.size, prefix, is_continued)
            transfer, seat = self._transfers.join(self._key, part)
            length = min(2 * length, most)
            self.release()
            try:
                await self._transfers.begun(transfer)
                while (piece := await transfer.next_piece(seat)) is not None:
                    transfer.require_size(proved_end, piece)
                    last = None if stop is None else stop - piece.start
                    content = piece.content[position - piece.start : last]
                    position += len(content)
                    prefix = piece.prefix if position == piece.stop else None
                    yield content
                    if position == stop:
                        return
                if transfer.is_end(position):
                    return
            except Unprovable:
                prefix = None  # all of it then (`_note`); this is a part, and never proved
            finally:
                transfer.leave(seat)

    def _prefix_at(self, start: int) -> Prefix | None:
        if start == 0:
            return Prefix.empty(self._key[1])
        cut = None if self._find_cut is None else self._find_cut(start)
        if cut is None:
            return None
        self.size = cut.size
        return cut.prefix

    def _end(self, prefix: Prefix | None) -> int | None:
        """The blob's end, if anybody tells. Raises Unavailable where it could not be proved."""
        if prefix is None:
            raise Unavailable("what was read before cannot be proved any more")
        return self.size

    def _end_of_claim(
        self, position: int, stop: int | None, prefix: Prefix | None, length: int
    ) -> int | None:
        """What to ask for where nobody brings it yet; None: all that there is."""
        if stop is None or (prefix is not None and stop == self.size):
            return None
        # Who asks for a part may leave before its end; a client's own token may end before it.
        return min(stop, position + length) if self._key[0].is_lasting else stop

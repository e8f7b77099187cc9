"""The source that a fill asks where several mirrors are one: upstream, or what another has put."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from mirror.aio.slots import Urgency
from mirror.oci.digest import Chunk, Digest
from mirror.oci.errors import Unavailable
from mirror.shared.follow import Copying, PieceSender, follow
from mirror.shared.turns import State
from mirror.sources.ports import BlobSource, Body, Sender


class Receiving(Copying, Protocol):
    """What knows whose turn it is to fetch a blob (`mirror.shared.part`)."""

    digest: Digest
    size: int | None  # in bytes, by the best word there is
    copied_from: str | None  # the upstream that has sent the copy
    sent_by: set[str]  # the upstreams whose bytes have come
    monotonic: Callable[[], float]

    async def settled(self) -> None:
        """Return when it is known where the bytes come from, and how many there are."""

    def note_fetched(self) -> None:
        """Upstream is about to send some of it to this mirror."""

    async def make_sure(self) -> None:
        """Renew a turn that may be another's by now; if nobody can be asked, it is kept."""

    def wake(self) -> None:
        """Something is new."""


@dataclass(frozen=True, slots=True)
class Shared:
    """A source that is asked only where it is this mirror's turn (`mirror.sources.ports`)."""

    source: BlobSource
    part: Receiving

    @property
    def upstream(self) -> str:
        """As the source's."""
        return self.source.upstream

    @property
    def repository(self) -> str:
        """As the source's."""
        return self.source.repository

    @property
    def is_lasting(self) -> bool:
        """As the source's."""
        return self.source.is_lasting

    @asynccontextmanager
    async def open_blob(
        self,
        digest: Digest,
        start: int,
        stop: int | None,
        *,
        avoid: Sender | None,
        urgency: Urgency,
    ) -> AsyncIterator[Body]:
        """As `BlobSource.open_blob`."""
        part = self.part
        await part.settled()
        copied = self._copied(start, stop) if digest == part.digest else None
        if copied is not None:
            async with aclosing(copied.chunks):
                yield copied
            return
        part.note_fetched()
        follows = part.pieces.next_start(start) if part.turn.leads else None
        if follows is not None and (stop is None or follows < stop):
            stop = follows  # from there on others have put it
        avoid = None if isinstance(avoid, PieceSender) else avoid
        async with self.source.open_blob(digest, start, stop, avoid=avoid, urgency=urgency) as body:
            if body.size is not None and part.size is None:
                part.size = body.size
            part.turn.begun(part.monotonic())
            part.wake()
            yield replace(body, chunks=self._watched(body.chunks))

    def wait(self) -> float:
        """As the source's."""
        return self.source.wait()

    def distrust(self, digest: Digest, senders: Collection[Sender], *, is_disproved: bool) -> None:
        """As the source's."""
        self.source.distrust(digest, senders, is_disproved=is_disproved)

    def _copied(self, start: int, stop: int | None) -> Body | None:
        """What others have put of it, or will; None: it is to be fetched."""
        part, size, state = self.part, self.part.size, self.part.turn.state
        if not part.turn.may_read and (state is not State.LEADING or size is None):
            return None
        if size is not None and start >= size:
            if not size and part.copied_from is not None:  # there is no more to come from it
                part.sent_by.add(part.copied_from)
            return _body(part, start, start, follow(part, part.blob, start, start), is_range=False)
        end = size if stop is None or size is None else min(stop, size)
        if not part.turn.may_read:  # what a mirror before has put
            end = min(part.pieces.reach(start), stop or size or 0, size or 0)
            if end <= start:
                return None
        if part.copied_from is not None:
            part.sent_by.add(part.copied_from)
        is_range = size is not None and not (start == 0 and stop is None and end == size)
        return _body(part, start, end, follow(part, part.blob, start, end), is_range=is_range)

    async def _watched(self, chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
        """What upstream sends, as long as it is this mirror that is to fetch it."""
        part = self.part
        async with aclosing(chunks):
            async for chunk in chunks:
                if part.turn.is_overdue(part.monotonic()):
                    await part.make_sure()
                if not part.turn.may_fetch:
                    raise Unavailable("another mirror fetches it now")
                yield chunk


def _body(
    part: Receiving,
    start: int,
    stop: int | None,
    chunks: AsyncGenerator[Chunk, None],
    *,
    is_range: bool,
) -> Body:
    return Body(
        start, stop, part.size, chunks, PieceSender(), is_range=is_range,
        copied_from=part.copied_from,
    )  # fmt: skip

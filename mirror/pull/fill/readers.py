"""Everyone who reads a blob while it arrives: how far it has come, and one outcome for all.

To each of them this is the `Reader` of their answer. They are let in when bytes can be read and the
size is known, if anybody tells it. Most follow it in order, and none of them gets the last byte
before the digest is proved (`Progress.limit`). Who asks for a range ahead of that has it as soon as
it is there. For what of it is not proved by then, see SECURITY.md, "Ranges".
"""

import asyncio
from collections.abc import Callable
from io import FileIO

from prometheus_client import Gauge

from mirror.oci.errors import RegistryError, StoreError
from mirror.oci.ranges import ByteRange
from mirror.pull.answers import Progress
from mirror.pull.fill.wants import Want, Wants
from mirror.storage.ports import Writer


class Readers:
    """Who reads from one fill, and what they may know of it; `gauge` counts them.

    `deserted` is called when the last of them has left; `wants` is told what they wait for.
    `is_doubted`: no range is complete before the proof.
    """

    def __init__(
        self, gauge: Gauge, deserted: Callable[[], None], wants: Wants, *, is_doubted: bool
    ) -> None:
        self.count = 0
        self.size: int | None = None  # bytes; None where nobody has told it
        self.is_proved = False  # every byte is there and is what the digest promises
        self.error: RegistryError | None = None  # which all of them get
        self._gauge = gauge
        self._deserted = deserted
        self._wants = wants
        self.is_doubted = is_doubted
        self._writer: Writer | None = None
        self._are_in = False
        self._is_over = False
        self._changed = asyncio.Event()

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        written = 0 if self._writer is None else self._writer.written
        return Progress(written, self.size, self.is_proved, self.is_doubted)

    @property
    def file(self) -> FileIO:
        """The growing file; there is one once readers are in."""
        assert self._writer is not None  # noqa: S101 - callers have waited for `started`
        return self._writer.file

    async def started(self) -> None:
        """Return when bytes can be read. Raises the error that all get."""
        while not self._are_in:
            self._check()
            await self._changed.wait()
        self._check()

    async def follow(self, seen: Progress) -> None:
        """Wait until it has come farther than that. Raises the error that all get.

        What the disk has refused ends after what is there: its readers go on from that.
        """
        if self.progress != seen and self._may_go_on:
            return
        self._wants.follow()
        try:
            while self.progress == seen or not self._may_go_on:
                self._check()
                await self._changed.wait()
        finally:
            self._wants.unfollow()

    async def reach(self, position: int, stop: int) -> int:
        """Wait for bytes from `position` on; up to where a range may have them that ends at `stop`.

        Raises the error that all get, as `follow` does.
        """
        want = None
        try:
            while (limit := self._limit(position, stop)) <= position or not self._may_go_on:
                self._check()
                if want is None:
                    want = Want([ByteRange(position, stop - 1)])
                    self._wants.add(want)
                await self._changed.wait()
        finally:
            if want is not None:
                self._wants.discard(want)
        return limit

    @property
    def _may_go_on(self) -> bool:
        """Whether what is there may be read."""
        return isinstance(self.error, StoreError | None)

    def _limit(self, position: int, stop: int) -> int:
        """Up to where there are bytes from `position` on, and may be sent."""
        if self._writer is None or self.size is None:
            return position
        if self.is_proved:
            return min(stop, self.size)
        limit = min(stop, self._writer.end_at(position))
        if self.is_doubted:
            return min(limit, stop - 1)
        is_all_there = self._writer.end_at(0) >= self.size
        return min(limit, self.size - 1) if is_all_there else limit

    # For the fill

    def join(self) -> None:
        """One more."""
        self.count += 1
        self._gauge.inc()

    def leave(self) -> None:
        """One less; the file is closed when nobody needs it any more."""
        self.count -= 1
        self._gauge.dec()
        self._close_if_unused()
        if not self.count:
            self._deserted()

    def let_in(self, writer: Writer, size: int | None) -> None:
        """Bytes can be read, or another body has told the size."""
        self._writer, self.size, self._are_in = writer, size, True
        self.wake()

    def prove(self, writer: Writer) -> None:
        """All of it is there, and is the blob."""
        self.is_proved = True
        self.let_in(writer, writer.written)

    def fail(self, error: RegistryError) -> None:
        """There will be no more, which does not matter where it is proved."""
        if not self.is_proved:
            self.error = error
        self.wake()

    def end(self, writer: Writer | None) -> None:
        """Nothing is written any more."""
        self._writer, self._is_over = writer, True
        self._close_if_unused()

    def wake(self) -> None:
        """There is something new."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _check(self) -> None:
        if self.error is not None:
            raise self.error.with_traceback(None)  # one error for all: it would grow

    def _close_if_unused(self) -> None:
        if self._is_over and not self.count and self._writer is not None:
            self._writer.close()

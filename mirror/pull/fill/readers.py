"""Everyone who reads a blob while it arrives: how far it has come, and one outcome for all.

To each of them this is the `Reader` of their answer. They are let in when bytes can be read and the
size is known, if anybody tells it. No reader gets the last byte before the digest is proved
(`Progress.limit`).
"""

import asyncio
from collections.abc import Callable
from io import FileIO

from prometheus_client import Gauge

from mirror.oci.errors import RegistryError, StoreError
from mirror.pull.answers import Progress
from mirror.storage.ports import Writer


class Readers:
    """Who reads from one fill, and what they may know of it; `gauge` counts them.

    `deserted` is called when the last of them has left.
    """

    def __init__(self, gauge: Gauge, deserted: Callable[[], None]) -> None:
        self.count = 0
        self.size: int | None = None  # bytes; None where nobody has told it
        self.is_proved = False  # every byte is there and is what the digest promises
        self.error: RegistryError | None = None  # which all of them get
        self._gauge = gauge
        self._deserted = deserted
        self._writer: Writer | None = None
        self._are_in = False
        self._is_over = False
        self._changed = asyncio.Event()

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        written = 0 if self._writer is None else self._writer.written
        return Progress(written, self.size, self.is_proved)

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
        while self.progress == seen or not isinstance(self.error, StoreError | None):
            self._check()
            await self._changed.wait()

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

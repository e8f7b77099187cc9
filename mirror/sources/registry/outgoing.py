"""The body of a request on its way to a registry, and how it fares.

A registry that takes no byte for a while has stalled, and one that has all of it must answer: but
what is waited for from whoever brings the bytes is not the registry's time. Whoever sends hands a
body the clock that it is to be measured by, and is told afterwards whether the bytes themselves
could not be had.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Self

from mirror.oci.digest import Chunk

_PIECE = 2**16  # bytes

Pace = Callable[[int], Awaitable[None]]
"""Waits until so many bytes may be sent."""


class Short(ValueError):
    """Whoever brings a body has brought less than was announced, or more."""


class Outgoing:
    """A body of `length` bytes, or of as many as come (None: in chunked coding).

    Bytes can be sent once more; what comes in chunks is gone. `patience` is in seconds for the
    registry to take a piece, `answer` for it to answer once it has all. `is_alone`: it goes over a
    connection that carries nothing else, since there are lines that cut every one after so much.
    """

    def __init__(
        self,
        content: AsyncIterable[Chunk] | bytes,
        *,
        length: int | None = None,
        patience: float,
        answer: float,
        is_alone: bool = False,
    ) -> None:
        self._content = content
        self.is_alone = is_alone
        self.length = len(content) if isinstance(content, bytes) else length
        self._patience = patience
        self._answer = answer
        self._pace: Pace | None = None
        self._deadline: asyncio.Timeout | None = None
        self._source: AsyncIterator[Chunk] | None = None
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._is_answered = False
        self.sent = 0  # bytes of it, handed to the connection
        self.is_over = False  # all of it was
        self.error: Exception | None = None  # of whoever brings it

    @property
    def is_whole(self) -> bool:
        """Whether all of it is there, to be sent as often as need be."""
        return isinstance(self._content, bytes)

    @property
    def may_repeat(self) -> bool:
        """Whether it can be sent from its beginning, for all that was asked of it."""
        return self.is_whole or self._source is None

    def begin(self, deadline: asyncio.Timeout, pace: Pace) -> Self:
        """What is to be sent now, by this clock and at this pace."""
        self._deadline, self._pace = deadline, pace
        self.sent, self.is_over, self._is_answered = 0, False, False
        if isinstance(self._content, bytes):
            self._source = None
        return self

    def answered(self) -> None:
        """There is an answer: nobody is measured any more, and nothing follows."""
        self._deadline, self._is_answered = None, True

    async def end(self) -> None:
        """Wait until whoever brings it is left alone: the request is over, or was given up."""
        self.answered()
        await self._is_idle.wait()

    def __aiter__(self) -> AsyncIterator[bytes]:
        """What aiohttp reads it by."""
        return self

    async def __anext__(self) -> bytes:
        """The next piece; the one before was taken by the connection."""
        if self.sent == self.length:
            self._finish()  # whoever has all may answer: nobody is waited for
            raise StopAsyncIteration
        if self._is_answered:
            await asyncio.Event().wait()  # until the connection is closed
        source = self._source = self._source or self._begun()
        self._measure(None)
        self._is_idle.clear()
        try:
            chunk = await anext(source)
            if self._pace is not None:
                await self._pace(len(chunk))
        except StopAsyncIteration:
            self._finish()
            raise
        except Exception as error:
            self.error = error
            raise
        finally:
            self._is_idle.set()
        self.sent += len(chunk)
        if self.length is not None and self.sent > self.length:
            raise self._short()
        self.is_over = self.sent == self.length
        self._measure(self._patience)
        return bytes(chunk)  # its memory is used again while the connection still holds it

    def _begun(self) -> AsyncIterator[Chunk]:
        content = self._content
        return aiter(_pieces(content) if isinstance(content, bytes) else content)

    def _finish(self) -> None:
        if self.length is not None and self.sent != self.length:
            raise self._short()
        self.is_over = True
        self._measure(self._answer)

    def _short(self) -> Short:
        self.error = Short(f"a body of {self.length} bytes has {self.sent}")
        return self.error

    def _measure(self, seconds: float | None) -> None:
        """So long from now on for the registry; None: it is not its turn."""
        if self._deadline is not None and not self._deadline.expired():
            now = asyncio.get_running_loop().time()
            self._deadline.reschedule(None if seconds is None else now + seconds)


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _PIECE):
        yield content[start : start + _PIECE]

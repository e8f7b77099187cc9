"""What one request to a registry carries of a course: how much, in which pieces, and for how long.

It lasts for as long as bytes come, or is of a length that is known; `caution` bounds it where a
registry forgets what was cut.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Protocol

from mirror.aio.sending import FilePart
from mirror.oci.digest import Digest
from mirror.oci.errors import Unavailable
from mirror.oci.reference import Repository
from mirror.push.bearings import Bearings
from mirror.push.caution import ENOUGH, Caution
from mirror.push.content import Content
from mirror.sources.targets import Standing
from mirror.telemetry.push_metrics import PushCounts

AHEAD = 4 * 2**20
"""Bytes by which a client may be ahead of what was sent."""

_LEAST = 2**18  # bytes sent at a time, so that it shows how far a slow line is
_MOST = 2**20  # the same on a fast line, since each piece has its price
_SOON = 0.02  # seconds in which a piece goes over a fast one
_PATIENCE = 10.0  # seconds without a byte of the client's, before a request to the registry ends


class Fed(Protocol):
    """What is to be known of a course."""

    repository: Repository
    content: Content
    sealed: Digest | None

    @property
    def size(self) -> int:
        """Bytes that are here."""

    @property
    def told(self) -> int:
        """As far as anybody says that bytes come; 0: nobody does."""

    @property
    def is_active(self) -> bool:
        """Whether somebody brings bytes, or waits."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it."""

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Return once it is so."""

    def tell(self) -> None:
        """Something may have changed."""


class Feed:
    """Of one course; what is sent is noted in its `bearings`."""

    def __init__(
        self,
        course: Fed,
        bearings: Bearings,
        caution: Caution,
        clock: Callable[[], float],
        counts: PushCounts,
    ) -> None:
        self._course = course
        self._bearings = bearings
        self._caution = caution
        self._clock = clock
        self._counts = counts

    async def length_of_next(self, standing: Standing) -> int | None:
        """How much goes into the next request; None: for as long as there is more.

        Where the line is fast, all that a client says that it brings: a registry has less work
        with a request that says its length. It breaks where the client does.
        """
        now, course = self._clock(), self._course
        chunk = self._caution.at(now)
        if not chunk:
            return self._told() if not standing.offset and self._caution.is_fast(now) else None
        chunk, start = max(chunk, standing.least), standing.offset
        enough = min(chunk, max(AHEAD, standing.least))  # a client that is held back brings no more
        await course.until(lambda: course.size - start >= enough or not self._is_growing())
        return min(chunk, course.size - start)

    def _told(self) -> int | None:
        """As far as somebody says that bytes come; None: nobody does, or has not held to it.

        Less than what is here is told by who is behind: there is more to send already.
        """
        told = self._course.told
        return told if told >= max(1, self._course.size) and not self._bearings.was_left else None

    async def chunks(self, start: int, stop: int | None) -> AsyncGenerator[FilePart, None]:
        """The bytes from `start` on; to `stop`, or for as long as there is more.

        Raises:
            Unavailable: Those up to `stop` do not come.
        """
        course = self._course
        position, mark, began, most = start, start, self._clock(), _LEAST
        while stop is None or position < stop:
            await self._wait_for_more(position, start, may_end=stop is None)
            limit = course.size if stop is None else min(stop, course.size)
            if position >= limit:
                if stop is not None:
                    self._bearings.left()
                    raise Unavailable("whoever has said that it brings more has left")
                return
            length, asked_at = min(most, limit - position), self._clock()
            try:
                yield course.content.part(position, length)
            finally:  # where it was the last of a part, nobody comes for another
                position += length
                self._bearings.sent = position
                self._counts.sent(course.repository.namespace, length)
            is_fast = self._clock() - asked_at < _SOON
            most = min(2 * most, _MOST) if is_fast else _LEAST
            course.tell()
            if stop is None and position - mark >= ENOUGH:
                now = self._clock()
                if self._caution.is_enough(position - mark, now - began, now=now):
                    return
                mark, began = position, now

    async def _wait_for_more(self, position: int, start: int, *, may_end: bool) -> None:
        """Wait for what follows; not for ever: others need the connection that a request has."""
        course = self._course
        if course.size > position:  # as a rule, where the client's line is the faster one
            return
        may_end = (
            may_end
            and position - start >= max(1, self._bearings.least)
            and not self._caution.takes_no_parts
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE if may_end else None):
                await course.until(lambda: course.size > position or not self._is_growing())
            if self._caution.takes_no_parts:  # who brings it in several requests is soon back
                async with asyncio.timeout(_PATIENCE):
                    await course.until(
                        lambda: (
                            course.size > position or course.sealed is not None or course.is_over
                        )
                    )

    def _is_growing(self) -> bool:
        return self._course.sealed is None and self._course.is_active and not self._course.is_over

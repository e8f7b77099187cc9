"""The bytes of a course that are here: compared, read, and added to by one at a time.

Several who bring the same add to one course, each what it has and the others have not brought yet.
Whoever drops it waits until nobody reads.
"""

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from mirror.oci.digest import Digest
from mirror.push.content import Content, Spooled
from mirror.push.following import Alike
from mirror.push.states import CourseState, Stateful
from mirror.storage.blocks import Source


class Growing(Stateful):
    """What can be done with the `content` of a course."""

    def __init__(self, content: Content, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.content = content
        self.sealed: Digest | None = None  # what all of it is, once that is said
        self.leader = ""  # the upload that has brought the last bytes
        self.is_dropped = False  # nothing can be read of it any more
        self._is_extending = False
        self._reads = 0  # that are under way

    @property
    def size(self) -> int:
        """Bytes that are here."""
        return self.content.size

    @property
    def _may_grow(self) -> bool:
        return self.sealed is None and not self.is_over and isinstance(self.content, Spooled)

    async def compare(self, offset: int, piece: bytes) -> Alike:
        """How a piece is like what is here from `offset` on. Raises StoreError."""
        there = min(max(0, self.size - offset), len(piece))
        is_closed = not self._may_grow
        if offset > self.size or self.state is CourseState.FAILED or self.is_dropped:
            return Alike(0, is_equal=False, is_closed=True)
        position = offset
        while position < offset + there:
            found = await self.read(position, offset + there - position)
            if found != piece[position - offset : position - offset + len(found)]:
                return Alike(0, is_equal=False, is_closed=True)
            position += len(found)
        return Alike(there, is_equal=True, is_closed=is_closed)

    async def read(self, offset: int, length: int) -> bytes:
        """As its content says; whoever drops it meanwhile waits for that. Raises StoreError."""
        self._reads += 1
        try:
            return await self.content.read(offset, length)
        finally:
            self._reads -= 1
            self.tell()

    async def extend(self, offset: int, piece: bytes, leader: str) -> bool:
        """Take what follows; False: something else has happened meanwhile.

        Raises:
            NoRoom, StoreError: It cannot be kept.
        """
        async with self._extending(offset, leader) as content:
            if content is None:
                return False
            await content.append(piece)
        return True

    async def take(self, offset: int, source: Source, most: int, leader: str) -> int:
        """Take what a source has by now of what follows; how many bytes. Raises as `extend`.

        None of them, where something else has happened meanwhile.

        Raises:
            ConnectionError: The source has no more.
        """
        async with self._extending(offset, leader) as content:
            return 0 if content is None else await content.take(source, most)

    @asynccontextmanager
    async def _extending(self, offset: int, leader: str) -> AsyncIterator[Spooled | None]:
        """What may be added to inside the block, by one at a time; None: not from this offset."""
        if self._is_extending:
            await self.until(lambda: not self._is_extending)
            yield None
            return
        content = self.content
        if not self.takes_more(offset) or not isinstance(content, Spooled):
            yield None
            return
        self._is_extending = True
        try:
            yield content
        finally:
            self._is_extending = False
            self.tell()  # also where it could not be kept: others wait for their turn
        is_news, self.leader = self.leader != leader, leader
        await self._grew(is_led_anew=is_news)

    def takes_more(self, offset: int) -> bool:
        """Whether what follows from `offset` on would be new to it, and could be added."""
        return offset == self.size and self._may_grow

    async def _put_away(self) -> None:
        """Nothing is kept of it. Raises StoreError."""
        try:
            await self.until(lambda: not self._reads)
            if isinstance(self.content, Spooled):
                await self.content.spool.remove()
        finally:
            self.content.close()

    @abstractmethod
    async def _grew(self, *, is_led_anew: bool) -> None:
        """There is more of it; whether somebody else has brought that."""

"""How an endpoint takes the bytes of uploads, as far as it has shown, and bytes cut to its taste.

    what it answers to a PATCH              what is learnt
    413                                     half of it is the most for one request, or 64 MiB
    416 or 400, and it speaks of size       4 MiB are, where a request says which part it is (GHCR)
    411, 501                                a request says how long it is: no chunked coding

Each is learnt once, at the cost of one request; what comes next is cut so that it gets through.
"""

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from io import BytesIO

from mirror.aio.sending import FilePart
from mirror.sources.targets import Sendable

SMALLEST = 2**16
"""Bytes; who takes less in one request takes nothing."""

_MOST_OF_PARTS = 4 * 2**20  # bytes; GHCR's, and nobody has been seen to take less
_MOST = 64 * 2**20  # bytes, to begin with, of what stands before others (Cloudflare: 100 MB)
_GATHERED = 2**20  # bytes in memory, to know how many they are
_MOST_GATHERED = 2**25  # the same, whatever a registry says that it wants at least
_WORDS_OF_SIZE = ("too large", "limit", "exceed")
_TOO_LARGE = 413
_LENGTH_WANTED = frozenset({411, 501})
_ABOUT_PARTS = frozenset({400, 416})


class Intake:
    """What is known of one endpoint; it starts out as if it took everything."""

    def __init__(self) -> None:
        self._most: int | None = None  # bytes of a request
        self._most_of_parts: int | None = None
        self.wants_length = False

    def most(self, *, is_part: bool, least: int = 0) -> int | None:
        """How many bytes to send in one request (None: any); never less than its `least`."""
        bounds = [self._most, self._most_of_parts if is_part else None]
        found = min((it for it in bounds if it is not None), default=None)
        return None if found is None else max(found, least)

    def refused(
        self, status: int, size: int, errors: Sequence[Mapping[str, object]], *, has_length: bool
    ) -> bool:
        """A request of this size was; whether anything was learnt from it.

        Where it does not say how long it is, that is what was sent of it.
        """
        if status == _TOO_LARGE and size > SMALLEST:
            self._most = max(SMALLEST, min(size // 2, _MOST))
            return True
        if status in _LENGTH_WANTED and not has_length:
            self.wants_length = True
            return True
        if status in _ABOUT_PARTS and has_length and size > _MOST_OF_PARTS:
            words = " ".join(str(error.get("message")) for error in errors).lower()
            if any(word in words for word in _WORDS_OF_SIZE):
                self._most_of_parts = _MOST_OF_PARTS
                return True
        return False


class Cutter:
    """Content that comes in chunks, cut into parts of another size."""

    def __init__(self, chunks: AsyncIterable[Sendable]) -> None:
        self._chunks = aiter(chunks)
        self._left: Sendable = b""
        self._is_over = False

    async def has_more(self) -> bool:
        """Whether there is another byte; waits for it."""
        while not self._left and not self._is_over:
            try:
                self._left = await anext(self._chunks)
            except StopAsyncIteration:
                self._is_over = True
        return bool(self._left)

    async def part(self, most: int | None) -> AsyncIterator[Sendable]:
        """What comes next, up to so many bytes (None: all)."""
        taken = 0
        while (most is None or taken < most) and await self.has_more():
            end = None if most is None else most - taken
            chunk, self._left = self._left[:end], self._left[end:] if end is not None else b""
            taken += len(chunk)
            yield chunk

    async def gathered(self, most: int | None, *, least: int) -> bytes:
        """The same at once, and no more than fits into memory."""
        # A BytesIO gives its bytes without a copy, which of 32 MiB is a long hold of the loop.
        content, enough = BytesIO(), max(min(most or _GATHERED, _GATHERED), least)
        async for chunk in self.part(min(enough, _MOST_GATHERED)):
            content.write(await chunk.read() if isinstance(chunk, FilePart) else chunk)
        return content.getvalue()

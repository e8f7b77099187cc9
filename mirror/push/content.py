"""Where the bytes of an upload are read from: what is spooled of it, or a blob that is here."""

from collections import deque
from typing import Protocol

from mirror.oci.digest import Hasher
from mirror.oci.errors import StoreError
from mirror.storage.ports import OpenBlob, Storage
from mirror.storage.spools import Spool

_HEAD = 4096  # bytes; most uploads differ in them
_RECENT = 2**23  # bytes that are at hand for whoever sends them on
_PIECES = 256  # that they are in: a client may bring them one byte at a time


class Content(Protocol):
    """Bytes by offset."""

    @property
    def size(self) -> int:
        """How many there are, so far."""

    @property
    def head(self) -> bytes:
        """The first few of them."""

    async def read(self, offset: int, length: int) -> bytes:
        """At most `length` of them from `offset` on, and at least one. Raises StoreError."""

    async def hasher(self, algorithm: str) -> Hasher:
        """What has taken in all of them. Raises StoreError."""

    def let_go(self, offset: int) -> None:
        """What is before `offset` was sent: it need not be at hand."""

    def close(self) -> None:
        """Nobody reads them any more."""


class Spooled:
    """A `Content` that grows; what has just come is read from memory."""

    def __init__(self, spool: Spool, head: bytes = b"") -> None:
        self.spool = spool
        self.head = head
        self._recent: deque[tuple[int, bytes]] = deque()
        self._held = 0  # bytes

    @property
    def size(self) -> int:
        """As the port says."""
        return self.spool.size

    async def append(self, piece: bytes) -> None:
        """Take what follows. Raises NoRoom, StoreError; then nothing has changed."""
        offset = self.spool.size
        await self.spool.append(piece)
        if offset < _HEAD:
            self.head += piece[: _HEAD - offset]
        self._recent.append((offset, piece))
        self._held += len(piece)
        while self._held > _RECENT or len(self._recent) > _PIECES:
            self._drop_oldest()

    @property
    def held(self) -> int:
        """Bytes of memory that it takes."""
        return self._held

    async def read(self, offset: int, length: int) -> bytes:
        """As the port says."""
        for start, piece in self._recent:
            if start <= offset < start + len(piece):
                return piece[offset - start : offset - start + length]
        return await self.spool.read(offset, length)

    async def hasher(self, algorithm: str) -> Hasher:
        """As the port says."""
        return await self.spool.hasher(algorithm)

    def let_go(self, offset: int) -> None:
        """As the port says."""
        while self._recent and self._recent[0][0] + len(self._recent[0][1]) <= offset:
            self._drop_oldest()

    def close(self) -> None:
        """As the port says."""
        self.let_go(self.size)
        self.spool.close()

    def _drop_oldest(self) -> None:
        self._held -= len(self._recent.popleft()[1])


class Stored:
    """A `Content` that is a blob of this store, and proved."""

    def __init__(self, store: Storage, blob: OpenBlob) -> None:
        self._store = store
        self._blob = blob
        self.head = b""

    @property
    def size(self) -> int:
        """As the port says."""
        return self._blob.size

    async def read(self, offset: int, length: int) -> bytes:
        """As the port says."""
        content = await self._store.read_piece(self._blob, offset, length)
        if not content:
            raise StoreError(f"somebody else has truncated {self._blob.digest}")
        return content

    async def hasher(self, algorithm: str) -> Hasher:
        """What it is called says what it is."""
        raise StoreError(f"{self._blob.digest} is called by that alone, and not by {algorithm}")

    def let_go(self, offset: int) -> None:
        """As the port says; nothing is."""

    def close(self) -> None:
        """As the port says."""
        self._blob.close()


async def read_head(spool: Spool) -> bytes:
    """The first bytes of what an earlier process has left. Raises StoreError."""
    return await spool.read(0, _HEAD) if spool.size else b""

"""Where the bytes of an upload are read from: what is spooled of it, or a blob that is here."""

from typing import Protocol

from mirror.aio.sending import FilePart
from mirror.oci.digest import Hasher
from mirror.oci.errors import StoreError
from mirror.storage.blocks import Source
from mirror.storage.ports import OpenBlob, Storage
from mirror.storage.spools import Spool


class Content(Protocol):
    """Bytes by offset."""

    @property
    def size(self) -> int:
        """How many there are, so far."""

    async def read(self, offset: int, length: int) -> bytes:
        """At most `length` of them from `offset` on, and at least one. Raises StoreError."""

    def part(self, offset: int, length: int) -> FilePart:
        """So many of them from `offset` on, where they lie; until `close`."""

    async def hasher(self, algorithm: str) -> Hasher:
        """What has taken in all of them. Raises StoreError."""

    def close(self) -> None:
        """Nobody reads them any more."""


class Spooled:
    """A `Content` that grows."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool

    @property
    def size(self) -> int:
        """As the port says."""
        return self.spool.size

    async def append(self, piece: bytes) -> None:
        """Take what follows. Raises NoRoom, StoreError; then nothing has changed."""
        await self.spool.append(piece)

    async def take(self, source: Source, most: int) -> int:
        """Take what a source has by now; how many bytes. Raises as `Spool.take`."""
        return await self.spool.take(source, most)

    async def read(self, offset: int, length: int) -> bytes:
        """As the port says."""
        return await self.spool.read(offset, length)

    def part(self, offset: int, length: int) -> FilePart:
        """As the port says."""
        is_cold = offset < self.spool.found
        return FilePart(self.spool.file, offset, length, self.spool.read, is_cold)

    async def hasher(self, algorithm: str) -> Hasher:
        """As the port says."""
        return await self.spool.hasher(algorithm)

    def close(self) -> None:
        """As the port says."""
        self.spool.close()


class Stored:
    """A `Content` that is a blob of this store, and proved."""

    def __init__(self, store: Storage, blob: OpenBlob) -> None:
        self._store = store
        self._blob = blob

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

    def part(self, offset: int, length: int) -> FilePart:
        """As the port says."""
        return FilePart(self._blob.file, offset, length, self.read, is_cold=True)

    async def hasher(self, algorithm: str) -> Hasher:
        """What it is called says what it is."""
        raise StoreError(f"{self._blob.digest} is called by that alone, and not by {algorithm}")

    def close(self) -> None:
        """As the port says."""
        self._blob.close()

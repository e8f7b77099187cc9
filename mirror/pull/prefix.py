"""A blob's bytes from the first on, as far as they have been hashed: what the rest is proved with.

Pure. It outlives whoever has hashed them: another connection, or one past a disk that is full,
continues where they ended, and the digest proves all of it.
"""

from dataclasses import dataclass
from typing import Self

from mirror.oci.digest import Chunk, Digest, Hasher
from mirror.sources.ports import Sender


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """What has been hashed, and who has sent it; `hasher` is nobody else's, and stays as it is."""

    hasher: Hasher
    senders: frozenset[Sender] = frozenset()

    @classmethod
    def empty(cls, digest: Digest) -> Self:
        """Before the first byte."""
        return cls(digest.hasher())

    def extended(self, chunk: Chunk, sender: Sender) -> "Prefix":
        """With these bytes after it; takes as long as hashing them does."""
        hasher = self.hasher.copy()
        hasher.update(chunk)
        return Prefix(hasher, self.senders | {sender})

    def is_like(self, other: "Prefix | None") -> bool:
        """Whether these are the same bytes."""
        return other is not None and self.hasher.hexdigest() == other.hasher.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """Where the disk has ended a download that readers follow, what there is, and `why`.

    `size` in bytes is what they have been told.
    """

    position: int
    size: int | None
    prefix: Prefix
    why: str

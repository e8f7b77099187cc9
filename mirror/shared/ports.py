"""The ports to what all mirrors share, as blobs need it: who fetches what, and where its bytes are.

All methods raise `DatabaseDown`, or `BucketDown`, where that cannot be asked now.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from mirror.oci.digest import Chunk, Digest
from mirror.shared.pieces import Piece


class BucketDown(Exception):
    """The bucket does not do what it is asked: it cannot be reached, refuses, or fails."""


class NoObject(Exception):
    """The bucket has no such object."""


@dataclass(frozen=True, slots=True)
class Copy:
    """What is on record of a blob in the bucket, through one upstream.

    `blob` is its number, of which there is never another. `is_free`: anybody may claim the turn.
    `pieces` are those that were asked for.
    """

    blob: int
    upstream: str
    size: int | None  # in bytes, by the word of whoever fetches it; the digest's, once `is_proved`
    is_proved: bool
    is_free: bool
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
class Claimed:
    """A turn that is this mirror's now, and what there is already."""

    blob: int
    epoch: int
    pieces: tuple[Piece, ...]


class Ledger(Protocol):
    """Who fetches what, and which pieces there are."""

    async def find(self, upstream: str, digest: Digest) -> Copy | None:
        """The copy that a fill from this upstream may read: its own, or another's that is proved.

        A proved one goes before one that is coming. One that comes through a private upstream is
        for that alone. One that is about to be evicted stays. With all of its pieces.
        """

    async def look(self, blob: int, after: int) -> Copy | None:
        """A copy as it is now, with its pieces from a position on; None: it is gone."""

    async def claim(
        self, upstream: str, digest: Digest, term: float, lease: float
    ) -> Claimed | None:
        """Take the turn for `term` seconds, if it is nobody's, or has got nowhere for long.

        `lease` is what it has to be over for, beyond its end, where nobody could have renewed it.
        What this mirror had before it was started anew is nobody's.
        """

    async def renew(self, blob: int, epoch: int, term: float) -> bool:
        """Keep it for `term` seconds from now; False: it is another's."""

    async def tell_size(self, blob: int, epoch: int, size: int) -> bool:
        """The blob has this size, says who sends it. False: the turn is another's."""

    async def record(self, blob: int, epoch: int, piece: Piece) -> bool:
        """A piece is in the bucket. False: the turn is another's, and nothing is recorded."""

    async def prove(self, blob: int, epoch: int, size: int, keys: Collection[str]) -> bool:
        """The pieces with these keys are the blob; False: they are not all that there are.

        Whoever says so has hashed exactly these bytes. The turn ends.
        """

    async def join(self, blob: int, whole: Piece) -> bool:
        """What is proved is one object now; False: it is gone. Its pieces' objects are orphans."""

    async def release(self, blob: int, epoch: int) -> None:
        """The turn is anybody's."""

    async def abandon(self, blob: int, epoch: int | None) -> None:
        """What there is is not the blob. `epoch`: of the turn; None: it was thought proved."""


class Bucket(Protocol):
    """Objects by their keys. None is ever written twice."""

    async def put(self, key: str, content: bytes) -> None:
        """Have an object."""

    async def put_large(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        """Have an object of any size."""

    def read(self, key: str, start: int, stop: int) -> AsyncGenerator[Chunk, None]:
        """The bytes of an object from `start` to `stop`. Raises NoObject also."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Have these no more; that one is not there is no trouble."""

    def sign(self, key: str, seconds: float) -> str:
        """A URL at which anybody may GET an object for so long."""

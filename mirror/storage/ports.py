"""The port to the disk of this node, as pulls see it."""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from io import FileIO
from typing import NamedTuple, Protocol

from mirror.oci.digest import Chunk, Digest, Hasher
from mirror.telemetry.collectors import StoreTotals


class IdlePartial(NamedTuple):
    """A download that nobody continues: what it takes of the disk, and since when it rests.

    In bytes, and seconds since the epoch.
    """

    upstream: str
    digest: Digest
    size: int
    since: float


class OpenBlob(Protocol):
    """A complete, proved blob, open for reading; it is not evicted before `close`."""

    @property
    def digest(self) -> Digest:
        """Its name."""

    @property
    def size(self) -> int:
        """In bytes."""

    @property
    def file(self) -> FileIO:
        """To be read by offset only: others share it."""

    def close(self) -> None:
        """One reader is done."""


class Pen(Protocol):
    """Writes what one connection brings, one piece behind."""

    async def write(self, offset: int, chunks: Sequence[Chunk]) -> None:
        """Write `chunks` at `offset`; return when all before them are written.

        They may be memory that is used again after the next `write`. What is written already, or
        being written, stays as it is.

        Raises:
            NoRoom: They cannot be kept within the limits.
            StoreError: The disk refuses.
        """


class Writer(Protocol):
    """A blob being written. `commit`, `suspend` or `discard` ends it, whichever comes first.

    Its file stays readable after that, until `close`. After a StoreError from writing it can only
    be ended.
    """

    @property
    def digest(self) -> Digest:
        """Of the blob that this shall be."""

    @property
    def file(self) -> FileIO:
        """What has been written so far, for readers."""

    @property
    def written(self) -> int:
        """Bytes from the first that are all in `file`, and hashed."""

    @property
    def total(self) -> int:
        """Bytes that are in `file`, wherever they lie."""

    def end_at(self, position: int) -> int:
        """Up to where bytes from `position` on are in `file`, hashed or not; else `position`."""

    @property
    def reach(self) -> int:
        """Where the last byte of what is there, or is being written, ends."""

    @property
    def size(self) -> int | None:
        """In bytes, by the word of whoever sends it; None where nobody has said."""

    def hasher(self) -> Hasher:
        """What has hashed the `written` bytes, to go on with elsewhere; while nobody writes."""

    def missing(self) -> list[tuple[int, int]]:
        """The half-open ranges still to be written, in order; `size` must be known."""

    async def expect(self, size: int | None, *, is_whole: bool = True) -> None:
        """The size has become known, is another one than was thought, or nobody knows it (None).

        Unless `is_whole`, nobody waits for all of it: only what arrives takes room.

        Raises:
            NoRoom: It cannot be kept within the limits.
            StoreError: More is written already.
        """

    def pen(self, written: Callable[[], None] | None = None) -> AbstractAsyncContextManager[Pen]:
        """Write inside the block, and be done at its end; several tasks may, each with its own."""

    def is_proved(self) -> bool:
        """Whether everything is written, and is the blob that `digest` names."""

    async def commit(self, *, is_manifest: bool = False) -> None:
        """Keep the proved blob. Raises StoreError; then it is not kept, and not ended either."""

    async def suspend(self) -> None:
        """Stop for now; what is written is continued when the same upstream is asked again."""

    async def discard(self) -> None:
        """Give up; nothing is kept."""

    def close(self) -> None:
        """Close the file: nobody reads from it any more."""


class Writers(Protocol):
    """All that a fill knows of the disk."""

    async def open_writer(
        self,
        upstream: str,
        digest: Digest,
        size: int | None,
        *,
        is_size_proved: bool = False,
    ) -> Writer:
        """Begin, or continue, a blob that comes through `upstream`.

        `size` is a hint, until `expect` says it: it cuts nothing of what is there, and makes
        nothing leave. The writer has none where more is there. Room is made as bytes arrive;
        unless `is_size_proved`, by the digest and not by somebody's word, they make blobs leave
        only up to a bounded share of the store.

        Bytes that are not proved are that upstream's alone: another upstream's writer of the same
        digest neither sees nor disturbs them. Whoever commits first has it; the others' bytes go.

        Raises:
            TooLarge: It could not even be kept in an empty store.
            NoRoom: The disk is full.
            StoreError: The disk refuses, or somebody writes it for this upstream already.
        """


class Storage(Writers, Protocol):
    """Blobs on this node's disk. All methods raise StoreError where the disk refuses."""

    async def open_blob(self, digest: Digest) -> OpenBlob | None:
        """Open a blob for reading; None where it is not here, or not as it was recorded.

        A file of another size than was recorded is damaged: it is dropped.

        Raises:
            StoreError: The disk refuses.
        """

    async def read_blob(self, digest: Digest, *, limit: int) -> bytes | None:
        """All of a blob of at most `limit` bytes, proved anew; None where it is not here.

        What is no longer what its digest says is dropped.
        """

    async def read_piece(self, blob: OpenBlob, offset: int, length: int) -> bytes:
        """At most `length` bytes of an open blob."""

    async def keep(
        self, upstream: str, digest: Digest, content: bytes, *, is_manifest: bool = False
    ) -> None:
        """Keep a blob that is in memory, and is what `digest` names. Raises NoRoom, StoreError."""

    async def drop(self, digest: Digest) -> None:
        """A blob turned out to be damaged, or is not wanted: it goes, whoever reads it."""

    def note_access(self, digest: Digest) -> None:
        """A blob was served from elsewhere (memory): it is in use all the same."""

    async def is_stored(self, digest: Digest) -> bool:
        """Whether a complete blob is here, by the index."""

    async def find_stored(
        self, digests: Sequence[Digest], *, can_wait: bool = False
    ) -> set[Digest]:
        """Which of these are here, by the index. `can_wait`: no client's pull waits for it."""

    async def find_meant(self, digests: Sequence[Digest]) -> set[Digest]:
        """Which of these are here, and not superseded."""

    async def note_superseded(self, digests: Collection[Digest]) -> None:
        """Tags do not mean these any more: they go before what is meant."""

    async def note_meant(self, digests: Collection[Digest]) -> None:
        """Tags mean these again."""

    async def note_broken(self, digests: Collection[Digest]) -> None:
        """No image that these are in is here in whole: they go before others, until asked for."""

    def list_unused(self, *, since: float) -> AsyncIterator[list[tuple[Digest, float]]]:
        """What was last used before a time, and when, in batches. Both in epoch seconds."""

    async def remove_unused(self, digests: Sequence[Digest]) -> int:
        """Remove those of these that are neither in use nor pinned; how many those are."""

    def list_stored(self) -> AsyncIterator[list[tuple[Digest, int]]]:
        """Everything that is here, with its size, in batches; for slow work in the background."""


class Pins(Protocol):
    """What may not be evicted, whether it is here already or not: by the image for whose sake."""

    def list_images(self) -> list[str]:
        """The images that anything is pinned for."""

    def of(self, image: str) -> frozenset[Digest]:
        """What is pinned for an image."""

    async def pin(self, image: str, digests: Collection[Digest]) -> None:
        """From now on these are pinned for an image, and nothing else is; none: it is unpinned.

        Raises:
            StoreError: It cannot be recorded. What was pinned is, and these until the next start.
        """


class PinningStorage(Storage, Protocol):
    """A storage that never evicts what is pinned."""

    @property
    def pins(self) -> Pins:
        """What that is."""

    @property
    def capacity(self) -> int:
        """Bytes that blobs may take."""

    async def measure(self, digests: Collection[Digest] | None) -> StoreTotals:
        """How many of these are here, or (None) of all, and their bytes. Raises StoreError."""


class RemovingStorage(PinningStorage, Protocol):
    """A storage from which somebody removes things by command."""

    async def remove(self, digests: Collection[Digest]) -> None:
        """These go, whoever reads them, but for what is pinned. Raises StoreError."""

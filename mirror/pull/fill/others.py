"""The port to other mirrors, as a fill knows them: where several are one cache (`mirror.shared`).

A mirror by itself has none.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from mirror.oci.digest import Digest
from mirror.sources.ports import BlobSource
from mirror.storage.ports import Writer


class Part(Protocol):
    """What one fill has to do with the others, until `ended`. None of it is waited for."""

    def through(self, source: BlobSource) -> BlobSource:
        """Where to take bytes from, for who would ask `source`: from there, or from others."""

    def write_to(self, writer: Writer) -> None:
        """What comes is written there; there may be something already."""

    def progressed(self) -> None:
        """More is written."""

    def disagrees(self) -> None:
        """What others have is of another size than what has come so far."""

    def starts_over(self) -> None:
        """What is written is not what anybody sends, and goes."""

    def proved(self, size: int) -> None:
        """All of it is there, and is the blob."""

    @property
    def senders(self) -> Collection[str]:
        """The upstreams that have sent what came, to whichever mirror; none where nobody knows."""

    def ended(self, error: BaseException | None) -> None:
        """Nothing more comes; with this, unless all is well."""


class Others(Protocol):
    """The other mirrors."""

    def take_part(self, upstream: str, digest: Digest) -> Part:
        """A fill of this begins."""

    def note_here(self, upstream: str, digest: Digest) -> None:
        """A blob of that upstream is here, whole, that no fill has brought."""

    async def find_whole(self, upstream: str, digests: Sequence[Digest]) -> Collection[Digest]:
        """Which of these a fill of that upstream gets whole from what all mirrors have in common.

        None where nobody knows now. It says nothing of who may have them.
        """

    async def find_elsewhere(self, upstream: str, digest: Digest) -> tuple[str, int] | None:
        """Where a client gets a blob from that all mirrors have in common, and its size in bytes.

        None where it is not there, or where clients are to get it from here. It says nothing of who
        may have it.
        """

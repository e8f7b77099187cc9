"""The port to where bytes come from: all that a fill knows of the outside.

A registry's endpoints are a source. So can an object store be, another mirror, or this disk.
"""

from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from mirror.aio.slots import Urgency
from mirror.oci.digest import Chunk, Digest
from mirror.oci.errors import Unavailable
from mirror.oci.reference import Repository

__all__ = ["BlobSource", "Body", "Chunk", "NoteComing", "Sender", "TooSlow", "note_nothing"]


class NoteComing(Protocol):
    """Told of each body of content that is about to come, and then of its bytes as they do."""

    def __call__(
        self,
        repository: Repository,
        digest: Digest,
        endpoint: str,
        *,
        size: int | None,
        is_resumed: bool = False,
        is_manifest: bool = False,
    ) -> Callable[[int], None]:
        """Content of this digest, of `size` bytes in all (None: nobody says), from an endpoint.

        `is_resumed`: another body has broken before. What is given back is to be called with the
        number of bytes, each time some have come.
        """


def note_nothing(
    repository: Repository,  # noqa: ARG001 - nobody wants to know
    digest: Digest,  # noqa: ARG001
    endpoint: str,  # noqa: ARG001
    *,
    size: int | None,  # noqa: ARG001
    is_resumed: bool = False,  # noqa: ARG001
    is_manifest: bool = False,  # noqa: ARG001
) -> Callable[[int], None]:
    """Tell nobody of what comes."""
    return lambda _: None


class TooSlow(Unavailable):
    """A body has brought less than `expected` bytes in a time in which they were waited for."""

    def __init__(self, message: str, expected: int) -> None:
        super().__init__(message, timed_out=True)
        self.expected = expected


class Sender(Protocol):
    """Who sends a body: what a fill avoids after a break, and counts in metrics."""

    @property
    def name(self) -> str:
        """Of the endpoint, as metrics call it: from the configuration, never from a request."""

    def broke(self, *, timed_out: bool) -> None:
        """A body of its has stalled, or brought nothing at all."""


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of a blob from `start` on, as they arrive.

    `size` is that of the whole blob by the sender's word, `stop` where this body ends; None where
    nobody says. A range always tells both. Each chunk stays as it is until the next but one is
    asked for.
    """

    start: int
    stop: int | None
    size: int | None
    chunks: AsyncGenerator[Chunk, None]
    sender: Sender
    is_range: bool  # the range that was asked for is sent, and nothing else
    is_from_elsewhere: bool = False  # another host sends it than was asked: to where it redirected
    copied_from: str | None = None
    """Another mirror sends what this upstream has sent: no word on who may have it."""


class BlobSource(Protocol):
    """Where the bytes of a digest can be had, on somebody's authority.

    Two sources are equal where they would be asked for the same, on the same authority.
    """

    @property
    def upstream(self) -> str:
        """The upstream that answers for the bytes; what it says is believed for it alone."""

    @property
    def repository(self) -> str:
        """The repository that they are asked for in: for people, and no key to anything."""

    @property
    def is_lasting(self) -> bool:
        """Whether it lets us in for as long as a download takes; else one request does it all."""

    def open_blob(
        self,
        digest: Digest,
        start: int,
        stop: int | None,
        *,
        avoid: Sender | None,
        urgency: Urgency,
    ) -> AbstractAsyncContextManager[Body]:
        """Open a blob's bytes from `start` to `stop` (exclusive; None: its end).

        Less or more may be sent than was asked for: `Body` says what. The one to `avoid`, from
        where a body has just broken, is asked last.

        Raises:
            Missing, Denied, Unavailable: What the source says, or that it says nothing; also while
                the body is read. `TooSlow`: it drips.
        """

    def wait(self) -> float:
        """Seconds until it is worth asking again; 0 if it is now."""

    def distrust(self, digest: Digest, senders: Collection[Sender], *, is_disproved: bool) -> None:
        """These have sent something else under this digest: for a while, they are asked last.

        `is_disproved`: the hash says so, and not only a size. Where all have, it is Missing then.
        """


class NoteLimits(Protocol):
    """Is told what an endpoint says of how often it wants to be asked."""

    def paused(self, upstream: str, endpoint: str, requests: str, seconds: float) -> None:
        """For so many seconds not at all, with this kind of request (429)."""

    def told_quota(
        self, upstream: str, endpoint: str, limit: int | None, remaining: int | None
    ) -> None:
        """So many pulls are allowed, and left."""


class NobodyNotes:
    """There is no other mirror to be told of limits."""

    def paused(self, upstream: str, endpoint: str, requests: str, seconds: float) -> None:
        """Nobody wants to know."""

    def told_quota(
        self, upstream: str, endpoint: str, limit: int | None, remaining: int | None
    ) -> None:
        """Nobody wants to know."""


NOBODY = NobodyNotes()

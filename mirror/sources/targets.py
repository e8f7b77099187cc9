"""The port to where pushes go: all that an upload knows of the outside.

A registry's own API is a target. Nothing is acknowledged to a client that a target has not said.
"""

from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Protocol

from mirror.aio.sending import FilePart
from mirror.oci.digest import Chunk, Digest, Subject
from mirror.oci.reference import Reference, Repository

Sendable = Chunk | FilePart
"""What a target is sent: bytes, or where they lie."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an upload stands with its target; what goes on from here, also after a restart.

    `location` is the address that the target gave last, as it came: it may hold secrets, and is
    never logged. `offset`: so many bytes it has said that it keeps. `least`: no chunk but the last
    may be shorter (spec, `OCI-Chunk-Min-Length`; 0: any).
    """

    location: str
    offset: int = 0
    least: int = 0


@dataclass(frozen=True, slots=True)
class Pushed:
    """A manifest that the target has: under which digest, and of which subject by its word."""

    digest: Digest
    subject: Subject | None = None


class Target(Protocol):
    """One repository of a registry to push to, on somebody's authority (spec, "Push").

    Two targets are equal where they would be asked for the same, on the same authority. All of it
    raises Denied (the registry's words and challenges), Refused, Missing, Unavailable.
    """

    @property
    def upstream(self) -> str:
        """The upstream that this is of."""

    @property
    def repository(self) -> Repository:
        """The repository there."""

    async def find_blob(self, digest: Digest) -> int | None:
        """The size of a blob that the repository has, by asking it (HEAD, spec end-2); or None."""

    async def begin(
        self, *, mount: Digest | None = None, source: str | None = None
    ) -> Standing | None:
        """Begin an upload (spec end-4a); None: what to `mount` from `source` is there (end-11)."""

    async def send(
        self, at: Standing, chunks: AsyncIterable[Sendable], *, length: int | None,
        is_alone: bool = False,
    ) -> Standing:  # fmt: skip
        """Send what follows (PATCH, spec end-5): `length` bytes, or until `chunks` end.

        What comes back may stand before the end of them: the target takes so much at a time, or
        has kept no more. What follows from there is to be sent next. The memory of a chunk may be
        used again once the next is asked for; what `chunks` raise is raised as it is. `is_alone`:
        over a connection that carries nothing else, where the same was cut before.

        Raises:
            Missing: The target knows this upload no longer.
            Unavailable: It broke in the middle: `ask` how far it has come.
        """

    async def ask(self, at: Standing) -> Standing:
        """How far it has come (GET, spec end-13); never less than `at`, which it has acknowledged.

        Raises Missing where the target has it not, or does not tell: it is to be begun anew.
        """

    async def finish(
        self,
        at: Standing,
        digest: Digest,
        chunks: AsyncIterable[Sendable] | None = None,
        *,
        length: int = 0,
    ) -> None:
        """End it with its last bytes, if any (PUT, spec end-6): now the target has the blob.

        Raises:
            Unavailable: It broke, and may have been ended all the same: `find_blob` tells.
        """

    async def cancel(self, at: Standing) -> None:
        """Give it up (DELETE, spec end-14); that it cannot be told is no trouble."""

    async def put_manifest(self, reference: Reference, media_type: str, content: bytes) -> Pushed:
        """Push a manifest as it is (spec end-7); its digest is checked against the target's."""

"""What the mirror answers to a pull, before it becomes HTTP."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from io import FileIO
from typing import Protocol, runtime_checkable

from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.telemetry.traffic import Result


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an answer came about, in the glossary's words; headers, log and metrics tell it."""

    result: Result
    stored: bool = False  # what was missed is (being) kept
    upstream_status: int | None = None  # of a revalidation
    warning: str | None = None  # for the person who pulls


HIT = Outcome(Result.HIT)
MISS = Outcome(Result.MISS)
STORED = Outcome(Result.MISS, stored=True)
JOINED = Outcome(Result.JOINED)
LINKED = Outcome(Result.LINKED)
NOT_MODIFIED = Outcome(Result.REVALIDATED, upstream_status=304)
CONFIRMED = Outcome(Result.REVALIDATED, upstream_status=200)
STALE = Outcome(Result.STALE, warning="served from cache; upstream could not be asked")
GONE = Outcome(Result.STALE, warning="served from cache; upstream no longer has this tag")


class Reader(Protocol):
    """A blob on disk or on its way there: the same for a hit and for a miss."""

    @property
    def file(self) -> FileIO:
        """To be read by offset only: others share it."""

    async def readable(self, position: int, stop: int | None) -> int:
        """Wait for bytes beyond `position`; up to where they may be sent. At the end: `position`.

        Raises:
            RegistryError, NoRoom: There will be no more.
        """


class WholeFile:
    """Reads a complete blob of `size` bytes."""

    def __init__(self, file: FileIO, size: int) -> None:
        self.file = file
        self.size = size

    async def readable(self, position: int, stop: int | None) -> int:
        """All of it, at once."""
        return max(position, self.size if stop is None else min(stop, self.size))


@runtime_checkable
class Stream(Protocol):
    """A blob that is not kept."""

    def chunks(self, start: int, stop: int | None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to `stop` (None: to the end), as they come.

        Raises:
            RegistryError: There will be no more.
        """


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    """A manifest and how it was had.

    `good_until`, in seconds since the epoch: whoever asks the same again until then may have the
    same manifest, without the mirror being asked.
    """

    manifest: Manifest
    outcome: Outcome
    good_until: float = 0.0


@dataclass(frozen=True, slots=True)
class BlobAnswer:
    """A blob and how it was had; `size` in bytes, None where nobody knows it yet.

    `body` is None in the answer to a HEAD.
    """

    digest: Digest
    size: int | None
    body: bytes | Reader | Stream | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class TagsAnswer:
    """A page of tags, and the query of the next one."""

    names: list[str]
    next_query: dict[str, str] | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class ReferrersAnswer:
    """What refers to a digest, as upstream sent it."""

    content: bytes
    filtered: bool
    outcome: Outcome

"""What the mirror answers to a pull, before it becomes HTTP."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from io import FileIO
from typing import Annotated, Protocol, runtime_checkable

from msgspec import Meta, Struct
from msgspec.structs import replace

from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.telemetry.traffic import Result, Why

_SAID_BY_FALLBACK = "upstream could not be asked; by the word of an endpoint that may lag behind"


class Outcome(Struct, frozen=True, array_like=True):
    """How an answer came about, in the glossary's words; headers, log and metrics tell it.

    `why` decided that, for operators; where a tag has moved, `was` is what it meant before.
    `endpoint` is who has sent the bytes for it, or the first of those, where anybody has.
    """

    result: Result
    stored: bool = False  # what was missed is (being) kept
    upstream_status: int | None = None  # of a revalidation
    warning: str | None = None  # for the person who pulls
    is_fallback: bool = False  # by an endpoint that may say so only in an outage of the others
    why: Why = Why.HERE
    was: Digest | None = None
    endpoint: str | None = None

    def by(self, *, is_fallback: bool) -> "Outcome":
        """The same, as one of those has it or not."""
        if not is_fallback:
            return self
        return replace(self, is_fallback=True, warning=self.warning or _SAID_BY_FALLBACK)

    def since(self, why: Why, was: Digest | None = None) -> "Outcome":
        """The same, for this reason."""
        return replace(self, why=why, was=was)

    def sent_by(self, endpoint: str | None) -> "Outcome":
        """The same, with bytes of this endpoint."""
        return replace(self, endpoint=endpoint or None)


HIT = Outcome(Result.HIT)
MISS = Outcome(Result.MISS, why=Why.NEVER_SEEN)
STORED = Outcome(Result.MISS, stored=True, why=Why.NEVER_SEEN)
JOINED = Outcome(Result.JOINED, why=Why.JOINED)
LINKED = Outcome(Result.LINKED, why=Why.LINK_CONFIRMED)
NOT_MODIFIED = Outcome(Result.REVALIDATED, upstream_status=304, why=Why.TAG_CONFIRMED)
CONFIRMED = Outcome(Result.REVALIDATED, upstream_status=200, why=Why.TAG_CONFIRMED)
STALE = Outcome(
    Result.STALE, warning="served from cache; upstream could not be asked", why=Why.UPSTREAM_DOWN
)
IMPORTED = Outcome(
    Result.STALE,
    warning="served as it was imported from a bundle; upstream could not be asked",
    why=Why.UPSTREAM_DOWN,
)
GONE = Outcome(
    Result.STALE, warning="served from cache; upstream no longer has this tag", why=Why.TAG_GONE
)


class Progress(Struct, frozen=True, array_like=True):
    """How far a fill has come: so many bytes are `written`, without a gap from the first.

    `size` in bytes is None where nobody knows it yet. `is_proved`: all is there, and is the blob.
    `is_doubted`: ranges too wait for that. It is small, or this upstream has sent something else.
    """

    written: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    size: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None
    is_proved: bool
    is_doubted: bool = False

    def limit(self, stop: int | None) -> int:
        """Up to where a response may have the bytes.

        `stop` is where that response ends (None: at the blob's end, which nobody knows yet). The
        blob's last byte is not handed out before the digest is proved; where that is doubted,
        neither is the last of any range.
        """
        if self.is_proved:
            return self.written if stop is None else min(self.written, stop)
        is_end_held = self.size is None or stop is None or self.is_doubted
        end = (self.size if stop is None else stop) if is_end_held else self.size
        held = self.written if end is None else min(self.written, end - 1)
        return held if stop is None else min(held, stop)


@runtime_checkable
class Reader(Protocol):
    """A blob on disk or on its way there: the same for a hit and for a miss."""

    @property
    def file(self) -> FileIO:
        """To be read by offset only: others share it."""

    @property
    def progress(self) -> Progress:
        """How far it has come."""

    async def follow(self, seen: Progress) -> None:
        """Wait until `progress` is another one than that.

        Raises:
            RegistryError, NoRoom: It will come no farther.
        """

    async def reach(self, position: int, stop: int) -> int:
        """Wait for bytes from `position` on; up to where a range may have them that ends at `stop`.

        They come before others, wherever they lie. Raises as `follow`.
        """


async def readable(
    reader: Reader, position: int, stop: int | None, *, is_whole: bool = True
) -> int:
    """Wait for bytes beyond `position`; up to where they may be sent. At the end: `position`.

    `is_whole`: all of the blob is read, from its start.

    Raises:
        RegistryError, NoRoom: There will be no more.
    """
    while (limit := reader.progress.limit(stop)) <= position and not reader.progress.is_proved:
        if not is_whole and stop is not None:
            return await reader.reach(position, stop)
        await reader.follow(reader.progress)
    return max(position, limit)


class WholeFile:
    """Reads a complete blob of `size` bytes."""

    def __init__(self, file: FileIO, size: int) -> None:
        self.file = file
        self.progress = Progress(size, size, is_proved=True)

    async def follow(self, seen: Progress) -> None:
        """Nobody has to wait for it."""

    async def reach(self, position: int, stop: int) -> int:  # noqa: ARG002 - all is there
        """Neither for a part of it."""
        return min(stop, self.progress.written)


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
    same manifest, without the mirror being asked. `told_by` is the endpoint that has just sent it.
    """

    manifest: Manifest
    outcome: Outcome
    good_until: float = 0.0
    told_by: str = ""


@dataclass(frozen=True, slots=True)
class BlobSize:
    """What a HEAD tells of a blob; `size` in bytes, None where nobody knows it yet."""

    digest: Digest
    size: int | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class BlobAnswer:
    """A blob and how it was had; `size` in bytes, None where nobody knows it yet.

    `body` is None in the answer to a HEAD. `rest` is read from where a `Reader` comes no farther
    since the disk refuses what is still to come (StoreError). `location` is where the client gets
    it from, if not from here.
    """

    digest: Digest
    size: int | None
    body: bytes | Reader | Stream | None
    outcome: Outcome
    rest: Stream | None = None
    location: str | None = None


@dataclass(frozen=True, slots=True)
class TagsAnswer:
    """A page of tags, as a JSON array, and the query of the next one."""

    content: bytes
    next_query: dict[str, str] | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class ReferrersAnswer:
    """What refers to a digest, and the query of what follows where that is not all."""

    content: bytes
    next_query: dict[str, str] | None
    outcome: Outcome

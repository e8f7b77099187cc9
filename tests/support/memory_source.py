"""A source of bytes that has them in memory: the simplest there is."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mirror.aio.slots import Urgency
from mirror.oci.digest import Chunk, Digest
from mirror.oci.errors import ErrorCode, Missing
from mirror.sources.ports import Body, Sender

_PIECE = 1000  # bytes


@dataclass(eq=False)
class MemorySender:
    """Sends; `broken` counts what the reader has told of it."""

    name: str
    broken: int = 0

    def broke(self, *, timed_out: bool) -> None:  # noqa: ARG002 - both count
        self.broken += 1


@dataclass(eq=False)
class MemorySource:
    """Has what is in `content`."""

    content: Mapping[Digest, bytes]
    upstream: str = "memory"
    is_lasting: bool = True
    repository: str = "docker.io/org/app"
    sender: MemorySender = field(default_factory=lambda: MemorySender("memory"))
    asked: list[tuple[int, int | None]] = field(default_factory=list)
    distrusted: set[Digest] = field(default_factory=set)

    @asynccontextmanager
    async def open_blob(
        self,
        digest: Digest,
        start: int,
        stop: int | None,
        *,
        avoid: Sender | None,  # noqa: ARG002 - there is no other
        urgency: Urgency,  # noqa: ARG002 - nobody waits here
    ) -> AsyncIterator[Body]:
        self.asked.append((start, stop))
        if digest not in self.content:
            raise Missing(ErrorCode.BLOB_UNKNOWN, "not in memory")
        whole = self.content[digest]
        end = len(whole) if stop is None else min(stop, len(whole))
        is_range = (start, stop) != (0, None) and start < end
        chunks = _pieces(whole[start:end])
        yield Body(start, max(start, end), len(whole), chunks, self.sender, is_range=is_range)

    def wait(self) -> float:
        return 0.0

    def distrust(
        self,
        digest: Digest,
        senders: Collection[Sender],  # noqa: ARG002 - as above
        *,
        is_disproved: bool,  # noqa: ARG002 - as above
    ) -> None:
        self.distrusted.add(digest)


async def _pieces(content: bytes) -> AsyncGenerator[Chunk, None]:
    for start in range(0, len(content), _PIECE):
        yield content[start : start + _PIECE]

"""The mirror, as a worker sees it: what it has at hand, and else what the mirror's process says."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from weakref import WeakValueDictionary

from cachetools import TTLCache

from mirror.aio.single_flight import SingleFlight
from mirror.aio.tasks import Starter
from mirror.front.wire.loan import Loan
from mirror.front.wire.near import Near
from mirror.front.wire.peer import Peer
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.oci.reference import Reference
from mirror.oci.request import Page
from mirror.pull.answers import (
    HIT,
    BlobAnswer,
    ManifestAnswer,
    Progress,
    Reader,
    ReferrersAnswer,
    Stream,
    TagsAnswer,
)
from mirror.pull.routing import Route, Router

__all__ = ["Remote", "Route"]

_NOTED = 16384  # manifests
_NOTED_FOR = 10.0  # seconds; what has been served again after that is told again


class Remote:
    """Answers pulls as `mirror.pull.mirror.Mirror` does, and raises what that raises."""

    def __init__(
        self,
        peer: Peer,
        router: Router,
        near: Near,
        *,
        prefetches: bool,
        tasks: Starter,
        clock: Callable[[], float],
    ) -> None:
        self._peer = peer
        self._router = router
        self._near = near
        self._prefetches = prefetches
        self._flights: SingleFlight[int, Progress] = SingleFlight(tasks)
        self._growths: WeakValueDictionary[int, _Growth] = WeakValueDictionary()
        self._noted: TTLCache[tuple[Route, Digest], None] = TTLCache(
            _NOTED, ttl=_NOTED_FOR, timer=clock
        )

    def route(self, name: str, *, ns: str | None, host: str) -> Route:
        """Which upstream's repository is meant. Raises RegistryError: `NAME_UNKNOWN`."""
        return self._router.route(name, ns=ns, host=host)

    async def get_manifest(
        self, route: Route, reference: Reference, authorization: str | None
    ) -> ManifestAnswer:
        """A manifest, by tag or digest."""
        found = self._near.find_manifest(route, reference)
        if found is not None:
            return found
        answer: ManifestAnswer = await self._peer.call(
            "get_manifest", route, reference, authorization
        )
        self._near.keep_manifest(route, reference, answer)
        return answer

    def note_served(self, route: Route, manifest: Manifest, authorization: str | None) -> None:
        """A client has been given a manifest, and will soon ask for what it refers to."""
        if self._prefetches and (key := (route, manifest.digest)) not in self._noted:
            self._noted[key] = None
            with suppress(OSError):  # no descriptor is free: the client will ask for all of it
                self._peer.tell("note_served", route, manifest, authorization)

    async def head_blob(
        self, route: Route, digest: Digest, authorization: str | None
    ) -> BlobAnswer:
        """What is known of a blob; it is not transferred."""
        content = self._near.find_blob(route, digest)
        if content is not None:
            return BlobAnswer(digest, len(content), None, HIT)
        answer: BlobAnswer = await self._peer.call("head_blob", route, digest, authorization)
        return answer

    @asynccontextmanager
    async def open_blob(
        self, route: Route, digest: Digest, authorization: str | None
    ) -> AsyncIterator[BlobAnswer]:
        """A blob, open for reading inside the block."""
        content = self._near.find_blob(route, digest)
        if content is not None:
            yield BlobAnswer(digest, len(content), content, HIT)
            return
        async with self._peer.open("open_blob", route, digest, authorization) as loan:
            if loan.content is not None:
                self._near.keep_blob(route, digest, loan.content)
            yield BlobAnswer(digest, loan.size, self._body(loan), loan.outcome)

    async def list_tags(self, route: Route, page: Page, authorization: str | None) -> TagsAnswer:
        """A page of tags."""
        answer: TagsAnswer = await self._peer.call("list_tags", route, page, authorization)
        return answer

    async def list_referrers(
        self, route: Route, digest: Digest, artifact_type: str | None, authorization: str | None
    ) -> ReferrersAnswer:
        """What refers to a digest."""
        answer: ReferrersAnswer = await self._peer.call(
            "list_referrers", route, digest, artifact_type, authorization
        )
        return answer

    async def list_repositories(self, page: Page) -> tuple[list[str], dict[str, str] | None]:
        """What is cached."""
        answer: tuple[list[str], dict[str, str] | None] = await self._peer.call(
            "list_repositories", page
        )
        return answer

    def _body(self, loan: Loan) -> bytes | Reader | Stream:
        if loan.content is not None:
            return loan.content
        if loan.file is None or loan.progress is None:
            return _Streamed(self._peer, loan.number)
        growth = self._growths.get(loan.number)
        if growth is None:
            growth = self._growths[loan.number] = _Growth(loan.progress)
        return _Borrowed(loan.file, growth, lambda: self._follow(loan.number, growth))

    async def _follow(self, number: int, growth: "_Growth") -> None:
        """Ask once, however many readers want to know."""
        seen = growth.progress
        growth.progress = await self._flights.join(
            number, lambda: self._peer.call("follow", number, seen)
        )


@dataclass(slots=True, weakref_slot=True)
class _Growth:
    """How far a blob has come, as far as this worker knows; its readers share it."""

    progress: Progress


class _Borrowed:
    """Reads a blob in a file of the mirror's. `ask` waits for it to have come farther."""

    def __init__(self, file: FileIO, growth: _Growth, ask: Callable[[], Awaitable[None]]) -> None:
        self.file = file
        self._growth = growth
        self._ask = ask

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        return self._growth.progress

    async def follow(self, seen: Progress) -> None:
        """Wait until it has come farther."""
        while self._growth.progress == seen:
            await self._ask()


class _Streamed:
    """Reads a blob that is not kept."""

    def __init__(self, peer: Peer, number: int) -> None:
        self._peer = peer
        self._number = number

    async def chunks(self, start: int, stop: int | None) -> AsyncGenerator[bytes, None]:
        """As the stream's own."""
        while True:
            chunk: bytes | None = await self._peer.call("next_chunk", self._number, start, stop)
            if chunk is None:
                return
            yield chunk

"""Listings: tags, referrers, and what is cached."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping

import msgspec

from mirror.aio.reading import read_aside
from mirror.aio.single_flight import SingleFlight
from mirror.oci.digest import Digest
from mirror.oci.errors import RegistryError, Unavailable
from mirror.oci.manifest import parse_references
from mirror.oci.reference import Repository
from mirror.oci.request import Page
from mirror.pull.answers import HIT, MISS, STALE, STORED, ReferrersAnswer, TagsAnswer
from mirror.pull.freshness import Freshness, Policy
from mirror.pull.keeping import try_to_keep
from mirror.pull.memory import Memory
from mirror.records.ports import Records, ReferrersRecord
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from mirror.sources.registry.tag_lists import TagsPage
from mirror.storage.ports import Storage

_BATCH = 500  # names or digests, read at a time


class Listings:
    """Answers requests for lists. `clock` in seconds since the epoch.

    `public` are the upstreams whose repositories anyone may know of.
    """

    def __init__(
        self,
        store: Storage,
        records: Records,
        memory: Memory,
        *,
        registries: Mapping[str, Registry],
        flights: SingleFlight[object, ReferrersAnswer],
        tag_flights: SingleFlight[tuple[Scope, Page], TagsPage],
        policy: Policy,
        public: Collection[str],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._records = records
        self._memory = memory
        self._registries = registries
        self._flights = flights
        self._tag_flights = tag_flights
        self._policy = policy
        self._public = public
        self._clock = clock

    async def list_tags(self, scope: Scope, page: Page) -> TagsAnswer:
        """A page of the repository's tags; the cached ones, if upstream cannot say.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing.
        """
        try:
            found = await self._tag_flights.join(
                (scope, page), lambda: self._registry(scope).list_tags(scope, page)
            )
        except Unavailable:
            names = await self._records.list_tags(scope.repository, after=page.last, limit=page.n)
            if not names and page.last is None:
                raise
            return TagsAnswer(msgspec.json.encode(names), _next(names, page), STALE)
        return TagsAnswer(found.content, found.next_query, MISS)

    async def list_referrers(
        self, scope: Scope, digest: Digest, artifact_type: str | None
    ) -> ReferrersAnswer:
        """What refers to `digest`: remembered as long as a tag would be.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing.
        """
        record = await self._records.find_referrers(scope.repository, digest, artifact_type)
        age = Freshness.DEAD
        if record is not None:
            age = self._policy.decide(record.checked_at, now=self._clock())
        if record is not None and age is Freshness.FRESH:
            return ReferrersAnswer(record.content, record.filtered, HIT)
        key = ("referrers", scope, digest, artifact_type)
        try:
            return await self._flights.join(
                key, lambda: self._fetch_referrers(scope, digest, artifact_type)
            )
        except Unavailable:
            if record is None or age is Freshness.DEAD:
                raise
            return ReferrersAnswer(record.content, record.filtered, STALE)

    async def list_repositories(self, page: Page) -> tuple[list[str], dict[str, str] | None]:
        """The repositories with cached content, as `<namespace>/<name>`, in lexical order.

        Where each client's own authorization decides, the names are nobody else's business.
        """
        names: list[str] = []
        async for repository in self._known(after=page.last):
            if not await self._is_cached(repository):
                continue
            if page.n is not None and len(names) == page.n:
                return names, _next(names, page)
            names.append(str(repository))
        return names, None

    async def _known(self, *, after: str | None) -> AsyncIterator[Repository]:
        while batch := await self._records.list_repositories(
            self._public, after=after, limit=_BATCH
        ):
            for repository in batch:
                yield repository
            after = str(batch[-1])

    async def _is_cached(self, repository: Repository) -> bool:
        """Whether anything is here of what the repository is linked to."""
        after: Digest | None = None
        while digests := await self._records.list_links(repository, after=after, limit=_BATCH):
            if await self._store.find_stored(digests):
                return True
            after = digests[-1]
        return False

    async def _fetch_referrers(
        self, scope: Scope, digest: Digest, artifact_type: str | None
    ) -> ReferrersAnswer:
        what = f"referrers {digest}"
        with self._memory.remembering_missing(scope, what):
            found = await self._registry(scope).list_referrers(scope, digest, artifact_type)
        if not await read_aside(_is_index, found.content):
            raise Unavailable("upstream's list of referrers makes no sense")
        record = ReferrersRecord(found.content, found.filtered, self._clock())
        await try_to_keep(
            self._records.record_referrers(scope.repository, digest, artifact_type, record)
        )
        return ReferrersAnswer(found.content, found.filtered, STORED)

    def _registry(self, scope: Scope) -> Registry:
        return self._registries[scope.repository.namespace]


def _is_index(content: bytes) -> bool:
    try:
        return parse_references(content).is_manifest
    except RegistryError:
        return False


def _next(names: list[str], page: Page) -> dict[str, str] | None:
    """The query of the page after one that is full."""
    if not names or page.n is None or len(names) < page.n:
        return None
    return {"n": str(page.n), "last": names[-1]}

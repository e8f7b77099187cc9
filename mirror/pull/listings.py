"""Listings: tags, referrers, and what is cached."""

from collections.abc import Callable, Collection, Mapping

from mirror.aio.single_flight import SingleFlight
from mirror.oci.digest import Digest
from mirror.oci.errors import Unavailable
from mirror.oci.manifest import looks_like_manifest
from mirror.oci.request import Page
from mirror.pull.answers import HIT, MISS, STALE, STORED, ReferrersAnswer, TagsAnswer
from mirror.pull.freshness import Freshness, Policy
from mirror.pull.keeping import try_to_keep
from mirror.pull.memory import Memory
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from mirror.storage.catalog import Catalog, ReferrersRecord
from mirror.storage.ports import Storage


class Listings:
    """Answers requests for lists. `clock` in seconds since the epoch.

    `public` are the upstreams whose repositories anyone may know of.
    """

    def __init__(
        self,
        storage: Storage,
        catalog: Catalog,
        memory: Memory,
        registries: Mapping[str, Registry],
        flights: SingleFlight[object, ReferrersAnswer],
        *,
        policy: Policy,
        public: Collection[str],
        clock: Callable[[], float],
    ) -> None:
        self._storage = storage
        self._catalog = catalog
        self._memory = memory
        self._registries = registries
        self._flights = flights
        self._policy = policy
        self._public = public
        self._clock = clock

    async def list_tags(self, scope: Scope, page: Page) -> TagsAnswer:
        """A page of the repository's tags; the cached ones, if upstream cannot say.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing.
        """
        try:
            found = await self._registry(scope).list_tags(scope, page)
        except Unavailable:
            names = await self._catalog.list_tags(scope.repository, page)
            if not names and page.last is None:
                raise
            return TagsAnswer(names, _next(names, page), STALE)
        return TagsAnswer(found.names, found.next_query, MISS)

    async def list_referrers(
        self, scope: Scope, digest: Digest, artifact_type: str | None
    ) -> ReferrersAnswer:
        """What refers to `digest`: remembered as long as a tag would be.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing.
        """
        record = await self._catalog.find_referrers(scope.repository, digest, artifact_type)
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
        links = [
            (name, digest) for name, digest in await self._catalog.list_links()
            if name.namespace in self._public
        ]  # fmt: skip
        stored = await self._storage.find_stored([digest for _, digest in links])
        everything = sorted({str(name) for name, digest in links if digest in stored})
        names = [name for name in everything if page.last is None or name > page.last]
        if page.n is None or len(names) <= page.n:
            return names, None
        names = names[: page.n]
        return names, _next(names, page)

    async def _fetch_referrers(
        self, scope: Scope, digest: Digest, artifact_type: str | None
    ) -> ReferrersAnswer:
        what = f"referrers {digest}"
        with self._memory.remembering_missing(scope, what):
            found = await self._registry(scope).list_referrers(scope, digest, artifact_type)
        if not looks_like_manifest(found.content):
            raise Unavailable("upstream's list of referrers makes no sense")
        record = ReferrersRecord(found.content, found.filtered, self._clock())
        await try_to_keep(
            self._catalog.record_referrers(scope.repository, digest, artifact_type, record)
        )
        return ReferrersAnswer(found.content, found.filtered, STORED)

    def _registry(self, scope: Scope) -> Registry:
        return self._registries[scope.repository.namespace]


def _next(names: list[str], page: Page) -> dict[str, str] | None:
    """The query of the page after one that is full."""
    if not names or page.n is None or len(names) < page.n:
        return None
    return {"n": str(page.n), "last": names[-1]}

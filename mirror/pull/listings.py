"""Listings: tags, referrers, and what is cached."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

import msgspec

from mirror.aio.reading import read_aside
from mirror.aio.single_flight import SingleFlight
from mirror.oci.digest import Digest, Subject
from mirror.oci.errors import ErrorCode, Missing, Sealed, Unavailable
from mirror.oci.reference import Repository
from mirror.oci.referrers import filter_referrers
from mirror.oci.request import Page
from mirror.pull.answers import HIT, MISS, STALE, STORED, ReferrersAnswer, TagsAnswer
from mirror.pull.freshness import Freshness, Policy
from mirror.pull.keeping import try_to_keep
from mirror.pull.memory import Memory
from mirror.records.ports import Records, ReferrersRecord
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.listings import NoList, Referrers
from mirror.sources.registry.registry import Registry
from mirror.sources.registry.tag_lists import TagsPage
from mirror.storage.ports import Storage

_BATCH = 500  # digests, read at a time
_REPOSITORIES = 200  # read at a time
_NO_LIST = b""
"""On record where upstream knows no such list: in an outage, too, clients turn to the tag then."""


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
        except (Unavailable, Sealed) as error:
            limit = None if page.n is None else max(page.n, 1)  # of none at all, nothing is known
            names = await self._records.list_tags(scope.repository, after=page.last, limit=limit)
            if not names and page.last is None:
                raise
            names = names[: page.n]
            outcome = HIT if isinstance(error, Sealed) else STALE
            return TagsAnswer(msgspec.json.encode(names), _next(names, page), outcome)
        outcome = MISS.by(is_fallback=found.is_fallback)
        return TagsAnswer(found.content, found.next_query, outcome)

    async def list_referrers(
        self, scope: Scope, subject: Subject, artifact_type: str | None, page: Page
    ) -> ReferrersAnswer:
        """What refers to `subject`: remembered as long as a tag would be.

        Upstream's whole list is, and is filtered here: so no filter costs a question, or room. A
        `page` that a client asks for is passed on; whoever sends no such query is told everything,
        as far as that makes one answer. Of a subject under an algorithm that is not known here,
        nothing is remembered.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing.
        """
        try:
            if page == Page() and isinstance(subject, Digest):
                answer = await self._list_all_referrers(scope, subject)
            else:
                found = await self._ask_for_referrers(scope, subject, page)
                outcome = MISS.by(is_fallback=found.is_fallback)
                answer = ReferrersAnswer(found.content, found.next_query, outcome)
        except NoList as error:
            raise Missing(ErrorCode.MANIFEST_UNKNOWN, error.message) from error
        if artifact_type is None:
            return answer
        chosen = await read_aside(
            partial(filter_referrers, artifact_type=artifact_type), answer.content
        )
        return replace(answer, content=chosen)

    async def list_repositories(self, page: Page) -> tuple[list[str], dict[str, str] | None]:
        """The repositories with cached content, as `<namespace>/<name>`, in lexical order.

        Where each client's own authorization decides, the names are nobody else's business.
        """
        names: list[str] = []
        after, limit = (
            page.last,
            _REPOSITORIES if page.n is None else min(page.n + 1, _REPOSITORIES),
        )
        while listed := await self._records.list_repositories(
            self._public, after=after, limit=limit
        ):
            latest = [digest for it in listed for digest in it.latest]
            stored = await self._store.find_stored(latest, can_wait=True)
            for repository, digests in listed:
                if stored.isdisjoint(digests) and not await self._is_cached(repository):
                    continue
                if page.n is not None and len(names) == page.n:
                    return names, _next(names, page)
                names.append(str(repository))
            after = str(listed[-1].repository)
        return names, None

    async def _is_cached(self, repository: Repository) -> bool:
        """Whether anything is here of what the repository is linked to."""
        after: Digest | None = None
        while digests := await self._records.list_links(repository, after=after, limit=_BATCH):
            if await self._store.find_stored(digests, can_wait=True):
                return True
            after = digests[-1]
        return False

    async def _list_all_referrers(self, scope: Scope, digest: Digest) -> ReferrersAnswer:
        record = await self._records.find_referrers(scope.repository, digest)
        age = Freshness.DEAD
        if record is not None:
            age = self._policy.decide(record.checked_at, now=self._clock())
        if record is not None and record.content and age is Freshness.FRESH:
            return ReferrersAnswer(record.content, None, HIT)
        key = ("referrers", scope, digest)
        try:
            return await self._flights.join(key, lambda: self._fetch_referrers(scope, digest))
        except (Unavailable, Sealed) as error:
            is_sealed = isinstance(error, Sealed)
            if record is None:
                raise
            if age is Freshness.DEAD and not (is_sealed or record.is_imported):
                raise
            if not record.content:
                raise _no_list() from None
            return ReferrersAnswer(record.content, None, HIT if is_sealed else STALE)

    async def _fetch_referrers(self, scope: Scope, digest: Digest) -> ReferrersAnswer:
        try:
            found = await self._ask_for_referrers(scope, digest, Page())
        except Missing as error:
            if not error.is_remembered:
                nothing = ReferrersRecord(_NO_LIST, self._clock())
                await try_to_keep(self._records.record_referrers(scope.repository, digest, nothing))
            raise
        if found.next_query is not None or found.is_fallback:  # not all, or not to be relied on
            outcome = MISS.by(is_fallback=found.is_fallback)
            return ReferrersAnswer(found.content, found.next_query, outcome)
        record = ReferrersRecord(found.content, self._clock())
        await try_to_keep(self._records.record_referrers(scope.repository, digest, record))
        return ReferrersAnswer(found.content, None, STORED)

    async def _ask_for_referrers(self, scope: Scope, subject: Subject, page: Page) -> Referrers:
        with self._memory.remembering_missing(scope, f"referrers {subject}"):
            return await self._registry(scope).list_referrers(scope, subject, page)

    def _registry(self, scope: Scope) -> Registry:
        return self._registries[scope.repository.namespace]


def _no_list() -> Missing:
    return Missing(ErrorCode.MANIFEST_UNKNOWN, "upstream did not have it when it was last asked")


def _next(names: list[str], page: Page) -> dict[str, str] | None:
    """The query of the page after one that is full."""
    if not names or page.n is None or len(names) < page.n:
        return None
    return {"n": str(page.n), "last": names[-1]}

"""The mirror: every question that a client may ask of it, and the one way to each answer."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from mirror.oci.digest import Digest, Subject
from mirror.oci.errors import ErrorCode, RegistryError
from mirror.oci.ranges import ByteRange
from mirror.oci.reference import Reference, Repository, Tag
from mirror.oci.repositories import Selection
from mirror.oci.request import Page
from mirror.oci.token import TokenAnswer, TokenQuestion
from mirror.pull.answers import BlobAnswer, BlobSize, ManifestAnswer, ReferrersAnswer, TagsAnswer
from mirror.pull.blobs import Blobs
from mirror.pull.complete import Complete
from mirror.pull.grants import Grants
from mirror.pull.listings import Listings
from mirror.pull.logins import Logins
from mirror.pull.manifests import Manifests
from mirror.pull.prefetch import Prefetch
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry


class Mirror:
    """Answers pulls. All of it may raise `Missing`, `Denied` and `Unavailable` (mirror.oci.errors).

    `authorization` is what the client sent; it matters for the upstreams that are `personal` only
    (`access = "client"`), and goes nowhere else. What asks (`mirror.front`) faces the network: it
    is believed what it names, and not whose authority counts for that. `relaying` are the upstreams
    whose token servers clients may ask by way of us (`relay_tokens`); `served` has the repositories
    of each upstream that are (`allow`, `deny`); `with_logins` are the upstreams that clients show
    their own credentials to, to pull or to push.
    """

    def __init__(
        self,
        *,
        registries: Mapping[str, Registry],
        personal: Collection[str],
        with_logins: Collection[str],
        served: Mapping[str, Selection],
        relaying: Collection[str],
        grants: Grants,
        manifests: Manifests,
        complete: Complete,
        prefetch: Prefetch | None,
        blobs: Blobs,
        listings: Listings,
        logins: Logins,
    ) -> None:
        self._registries = registries
        self._personal = personal
        self._with_logins = with_logins
        self._served = served
        self._relaying = relaying
        self._grants = grants
        self._manifests = manifests
        self._complete = complete
        self._prefetch = prefetch
        self._blobs = blobs
        self._listings = listings
        self._logins = logins

    async def get_manifest(
        self, repository: Repository, reference: Reference, authorization: str | None
    ) -> ManifestAnswer:
        """A manifest, by tag or digest."""
        scope = self._scope(repository, authorization)
        registry = self._registries[repository.namespace]
        await self._grants.require(
            scope, f"manifest {reference}", lambda: registry.confirm_manifest(scope, reference)
        )
        if isinstance(reference, Tag):
            answer = await self._manifests.get_by_tag(scope, reference)
        else:
            answer = await self._manifests.get_by_digest(scope, reference)
        return replace(answer, good_until=self._manifests.good_until(scope, reference, answer))

    def note_served(
        self, repository: Repository, digest: Digest, authorization: str | None
    ) -> None:
        """A client has been given a manifest, and will soon ask for what it refers to."""
        if self._prefetch is not None:
            self._prefetch.note(self._scope(repository, authorization), digest)

    async def can_serve(
        self, repository: Repository, digest: Digest, authorization: str | None
    ) -> bool:
        """Whether all that a manifest names can be had here."""
        scope = self._scope(repository, authorization)
        registry = self._registries[repository.namespace]
        await self._grants.require(
            scope, f"manifest {digest}", lambda: registry.confirm_manifest(scope, digest)
        )
        return await self._complete.can_serve(scope, digest)

    async def head_blob(
        self, repository: Repository, digest: Digest, authorization: str | None
    ) -> BlobSize:
        """What is known of a blob; it is not transferred."""
        scope = await self._scope_for_blob(repository, digest, authorization)
        answer = await self._blobs.head(scope, digest)
        return BlobSize(digest, answer.size, answer.outcome)

    @asynccontextmanager
    async def open_blob(
        self,
        repository: Repository,
        digest: Digest,
        authorization: str | None,
        ranges: Sequence[ByteRange] = (),
    ) -> AsyncIterator[BlobAnswer]:
        """A blob, open for reading inside the block; `ranges` of it, or (none) all."""
        scope = await self._scope_for_blob(repository, digest, authorization)
        async with self._blobs.open(scope, digest, ranges) as answer:
            yield answer

    @asynccontextmanager
    async def open_rest(
        self, repository: Repository, digest: Digest, authorization: str | None
    ) -> AsyncIterator[BlobAnswer]:
        """What is still to come of a blob that the disk has cut off, for who reads it."""
        scope = await self._scope_for_blob(repository, digest, authorization)
        async with self._blobs.open_rest(scope, digest) as answer:
            yield answer

    async def may_read(
        self, repository: Repository, digest: Digest, authorization: str | None
    ) -> bool:
        """Whether a client may have a blob of this repository, if it is here."""
        try:
            scope = await self._scope_for_blob(repository, digest, authorization)
        except RegistryError:
            return False
        return await self._blobs.may_be_served(scope, digest)

    async def list_tags(
        self, repository: Repository, page: Page, authorization: str | None
    ) -> TagsAnswer:
        """A page of tags."""
        scope = self._scope(repository, authorization)
        registry = self._registries[repository.namespace]
        await self._grants.require(scope, "tags", lambda: registry.list_tags(scope, Page(n=1)))
        return await self._listings.list_tags(scope, page)

    async def list_referrers(
        self,
        repository: Repository,
        subject: Subject,
        artifact_type: str | None,
        page: Page,
        authorization: str | None,
    ) -> ReferrersAnswer:
        """What refers to a digest."""
        scope = self._scope(repository, authorization)
        registry = self._registries[repository.namespace]
        await self._grants.require(
            scope, f"manifest {subject}", lambda: registry.confirm_manifest(scope, subject)
        )
        return await self._listings.list_referrers(scope, subject, artifact_type, page)

    async def check_login(self, upstream: str, authorization: str | None) -> None:
        """Return where that upstream lets a client in with what it sent."""
        if upstream not in self._served:
            raise _not_configured()
        if upstream in self._with_logins:
            await self._logins.check(upstream, authorization or "")

    async def ask_token_server(
        self, upstream: str, question: TokenQuestion, authorization: str | None
    ) -> TokenAnswer:
        """What a token server that upstream has named says to a client."""
        if upstream not in self._relaying:
            raise _not_configured()
        return await self._logins.ask_token_server(upstream, question, authorization or "")

    async def list_repositories(self, page: Page) -> tuple[list[str], dict[str, str] | None]:
        """What is cached."""
        return await self._listings.list_repositories(page)

    async def _scope_for_blob(
        self, repository: Repository, digest: Digest, authorization: str | None
    ) -> Scope:
        scope = self._scope(repository, authorization)
        registry = self._registries[repository.namespace]
        await self._grants.require(
            scope, f"blob {digest}", lambda: registry.head_blob(scope, digest)
        )
        return scope

    def _scope(self, repository: Repository, authorization: str | None) -> Scope:
        """Whose authority counts: the client's own, or (None) the mirror's.

        Raises:
            RegistryError, Denied: What asks should have known that this is not served.
        """
        if repository.namespace not in self._served:  # any more
            raise _not_configured()
        self._served[repository.namespace].require(repository.name)
        is_personal = repository.namespace in self._personal
        return Scope(repository, (authorization or "") if is_personal else None)


def _not_configured() -> RegistryError:
    return RegistryError(ErrorCode.NAME_UNKNOWN, "this mirror is not configured for that registry")

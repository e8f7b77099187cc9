"""The mirror: every question that a client may ask of it, and the one way to each answer."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.oci.reference import Reference, Tag
from mirror.oci.request import Page
from mirror.pull.answers import BlobAnswer, ManifestAnswer, ReferrersAnswer, TagsAnswer
from mirror.pull.blobs import Blobs
from mirror.pull.grants import Grants
from mirror.pull.listings import Listings
from mirror.pull.manifests import Manifests
from mirror.pull.prefetch import Prefetch
from mirror.pull.routing import Route
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry

__all__ = ["Mirror", "Route"]


class Mirror:
    """Answers pulls. All of it may raise `Missing`, `Denied` and `Unavailable` (mirror.oci.errors).

    `authorization` is what the client sent; it matters for `access = "client"` upstreams only, and
    goes nowhere else.
    """

    def __init__(
        self,
        *,
        registries: Mapping[str, Registry],
        grants: Grants,
        manifests: Manifests,
        prefetch: Prefetch | None,
        blobs: Blobs,
        listings: Listings,
    ) -> None:
        self._registries = registries
        self._grants = grants
        self._manifests = manifests
        self._prefetch = prefetch
        self._blobs = blobs
        self._listings = listings

    async def get_manifest(
        self, route: Route, reference: Reference, authorization: str | None
    ) -> ManifestAnswer:
        """A manifest, by tag or digest."""
        scope = _scope(route, authorization)
        registry = self._registries[route.upstream]
        await self._grants.require(
            scope, f"manifest {reference}", lambda: registry.confirm_manifest(scope, reference)
        )
        if isinstance(reference, Tag):
            answer = await self._manifests.get_by_tag(scope, reference)
        else:
            answer = await self._manifests.get_by_digest(scope, reference)
        return replace(answer, good_until=self._manifests.good_until(scope, reference, answer))

    def note_served(self, route: Route, manifest: Manifest, authorization: str | None) -> None:
        """A client has been given a manifest, and will soon ask for what it refers to."""
        if self._prefetch is not None:
            self._prefetch.note(_scope(route, authorization), manifest)

    async def head_blob(
        self, route: Route, digest: Digest, authorization: str | None
    ) -> BlobAnswer:
        """What is known of a blob; it is not transferred."""
        scope = await self._scope_for_blob(route, digest, authorization)
        return await self._blobs.head(scope, digest)

    @asynccontextmanager
    async def open_blob(
        self, route: Route, digest: Digest, authorization: str | None
    ) -> AsyncIterator[BlobAnswer]:
        """A blob, open for reading inside the block."""
        scope = await self._scope_for_blob(route, digest, authorization)
        async with self._blobs.open(scope, digest) as answer:
            yield answer

    async def list_tags(self, route: Route, page: Page, authorization: str | None) -> TagsAnswer:
        """A page of tags."""
        scope = _scope(route, authorization)
        registry = self._registries[route.upstream]
        await self._grants.require(scope, "tags", lambda: registry.list_tags(scope, Page(n=1)))
        return await self._listings.list_tags(scope, page)

    async def list_referrers(
        self, route: Route, digest: Digest, artifact_type: str | None, authorization: str | None
    ) -> ReferrersAnswer:
        """What refers to a digest."""
        scope = _scope(route, authorization)
        registry = self._registries[route.upstream]
        await self._grants.require(
            scope, f"manifest {digest}", lambda: registry.confirm_manifest(scope, digest)
        )
        return await self._listings.list_referrers(scope, digest, artifact_type)

    async def list_repositories(self, page: Page) -> tuple[list[str], dict[str, str] | None]:
        """What is cached."""
        return await self._listings.list_repositories(page)

    async def _scope_for_blob(
        self, route: Route, digest: Digest, authorization: str | None
    ) -> Scope:
        scope = _scope(route, authorization)
        registry = self._registries[route.upstream]
        await self._grants.require(
            scope, f"blob {digest}", lambda: registry.head_blob(scope, digest)
        )
        return scope


def _scope(route: Route, authorization: str | None) -> Scope:
    """Whose authority counts: the client's own, or (None) the mirror's."""
    return Scope(route.repository, (authorization or "") if route.access == "client" else None)

"""One upstream: what the mirror asks of it, at whichever of its endpoints can answer.

Endpoints are tried in the order of the configuration. Only those with `tags = true` may say what a
tag means, and while none of them can be asked, those with `tags = "fallback"`; content by digest
may come from any, since its digest proves it.
"""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

from aiolimiter import AsyncLimiter

from mirror.oci.digest import Digest, Subject
from mirror.oci.errors import (
    DigestMismatch,
    ErrorCode,
    Missing,
    RegistryError,
    Sealed,
    Unavailable,
)
from mirror.oci.reference import Reference, Repository, Tag
from mirror.oci.request import Page
from mirror.oci.token import ServerKey, TokenAnswer, TokenQuestion
from mirror.sources.ports import NoteComing, note_nothing
from mirror.sources.registry import blobs, listings, manifests
from mirror.sources.registry.blobs import Distrust, RegistryBlobs
from mirror.sources.registry.endpoint import Endpoint, Scope
from mirror.sources.registry.failover import first_answer
from mirror.sources.registry.health import Quota
from mirror.sources.registry.listings import Referrers
from mirror.sources.registry.manifests import SentManifest, TagState
from mirror.sources.registry.reading import reading
from mirror.sources.registry.tag_lists import TagsPage
from mirror.sources.registry.target import RegistryTarget

_Word = TypeVar("_Word", SentManifest, TagState, TagsPage, Referrers)


@dataclass(slots=True, eq=False)
class Registry:
    """An upstream and its endpoints; one without any is sealed, and nobody is ever asked.

    Every method that asks raises Missing, Denied and Unavailable: what upstream says, or that it
    says nothing, or nothing sensible.
    """

    name: str
    endpoints: list[Endpoint]
    clock: Callable[[], float] = time.monotonic
    note_coming: NoteComing = note_nothing
    _tag_endpoints: list[Endpoint] = field(init=False)
    _fallbacks: list[Endpoint] = field(init=False)
    _distrust: Distrust = field(init=False)

    def __post_init__(self) -> None:
        self._distrust = Distrust(self.clock)
        self._tag_endpoints = [it for it in self.endpoints if it.config.is_authority]
        self._fallbacks = [it for it in self.endpoints if it.config.tags == "fallback"]

    @property
    def is_sealed(self) -> bool:
        """Whether what is here is what there is."""
        return not self.endpoints

    def tells_tags(self, repository: str) -> bool:
        """Whether an endpoint that may say what tags mean would, for all that is known."""
        return any(it.is_up_for(Quota.CHECKS, repository) for it in self._tag_endpoints)

    def speaks_of_tags(self, repository: str) -> bool:
        """The same, or one that may in their place."""
        return self.tells_tags(repository) or any(
            it.is_up_for(Quota.CHECKS, repository) for it in self._fallbacks
        )

    def gives_manifests(self, repository: str) -> bool:
        """Whether an endpoint would send manifests, for all that is known."""
        return any(it.is_up_for(Quota.MANIFESTS, repository) for it in self.endpoints)

    def gives_blobs(self, repository: str) -> bool:
        """Whether an endpoint would send blobs, for all that is known."""
        return any(it.is_up_for(Quota.BLOBS, repository) for it in self.endpoints)

    def credentials_version(self) -> tuple[object, ...]:
        """Changes when the mirror's credentials have: what was denied may be granted now."""
        return tuple(endpoint.credentials_version() for endpoint in self.endpoints)

    @property
    def pulls_left(self) -> int | None:
        """Pulls that are left, by the endpoints' last word; None: none has told of any."""
        left = [it.condition.quota[1] for it in self.endpoints]
        return min((it for it in left if it is not None), default=None)

    def blobs(self, scope: Scope, limit: AsyncLimiter | None = None) -> RegistryBlobs:
        """The blobs of a repository, as a source of bytes; equal where registry and scope are.

        What comes for nobody who waits keeps to a `limit` in bytes.
        """
        return RegistryBlobs(
            self.name, scope, tuple(self.endpoints), self._distrust, self.note_coming, limit
        )

    def target(self, repository: Repository, authorization: str | None = None) -> RegistryTarget:
        """A repository to push to; `authorization` as `Scope` has it. Raises Sealed."""
        if self.is_sealed:
            raise Sealed(ErrorCode.NAME_UNKNOWN)
        scope = Scope(repository, authorization, is_push=True)
        return RegistryTarget(self.name, scope, self._tag_endpoints[0])

    def require_hope(self, digest: Digest, *, unknown: ErrorCode) -> None:
        """Raises Missing where every endpoint has sent something else under this digest.

        Or Sealed, where there is none to ask.
        """
        names = [endpoint.name for endpoint in self.endpoints]
        self._distrust.require_hope(digest, names, unknown=unknown)

    async def head_tag(self, scope: Scope, tag: Tag, known: Digest | None) -> TagState:
        """What `tag` means now; costs no pull (Docker Hub counts GETs only)."""
        return await self._first_word(
            scope, lambda endpoint: manifests.head_tag(endpoint, scope, tag, known)
        )

    async def get_manifest(self, scope: Scope, reference: Reference) -> SentManifest:
        """The manifest, proved by its digest (as far as one is known beforehand), and read."""
        if isinstance(reference, Tag):
            return await self._first_word(
                scope, lambda endpoint: self._get_manifest(endpoint, scope, reference)
            )
        digest = reference
        self.require_hope(digest, unknown=ErrorCode.MANIFEST_UNKNOWN)

        async def ask(endpoint: Endpoint) -> SentManifest:
            try:
                return await self._get_manifest(endpoint, scope, digest)
            except DigestMismatch:
                self._distrust.note(digest, [endpoint.name], is_disproved=True)
                endpoint.note_mismatch(digest)
                raise

        return await first_answer(self.endpoints, ask)

    async def _get_manifest(
        self, endpoint: Endpoint, scope: Scope, reference: Reference
    ) -> SentManifest:
        sent = await manifests.get_manifest(endpoint, scope, reference)
        digest, size = sent.manifest.digest, len(sent.manifest.content)
        self.note_coming(scope.repository, digest, endpoint.name, size=size, is_manifest=True)(size)
        return sent

    async def confirm_manifest(self, scope: Scope, reference: Tag | Subject) -> None:
        """Have upstream confirm that this repository has this manifest, and lets us have it."""
        await first_answer(
            self._authorities(scope, reference),
            lambda endpoint: manifests.confirm_manifest(endpoint, scope, reference),
        )

    async def head_blob(self, scope: Scope, digest: Digest) -> int:
        """The size of a blob that this repository has, in bytes; nothing is transferred."""
        self.require_hope(digest, unknown=ErrorCode.BLOB_UNKNOWN)
        return await first_answer(
            self._authorities(scope, digest),
            lambda endpoint: blobs.head_blob(endpoint, scope, digest),
            unknown=ErrorCode.BLOB_UNKNOWN,
        )

    async def ask_in(self, authorization: str) -> None:
        """Have upstream say whether it lets somebody in with this authorization ("": none)."""
        await first_answer(
            self._tag_endpoints,
            lambda endpoint: endpoint.ask_in(authorization),
            unknown=ErrorCode.NAME_UNKNOWN,
        )

    def has_named(self, server: ServerKey) -> bool:
        """Whether a token server is known by that key."""
        return any(server in endpoint.token_servers for endpoint in self._tag_endpoints)

    async def ask_token_server(self, question: TokenQuestion, authorization: str) -> TokenAnswer:
        """What a token server that it has named says to a client; Missing: it has named none."""
        for endpoint in self._tag_endpoints:
            if question.server in endpoint.token_servers:
                endpoint.condition.require_not_paused()
                with reading(endpoint.config.url):
                    return await endpoint.token_servers.ask(question, authorization)
        raise Missing(ErrorCode.NAME_UNKNOWN, "the registry names no such token server")

    async def list_tags(self, scope: Scope, page: Page) -> TagsPage:
        """A page of the repository's tags."""
        return await self._first_word(
            scope,
            lambda endpoint: listings.list_tags(endpoint, scope, page),
            unknown=ErrorCode.NAME_UNKNOWN,
        )

    async def list_referrers(self, scope: Scope, subject: Subject, page: Page) -> Referrers:
        """What refers to `subject` (Missing: upstream does not support the request)."""
        return await self._first_word(
            scope,
            lambda endpoint: listings.list_referrers(endpoint, scope, subject, page),
        )

    async def _first_word(
        self,
        scope: Scope,
        ask: Callable[[Endpoint], Awaitable[_Word]],
        *,
        unknown: ErrorCode = ErrorCode.MANIFEST_UNKNOWN,
    ) -> _Word:
        """What nothing proves: of those who may say so, or who may while those cannot be asked."""
        try:
            return await first_answer(self._tag_endpoints, ask, unknown=unknown)
        except Unavailable:
            # They do not know who is let in, and the refusal of one that lags behind says nothing.
            if self._fallbacks and scope.authorization is None:
                with suppress(RegistryError):
                    return await first_answer(self._fallbacks, lambda it: _in_place(it, ask))
            raise

    def _authorities(self, scope: Scope, reference: Tag | Subject) -> list[Endpoint]:
        """Who may say that this repository has something, and lets this client have it."""
        if isinstance(reference, Tag) or scope.authorization is not None:
            return self._tag_endpoints
        return self.endpoints


async def _in_place(endpoint: Endpoint, ask: Callable[[Endpoint], Awaitable[_Word]]) -> _Word:
    """The answer of an endpoint in place of those that it stands for, marked."""
    word = replace(await ask(endpoint), is_fallback=True)
    endpoint.note_fallback()
    return word

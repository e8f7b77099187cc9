"""One upstream: what the mirror asks of it, at whichever of its endpoints can answer.

Endpoints are tried in the order of the configuration. Only those with `tags = true` may say what a
tag means; content by digest may come from any, since its digest proves it.
"""

from dataclasses import dataclass, field

from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode, Missing
from mirror.oci.manifest import Manifest, References
from mirror.oci.reference import Reference, Tag
from mirror.oci.request import Page
from mirror.oci.token import ServerKey, TokenAnswer, TokenQuestion
from mirror.sources.registry import blobs, listings, manifests
from mirror.sources.registry.blobs import Distrust, RegistryBlobs
from mirror.sources.registry.endpoint import Endpoint, Scope
from mirror.sources.registry.failover import first_answer
from mirror.sources.registry.health import Quota
from mirror.sources.registry.listings import Referrers, TagsPage
from mirror.sources.registry.manifests import TagState
from mirror.sources.registry.reading import reading


@dataclass(slots=True, eq=False)
class Registry:
    """An upstream and its endpoints.

    Every method that asks raises Missing, Denied and Unavailable: what upstream says, or that it
    says nothing, or nothing sensible.
    """

    name: str
    endpoints: list[Endpoint]
    _tag_endpoints: list[Endpoint] = field(init=False)
    _distrust: Distrust = field(default_factory=Distrust, init=False)

    def __post_init__(self) -> None:
        self._tag_endpoints = [endpoint for endpoint in self.endpoints if endpoint.config.tags]

    def tells_tags(self, repository: str) -> bool:
        """Whether an endpoint that may say what tags mean would, for all that is known."""
        return any(it.is_up_for(Quota.CHECKS, repository) for it in self._tag_endpoints)

    def credentials_version(self) -> tuple[object, ...]:
        """Changes when the mirror's credentials have: what was denied may be granted now."""
        return tuple(endpoint.credentials_version() for endpoint in self.endpoints)

    def blobs(self, scope: Scope) -> RegistryBlobs:
        """The blobs of a repository, as a source of bytes; equal where registry and scope are."""
        return RegistryBlobs(self.name, scope, tuple(self.endpoints), self._distrust)

    async def head_tag(self, scope: Scope, tag: Tag, known: Digest | None) -> TagState:
        """What `tag` means now; costs no pull (Docker Hub counts GETs only)."""
        return await first_answer(
            self._tag_endpoints, lambda endpoint: manifests.head_tag(endpoint, scope, tag, known)
        )

    async def get_manifest(self, scope: Scope, reference: Reference) -> tuple[Manifest, References]:
        """The manifest, proved by its digest (as far as one is known beforehand), and read."""
        endpoints = self._tag_endpoints if isinstance(reference, Tag) else self.endpoints
        return await first_answer(
            endpoints, lambda endpoint: manifests.get_manifest(endpoint, scope, reference)
        )

    async def confirm_manifest(self, scope: Scope, reference: Reference) -> None:
        """Have upstream confirm that this repository has this manifest, and lets us have it."""
        await first_answer(
            self._authorities(scope, reference),
            lambda endpoint: manifests.confirm_manifest(endpoint, scope, reference),
        )

    async def head_blob(self, scope: Scope, digest: Digest) -> int:
        """The size of a blob that this repository has, in bytes; nothing is transferred."""
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
                with reading(endpoint.config.url):
                    return await endpoint.token_servers.ask(question, authorization)
        raise Missing(ErrorCode.NAME_UNKNOWN, "the registry names no such token server")

    async def list_tags(self, scope: Scope, page: Page) -> TagsPage:
        """A page of the repository's tags."""
        return await first_answer(
            self._tag_endpoints,
            lambda endpoint: listings.list_tags(endpoint, scope, page),
            unknown=ErrorCode.NAME_UNKNOWN,
        )

    async def list_referrers(
        self, scope: Scope, digest: Digest, artifact_type: str | None
    ) -> Referrers:
        """What refers to `digest` (Missing: upstream does not support the request)."""
        return await first_answer(
            self._tag_endpoints,
            lambda endpoint: listings.list_referrers(endpoint, scope, digest, artifact_type),
        )

    def _authorities(self, scope: Scope, reference: Reference) -> list[Endpoint]:
        """Who may say that this repository has something, and lets this client have it."""
        if isinstance(reference, Tag) or scope.authorization is not None:
            return self._tag_endpoints
        return self.endpoints

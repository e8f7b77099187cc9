"""One handler for each kind of request: ask the mirror, shape the answer."""

from collections.abc import Awaitable
from typing import assert_never

import msgspec
from aiohttp import web

from mirror.front.api import errors, responses, token_relay
from mirror.front.api.agents import takes_all_from_one
from mirror.front.api.facts import Facts, authorization_of
from mirror.front.api.pulls import CachedPulls
from mirror.front.api.pushes import PushHandlers
from mirror.front.ports import Front
from mirror.oci.digest import Digest
from mirror.oci.errors import Denied, ErrorCode, Missing, Unavailable
from mirror.oci.reference import Tag
from mirror.oci.request import (
    BlobRequest,
    CatalogRequest,
    ManifestRequest,
    Ping,
    ReferrersRequest,
    TagsRequest,
    Target,
    TokenRequest,
)
from mirror.oci.token import TokenQuestion
from mirror.pull.answers import MISS, BlobAnswer
from mirror.pull.routing import Route, Router
from mirror.telemetry.traffic import Kind

_INDEX = "application/vnd.oci.image.index.v1+json"


class Handlers:
    """Answers parsed requests; `cached` knows what need not be asked of the `mirror`."""

    takes_pushes = False
    """Whether anything may be pushed at all; every pull asks."""

    def __init__(
        self,
        mirror: Front,
        cached: CachedPulls,
        router: Router,
        *,
        request_timeout: float,
        send_timeout: float,
    ) -> None:
        self.pushes = PushHandlers(mirror, router, patience=send_timeout)
        self.takes_pushes = router.takes_pushes
        self._mirror = mirror
        self._cached = cached
        self._router = router
        self._request_timeout = request_timeout  # seconds

    def renew(self, router: Router) -> None:
        """Go by this from now on."""
        self._router = router
        self.pushes.renew(router)
        self.takes_pushes = router.takes_pushes

    def answer(
        self, request: web.BaseRequest, target: Target, facts: Facts
    ) -> Awaitable[web.StreamResponse]:
        """The response to a request; a blob's body has been sent when this returns.

        Raises:
            RegistryError, RangeNotSatisfiable: As `mirror.front.api.errors` renders them.
        """
        match target.request:
            case ManifestRequest() as asked:
                return self._manifest(request, asked, target.ns, facts)
            case BlobRequest() as asked:
                return self._blob(request, asked, target.ns, facts)
            case TagsRequest() as asked:
                return self._tags(request, asked, target.ns, facts)
            case ReferrersRequest() as asked:
                return self._referrers(request, asked, target.ns, facts)
            case Ping() | CatalogRequest() | TokenRequest() as asked:
                return self._of_no_repository(request, asked, target.ns, facts)
        assert_never(target.request)

    def _of_no_repository(
        self,
        request: web.BaseRequest,
        asked: Ping | CatalogRequest | TokenRequest,
        ns: str | None,
        facts: Facts,
    ) -> Awaitable[web.StreamResponse]:
        match asked:
            case Ping():
                return self._ping(request, ns, facts)
            case CatalogRequest():
                return self._catalog(request, asked)
            case TokenRequest():
                return self._token(request, asked, facts)
        assert_never(asked)

    async def _ping(
        self, request: web.BaseRequest, ns: str | None, facts: Facts
    ) -> web.StreamResponse:
        """At the shared address everybody is let in, and no password is asked for."""
        upstream = self._router.find_personal(ns=ns, host=facts.host)
        if upstream is not None:
            facts.upstream, facts.is_personal, facts.is_login = upstream, True, True
            scheme = self._router.relay_scheme(upstream)
            facts.relay = token_relay.relay_address(request, scheme, upstream)
            await self._mirror.check_login(upstream, authorization_of(request))
        return web.Response(
            body=b"{}", content_type="application/json", headers=responses.API_VERSION
        )

    async def _manifest(
        self, request: web.BaseRequest, asked: ManifestRequest, ns: str | None, facts: Facts
    ) -> web.StreamResponse:
        facts.kind = Kind.TAG if isinstance(asked.reference, Tag) else Kind.MANIFEST
        facts.missing = ErrorCode.MANIFEST_UNKNOWN
        facts.reference = asked.reference
        route = self._route(request, asked.name, ns, facts)
        authorization = authorization_of(request)
        answer = self._cached.find_manifest(route, asked.reference)
        if answer is None:
            answer = await self._cached.get_manifest(route, asked.reference, authorization)
        facts.digest = digest = answer.manifest.digest
        if takes_all_from_one(request.headers.get("User-Agent", "")) and not (
            await self._cached.can_serve(route, digest, authorization)
        ):
            raise Missing(
                ErrorCode.MANIFEST_UNKNOWN, "not all that this manifest names can be had here now"
            )
        facts.note(answer.outcome)
        if request.method == "GET":
            self._cached.note_served(route.repository, digest, authorization)
        return responses.manifest(request, answer)

    async def _blob(
        self, request: web.BaseRequest, asked: BlobRequest, ns: str | None, facts: Facts
    ) -> web.StreamResponse:
        facts.kind = Kind.BLOB
        facts.missing = ErrorCode.BLOB_UNKNOWN
        facts.reference = facts.digest = asked.digest
        route = self._route(request, asked.name, ns, facts)
        authorization = authorization_of(request)
        if request.method == "HEAD" and route.push != "off":
            pushed = await self._head_for_pusher(route, asked.digest, authorization, facts)
            if pushed is not None:
                return responses.blob_head(request, pushed)[0]
        found = self._cached.find_blob(route, asked.digest)
        if found is not None:
            facts.note(found.outcome)
            response, _ = responses.blob_head(request, found)
            return response
        if request.method == "HEAD":
            answer = await self._cached.head_blob(route, asked.digest, authorization)
            facts.note(answer.outcome)
            response, _ = responses.blob_head(request, answer)
            return response
        ranges = responses.wanted_ranges(request, asked.digest)
        async with self._cached.open_blob(route, asked.digest, authorization, ranges) as answer:
            facts.note(answer.outcome)
            return await self._send_blob(request, answer, ns, facts)

    async def _head_for_pusher(
        self, route: Route, digest: Digest, authorization: str | None, facts: Facts
    ) -> BlobAnswer | None:
        """Whether the registry has a blob, for who may be about to push it if it has not.

        What is here says nothing of that. None: it is nobody who may push, or the registry cannot
        be asked; then the answer is the one for pulls.
        """
        facts.is_personal = facts.is_personal or route.push == "client"
        try:
            size = await self._mirror.find_pushed_blob(route.repository, digest, authorization)
        except Unavailable:
            return None
        except Denied as error:
            if route.push == "client" and error.code is ErrorCode.UNAUTHORIZED:
                raise  # it has more to show
            return None
        if size is None:
            raise Missing(ErrorCode.BLOB_UNKNOWN, "upstream does not have it")
        return BlobAnswer(digest, size, None, facts.note(MISS))

    async def _send_blob(
        self, request: web.BaseRequest, answer: BlobAnswer, ns: str | None, facts: Facts
    ) -> web.StreamResponse:
        if answer.location is not None:
            return responses.elsewhere(answer, answer.location)
        response, layout = responses.blob_head(request, answer)
        if isinstance(response, web.Response):  # from memory, or 304
            return response
        if ns is not None:
            response.headers["OCI-Namespace"] = ns
        answer = await responses.begin(answer, layout)
        await response.prepare(request)
        facts.response = response
        await responses.send_body(request, response, answer, layout, facts.note_sent)
        await response.write_eof()
        return response

    async def _tags(
        self, request: web.BaseRequest, asked: TagsRequest, ns: str | None, facts: Facts
    ) -> web.StreamResponse:
        facts.kind = Kind.TAGS
        route = self._route(request, asked.name, ns, facts)
        answer = await self._mirror.list_tags(
            route.repository, asked.page, authorization_of(request)
        )
        name = msgspec.json.encode(asked.name)
        content = b'{"name":%b,"tags":%b}' % (name, answer.content)
        response = responses.page(request, content, answer.next_query, ns)
        response.headers.update(responses.outcome_headers(facts.note(answer.outcome)))
        return response

    async def _referrers(
        self, request: web.BaseRequest, asked: ReferrersRequest, ns: str | None, facts: Facts
    ) -> web.StreamResponse:
        facts.kind = Kind.REFERRERS
        facts.missing = ErrorCode.MANIFEST_UNKNOWN
        route = self._route(request, asked.name, ns, facts)
        answer = await self._mirror.list_referrers(
            route.repository,
            asked.subject,
            asked.artifact_type,
            asked.page,
            authorization_of(request),
        )
        headers = dict(responses.outcome_headers(facts.note(answer.outcome)))
        following = answer.next_query
        if asked.artifact_type is not None:
            headers["OCI-Filters-Applied"] = "artifactType"
            following = following and following | {"artifactType": asked.artifact_type}
        if following is not None:
            headers["Link"] = responses.next_link(request, following, ns)
        return web.Response(body=answer.content, content_type=_INDEX, headers=headers)

    async def _catalog(self, request: web.BaseRequest, asked: CatalogRequest) -> web.StreamResponse:
        names, following = await self._mirror.list_repositories(asked.page)
        content = msgspec.json.encode({"repositories": names})
        return responses.page(request, content, following, None)

    async def _token(
        self, request: web.BaseRequest, asked: TokenRequest, facts: Facts
    ) -> web.StreamResponse:
        if self._router.relay_scheme(asked.upstream) is None:
            raise token_relay.not_relayed()
        if request.method == "HEAD":
            return errors.unsupported()
        facts.upstream, facts.is_login = asked.upstream, True
        form = None
        if request.method == "POST":
            form = await token_relay.read_form(request, self._request_timeout)
        question = TokenQuestion(asked.server, asked.query, form)
        return token_relay.response_of(
            await self._mirror.ask_token_server(asked.upstream, question, authorization_of(request))
        )

    def _route(self, request: web.BaseRequest, name: str, ns: str | None, facts: Facts) -> Route:
        route = self._router.route(name, ns=ns, host=facts.host)
        facts.upstream, facts.repository = route.upstream, route.repository
        facts.is_personal = route.is_personal
        if route.relay is not None:
            facts.relay = token_relay.relay_address(request, route.relay, route.upstream)
        return route

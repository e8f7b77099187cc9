"""Pushes over HTTP: one handler for each kind of request of the spec's section "Pushing"."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from http import HTTPStatus
from typing import assert_never

from aiohttp import web

from mirror.aio.sealed import Bulk
from mirror.front.api import errors
from mirror.front.api.bodies import (
    Gathering,
    lending,
    read_body,
    waits_to_be_told,
)
from mirror.front.api.facts import Facts, authorization_of
from mirror.front.api.token_relay import relay_address
from mirror.front.ports import Pushes
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode, Refused, RegistryError
from mirror.oci.manifest import MAX_SIZE, is_media_type
from mirror.oci.push_request import (
    ManifestPush,
    PushTarget,
    UploadRequest,
    UploadsRequest,
    parse_content_range,
)
from mirror.oci.reference import Repository
from mirror.oci.request import parse_namespace, split_target
from mirror.pull.routing import Route, Router
from mirror.push.answers import Loan, UploadState

_NAME = 32  # characters of an upload's name
_CHUNKED = "chunked"


class PushHandlers:
    """Answers parsed requests of pushes. A client has `patience` seconds to bring something."""

    def __init__(self, mirror: Pushes, router: Router, *, patience: float) -> None:
        self._mirror = mirror
        self._router = router
        self._patience = patience
        self._gathering = Gathering()

    def renew(self, router: Router) -> None:
        """Go by this from now on."""
        self._router = router

    async def answer(
        self, request: web.BaseRequest, target: PushTarget, facts: Facts
    ) -> web.StreamResponse:
        """The response to a request.

        Raises:
            RegistryError: As `mirror.front.api.errors` renders them.
            ConnectionError: The client has left, or brings nothing.
        """
        asked, facts.namespace = target.request, target.ns
        facts.is_login = True  # a person reads what goes wrong, and nobody turns elsewhere
        route = self._route(request, asked.name, target.ns, facts)
        if route.push == "off":
            return errors.unsupported()
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise RegistryError(ErrorCode.UNSUPPORTED, "what is pushed is sent as it is")
        if ",".join(request.headers.getall("Transfer-Encoding", [_CHUNKED])).lower() != _CHUNKED:
            raise _unknown_coding()  # the parser takes any that ends in this, and decodes this
        match asked:
            case ManifestPush():
                return await self._manifest(request, asked, route, facts)
            case UploadsRequest():
                return await self._begin(request, asked, target.ns, facts)
            case UploadRequest():
                if len(asked.identity) != _NAME or not asked.identity.isalnum():
                    raise _no_such_upload()
                return await self._go_on(request, asked, route, facts)
        assert_never(asked)

    async def _manifest(
        self, request: web.BaseRequest, asked: ManifestPush, route: Route, facts: Facts
    ) -> web.StreamResponse:
        facts.reference = asked.reference
        media_type = request.headers.get("Content-Type", "").strip()
        if not is_media_type(media_type.partition(";")[0].strip()):
            raise RegistryError(
                ErrorCode.MANIFEST_INVALID, "a manifest is pushed with its Content-Type"
            )
        content = await self._read_manifest(request)
        facts.received = len(content)
        pushed = await self._mirror.push_manifest(
            route.repository, asked.reference, media_type, content, authorization_of(request)
        )
        facts.digest = pushed.digest
        path = request.raw_path.partition("?")[0]
        headers = {"Location": path, "Docker-Content-Digest": str(pushed.digest)}
        if pushed.subject is not None:
            headers["OCI-Subject"] = str(pushed.subject)
        return web.Response(status=HTTPStatus.CREATED, headers=headers)

    async def _begin(
        self, request: web.BaseRequest, asked: UploadsRequest, ns: str | None, facts: Facts
    ) -> web.StreamResponse:
        repository, authorization = facts.repository, authorization_of(request)
        assert repository is not None  # noqa: S101 - it is routed
        facts.digest = asked.mount or asked.digest
        source = None
        if asked.mount is not None and asked.source is not None:
            source = self._find_source(asked.source, ns, facts)
        # Of a source that is no repository here, nothing can be mounted: then it is uploaded.
        mount = None if asked.source is not None and source is None else asked.mount
        state = await self._mirror.begin_upload(repository, mount, source, authorization)
        if state is None:
            assert asked.mount is not None  # noqa: S101 - nothing else is there at once
            return _created(request, asked.name, asked.mount)
        if asked.digest is None or not request.body_exists:
            return _accepted(request, asked.name, state)
        if await self._need_not_come(request, repository, state.identity, asked.digest):
            return _created_unread(request, asked.name, asked.digest)
        async with self._mirror.open_upload(repository, state.identity, authorization, None):
            await self._take(request, repository, state, facts)
            await self._mirror.finish_upload(repository, state.identity, asked.digest)
        return _created(request, asked.name, asked.digest)

    def _find_source(self, name: str, ns: str | None, facts: Facts) -> Repository | None:
        try:
            return self._router.route(name, ns=ns, host=facts.host).repository
        except RegistryError:
            return None

    async def _go_on(
        self, request: web.BaseRequest, asked: UploadRequest, route: Route, facts: Facts
    ) -> web.StreamResponse:
        repository, authorization = route.repository, authorization_of(request)
        facts.digest = asked.digest
        if request.method == "DELETE":
            await self._mirror.cancel_upload(repository, asked.identity, authorization)
            return web.Response(status=HTTPStatus.NO_CONTENT)
        if request.method in {"GET", "HEAD"}:
            state = await self._mirror.get_upload(repository, asked.identity, authorization)
            headers = _headers(request, asked.name, state)
            return web.Response(status=HTTPStatus.NO_CONTENT, headers=headers)
        if request.method == "PUT" and asked.digest is None:
            raise RegistryError(ErrorCode.DIGEST_INVALID, "an upload ends with its digest")
        if asked.digest is not None and await self._need_not_come(
            request, repository, asked.identity, asked.digest
        ):
            return _created_unread(request, asked.name, asked.digest)
        try:
            return await self._bring(request, asked, repository, authorization, facts)
        except RegistryError as error:
            # Who asks again, after the answer was lost, is told what has become of it meanwhile.
            if error.code is not ErrorCode.BLOB_UPLOAD_UNKNOWN or asked.digest is None:
                raise
            if not await self._is_there(repository, asked.digest, authorization):
                raise
            return _created_unread(request, asked.name, asked.digest)

    async def _bring(
        self,
        request: web.BaseRequest,
        asked: UploadRequest,
        repository: Repository,
        authorization: str | None,
        facts: Facts,
    ) -> web.StreamResponse:
        span = parse_content_range(request.headers.get("Content-Range"))
        ending = asked.digest if span is None and request.body_exists else None
        async with self._mirror.open_upload(
            repository, asked.identity, authorization, ending
        ) as state:
            if span is not None and span[0] != state.offset:
                return errors.out_of_order(_headers(request, asked.name, state))
            after = await self._take(request, repository, state, facts, most=_length_of(span))
            if request.method == "PATCH":
                return _accepted(request, asked.name, after)
            assert asked.digest is not None  # noqa: S101 - it is a PUT
            await self._mirror.finish_upload(repository, asked.identity, asked.digest)
        return _created(request, asked.name, asked.digest)

    async def _is_there(
        self, repository: Repository, digest: Digest, authorization: str | None
    ) -> bool:
        """Whether the registry says that it has it, and lets in who asks."""
        try:
            size = await self._mirror.find_pushed_blob(repository, digest, authorization)
        except RegistryError:
            return False
        return size is not None

    async def _need_not_come(
        self, request: web.BaseRequest, repository: Repository, identity: str, digest: Digest
    ) -> bool:
        """Whether a client that waits to be told to go on has nothing to bring: it is there.

        By the registry's word, which has let in who asks: a digest alone is no permission to have
        what is here put into a repository. Who does not wait is heard to the end: what pushes as
        Docker does has asked with HEAD before, and names no digest before all is sent; to ask the
        registry once more would cost others a round trip for each blob. An answer before the end
        would have to end the connection, too (RFC 9112, 9.6), and fail a push by containerd, which
        does name it: Go closes a body that is answered early under whoever still writes to it.
        """
        if not waits_to_be_told(request):
            return False
        authorization = authorization_of(request)
        try:
            # What nobody knows is no upload of this repository, and says so.
            await self._mirror.get_upload(repository, identity, authorization)
            if not await self._is_there(repository, digest, authorization):
                return False
            await self._mirror.cancel_upload(repository, identity, authorization)
        except RegistryError:
            return False  # whatever it is, what follows says it
        return True

    async def _take(
        self,
        request: web.BaseRequest,
        repository: Repository,
        state: UploadState,
        facts: Facts,
        *,
        most: int | None = None,
    ) -> UploadState:
        """Hand on all that the client brings; how the upload stands then.

        Raises:
            RegistryError: It cannot be taken; or there are more bytes, or fewer, than `most`.
        """
        if most is not None and request.content_length not in {None, most}:
            raise _not_as_long_as_said()
        async with lending(request, patience=self._patience) as lent:
            if lent is not None:
                facts.is_last = True
                after = await self._have_it_taken(repository, state, *lent, facts)
                facts.is_last = False
                return after
        return await self._read_and_hand_on(request, repository, state, facts, most=most)

    async def _have_it_taken(
        self, repository: Repository, state: UploadState, begun: Bulk, rest: Loan, facts: Facts
    ) -> UploadState:
        """Have the mirror's process take a body off the connection."""
        facts.received = begun.size  # the log tells it also where the rest is refused
        taken = await self._mirror.take_upload(
            repository, state.identity, state.offset, begun, rest
        )
        facts.received = taken
        if taken < begun.size + rest.length:
            raise ConnectionError("it has left, or brings nothing any more")
        return UploadState(state.identity, state.offset + taken, state.least)

    async def _read_and_hand_on(
        self,
        request: web.BaseRequest,
        repository: Repository,
        state: UploadState,
        facts: Facts,
        *,
        most: int | None,
    ) -> UploadState:
        offset = state.offset

        async def write(piece: Bulk) -> None:
            nonlocal offset
            await self._mirror.write_upload(repository, state.identity, offset, piece)
            offset += piece.size

        async def chunks() -> AsyncGenerator[bytes, None]:
            async for chunk in self._read(request):
                if most is not None and facts.received + len(chunk) > most:
                    raise _not_as_long_as_said()
                facts.received += len(chunk)
                yield chunk
            if most is not None and facts.received < most:
                raise _not_as_long_as_said()

        async with aclosing(chunks()) as brought:
            await self._gathering.hand_on(brought, write)
        return UploadState(state.identity, offset, state.least)

    def _read(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        return read_body(request, patience=self._patience)

    async def _read_manifest(self, request: web.BaseRequest) -> bytes:
        content = bytearray()
        if (request.content_length or 0) > MAX_SIZE:
            raise _manifest_too_large()
        async for piece in self._read(request):
            content += piece
            if len(content) > MAX_SIZE:
                raise _manifest_too_large()
        return bytes(content)

    def _route(self, request: web.BaseRequest, name: str, ns: str | None, facts: Facts) -> Route:
        route = self._router.route(name, ns=ns, host=facts.host)
        facts.upstream, facts.repository = route.upstream, route.repository
        facts.is_personal = route.push == "client"
        if route.relay is not None:
            facts.relay = relay_address(request, route.relay, route.upstream)
        return route


def _length_of(span: tuple[int, int] | None) -> int | None:
    return None if span is None else span[1] - span[0]


def _accepted(request: web.BaseRequest, name: str, state: UploadState) -> web.Response:
    return web.Response(status=HTTPStatus.ACCEPTED, headers=_headers(request, name, state))


def _created(request: web.BaseRequest, name: str, digest: Digest) -> web.Response:
    headers = {
        "Location": f"/v2/{name}/blobs/{digest}" + _namespace(request),
        "Docker-Content-Digest": str(digest),
    }
    return web.Response(status=HTTPStatus.CREATED, headers=headers)


def _created_unread(request: web.BaseRequest, name: str, digest: Digest) -> web.Response:
    """The same, where the client may bring what nobody reads."""
    response = _created(request, name, digest)
    response.force_close()
    return response


def _headers(request: web.BaseRequest, name: str, state: UploadState) -> dict[str, str]:
    """Where an upload is, and how far: as distribution has it, also where nothing is there yet."""
    headers = {
        "Location": f"/v2/{name}/blobs/uploads/{state.identity}" + _namespace(request),
        "Range": f"0-{max(0, state.offset - 1)}",
        "Docker-Upload-UUID": state.identity,
    }
    if state.least:
        headers["OCI-Chunk-Min-Length"] = str(state.least)
    return headers


def _namespace(request: web.BaseRequest) -> str:
    """The `ns` by which it was routed, for the client to use again."""
    namespace = None
    if "ns=" in request.raw_path:
        namespace = parse_namespace(split_target(request.raw_path)[1].get("ns"))
    return "" if namespace is None else f"?ns={namespace}"


def _no_such_upload() -> RegistryError:
    return RegistryError(ErrorCode.BLOB_UPLOAD_UNKNOWN, "there is no such upload here")


def _not_as_long_as_said() -> RegistryError:
    return RegistryError(ErrorCode.SIZE_INVALID, "the chunk is not as long as Content-Range says")


def _unknown_coding() -> Refused:
    message = "of transfer codings, chunked alone is known here"  # RFC 9112, 6.1
    errors = [{"code": ErrorCode.UNSUPPORTED, "message": message}]
    return Refused(HTTPStatus.NOT_IMPLEMENTED, message, errors)


def _manifest_too_large() -> Refused:
    message = f"a manifest has at most {MAX_SIZE} bytes"
    return Refused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        message,
        [{"code": ErrorCode.MANIFEST_INVALID, "message": message}],
    )

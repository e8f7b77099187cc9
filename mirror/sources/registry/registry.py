"""One upstream: what the mirror asks of it, at whichever of its endpoints can answer.

Endpoints are tried in the order of the configuration. Only those with `tags = true` may say what a
tag means; content by digest may come from any, since its digest proves it.
"""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp
from cachetools import TTLCache

from mirror.aio.slots import Urgency
from mirror.oci.digest import Digest, digest_of, parse_digest
from mirror.oci.errors import (
    Denied,
    DigestMismatch,
    ErrorCode,
    Missing,
    RegistryError,
    Unavailable,
)
from mirror.oci.manifest import (
    MANIFEST_TYPES,
    MAX_SIZE,
    Manifest,
    References,
    is_media_type,
    parse_references,
)
from mirror.oci.ranges import parse_content_range
from mirror.oci.reference import Reference, Tag
from mirror.oci.request import Page
from mirror.sources.registry.endpoint import Endpoint, Scope, weigh
from mirror.sources.registry.receiver import Chunk

Answer = TypeVar("Answer")

# All four, whatever the client sent: without them, registries convert manifests to older kinds.
_ACCEPT = {"Accept": ", ".join(MANIFEST_TYPES)}
_LIES = 4096
_DISTRUSTED_FOR = 600.0  # seconds
_LARGEST_LIST = 32 * 2**20  # bytes of a list of tags
_LINK = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next"?')


@dataclass(frozen=True, slots=True)
class TagState:
    """What upstream says of a tag, without sending its manifest.

    `digest` is None where upstream does not name it; `not_modified`: it is what we knew.
    """

    digest: Digest | None
    not_modified: bool = False


@dataclass(frozen=True, slots=True)
class TagsPage:
    """A page of tags, and the query that leads to the next one."""

    names: list[str]
    next_query: dict[str, str] | None


@dataclass(frozen=True, slots=True)
class Referrers:
    """The index of what refers to a digest, as upstream sent it."""

    content: bytes
    filtered: bool  # upstream has applied the artifactType filter


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of a blob from `start` on, as they arrive (`receiver.arriving`).

    `size` is that of the whole blob, `stop` where this body ends; None where upstream does not say.
    """

    start: int
    stop: int | None
    size: int | None
    chunks: AsyncGenerator[Chunk, None]
    endpoint: Endpoint
    is_range: bool  # upstream sends the range that was asked for, and nothing else


@dataclass(slots=True)
class Registry:
    """An upstream and its endpoints."""

    name: str
    endpoints: list[Endpoint]
    _tag_endpoints: list[Endpoint] = field(init=False)
    _liars: TTLCache[tuple[Digest, str], bool] = field(
        default_factory=lambda: TTLCache(_LIES, ttl=_DISTRUSTED_FOR), init=False
    )

    def __post_init__(self) -> None:
        self._tag_endpoints = [endpoint for endpoint in self.endpoints if endpoint.config.tags]

    @property
    def is_up(self) -> bool:
        """Whether an endpoint that may say what tags mean is thought to work."""
        return any(endpoint.health.is_up for endpoint in self._tag_endpoints)

    def wait(self) -> float:
        """Seconds until some endpoint is worth asking again."""
        return min(endpoint.wait() for endpoint in self.endpoints)

    async def head_tag(self, scope: Scope, tag: Tag, known: Digest | None) -> TagState:
        """What `tag` means now; costs no pull (Docker Hub counts GETs only).

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing.
        """
        headers = _ACCEPT | ({"If-None-Match": f'"{known}"'} if known else {})

        async def ask(endpoint: Endpoint) -> TagState:
            path = f"manifests/{tag}"
            async with endpoint.ask("HEAD", path, scope, headers, kind="tag") as response:
                if response.status == 304:  # noqa: PLR2004 - Not Modified
                    return TagState(known, not_modified=True)
                # Where HEAD is refused (405), the digest is not known either.
                return TagState(_digest_header(response) if response.ok else None)

        return await self._first(self._tag_endpoints, ask)

    async def get_manifest(self, scope: Scope, reference: Reference) -> tuple[Manifest, References]:
        """The manifest, proved by its digest (as far as one is known beforehand), and read.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing sensible.
        """
        by_tag = isinstance(reference, Tag)

        async def ask(endpoint: Endpoint) -> tuple[Manifest, References]:
            kind = "tag" if by_tag else "manifest"
            path = f"manifests/{reference}"
            async with endpoint.ask("GET", path, scope, _ACCEPT, kind=kind) as response:
                content = await endpoint.exchange.read(response, limit=MAX_SIZE)
                return _manifest(response, content, reference)

        return await self._first(self._tag_endpoints if by_tag else self.endpoints, ask)

    async def confirm_manifest(self, scope: Scope, reference: Reference) -> None:
        """Have upstream confirm that this repository has this manifest, and lets us have it.

        Raises:
            Missing, Denied, Unavailable: It has not, or does not say.
        """

        async def ask(endpoint: Endpoint) -> None:
            path = f"manifests/{reference}"
            kind = "tag" if isinstance(reference, Tag) else "manifest"
            try:
                async with endpoint.ask("HEAD", path, scope, _ACCEPT, kind=kind) as response:
                    if response.ok:
                        return
            except Denied as error:
                if error.code is ErrorCode.UNAUTHORIZED:
                    raise  # who does not convince here does not there
            async with endpoint.ask("GET", path, scope, _ACCEPT, kind=kind):
                return

        await self._first(self._authorities(scope, reference), ask)

    async def head_blob(self, scope: Scope, digest: Digest) -> int:
        """The size of a blob that this repository has, in bytes; nothing is transferred.

        Raises:
            Missing, Denied, Unavailable: It has not, or does not say.
        """

        async def ask(endpoint: Endpoint) -> int:
            try:
                size = await _head_blob(endpoint, scope, digest)
            except Denied:
                # Some registries refuse every HEAD of a blob (public.ecr.aws: 401).
                size = None
            except Unavailable as error:
                # Some storage lets in nobody but by GET, as it says in the signed link.
                if error.status_seen != 403:  # noqa: PLR2004 - Forbidden
                    raise
                size = None
            return await _first_byte(endpoint, scope, digest) if size is None else size

        endpoints = self._authorities(scope, digest)
        return await self._first(endpoints, ask, unknown=ErrorCode.BLOB_UNKNOWN)

    @asynccontextmanager
    async def open_blob(
        self,
        scope: Scope,
        digest: Digest,
        start: int,
        stop: int | None,
        *,
        size: int | None = None,
        avoid: Endpoint | None = None,
        urgency: Urgency | None = None,
    ) -> AsyncIterator[Body]:
        """Open a blob's bytes from `start` to `stop` (exclusive; None: its end).

        An upstream may send less or more than was asked for: `Body` says what it sends. An endpoint
        that ignores ranges is asked last, and what it sends before `start` is not handed on; so is
        the one to `avoid`, from where a body has just broken. One whose blob is not of the `size`
        that is expected (in bytes) has another blob, or a login page.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing; also while
                the body is read.
        """
        wants_range = start > 0 or stop is not None
        candidates = sorted(
            self.endpoints,
            key=lambda endpoint: (
                (digest, endpoint.config.url) in self._liars,
                start > 0 and not endpoint.ranges,
                endpoint is avoid,
            ),
        )
        async with AsyncExitStack() as stack:

            async def ask(endpoint: Endpoint) -> Body:
                headers = {"Range": _range(start, stop)} if wants_range else {}
                async with AsyncExitStack() as attempt:
                    response = await attempt.enter_async_context(
                        endpoint.ask(
                            "GET", f"blobs/{digest}", scope, headers, kind="blob", urgency=urgency
                        )
                    )
                    body = _body(endpoint, response, start, urgency)
                    if None not in {size, body.size} and body.size != size:
                        raise Unavailable("upstream's blob has not the size that was promised")
                    stack.push_async_exit(attempt.pop_all())
                return body

            yield await self._first(candidates, ask, unknown=ErrorCode.BLOB_UNKNOWN)

    async def list_tags(self, scope: Scope, page: Page) -> TagsPage:
        """A page of the repository's tags.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing sensible.
        """
        query = _page_query(page)

        async def ask(endpoint: Endpoint) -> TagsPage:
            path = f"tags/list{query}"
            async with endpoint.ask("GET", path, scope, {}, kind="tags") as response:
                document = await endpoint.exchange.read(response, limit=_LARGEST_LIST)
                return _tags_page(document, response.headers.get("Link"), page)

        return await self._first(self._tag_endpoints, ask, unknown=ErrorCode.NAME_UNKNOWN)

    async def list_referrers(
        self, scope: Scope, digest: Digest, artifact_type: str | None
    ) -> Referrers:
        """What refers to `digest`.

        Raises:
            Missing, Denied, Unavailable: What upstream says (404: it does not support the request).
        """
        query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""

        async def ask(endpoint: Endpoint) -> Referrers:
            path = f"referrers/{digest}{query}"
            async with endpoint.ask("GET", path, scope, {}, kind="referrers") as response:
                content = await endpoint.exchange.read(response, limit=MAX_SIZE)
                filters = response.headers.get("OCI-Filters-Applied", "")
                return Referrers(content, "artifactType" in filters)

        return await self._first(self._tag_endpoints, ask)

    def distrust(self, digest: Digest, endpoints: Iterable[Endpoint]) -> None:
        """These have sent something else under this digest: for a while, they are asked last."""
        for endpoint in endpoints:
            self._liars[digest, endpoint.config.url] = True

    def _authorities(self, scope: Scope, reference: Reference) -> list[Endpoint]:
        """Who may say that this repository has something, and lets this client have it."""
        if isinstance(reference, Tag) or scope.authorization is not None:
            return self._tag_endpoints
        return self.endpoints

    async def _first(
        self,
        endpoints: list[Endpoint],
        ask: Callable[[Endpoint], Awaitable[Answer]],
        *,
        unknown: ErrorCode = ErrorCode.MANIFEST_UNKNOWN,
    ) -> Answer:
        """The first endpoint's answer that is one."""
        errors: list[RegistryError] = []
        for endpoint in endpoints:
            if not endpoint.may_ask():
                errors.append(endpoint.why_not())
                continue
            try:
                return await ask(endpoint)
            except Missing as error:
                error.code = unknown
                errors.append(error)
            except Denied as error:
                # Whoever may not say what a tag means may not say who is let in either.
                errors.append(error if endpoint.config.tags else Missing(unknown, error.message))
            except (Unavailable, DigestMismatch) as error:
                errors.append(error)
        raise weigh(errors)


async def _head_blob(endpoint: Endpoint, scope: Scope, digest: Digest) -> int | None:
    path = f"blobs/{digest}"
    async with endpoint.ask("HEAD", path, scope, {}, kind="blob") as response:
        return response.content_length if response.ok else None


async def _first_byte(endpoint: Endpoint, scope: Scope, digest: Digest) -> int:
    """The size that a GET for one byte tells; of a whole body only the head is read."""
    path = f"blobs/{digest}"
    headers = {"Range": "bytes=0-0"}
    async with endpoint.ask("GET", path, scope, headers, kind="blob") as response:
        told = parse_content_range(response.headers.get("Content-Range"))
        size = told.size if told else response.content_length
        if response.status == 416:  # noqa: PLR2004 - Range Not Satisfiable: it has no first byte
            size = 0
    if size is None:
        raise Unavailable("upstream does not tell the blob's size")
    return size


def _range(start: int, stop: int | None) -> str:
    return f"bytes={start}-{'' if stop is None else stop - 1}"


def _body(
    endpoint: Endpoint, response: aiohttp.ClientResponse, start: int, urgency: Urgency | None
) -> Body:
    """What a response to a GET for a blob from `start` carries. Raises Unavailable."""
    chunks = endpoint.exchange.chunks(response, urgency)
    if response.status == 206:  # noqa: PLR2004 - Partial Content
        told = parse_content_range(response.headers.get("Content-Range"))
        if told is None or told.start != start or told.size is None:
            raise Unavailable("upstream sends another range than was asked for")
        endpoint.ranges = True
        return Body(start, told.stop, told.size, chunks, endpoint, is_range=True)
    if response.status == 416:  # noqa: PLR2004 - Range Not Satisfiable: there is nothing (more)
        return Body(start, start, start, _nothing(), endpoint, is_range=False)
    if response.status != 200:  # noqa: PLR2004 - OK
        raise Unavailable(f"upstream answered {response.status}", status_seen=response.status)
    size = response.content_length
    if start:
        endpoint.ranges = False
        chunks = _skip(chunks, start)
    return Body(start, size, size, chunks, endpoint, is_range=False)


async def _nothing() -> AsyncGenerator[Chunk, None]:
    for nothing in list[Chunk]():
        yield nothing


async def _skip(chunks: AsyncGenerator[Chunk, None], length: int) -> AsyncGenerator[Chunk, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            if length < len(chunk):
                yield chunk[length:]
            length = max(0, length - len(chunk))


def _digest_header(response: aiohttp.ClientResponse) -> Digest | None:
    try:
        return parse_digest(response.headers.get("Docker-Content-Digest", ""))
    except RegistryError:
        return None


def _manifest(
    response: aiohttp.ClientResponse, content: bytes, reference: Reference
) -> tuple[Manifest, References]:
    promised = _digest_header(response) if isinstance(reference, Tag) else reference
    if promised is not None and not promised.names(content):
        raise DigestMismatch("upstream sent a manifest that is not what its digest says")
    references = _references(content)
    if isinstance(reference, Tag) and not references.is_manifest:
        # By tag nothing proves the content: a captive portal's page is not a manifest.
        raise Unavailable("upstream answered with something that is no manifest")
    declared = response.headers.get("Content-Type", "").partition(";")[0].strip()
    usable = declared if is_media_type(declared) else references.media_type
    media_type = usable or MANIFEST_TYPES[0]
    return Manifest(promised or digest_of(content), media_type, content), references


def _references(content: bytes) -> References:
    try:
        return parse_references(content)
    except RegistryError:
        return References()  # by digest, anything may be a manifest; it refers to nothing we know


def _page_query(page: Page) -> str:
    query = dict(page.extra)
    if page.n is not None:
        query["n"] = str(page.n)
    if page.last is not None:
        query["last"] = page.last
    return f"?{urlencode(query)}" if query else ""


def _tags_page(document: bytes, link: str | None, page: Page) -> TagsPage:
    names = _tag_names(document)
    following = _LINK.search(link) if link else None
    if following is not None:
        return TagsPage(names, dict(parse_qsl(urlsplit(following[1]).query)))
    # Some registries ignore n and last, and send everything.
    if page.last is not None and page.last in names:
        names = names[names.index(page.last) + 1 :]
    if page.n is not None and len(names) > page.n:
        names = names[: page.n]
        return TagsPage(names, {"n": str(page.n), "last": names[-1]} if names else None)
    return TagsPage(names, None)


def _tag_names(document: bytes) -> list[str]:
    try:
        answer = json.loads(document)
        return [str(name) for name in answer["tags"] or ()]  # null, where there are none
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable("upstream's list of tags makes no sense") from error

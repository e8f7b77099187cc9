"""Blobs of a registry's repository: a source of bytes by digest (`mirror.sources.ports`)."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus

import aiohttp
from aiolimiter import AsyncLimiter
from cachetools import TTLCache
from yarl import URL

from mirror.aio.slots import Urgency
from mirror.oci.digest import Digest
from mirror.oci.errors import Denied, ErrorCode, Missing, Refused, Sealed, Unavailable
from mirror.oci.ranges import parse_content_range, parse_unsatisfied_range
from mirror.sources.ports import Body, Chunk, NoteComing, Sender
from mirror.sources.registry.endpoint import Endpoint, Scope
from mirror.sources.registry.failover import first_answer
from mirror.sources.registry.headers import LARGEST_SIZE
from mirror.sources.registry.health import Quota
from mirror.sources.registry.reading import Senseless, size_of
from mirror.sources.registry.status import OfStorage

_LINK_IS_OVER = {400, 401, 403, 404, 410, 500, 502, 503}
"""What storage says of a link that was good for seconds, or that names a node that is gone.

Or that is busy for a moment (S3: SlowDown), where it names no time to come again.
"""

_OF_RANGES = {206, 400, 403, 405, 416, 500, 501}
"""What those say who take no request for a part, and are well with one for all of it.

Or who send a part, and do not say which (containerd#12291), or another one.
"""

_LIES = 4096
_DISTRUSTED_FOR = 600.0  # seconds
_HOPELESS_FOR = 60.0  # seconds for which a digest is missing under which all have lied
_LIES_BELIEVED = 2  # of one endpoint; one may be a bit that has flipped on its way


_Ask = Callable[[dict[str, str]], Awaitable[Body]]
"""Asks one endpoint for a blob, with these header fields."""


@dataclass(frozen=True, slots=True)
class BlobSender:
    """An endpoint, as it sends the blobs of one repository: others' are another matter."""

    endpoint: Endpoint = field(repr=False)
    repository: str

    @property
    def name(self) -> str:
        """As metrics call it."""
        return self.endpoint.name

    def broke(self, *, timed_out: bool) -> None:  # noqa: ARG002 - both weigh the same
        """A body of its has stalled, or brought nothing at all."""
        self.endpoint.body_broke(self.repository)


@dataclass(slots=True, eq=False)
class Distrust:
    """Which senders have sent something else under a digest, for a while."""

    clock: Callable[[], float]
    _liars: TTLCache[tuple[Digest, str], bool] = field(init=False)
    _disproved: TTLCache[tuple[Digest, str], int] = field(init=False)

    def __post_init__(self) -> None:
        self._liars = TTLCache(_LIES, ttl=_DISTRUSTED_FOR, timer=self.clock)
        self._disproved = TTLCache(_LIES, ttl=_HOPELESS_FOR, timer=self.clock)

    def note(self, digest: Digest, names: Iterable[str], *, is_disproved: bool) -> None:
        """Those of these names have."""
        for name in names:
            self._liars[digest, name] = True
            if is_disproved:
                self._disproved[digest, name] = self._disproved.get((digest, name), 0) + 1

    def is_noted(self, digest: Digest, name: str) -> bool:
        """Whether the one of this name has."""
        return (digest, name) in self._liars

    def require_hope(self, digest: Digest, names: Collection[str], *, unknown: ErrorCode) -> None:
        """See that there is one who has not, but for once, or that it is long ago.

        Raises:
            Missing: All of them have, a moment ago: the origin may have what the digest says, and a
                client that is told so goes there. A body that breaks would tell it nothing.
            Sealed: There are none.
        """
        if not names:
            raise Sealed(unknown)
        if all(self._lies(digest, name) >= _LIES_BELIEVED for name in names):
            raise Missing(unknown, "upstream has sent something else under this digest")

    def _lies(self, digest: Digest, name: str) -> int:
        """How often it has; once more where it has under others: that is no single bit."""
        lies = self._disproved.get((digest, name), 0)
        if not lies:
            return 0
        return lies + any(liar == name and other != digest for other, liar in self._disproved)


@dataclass(frozen=True, slots=True)
class RegistryBlobs:
    """The blobs of one repository, on one authority, at an upstream's endpoints.

    An endpoint that ignores ranges is asked last for what needs one, and what it sends before
    `start` is not handed on. One that refuses them (corporate proxies do) is asked for everything.
    """

    upstream: str
    scope: Scope
    endpoints: tuple[Endpoint, ...] = field(repr=False)
    _distrust: Distrust = field(repr=False)
    _note_coming: NoteComing = field(repr=False, compare=False)
    limit: AsyncLimiter | None = field(default=None, repr=False, compare=False)
    """What comes for nobody who waits keeps to that, in bytes, beside `max_bandwidth`."""

    @property
    def repository(self) -> str:
        """Its name, with its registry's."""
        return str(self.scope.repository)

    @property
    def is_lasting(self) -> bool:
        """A client's token may end before a blob does: one request, let in once, outlives it."""
        return self.scope.authorization is None

    @asynccontextmanager
    async def open_blob(
        self,
        digest: Digest,
        start: int,
        stop: int | None,
        *,
        avoid: Sender | None,
        urgency: Urgency,
    ) -> AsyncIterator[Body]:
        """As `BlobSource.open_blob`."""
        names = [endpoint.name for endpoint in self.endpoints]
        self._distrust.require_hope(digest, names, unknown=ErrorCode.BLOB_UNKNOWN)
        candidates = sorted(
            self.endpoints,
            key=lambda endpoint: (
                self._distrust.is_noted(digest, endpoint.name),
                start > 0 and not endpoint.ranges,
                self._sender(endpoint) == avoid,
            ),
        )
        headers = {} if start == 0 and stop is None else {"Range": _range(start, stop)}
        async with AsyncExitStack() as stack:

            async def ask(endpoint: Endpoint) -> Body:
                return await _persevere(partial(ask_once, endpoint), headers)

            async def ask_once(endpoint: Endpoint, headers: dict[str, str]) -> Body:
                async with AsyncExitStack() as attempt:
                    response = await attempt.enter_async_context(
                        endpoint.ask(
                            "GET", f"blobs/{digest}", self.scope, headers,
                            kind="blob", body_for=urgency,
                        )
                    )  # fmt: skip
                    note = partial(
                        self._note_coming, self.scope.repository, digest, endpoint.name,
                        is_resumed=start > 0 and avoid is not None,
                    )  # fmt: skip
                    body = _body(self._sender(endpoint), response, start, urgency, note)
                    stack.push_async_exit(attempt.pop_all())
                return body

            body = await first_answer(candidates, ask, unknown=ErrorCode.BLOB_UNKNOWN)
            if self.limit is not None:
                body = replace(body, chunks=_slowly(body.chunks, self.limit, urgency))
            yield body

    def _sender(self, endpoint: Endpoint) -> BlobSender:
        return BlobSender(endpoint, self.scope.repository.name)

    def wait(self) -> float:
        """Seconds until some endpoint is worth asking again."""
        repository = self.scope.repository.name
        return min((it.wait(Quota.BLOBS, repository) for it in self.endpoints), default=0.0)

    def distrust(self, digest: Digest, senders: Collection[Sender], *, is_disproved: bool) -> None:
        """As `BlobSource.distrust`."""
        names = [sender.name for sender in senders]
        self._distrust.note(digest, names, is_disproved=is_disproved)


async def head_blob(
    endpoint: Endpoint, scope: Scope, digest: Digest, *, is_cache: bool = True
) -> int:
    """The size of a blob in bytes; nothing is transferred. Raises as `Endpoint.ask`.

    `is_cache`: for all that is known, it may be one, which has not fetched yet what it has not.
    """
    repository, heads = scope.repository.name, endpoint.heads_of_blobs
    if heads.are_useful(repository):
        try:
            size = await _head_blob(endpoint, scope, digest)
        except (Denied, Missing, Refused) as error:
            # Some registries refuse every HEAD of a blob (public.ecr.aws: 401), or have none. For
            # some caches (Harbor's) what they have not fetched yet is not there (404) but by GET.
            if isinstance(error, Missing) and not is_cache:
                raise
            size = None
        except Unavailable as error:
            # Some storage lets in nobody but by GET, as it says in the signed link; some registries
            # fail at HEAD alone.
            if error.status_seen not in {HTTPStatus.FORBIDDEN, HTTPStatus.INTERNAL_SERVER_ERROR}:
                raise
            size = None
        if size is not None:
            return size
        heads.refused(repository, str(digest))
    size = await _first_byte(endpoint, scope, digest)
    heads.answered_by_get(repository, str(digest))
    return size


async def _head_blob(endpoint: Endpoint, scope: Scope, digest: Digest) -> int | None:
    async with endpoint.ask("HEAD", f"blobs/{digest}", scope, {}, kind="blob") as response:
        return size_of(response)


async def _first_byte(endpoint: Endpoint, scope: Scope, digest: Digest) -> int:
    """The size that a GET for one byte tells; of a whole body only the head is read."""
    path = f"blobs/{digest}"
    headers = {"Range": "bytes=0-0"}
    async with endpoint.ask("GET", path, scope, headers, kind="blob") as response:
        told = parse_content_range(response.headers.get("Content-Range"))
        size = told.size if told else size_of(response)
        if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            size = 0  # it has no first byte
        elif response.status == HTTPStatus.PARTIAL_CONTENT and not told:
            size = None  # of that one byte
    if size is None or size > LARGEST_SIZE:
        raise Senseless("upstream does not tell the blob's size")
    return size


async def _persevere(ask: _Ask, headers: dict[str, str]) -> Body:
    """Ask for everything where a part is refused."""
    try:
        return await _by_a_living_link(ask, headers)
    except (Denied, Refused, Unavailable) as error:
        if not headers or not _is_of_ranges(error):
            raise
    return await _by_a_living_link(ask, {})


async def _by_a_living_link(ask: _Ask, headers: dict[str, str]) -> Body:
    try:
        return await ask(headers)
    except Unavailable as error:
        is_of_link = isinstance(error, OfStorage) and error.retry_after is None
        if not is_of_link or error.status_seen not in _LINK_IS_OVER:
            raise
        return await ask(headers)  # it gives a new one


def _is_of_ranges(error: Denied | Refused | Unavailable) -> bool:
    """Whether it may be the range that was refused, and not the blob."""
    if isinstance(error, Denied):
        return error.code is ErrorCode.DENIED
    return error.status_seen in _OF_RANGES


def _range(start: int, stop: int | None) -> str:
    return f"bytes={start}-{'' if stop is None else stop - 1}"


def _body(
    sender: BlobSender,
    response: aiohttp.ClientResponse,
    start: int,
    urgency: Urgency,
    note: Callable[..., Callable[[int], None]],
) -> Body:
    """What a response to a GET for a blob from `start` carries. Raises Unavailable."""
    endpoint = sender.endpoint
    chunks = endpoint.exchange.chunks(response, urgency)
    told = response.headers.get("Content-Range")
    is_empty = parse_unsatisfied_range(told) == 0
    has_range = "Range" in response.request_info.headers
    is_elsewhere = response.url.origin() != URL(endpoint.config.url).origin()
    match response.status:
        case HTTPStatus.PARTIAL_CONTENT if has_range or told:
            part = parse_content_range(told)
            if part is None or part.start != start or (part.size or LARGEST_SIZE) >= LARGEST_SIZE:
                raise Senseless(
                    "upstream sends another range than was asked for", status_seen=response.status
                )
            endpoint.ranges = True
            chunks = _counted(chunks, note(size=part.size))
            return Body(start, part.stop, part.size, chunks, sender, True, is_elsewhere)
        case HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE if start or is_empty:  # nothing (more)
            size = parse_unsatisfied_range(told)
            nothing = _nothing()
            return Body(start, start, start if size is None else size, nothing, sender, False)
        case HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # but what is not empty has a beginning
            raise Refused(response.status, "upstream takes no request for a part")
        case status if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:  # 203: by a proxy
            size = size_of(response)
            chunks = _counted(chunks, note(size=size))
            if start:
                endpoint.ranges = False
                chunks = _skip(chunks, start)
            return Body(start, size, size, chunks, sender, False, is_elsewhere)
        case status:
            raise Unavailable(f"upstream answered {status}", status_seen=status)


async def _slowly(
    chunks: AsyncGenerator[Chunk, None], limit: AsyncLimiter, urgency: Urgency
) -> AsyncGenerator[Chunk, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            left = len(chunk)
            while left > 0 and not urgency.is_urgent:  # a client may have joined meanwhile
                part = min(left, max(1, int(limit.max_rate)))
                await limit.acquire(part)
                left -= part
            yield chunk


async def _counted(
    chunks: AsyncGenerator[Chunk, None], came: Callable[[int], None]
) -> AsyncGenerator[Chunk, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            came(len(chunk))
            yield chunk


async def _nothing() -> AsyncGenerator[Chunk, None]:
    for nothing in list[Chunk]():
        yield nothing


async def _skip(chunks: AsyncGenerator[Chunk, None], length: int) -> AsyncGenerator[Chunk, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            if length < len(chunk):
                yield chunk[length:]
            length = max(0, length - len(chunk))

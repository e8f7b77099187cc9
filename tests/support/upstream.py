"""A registry that does as it is told, and remembers everything it was asked.

    async with ScriptedRegistry() as registry:
        registry.add(image(random_layer(1000, seed=1)), "library/alpine", "3.20")
        registry.fault(kind="blob", truncate_at=500, times=1)
        ...
        assert [asked.reference for asked in registry.asked("blob")] == [...]

It speaks the distribution spec on 127.0.0.1, its push side once `push` is set (`uploads`). Its
token service, once `auth` is set, is at /token; its CDN, where blobs are redirected to once `cdn`
is set, on a port of its own. A second registry with the same `auth` object makes a token service
elsewhere.
"""

import asyncio
import json
import math
import re
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, quote

from aiohttp import web
from multidict import CIMultiDict

from tests.support.auth import BasicAuth, BearerAuth
from tests.support.delivery import Reply, send
from tests.support.faults import Asked, Fault, Faults, Gate
from tests.support.images import OCI_INDEX, Image, digest_of
from tests.support.reset import reset
from tests.support.uploads import Pushes

_TARGET = re.compile(
    r"/v2/(?P<repository>.+)/(?P<what>manifests|blobs|referrers|tags/list)(?:/(?P<reference>[^/]+))?"
)
_UPLOAD = re.compile(r"/v2/(?P<repository>.+)/blobs/uploads/(?P<reference>[^/]*)")
_KINDS = {"manifests": "manifest", "blobs": "blob", "referrers": "referrers", "tags/list": "tags"}
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CODES = {
    401: "UNAUTHORIZED",
    403: "DENIED",
    405: "UNSUPPORTED",
    416: "RANGE_INVALID",
    429: "TOOMANYREQUESTS",
}
_HUB_IS_FULL = (
    "You have reached your unauthenticated pull rate limit."
    " https://www.docker.com/increase-rate-limit"
)
_UNKNOWN = {"manifest": "MANIFEST_UNKNOWN", "tag": "MANIFEST_UNKNOWN", "blob": "BLOB_UNKNOWN"}


@dataclass(slots=True)
class Repository:
    """What a registry holds under one name."""

    tags: dict[str, str] = field(default_factory=dict)
    manifests: dict[str, Image] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Cdn:
    """Where blobs are redirected to. Links are signed, and end after `life` seconds if it is set.

    The signature holds characters that must come back exactly as they were written.
    """

    status: int = 307
    host: str = "127.0.0.1"  # or "localhost", for a link to another host
    life: float | None = None
    signature: str = "verify=1-a%2Bb%2Fc%3D&x-id=Get%20Object"


@dataclass(slots=True, kw_only=True)
class RateLimit:
    """So many GETs of manifests; the headers stand on their HEADs too."""

    limit: int = 100
    remaining: int = 100
    window: int = 21600  # seconds
    retry_after: str | None = None

    def headers(self) -> dict[str, str]:
        return {
            "ratelimit-limit": f"{self.limit};w={self.window}",
            "ratelimit-remaining": f"{self.remaining};w={self.window}",
            "docker-ratelimit-source": "192.0.2.1",
        }


class ScriptedRegistry:
    """Set its attributes at any time; they hold from the next request on."""

    def __init__(
        self,
        *,
        server_context: ssl.SSLContext | None = None,
        cdn_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,  # noqa: TID251 - the default; tests pass their own
    ) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Asked] = []
        self.faults = Faults()
        self.auth: BearerAuth | BasicAuth | None = None
        self.cdn: Cdn | None = None
        self.push: Pushes | None = None
        self.rate_limit: RateLimit | None = None
        self.max_page: int | None = None
        self.ignores_pagination = False
        self.has_referrers = True
        self.peaks: Counter[str] = Counter()  # most requests of a kind in progress at once
        self._clock = clock
        self._context = server_context
        self._cdn_context = cdn_context
        self._gates: list[Gate] = []
        self._links: dict[str, tuple[str, str, float]] = {}  # target: repository, digest, until
        self._running: Counter[str] = Counter()
        self._runners: list[web.ServerRunner] = []
        self._news = asyncio.Event()
        self.port = 0
        self.cdn_port = 0

    # Content.

    def add(self, image: Image, repository: str, tag: str | None = None) -> Image:
        """Hold an image, its members and its blobs; `tag` names it, anew if need be."""
        here = self.repositories.setdefault(repository, Repository())
        for member in image.members:
            self.add(member, repository)
        here.blobs.update(image.blobs)
        here.manifests[image.digest] = image
        if tag is not None:
            here.tags[tag] = image.digest
        return image

    def add_blob(self, content: bytes, repository: str, algorithm: str = "sha256") -> str:
        """Hold a blob without a manifest; gives its digest."""
        digest = digest_of(content, algorithm)
        self.repositories.setdefault(repository, Repository()).blobs[digest] = content
        return digest

    # What it was asked.

    def asked(self, kind: str | None = None, **wanted: object) -> list[Asked]:
        """The requests of a kind, oldest first; `wanted` compares further attributes."""
        return [
            asked
            for asked in self.requests
            if kind in {None, asked.kind}
            and all(getattr(asked, name) == value for name, value in wanted.items())
        ]

    def questions(self) -> list[tuple[str, str, str]]:
        """Every request so far, oldest first, in short: kind, method, reference."""
        return [(asked.kind, asked.method, asked.reference) for asked in self.requests]

    async def was_asked(
        self, kind: str | None = None, *, count: int = 1, **wanted: object
    ) -> list[Asked]:
        """What `asked` gives, as soon as there are `count` of them."""
        while len(found := self.asked(kind, **wanted)) < count:
            await self._news.wait()
        return found

    def bytes_sent(self, reference: str) -> int:
        """Body bytes sent for a digest or tag, by itself and by its CDN."""
        return sum(asked.sent for asked in self.requests if asked.reference == reference)

    def forget(self) -> None:
        """Forget the requests so far."""
        self.requests.clear()
        self.peaks.clear()

    # What goes wrong.

    def fault(self, **what: Any) -> Fault:
        """Put a `Fault` in force; take it out again with `faults.remove` or `faults.clear`."""
        fault = Fault(**what)
        self.faults.append(fault)
        return fault

    def hold(self, reference: str, *, after: int | None = None) -> Gate:
        """Hold who asks for this digest or tag: after so many body bytes; None: before headers."""
        gate = Gate(reference, after)
        self._gates.append(gate)
        return gate

    # Being there.

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://{self.host}"

    async def start(self) -> None:
        """Listen; after a `stop`, on the same ports again."""
        self.port = await self._listen(self._at_registry, self.port, self._context)
        self.cdn_port = await self._listen(self._at_cdn, self.cdn_port, self._cdn_context)

    async def stop(self) -> None:
        """Close every connection and listen no more: the network is down."""
        while self._runners:
            await self._runners.pop().cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _listen(self, handler: Any, port: int, context: ssl.SSLContext | None) -> int:
        runner = web.ServerRunner(
            web.Server(handler, handler_cancellation=True, access_log=None), shutdown_timeout=0.01
        )
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=context)
        await site.start()
        return int(runner.addresses[0][1])

    # Answering.

    async def _at_registry(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._answer(request, _asked(request))

    async def _at_cdn(self, request: web.BaseRequest) -> web.StreamResponse:
        repository, digest, _ = self._links.get(request.raw_path, ("", "", 0))
        asked = _asked(request)
        if asked.kind != "upload":
            asked.kind, asked.repository, asked.reference = "cdn", repository, digest
        return await self._answer(request, asked)

    async def _answer(self, request: web.BaseRequest, asked: Asked) -> web.StreamResponse:
        asked.changed = self._tell
        asked.peer = request.get_extra_info("peername")
        self.requests.append(asked)
        self._tell()
        with self._counted(asked):
            gates = [gate for gate in self._gates if gate.reference == asked.reference]
            if not await self._reaches_headers(asked, gates):
                await reset(request.transport)
                return web.StreamResponse()
            is_push = self.push is not None and asked.is_push
            reply = await self._push(request, asked) if is_push else self._with_faults(asked)
            if reply is None:
                await reset(request.transport)
                return web.StreamResponse()
            asked.status = reply.status
            return await send(request, asked, reply, self.faults, gates)

    async def _reaches_headers(self, asked: Asked, gates: list[Gate]) -> bool:
        if self.faults.find("hang", asked):
            await asyncio.Event().wait()  # until the client or the test gives up
        if self.faults.find("drop", asked):
            return False
        await asyncio.sleep(self.faults.find("delay", asked) or 0)
        return all([await gate.wait(asked) for gate in gates if gate.after is None])

    async def _push(self, request: web.BaseRequest, asked: Asked) -> Reply | None:
        """What a push is answered with; None: its connection is to be broken."""
        assert self.push is not None
        self.push.base = f"{self.url.partition(':')[0]}://{request.host}"
        self.push.elsewhere = f"http://localhost:{self.cdn_port}"
        refusal = self._refusal_of_push(request, asked)
        if refusal is not None and (words := self.faults.find("body", asked)) is not None:
            refusal.body = words
        self.repositories.setdefault(asked.repository, Repository())
        reply = refusal or await self.push.answer(request, asked, self.repositories, self.faults)
        if reply is not None:
            reply.headers.update(self.faults.find("headers", asked) or {})
        return reply

    def _refusal_of_push(self, request: web.BaseRequest, asked: Asked) -> Reply | None:
        if status := self.faults.find("status", asked):
            return _error(status, asked)
        if _is_at(request, self.cdn_port):
            is_signed = "Authorization" not in asked.headers
            return None if is_signed else _error(400, asked, message="Only one auth mechanism")
        challenge = self.auth.challenge(asked, self._clock) if self.auth else None
        if challenge is not None:
            return _error(401, asked, headers={"WWW-Authenticate": challenge})
        return None

    def _with_faults(self, asked: Asked) -> Reply:
        status = self.faults.find("status", asked)
        reply = _error(status, asked) if status else self._reply(asked)
        body = self.faults.find("body", asked)
        if body is not None:
            reply.body = body
        reply.headers.update(self.faults.find("headers", asked) or {})
        return reply

    def _reply(self, asked: Asked) -> Reply:
        if asked.method not in {"GET", "HEAD"}:
            return _error(405, asked)
        if asked.kind in {"token", "cdn"}:
            return self._token(asked) if asked.kind == "token" else self._data(asked)
        challenge = self.auth.challenge(asked, self._clock) if self.auth else None
        if challenge is not None:
            return _error(401, asked, headers={"WWW-Authenticate": challenge})
        if asked.kind == "ping":
            return _json({})
        here = self.repositories.get(asked.repository)
        if here is None:
            return _error(404, asked, code="NAME_UNKNOWN")
        return self._content(asked, here)

    def _content(self, asked: Asked, here: Repository) -> Reply:
        match asked.kind:
            case "manifest" | "tag":
                return self._manifest(asked, here)
            case "blob":
                return self._blob(asked, here)
            case "tags":
                return self._tags(asked, here)
            case "referrers" if self.has_referrers:
                return _referrers(asked, here)
            case _:
                return _error(404, asked)

    def _manifest(self, asked: Asked, here: Repository) -> Reply:
        limit = self.rate_limit
        if limit is not None and asked.method == "GET":
            if limit.remaining == 0:
                retry = {"Retry-After": limit.retry_after} if limit.retry_after else {}
                return _error(429, asked, headers=limit.headers() | retry, message=_HUB_IS_FULL)
            limit.remaining -= 1
        headers = limit.headers() if limit else {}
        image = here.manifests.get(here.tags.get(asked.reference, asked.reference))
        if image is None:
            return _error(404, asked, headers=headers)
        if not _accepts(asked, image.media_type):
            return _error(404, asked, headers=headers, message=f"no Accept for {image.media_type}")
        headers |= _identity(image.digest)
        if asked.headers.get("If-None-Match") in {image.digest, headers["ETag"]}:
            return Reply(status=304, headers=CIMultiDict(headers))
        headers["Content-Type"] = image.media_type
        return Reply(headers=CIMultiDict(headers), body=image.manifest)

    def _blob(self, asked: Asked, here: Repository) -> Reply:
        content = here.blobs.get(asked.reference)
        if content is None:
            return _error(404, asked)
        if self.cdn is None:
            return self._ranged(asked, content)
        target = f"/data/{asked.reference}?{self.cdn.signature}&link={len(self._links)}"
        until = math.inf if self.cdn.life is None else self._clock() + self.cdn.life
        self._links[target] = (asked.repository, asked.reference, until)
        scheme = "https" if self._cdn_context else "http"
        location = f"{scheme}://{self.cdn.host}:{self.cdn_port}{target}"
        return Reply(status=self.cdn.status, headers=CIMultiDict(Location=location))

    def _data(self, asked: Asked) -> Reply:
        """The CDN's answer: nobody but the link itself is trusted."""
        if "Authorization" in asked.headers:
            return _error(400, asked, message="Only one auth mechanism allowed")
        if asked.target not in self._links or self._clock() >= self._links[asked.target][2]:
            return _error(403, asked, message="Request has expired, or the signature is wrong")
        return self._ranged(asked, self.repositories[asked.repository].blobs[asked.reference])

    def _ranged(self, asked: Asked, content: bytes) -> Reply:
        headers = CIMultiDict(_identity(asked.reference))
        headers["Content-Type"] = "application/octet-stream"
        headers["Accept-Ranges"] = "bytes"
        match = _RANGE.fullmatch(asked.headers.get("Range", ""))
        if (
            match is None
            or asked.headers.get("If-Range", headers["ETag"]) != headers["ETag"]
            or self.faults.find("ignore_range", asked)
        ):
            return Reply(headers=headers, body=content)
        size = len(content)
        start, end = _bounds(match[1], match[2], size)
        if start >= end:
            return _error(416, asked, headers={"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return Reply(status=206, headers=headers, body=memoryview(content)[start:end], offset=start)

    def _tags(self, asked: Asked, here: Repository) -> Reply:
        query = dict(parse_qsl(asked.query))
        tags = sorted(tag for tag in here.tags if tag > query.get("last", ""))
        limits = [int(query.get("n", len(tags))), self.max_page]
        count = min(limit for limit in limits if limit is not None)
        headers = {}
        if self.ignores_pagination:
            count = len(tags)
        elif 0 < count < len(tags):
            next_page = f"/v2/{asked.repository}/tags/list?last={quote(tags[count - 1])}&n={count}"
            headers["Link"] = f'<{next_page}>; rel="next"'
        return _json({"name": asked.repository, "tags": tags[:count]}, headers=headers)

    def _token(self, asked: Asked) -> Reply:
        answer = self.auth.issue(asked, self._clock) if self.auth else None
        return _error(401, asked) if answer is None else _json(json.loads(answer))

    @contextmanager
    def _counted(self, asked: Asked) -> Iterator[None]:
        running = self._running
        running[asked.kind] += 1
        self.peaks[asked.kind] = max(self.peaks[asked.kind], running[asked.kind])
        try:
            yield
        finally:
            running[asked.kind] -= 1
            asked.ended = True
            self._tell()

    def _tell(self) -> None:
        """Wake who waits in `was_asked`."""
        self._news.set()
        self._news.clear()


def _asked(request: web.BaseRequest) -> Asked:
    """Classify a request by its raw path, as it arrived."""
    path, _, query = request.raw_path.partition("?")
    asked = Asked("other", request.method, request.raw_path, path, query, request.headers)
    match = _TARGET.fullmatch(path)
    if (upload := _UPLOAD.fullmatch(path)) is not None:
        asked.kind = "upload"
        asked.repository, asked.reference = upload["repository"], upload["reference"]
    elif path in {"/v2/", "/token"}:
        asked.kind = "ping" if path == "/v2/" else "token"
    elif match is not None:
        asked.kind = _KINDS[match["what"]]
        asked.repository, asked.reference = match["repository"], match["reference"] or ""
        if asked.kind == "manifest" and ":" not in asked.reference:
            asked.kind = "tag"
    return asked


def _is_at(request: web.BaseRequest, port: int) -> bool:
    """Whether a request has come by this port."""
    transport = request.transport
    return transport is not None and transport.get_extra_info("sockname")[1] == port


def _referrers(asked: Asked, here: Repository) -> Reply:
    """An index of what refers to a digest; empty when nothing does."""
    wanted = dict(parse_qsl(asked.query)).get("artifactType")
    found = [
        image.descriptor
        for image in here.manifests.values()
        if image.subject == asked.reference and wanted in {None, image.artifact_type}
    ]
    headers = {"OCI-Filters-Applied": "artifactType"} if wanted else {}
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}
    return _json(document, headers=headers | {"Content-Type": OCI_INDEX})


def _identity(digest: str) -> dict[str, str]:
    return {"Docker-Content-Digest": digest, "ETag": f'"{digest}"'}


def _accepts(asked: Asked, media_type: str) -> bool:
    """As distribution does it: a manifest that was not asked for is not there."""
    accepted = ",".join(asked.headers.getall("Accept", []))
    return media_type in accepted or "*/*" in accepted


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    """Start and end (exclusive) of a byte range; empty when it cannot be had."""
    if not first:
        return max(0, size - int(last or 0)), size
    return int(first), min(size, int(last) + 1) if last else size


def _json(document: Mapping[str, Any], *, headers: Mapping[str, str] | None = None) -> Reply:
    fields = CIMultiDict({"Content-Type": "application/json"})
    fields.update(headers or {})
    return Reply(headers=fields, body=json.dumps(document).encode())


def _error(
    status: int,
    asked: Asked,
    *,
    headers: Mapping[str, str] | None = None,
    code: str | None = None,
    message: str = "",
) -> Reply:
    known = _UNKNOWN.get(asked.kind, "NAME_UNKNOWN") if status == 404 else "UNKNOWN"
    error = {
        "code": code or _CODES.get(status, known),
        "message": message or HTTPStatus(status).phrase,
        "detail": None,
    }
    reply = _json({"errors": [error]}, headers=headers)
    reply.status = status
    return reply

"""Answers as HTTP: headers, conditions, ranges, and bodies sent in the cheapest way there is."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from http import HTTPStatus
from io import FileIO
from urllib.parse import urlencode

from aiohttp import web
from multidict import CIMultiDict

from mirror.front.api.sending import sending_to
from mirror.oci.digest import Digest
from mirror.oci.errors import RangeNotSatisfiable, StoreError
from mirror.oci.ranges import ByteRange, parse_ranges
from mirror.pull.answers import BlobAnswer, ManifestAnswer, Outcome, Reader, Stream, readable
from mirror.telemetry.traffic import Result

API_VERSION = {"Docker-Distribution-API-Version": "registry/2.0"}
"""What docker looks for in the answer to `/v2/`, whatever else that says."""

SERVER = "mirror"
"""What `Server` says: no versions, which tell attackers what to try."""

Note = Callable[[int], object]
"""Told how many bytes of content have been sent."""

_BLOCK = 2**18  # bytes read at a time where the kernel cannot send the file itself

# RFC 9211. "mirror" is the cache's name. People's scripts read these.
_CACHE_STATUS = {
    Result.HIT: "mirror; hit",
    Result.MISS: "mirror; fwd=miss",
    Result.JOINED: "mirror; fwd=miss; collapsed",
    Result.REVALIDATED: "mirror; fwd=stale",
    Result.STALE: "mirror; hit; detail=stale",
    Result.LINKED: "mirror; fwd=miss; detail=linked",
}
_FAILED_STATUS = {
    Result.MISS: "mirror; fwd=miss; detail=missing",
    Result.NEGATIVE: "mirror; hit; detail=negative",  # upstream has said so a moment ago
    Result.DENIED: "mirror; fwd=miss; detail=denied",
    Result.ERROR: "mirror; fwd=miss; detail=error",
}


def cache_status(outcome: Outcome) -> str:
    """The value of `Cache-Status`."""
    status = _CACHE_STATUS[outcome.result]
    if outcome.stored:
        status += "; stored"
    if outcome.upstream_status is not None:
        status += f"; fwd-status={outcome.upstream_status}"
    if outcome.is_fallback:
        status += "; detail=fallback"
    return status


def failed_status(result: Result) -> str:
    """The value of `Cache-Status` of an answer that is an error (RFC 9211, 2.2 and 2.8)."""
    return _FAILED_STATUS.get(result) or _CACHE_STATUS[result]  # a 416 is of what is here


@lru_cache(maxsize=64)
def outcome_headers(outcome: Outcome) -> Mapping[str, str]:
    """What tells a client, or the person at it, how the answer came about."""
    headers = {"Cache-Status": cache_status(outcome)}
    if outcome.warning is not None:
        headers["Warning"] = f'299 - "{outcome.warning}"'  # spec main, "Warnings"
    return headers


def manifest(request: web.BaseRequest, answer: ManifestAnswer) -> web.Response:
    """A manifest, byte for byte; 304 where the client has it."""
    found = answer.manifest
    headers = _manifest_headers(found.digest, found.media_type, answer.outcome)
    if _has_it(request, found.digest):
        told = {name: value for name, value in headers.items() if name != "Content-Type"}
        return web.Response(status=304, headers=told)
    return web.Response(body=found.content, headers=headers)


def page(
    request: web.BaseRequest,
    content: bytes,
    following: dict[str, str] | None,
    ns: str | None,
) -> web.Response:
    """A page of a listing, with the `Link` to the next one under the path that was asked for."""
    response = web.Response(body=content, content_type="application/json", charset="utf-8")
    if following is not None:
        response.headers["Link"] = next_link(request, following, ns)
    return response


def next_link(request: web.BaseRequest, following: dict[str, str], ns: str | None) -> str:
    """The `Link` to what follows, under the path that was asked for."""
    path = request.raw_path.partition("?")[0]
    if ns is not None:
        following = following | {"ns": ns}
    return f'<{path}?{urlencode(following)}>; rel="next"'


@dataclass(slots=True)
class Span:
    """What of a blob is sent: [start, stop); stop is None where nobody knows the end."""

    start: int
    stop: int | None
    before: bytes = b""  # what is sent before it: the head of its part (RFC 9110, 14.6)


@dataclass(slots=True)
class Layout:
    """A body: its spans, in this order, and what follows them."""

    spans: Sequence[Span]
    is_partial: bool = False
    after: bytes = b""

    @property
    def length(self) -> int | None:
        """In bytes, where it is known."""
        spans = [span.stop - span.start for span in self.spans if span.stop is not None]
        if len(spans) < len(self.spans):
            return None
        return sum(spans) + sum(len(span.before) for span in self.spans) + len(self.after)


def blob_head(request: web.BaseRequest, answer: BlobAnswer) -> tuple[web.StreamResponse, Layout]:
    """Status and headers of a blob's response, and what its body is to be.

    Raises:
        RangeNotSatisfiable: 416.
    """
    if _has_it(request, answer.digest):
        told = {**_content_headers(answer.digest), **outcome_headers(answer.outcome)}
        return web.Response(status=304, headers=told), Layout([])
    layout = _layout(request, answer)
    if layout.is_partial:
        return _partial_head(answer, layout), layout
    headers = _blob_headers(answer.digest, answer.size, answer.outcome)
    if isinstance(answer.body, bytes):
        return web.Response(headers=headers, body=answer.body), layout
    return web.StreamResponse(headers=headers), layout


def elsewhere(answer: BlobAnswer, location: str) -> web.Response:
    """Have the client get a blob from there; the link is good for a while only."""
    headers = {"Docker-Content-Digest": str(answer.digest), **outcome_headers(answer.outcome)}
    headers |= {"Location": location, "Cache-Control": "no-store"}
    return web.Response(status=HTTPStatus.TEMPORARY_REDIRECT, headers=headers)


def _partial_head(answer: BlobAnswer, layout: Layout) -> web.StreamResponse:
    headers = _blob_headers(answer.digest, layout.length, answer.outcome).copy()
    if layout.after:
        headers["Content-Type"] = f"multipart/byteranges; boundary={_boundary(answer.digest)}"
    else:
        headers["Content-Range"] = _content_range(layout.spans[0], answer.size)
    if isinstance(answer.body, bytes):
        parts = [span.before + answer.body[span.start : span.stop] for span in layout.spans]
        return web.Response(status=206, headers=headers, body=b"".join(parts) + layout.after)
    return web.StreamResponse(status=206, headers=headers)


async def begin(answer: BlobAnswer, layout: Layout) -> BlobAnswer:
    """Wait for the first bytes of what is streamed: until then, an error is an answer.

    Raises:
        RegistryError: There are none.
    """
    if not isinstance(answer.body, Stream):
        return answer
    chunks = answer.body.chunks(layout.spans[0].start, layout.spans[0].stop)
    return replace(answer, body=_Begun(await anext(chunks, b""), chunks))


@dataclass(frozen=True, slots=True)
class _Begun:
    """A stream whose first bytes are here; it is read once, as it was begun."""

    _first: bytes
    _following: AsyncGenerator[bytes, None]

    async def chunks(self, start: int, stop: int | None) -> AsyncGenerator[bytes, None]:  # noqa: ARG002 - as begun
        """As the stream's own."""
        if self._first:
            yield self._first
        async for chunk in self._following:
            yield chunk


async def send_body(
    request: web.BaseRequest,
    response: web.StreamResponse,
    answer: BlobAnswer,
    layout: Layout,
    note: Note,
) -> None:
    """Send the body of a blob's response as far as there is one; `note` is told the bytes sent.

    Raises:
        RegistryError, OSError: There will be no more: the response must not be completed.
    """
    for span in layout.spans:
        if span.before:
            await response.write(span.before)
        if isinstance(answer.body, Stream):
            async for chunk in answer.body.chunks(span.start, span.stop):
                await response.write(chunk)
                note(len(chunk))
        elif answer.body is not None and not isinstance(answer.body, bytes):
            await _send_reader(request, response, answer, answer.body, span, note=note)
    if layout.after:
        await response.write(layout.after)


async def _send_reader(
    request: web.BaseRequest,
    response: web.StreamResponse,
    answer: BlobAnswer,
    reader: Reader,
    span: Span,
    *,
    note: Note,
) -> None:
    """Send what a reader has; where the disk refuses what is still to come, the rest past it."""
    position = span.start
    is_whole = span.start == 0 and span.stop in {None, answer.size}

    def note_sent(length: int) -> None:
        nonlocal position
        position += length
        note(length)

    try:
        await _send_file(request, response, reader, span, answer.size, note=note_sent)
    except StoreError:
        if answer.rest is None:
            raise
        # All of it is proved to its end, whatever that is; a part ends where it ends.
        stop = None if is_whole else span.stop
        async with aclosing(answer.rest.chunks(position, stop)) as chunks:
            async for chunk in chunks:
                await response.write(chunk)
                note(len(chunk))


async def _send_file(
    request: web.BaseRequest,
    response: web.StreamResponse,
    reader: Reader,
    span: Span,
    size: int | None,
    *,
    note: Note,
) -> None:
    """Send a file as far as it has grown, again and again."""
    is_whole = span.start == 0 and span.stop in {None, size}
    with ExitStack() as stack:
        sender = None
        # A TLS connection and a chunked body need the bytes in our hands; else the kernel does it.
        if span.stop is not None and request.get_extra_info("sslcontext") is None:
            sender = stack.enter_context(sending_to(request))
        position = span.start
        while position != span.stop:
            limit = await readable(reader, position, span.stop, is_whole=is_whole)
            if limit <= position:
                return
            if sender is not None:
                await sender.send(reader.file, position, limit, note)
            else:
                await _send_by_hand(response, reader.file, position, limit, note)
            position = limit


async def _send_by_hand(
    response: web.StreamResponse, file: FileIO, position: int, limit: int, note: Note
) -> None:
    while position < limit:
        length = min(_BLOCK, limit - position)
        block = await asyncio.to_thread(os.pread, file.fileno(), length, position)
        if not block:
            raise OSError("somebody else has truncated the file")
        await response.write(block)
        note(len(block))
        position += len(block)


def wanted_ranges(request: web.BaseRequest, digest: Digest) -> tuple[ByteRange, ...]:
    """What a client wants of a blob, in this order; empty: all of it."""
    header = request.headers.get("Range")
    # RFC 9110, 14.2: a range is a GET's; a HEAD tells of the whole.
    if header is None or request.method != "GET":
        return ()
    if request.headers.get("If-Range") not in {None, f'"{digest}"'}:
        return ()
    return parse_ranges(header)


def _layout(request: web.BaseRequest, answer: BlobAnswer) -> Layout:
    whole = Layout([Span(0, answer.size)])
    wanted = wanted_ranges(request, answer.digest)
    if not wanted or answer.size is None:
        return whole
    spans = _spans(wanted, answer.size)
    if len(spans) == 1:
        return Layout(spans, is_partial=True)
    # Who is to read as much as there is, or more, is sent all of it once, and proved; and what
    # streams by cannot be sent in another order. Either may be answered so (RFC 9110, 14.2).
    if sum((span.stop or 0) - span.start for span in spans) >= answer.size:
        return whole
    if isinstance(answer.body, Stream):
        return whole
    boundary = _boundary(answer.digest)
    for span in spans:
        told = _content_range(span, answer.size)
        span.before = (
            f"\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n"
            f"Content-Range: {told}\r\n\r\n"
        ).encode()
    return Layout(spans, is_partial=True, after=f"\r\n--{boundary}--\r\n".encode())


def _spans(wanted: Sequence[ByteRange], size: int) -> list[Span]:
    """What is wanted and there, in the order of the request: podman tells parts by that.

    Raises:
        RangeNotSatisfiable: Nothing is.
    """
    spans = []
    for one in wanted:
        with suppress(RangeNotSatisfiable):
            spans.append(Span(*one.resolve(size)))
    if not spans:
        raise RangeNotSatisfiable(size)
    return spans


def _content_range(span: Span, size: int | None) -> str:
    return f"bytes {span.start}-{(span.stop or 0) - 1}/{size}"


def _boundary(digest: Digest) -> str:
    """Between the parts; it would have to stand in the blob that this is the digest of."""
    return digest.encoded[:60]


@lru_cache(maxsize=4096)
def _manifest_headers(digest: Digest, media_type: str, outcome: Outcome) -> CIMultiDict[str]:
    headers = {**_content_headers(digest), **outcome_headers(outcome), "Content-Type": media_type}
    return CIMultiDict(headers)  # what a response makes of it; copying that costs next to nothing


@lru_cache(maxsize=4096)
def _blob_headers(digest: Digest, length: int | None, outcome: Outcome) -> CIMultiDict[str]:
    headers = {
        **_content_headers(digest), **outcome_headers(outcome),
        "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", "Server": SERVER,
    }  # fmt: skip
    if length is not None:
        headers["Content-Length"] = str(length)
    return CIMultiDict(headers)


@lru_cache(maxsize=4096)
def _content_headers(digest: Digest) -> Mapping[str, str]:
    return {"Docker-Content-Digest": str(digest), "ETag": f'"{digest}"'}


def _has_it(request: web.BaseRequest, digest: Digest) -> bool:
    """RFC 9110, 13.1.2: weak comparison, a list, or a star."""
    header = request.headers.get("If-None-Match")
    if header is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return "*" in tags or f'"{digest}"' in tags

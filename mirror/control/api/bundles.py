"""Bundles over HTTP: the depot's questions as operations, and blobs as bodies.

All of it is for those who may have what is in the store (`Guard.require_keeper`): it tells content,
and says what images are. To read a blob is a POST: what a registry has sent is not shown to a
browser as a page of ours.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from http import HTTPStatus

import msgspec
from aiohttp import web

from mirror.control import bundles
from mirror.control.api.operations import Operation
from mirror.control.bundles import Depot
from mirror.control.problems import Refusal
from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import DigestMismatch, Missing, RegistryError, StoreError

BUNDLES = "/bundles/"
"""What all of it is below: for those who may have what is in the store."""

BLOB = f"{BUNDLES}blob"
"""Where a blob is read (POST) and written (PUT), below the API's root."""

OCTETS = "application/octet-stream"

_PATIENCE = 60.0  # seconds in which a body brings something

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_logger = logging.getLogger(__name__)


class OneDigest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One digest."""

    digest: str


class Kept(msgspec.Struct, frozen=True):
    """What was sent is kept."""

    digest: str


def operations_of_bundles(depot: Depot) -> tuple[Operation, ...]:
    """What of a depot fits into one question and one answer."""

    async def plan(wanted: bundles.Wanted) -> bundles.Plan:
        with _refusing():
            return await depot.plan(wanted)

    async def find_missing(asked: bundles.Digests) -> bundles.Digests:
        with _refusing():
            missing = await depot.find_missing(list(map(parse_digest, asked.digests)))
            return bundles.Digests(sorted(map(str, missing)))

    async def note_sent(sent: bundles.Sent) -> bundles.Digests:
        with _refusing():
            await depot.note_sent(sent)
            return bundles.Digests(sent.digests)

    async def record(image: bundles.Arrived) -> bundles.Recorded:
        with _refusing():
            return await depot.record(image)

    async def record_referrers(arrived: bundles.ArrivedList) -> bundles.Recorded:
        with _refusing():
            return await depot.record_referrers(arrived)

    return (
        Operation(
            "planExport", "POST", "/bundles/plan", "What a bundle of an image would hold.",
            bundles.Plan, plan, bundles.Wanted,
        ),
        Operation(
            "findMissing", "POST", "/bundles/missing", "Which of these are not here.",
            bundles.Digests, find_missing, bundles.Digests,
        ),
        Operation(
            "noteSent", "POST", "/bundles/sent", "A bundle holds these, which are here.",
            bundles.Digests, note_sent, bundles.Sent,
        ),
        Operation(
            "recordImage", "POST", "/bundles/images", "An image of a bundle is here.",
            bundles.Recorded, record, bundles.Arrived,
        ),
        Operation(
            "recordReferrers", "POST", "/bundles/referrers", "What refers to an image is here.",
            bundles.Recorded, record_referrers, bundles.ArrivedList,
        ),
    )  # fmt: skip


def reading(depot: Depot, read: Callable[[web.Request], Awaitable[Digest]]) -> Handler:
    """Answers with a blob; `read` gives the digest that was sent."""

    async def handle(request: web.Request) -> web.StreamResponse:
        digest = await read(request)
        answer = web.StreamResponse(headers={"Content-Type": OCTETS})
        async with aclosing(depot.read(digest)) as pieces:
            with _refusing():
                first = await anext(pieces, b"")
            await answer.prepare(request)
            await answer.write(first)
            try:
                async for piece in pieces:
                    await answer.write(piece)
            except StoreError as error:
                _logger.warning("a blob breaks off for an operator: %s", error)
                raise ConnectionResetError from error  # so that nobody takes it for the whole
        return answer

    return handle


def writing(depot: Depot) -> Handler:
    """Keeps a blob that is sent, of the size that `Content-Length` tells."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.content_type != OCTETS:  # no form of a page's is
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send {OCTETS}")
        if request.content_length is None:
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "say how long it is (Content-Length)")
        with _refusing():
            digest = parse_digest(request.query.get("digest", ""))
            async with aclosing(_body(request)) as chunks:
                await depot.write(
                    digest, request.content_length, chunks,
                    upstreams=request.query.getall("upstream", []),
                    is_manifest=request.query.get("manifest") == "true",
                )  # fmt: skip
        return web.Response(
            body=msgspec.json.encode(Kept(str(digest))), content_type="application/json"
        )

    return handle


async def _body(request: web.Request) -> AsyncGenerator[bytes, None]:
    try:
        while True:
            async with asyncio.timeout(_PATIENCE):
                piece = await request.content.readany()
            if not piece:
                return
            yield piece
    except TimeoutError as error:
        raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "the body did not come in time") from error
    except web.RequestPayloadError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, "the body cannot be read") from error


@contextmanager
def _refusing() -> Iterator[None]:
    """Say what a depot could not do."""
    try:
        yield
    except DigestMismatch as error:
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, error.message) from error
    except StoreError as error:
        raise Refusal(HTTPStatus.INSUFFICIENT_STORAGE, str(error)) from error
    except Missing as error:
        raise Refusal(HTTPStatus.NOT_FOUND, error.message) from error
    except RegistryError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, error.message) from error
    except ValueError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from error

"""The API over HTTP: each operation of the table, its description, and what happens as it does."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import TypeVar

import msgspec
from aiohttp import web

from mirror.control.api.bundles import (
    BLOB,
    BUNDLES,
    OneDigest,
    operations_of_bundles,
    reading,
    writing,
)
from mirror.control.api.openapi import describe
from mirror.control.api.operations import ROOT, Act, Operation
from mirror.control.api.verifying import Names, Verify, verifying
from mirror.control.bundles import Depot
from mirror.control.guard import Guard
from mirror.control.past import Past
from mirror.control.problems import Refusal, problem
from mirror.control.watching import Watching
from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import RegistryError

_logger = logging.getLogger(__name__)

_LONGEST_BODY = 2**16  # bytes
_PATIENCE = 30.0  # seconds for a body
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

_Sent = TypeVar("_Sent", bound=msgspec.Struct)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_api(
    application: web.Application,
    operations: Sequence[Operation],
    guard: Guard,
    watching: Watching,
    past: Past,
    *,
    verify: Verify,
    depot: Depot,
    note_fault: Callable[[str, Exception], None],
) -> None:
    """Answer everything below ROOT."""
    operations = (*operations, *operations_of_bundles(depot))
    description = msgspec.json.encode(describe(operations))

    async def show_description(_: web.Request) -> web.StreamResponse:
        return web.Response(body=description, content_type="application/json")

    status = next(one for one in operations if one.name == "getStatus")
    warmings = next(one for one in operations if one.name == "listWarmings")
    handlers: list[tuple[str, str, _Handler]] = [
        ("GET", "/openapi.json", show_description),
        *((one.method, one.path, _answering(one, guard)) for one in operations),
        ("GET", "/events", _telling(status, "status", watching, guard)),
        ("GET", "/warm/events", _telling(warmings, "warm", watching, guard)),
        ("GET", "/pulls/events", _telling_pulls(past, watching, guard)),
        ("POST", "/verify", verifying(verify, _read_names)),
        ("POST", BLOB, reading(depot, _read_digest)),
        ("PUT", BLOB, writing(depot)),
        *(("*", path, _refusing(methods)) for path, methods in _methods(operations).items()),
        ("*", "{rest:(/.*)?}", _refuse),
    ]
    for method, path, answering in handlers:
        handler = _for_keepers(answering, guard) if path.startswith(BUNDLES) else answering
        application.router.add_route(method, ROOT + path, _guarded(handler, guard, note_fault))


def _guarded(
    handler: _Handler, guard: Guard, note_fault: Callable[[str, Exception], None]
) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = await answer(request)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            await guard.require_operator(request)
            return await handler(request)
        except Refusal as refusal:
            return problem(refusal)
        except ConnectionError:
            raise  # nobody is there any more
        except Exception as error:  # noqa: BLE001 - it costs this request, and is told
            note_fault("api", error)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            return problem(Refusal(status, "a fault of the mirror's own; see its log"))

    return handle


def _for_keepers(handler: _Handler, guard: Guard) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        guard.require_keeper(request)
        return await handler(request)

    return handle


def _methods(operations: Sequence[Operation]) -> dict[str, set[str]]:
    """What may be asked of each path."""
    found: dict[str, set[str]] = {
        "/openapi.json": {"GET"}, "/events": {"GET"}, "/warm/events": {"GET"},
        "/pulls/events": {"GET"},
        "/verify": {"POST"}, BLOB: {"POST", "PUT"},
    }  # fmt: skip
    for one in operations:
        found.setdefault(one.path, set()).add(one.method)
    return found


def _refusing(methods: set[str]) -> _Handler:
    allowed = ", ".join(sorted(methods))

    async def handle(_: web.Request) -> web.StreamResponse:
        raise Refusal(
            HTTPStatus.METHOD_NOT_ALLOWED, f"only {allowed} is answered here", {"Allow": allowed}
        )

    return handle


async def _refuse(request: web.Request) -> web.StreamResponse:
    raise Refusal(
        HTTPStatus.NOT_FOUND,
        f"{request.method} {request.path} is not of this API: see openapi.json",
    )


def _answering(operation: Operation, guard: Guard) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        if operation.tells_contents:
            guard.require_reader(request)
        sent: msgspec.Struct | None = None
        if operation.takes is not None:
            sent = await _read(request, operation.takes)
        elif operation.query is not None:
            sent = _read_query(request, operation.query)
        if request.method not in {"GET", "HEAD"}:
            _logger.info("an operator asks: %s", operation.name)
        answer = await _act_for(operation, guard, request)(sent)
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    return handle


def _act_for(operation: Operation, guard: Guard, request: web.Request) -> Act:
    """What is done for who asks."""
    if operation.to_others is None or guard.may_read(request):
        return operation.act
    return operation.to_others


def _read_query(request: web.Request, wanted: type[_Sent]) -> _Sent:
    if len(request.query) > len(set(request.query)):
        raise Refusal(HTTPStatus.BAD_REQUEST, "a parameter is given twice")
    try:
        found = msgspec.convert(dict(request.query), wanted, strict=False)
    except msgspec.ValidationError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from error
    for name in request.query:
        if getattr(found, name) is None:  # the word "null" is taken for nothing
            raise Refusal(HTTPStatus.BAD_REQUEST, f"{name} says nothing: leave it out")
    return found


async def _read(request: web.Request, wanted: type[_Sent]) -> _Sent:
    if request.content_type != "application/json":  # no form of a page's is
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/json")
    try:
        async with asyncio.timeout(_PATIENCE):
            content = await _read_whole(request)
        return msgspec.json.decode(content, type=wanted)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from error
    except web.RequestPayloadError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, "the body cannot be read") from error
    except TimeoutError as error:
        raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "the body did not come in time") from error


async def _read_whole(request: web.Request) -> bytes:
    content = bytearray()
    async for chunk in request.content.iter_any():
        content += chunk
        if len(content) > _LONGEST_BODY:
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "that is more than anything here takes"
            )
    return bytes(content)


async def _read_names(request: web.Request) -> Names:
    _logger.info("an operator asks: verify")
    return await _read(request, Names)


async def _read_digest(request: web.Request) -> Digest:
    try:
        return parse_digest((await _read(request, OneDigest)).digest)
    except RegistryError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, error.message) from error


def _telling(told: Operation, event: str, watching: Watching, guard: Guard) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        async def look() -> str:
            act = _act_for(told, guard, request)
            return msgspec.json.encode(await act(None)).decode()

        return await watching.tell(request, event, look, _HEADERS)

    return handle


def _telling_pulls(past: Past, watching: Watching, guard: Guard) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        changed = past.watch(lambda: not guard.may_read(request))

        async def look() -> str:
            return msgspec.json.encode(await changed()).decode()

        return await watching.tell(request, "pulls", look, _HEADERS)

    return handle

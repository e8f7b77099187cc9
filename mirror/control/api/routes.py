"""The API over HTTP: each operation of the table, its description, and what happens as it does."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import TypeVar

import msgspec
from aiohttp import web

from mirror.control.api.openapi import describe
from mirror.control.api.operations import ROOT, Operation
from mirror.control.api.verifying import Names, Verify, verifying
from mirror.control.guard import Guard
from mirror.control.problems import Refusal, problem
from mirror.control.watching import Watching

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
    *,
    verify: Verify,
    note_fault: Callable[[str, Exception], None],
) -> None:
    """Answer everything below ROOT."""
    description = msgspec.json.encode(describe(operations))

    async def show_description(_: web.Request) -> web.StreamResponse:
        return web.Response(body=description, content_type="application/json")

    status = next(one for one in operations if one.name == "getStatus")
    handlers: list[tuple[str, str, _Handler]] = [
        ("GET", "/openapi.json", show_description),
        *((one.method, one.path, _answering(one)) for one in operations),
        ("GET", "/events", _telling(status, watching)),
        ("POST", "/verify", verifying(verify, _read_names)),
        *(("*", path, _refusing(methods)) for path, methods in _methods(operations).items()),
        ("*", "{rest:(/.*)?}", _refuse),
    ]
    for method, path, handler in handlers:
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


def _methods(operations: Sequence[Operation]) -> dict[str, set[str]]:
    """What may be asked of each path."""
    found: dict[str, set[str]] = {"/openapi.json": {"GET"}, "/events": {"GET"}, "/verify": {"POST"}}
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


def _answering(operation: Operation) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        sent: msgspec.Struct | None = None
        if operation.takes is not None:
            sent = await _read(request, operation.takes)
        elif operation.asks is not None:
            sent = _read_query(request, operation.asks)
        if request.method not in {"GET", "HEAD"}:
            _logger.info("an operator asks: %s", operation.name)
        answer = await operation.act(sent)
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    return handle


def _read_query(request: web.Request, wanted: type[_Sent]) -> _Sent:
    if len(set(request.query)) != len(request.query):
        raise Refusal(HTTPStatus.BAD_REQUEST, "a parameter is there twice")
    try:
        return msgspec.convert(dict(request.query), wanted, strict=False)
    except msgspec.ValidationError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from error


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


def _telling(status: Operation, watching: Watching) -> _Handler:
    async def look() -> str:
        return msgspec.json.encode(await status.act(None)).decode()

    async def handle(request: web.Request) -> web.StreamResponse:
        return await watching.tell(request, "status", look, _HEADERS)

    return handle

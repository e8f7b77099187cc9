"""How an answer leaves a scripted registry: whole, held at gates, or broken on the way."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from aiohttp import web
from multidict import CIMultiDict

from tests.support.faults import Asked, Faults, Gate
from tests.support.reset import reset

_CHUNK = 64 * 1024


@dataclass(slots=True, kw_only=True)
class Reply:
    """What a request is answered with."""

    status: int = 200
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    body: bytes | memoryview = b""
    offset: int = 0  # of the body in the content


class _Response(web.StreamResponse):
    """A response without the headers that aiohttp would add by itself."""

    omit: Sequence[str] = ()

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        for name in self.omit:
            self.headers.popall(name, None)


async def send(
    request: web.BaseRequest, asked: Asked, reply: Reply, faults: Faults, gates: Iterable[Gate]
) -> web.StreamResponse:
    """Send `reply` as far as faults and gates let it get."""
    response = _Response(status=reply.status, headers=reply.headers)
    response.omit = faults.find("omit", asked) or ()
    if faults.find("chunked", asked):
        response.enable_chunked_encoding()
    elif "Content-Length" not in reply.headers:
        response.content_length = len(reply.body)
    await response.prepare(request)
    if request.method != "HEAD":
        body = memoryview(_corrupted(reply, asked, faults))
        await _send_body(request, response, asked, body, faults=faults, gates=gates)
    return response


async def _send_body(
    request: web.BaseRequest,
    response: web.StreamResponse,
    asked: Asked,
    body: memoryview,
    *,
    faults: Faults,
    gates: Iterable[Gate],
) -> None:
    ending, end = _ending(asked, len(body), faults)
    for gate in sorted(gates, key=lambda gate: gate.after or 0):
        if gate.after is not None and gate.after <= end:
            await _write(response, asked, body[: gate.after])
            if not await gate.wait(asked):
                await reset(request.transport)
                return
    await _write(response, asked, body[:end])
    match ending:
        case "stall_at":
            await asyncio.Event().wait()  # until the client or the test gives up
        case "reset_at":
            await reset(request.transport)
        case "truncate_at" if request.transport is not None:
            request.transport.close()


def _corrupted(reply: Reply, asked: Asked, faults: Faults) -> bytes | bytearray | memoryview:
    start, end = reply.offset, reply.offset + len(reply.body)
    position = faults.find_position("corrupt_at", asked, start, end)
    if position is None:
        return reply.body
    body = bytearray(reply.body)
    body[position - start] ^= 0xFF
    return body


def _ending(asked: Asked, length: int, faults: Faults) -> tuple[str, int]:
    """What breaks this body first, and after how many bytes; else "" and its length."""
    for name in ("truncate_at", "reset_at", "stall_at"):
        position = faults.find_position(name, asked, 0, length)
        if position is not None:
            return name, position
    return "", length


async def _write(response: web.StreamResponse, asked: Asked, body: memoryview) -> None:
    """Write `body` from where the last write ended."""
    while asked.sent < len(body):
        chunk = body[asked.sent : asked.sent + _CHUNK]
        await response.write(chunk)
        asked.sent += len(chunk)
        asked.changed()

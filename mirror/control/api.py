"""What operators ask a running mirror to do: `/api/v1/` on the admin port.

The port asks for no password; so nothing that a web page can have a browser send does anything:
it must be named as `is_known` has it, and sent JSON (a page may not, without being let in first).
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import msgspec
from aiohttp import web

from mirror.control.verify import Step, parse_name

Verify = Callable[[Sequence[str]], AsyncGenerator[Step]]
"""Has blobs hashed: see `mirror.control.verify`."""


class _Names(msgspec.Struct, forbid_unknown_fields=True):
    """Digests and images; none: everything."""

    names: list[str] = []


def list_routes(verify: Verify, require_known: Callable[[web.Request], None]) -> list[web.RouteDef]:
    """The routes; `require_known` raises where a request is not for this mirror."""
    turn = asyncio.Lock()

    async def do_verify(request: web.Request) -> web.StreamResponse:
        require_known(request)
        names = await _read_names(request)
        if turn.locked():
            raise web.HTTPConflict(text="somebody else has blobs verified: wait for them\n")
        answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        async with turn, aclosing(verify(names)) as steps:
            await answer.prepare(request)
            async for step in steps:
                await answer.write(msgspec.json.encode(step) + b"\n")
        return answer

    return [web.post("/api/v1/verify", do_verify)]


async def _read_names(request: web.Request) -> list[str]:
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="send application/json\n")
    try:
        names = msgspec.json.decode(await request.read(), type=_Names).names
        for name in names:
            parse_name(name)
    except (msgspec.DecodeError, ValueError) as error:
        raise web.HTTPBadRequest(text=f"{error}\n") from error
    return names

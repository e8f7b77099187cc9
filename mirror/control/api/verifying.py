"""Verifying over HTTP: what is found is told while it goes on, a line of JSON for each step."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from http import HTTPStatus

import msgspec
from aiohttp import web

from mirror.control.problems import Refusal
from mirror.control.verify import Step, parse_name

Verify = Callable[[Sequence[str]], AsyncGenerator[Step]]
"""Has blobs hashed: see `mirror.control.verify`."""


class Names(msgspec.Struct, forbid_unknown_fields=True):
    """Digests and images; none: everything."""

    names: list[str] = []


def verifying(
    verify: Verify, read: Callable[[web.Request], Awaitable[Names]]
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler; one client at a time is served. `read` reads what was sent."""
    turn = asyncio.Lock()

    async def handle(request: web.Request) -> web.StreamResponse:
        names = (await read(request)).names
        try:
            for name in names:
                parse_name(name)
        except ValueError as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from error
        if turn.locked():
            raise Refusal(HTTPStatus.CONFLICT, "somebody else has blobs verified: wait for them")
        answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        async with turn, aclosing(verify(names)) as steps:
            await answer.prepare(request)
            async for step in steps:
                await answer.write(msgspec.json.encode(step) + b"\n")
        return answer

    return handle

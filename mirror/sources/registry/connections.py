"""Connections to registries that are kept, and are found dead.

A registry's node is replaced, a NAT forgets, a firewall drops: of a kept connection nobody knows
that it still leads anywhere before it is used. So a request over one that was used before, and
that dies or stays silent, says nothing of the registry: it is asked again over a fresh one. Where
the old one is only slow, the first answer counts: of GET and HEAD, which may be repeated (RFC 9110,
9.2.2). What begins or ends an upload is asked again where the old one is dead, and no sooner: of
two that are begun one is forgotten, and of one that is ended twice the second is not there.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp
from yarl import URL

_MOST_DEAD = 3  # in a row, for one request; what is kept is closed with the first of them

Send = Callable[["Trip"], Coroutine[Any, Any, aiohttp.ClientResponse]]
"""Sends the request, noting on the way what it goes over."""


@dataclass(slots=True)
class Trip:
    """What one request goes over."""

    is_reused: bool = False


def tracing() -> aiohttp.TraceConfig:
    """Has a session note what the `Trip` goes over that is its request's `trace_request_ctx`."""
    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(_note(is_reused=True))
    config.on_connection_create_start.append(_note(is_reused=False))
    return config


def _note(*, is_reused: bool) -> Any:
    async def note(_: object, context: SimpleNamespace, __: object) -> None:
        if isinstance(context.trace_request_ctx, Trip):
            context.trace_request_ctx.is_reused = is_reused

    return note


async def over_a_living_one(
    send: Send, session: aiohttp.ClientSession, url: URL, *, patience: float | None
) -> aiohttp.ClientResponse:
    """The answer to a request to `url`; a silent connection costs it `patience` seconds at most.

    None: it may not be sent twice at once.

    Raises:
        aiohttp.ClientError, OSError, TimeoutError: What `send` raises over a fresh connection.
    """
    for _ in range(_MOST_DEAD):
        trip = Trip()
        try:
            return await _hedged(send, trip, session, url, patience)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            if not trip.is_reused:
                raise
            close_idle(session, url)
    return await send(Trip())


async def _hedged(
    send: Send, trip: Trip, session: aiohttp.ClientSession, url: URL, patience: float | None
) -> aiohttp.ClientResponse:
    """Send; where what was used before stays silent, once more, and the first answer counts."""
    loop = asyncio.get_running_loop()
    requests = [loop.create_task(send(trip))]
    try:
        done, _ = await asyncio.wait(requests, timeout=patience)
        if not done and trip.is_reused:
            close_idle(session, url)
            requests.append(loop.create_task(send(Trip())))
        return await _first_to_answer(requests)
    finally:
        await _give_up(requests)


async def _first_to_answer(
    requests: list[asyncio.Task[aiohttp.ClientResponse]],
) -> aiohttp.ClientResponse:
    """The first answer, or the last error; what answered is taken off the list."""
    while True:
        done, pending = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
        for request in [request for request in requests if request in done]:
            if request.exception() is None or not pending:
                requests.remove(request)
                return request.result()
            requests.remove(request)


async def _give_up(requests: list[asyncio.Task[aiohttp.ClientResponse]]) -> None:
    if not requests:
        return
    for request in requests:
        request.cancel()
    await asyncio.wait(requests)
    for request in requests:
        if not request.cancelled() and request.exception() is None:
            request.result().close()


def close_idle(session: aiohttp.ClientSession, url: URL, *, is_alone: bool = False) -> None:
    """Close the connections to a host that are kept and that nobody uses.

    `is_alone`: only those that are to carry one request, which have the host's name in their key.
    """
    # aiohttp can close all of a session's, but not one host's.
    kept: dict[Any, Any] = getattr(session.connector, "_conns", {})
    keys = [key for key in kept if (key.host, key.port) == (url.raw_host, url.port)]
    for key in [key for key in keys if key.server_hostname or not is_alone]:
        for protocol, _ in kept.pop(key):
            protocol.close()

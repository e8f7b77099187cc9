"""The client sessions that all endpoints share: who is connected to, and how what comes is read."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError

from mirror import __version__
from mirror.sources.registry.connections import tracing
from mirror.sources.registry.reach import IsInside, is_inside
from mirror.sources.registry.response_head import LONGEST_FIELD, MOST_FIELDS, ResponseHead

_HEADERS = {
    # Bytes are kept as upstream has them: nothing may be compressed on its way.
    "Accept-Encoding": "identity",
    "User-Agent": f"oci-mirror/{__version__}",
}


@dataclass(frozen=True, slots=True)
class Sessions:
    """No connection of one serves the other.

    `outer` reaches by name only what is not `inside`; literal addresses are its user's to judge.
    """

    any: aiohttp.ClientSession
    outer: aiohttp.ClientSession
    inside: IsInside


@asynccontextmanager
async def open_sessions(
    inside: IsInside = is_inside, resolver: AbstractResolver | None = None
) -> AsyncIterator[Sessions]:
    """Open sessions that keep no cookies and re-encode nothing."""
    names = resolver or aiohttp.ThreadedResolver()
    async with _session(names) as anywhere, _session(_OuterResolver(names, inside)) as outer:
        yield Sessions(anywhere, outer, inside)


class Response(aiohttp.ClientResponse):
    """Knows who has sent it, also when the connection serves others again."""

    peer: str | None = None  # an address

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """As aiohttp's."""
        if connection.transport is not None:
            self.peer = (connection.transport.get_extra_info("peername") or (None,))[0]
        return await super().start(connection)


def _session(resolver: AbstractResolver) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=_Connector(limit=0, resolver=resolver),  # bounds are per endpoint, and ours
        response_class=Response,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        requote_redirect_url=False,
        skip_auto_headers=("Accept",),
        headers=_HEADERS,
        trace_configs=[tracing()],
        max_line_size=LONGEST_FIELD,
        max_field_size=LONGEST_FIELD,
        max_headers=MOST_FIELDS,
    )


class _OuterResolver(AbstractResolver):
    """Finds no addresses that lie inside: what it returns is what is connected to."""

    def __init__(self, resolver: AbstractResolver, inside: IsInside) -> None:
        self._resolver = resolver
        self._inside = inside

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """As aiohttp's. Raises OSError where none is left."""
        found = await self._resolver.resolve(host, port, family)
        outer = [one for one in found if not self._inside(one["host"])]
        if not outer:
            raise OSError(None, "no public address")
        return outer

    async def close(self) -> None:
        """As aiohttp's."""
        await self._resolver.close()


class _Connector(aiohttp.TCPConnector):
    """aiohttp's, for connections that read heads as leniently as Go's client does."""

    def __init__(self, *, limit: int, resolver: AbstractResolver) -> None:
        super().__init__(limit=limit, resolver=resolver)
        self._factory = cast("partial[ResponseHandler]", partial(_Connection, loop=self._loop))


class _Connection(ResponseHandler):
    """aiohttp's, with each response's head made regular before it is parsed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._head: ResponseHead | None = None

    def set_response_params(self, **settings: Any) -> None:
        """A request has been sent: what comes next is a head."""
        self._head = ResponseHead()
        super().set_response_params(**settings)

    def data_received(self, data: bytes) -> None:
        """Bytes have come, of a head or of a body."""
        if self._head is not None and self._parser is not None and data:
            try:
                data = self._head.feed(data)
            except ValueError as error:
                self._refuse(error)
                return
            if not data:
                return
            self._head = None
        super().data_received(data)

    def _refuse(self, error: ValueError) -> None:
        if self.transport is not None:
            self.transport.abort()
        self.set_exception(HttpProcessingError(message=str(error)), error)

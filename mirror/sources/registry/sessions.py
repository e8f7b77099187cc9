"""The client sessions that all endpoints share: who is connected to, and how what comes is read."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import AddrInfoType, Connection
from aiohttp.helpers import set_exception
from aiohttp.http_exceptions import HttpProcessingError
from python_socks import (
    ProxyConnectionError,
    ProxyError,
    ProxyTimeoutError,
    ProxyType,
)
from python_socks.async_.asyncio import Proxy as SocksProxy

from mirror import __version__
from mirror.config.proxies import EnvironmentProxies, Proxy
from mirror.sources.registry.connections import tracing
from mirror.sources.registry.reach import IsInside, is_inside
from mirror.sources.registry.response_head import LONGEST_FIELD, MOST_FIELDS, ResponseHead

_HEADERS = {
    # Bytes are kept as upstream has them: nothing may be compressed on its way.
    "Accept-Encoding": "identity",
    "User-Agent": f"mirror/{__version__}",
}


_OPTIONS = {
    # What is pushed would seem to be there by megabytes before it is, and be lost with the line.
    "TCP_NOTSENT_LOWAT": 2**19,  # bytes
    # Nobody answers what does not arrive, and a registry may be silent for long while it hashes.
    "TCP_USER_TIMEOUT": 30_000,  # milliseconds
    "TCP_KEEPIDLE": 15,  # seconds
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
}
_ELSEWHERE = {"TCP_NOTSENT_LOWAT": 25} if sys.platform == "linux" else {}  # Python 3.12 knows it


@dataclass(frozen=True, slots=True)
class Sessions:
    """No connection of one serves the other.

    `outer` reaches by name only what is not `inside`; literal addresses are its user's to judge.
    `proxies` are what the environment names.
    """

    any: aiohttp.ClientSession
    outer: aiohttp.ClientSession
    inside: IsInside
    proxies: EnvironmentProxies
    _socks: dict[Proxy, aiohttp.ClientSession] = field(default_factory=dict, init=False)

    def through(self, proxy: Proxy) -> aiohttp.ClientSession:
        """The one for what goes through a proxy; an HTTP proxy is for the request to name."""
        if proxy.scheme != "socks5":
            return self.any
        if proxy not in self._socks:
            self._socks[proxy] = _session(_SocksConnector(proxy))
        return self._socks[proxy]

    async def close(self) -> None:
        """Close what `through` has opened."""
        for session in self._socks.values():
            await session.close()


@asynccontextmanager
async def open_sessions(
    inside: IsInside = is_inside,
    resolver: AbstractResolver | None = None,
    *,
    proxies: EnvironmentProxies | None = None,
) -> AsyncIterator[Sessions]:
    """Open sessions that keep no cookies and re-encode nothing."""
    names = resolver or aiohttp.ThreadedResolver()
    async with AsyncExitStack() as stack:
        anywhere = await stack.enter_async_context(_session(_Connector(names)))
        outer_names = _OuterResolver(names, inside)
        outer = await stack.enter_async_context(_session(_Connector(outer_names)))
        sessions = Sessions(anywhere, outer, inside, proxies or EnvironmentProxies())
        stack.push_async_callback(sessions.close)
        yield sessions


class Response(aiohttp.ClientResponse):
    """Knows who has sent it, also when the connection serves others again."""

    peer: str | None = None  # an address
    certificate: Mapping[str, Any] | None = None  # that this one has shown, as `ssl` has it

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """As aiohttp's."""
        if connection.transport is not None:
            self.peer = (connection.transport.get_extra_info("peername") or (None,))[0]
            self.certificate = connection.transport.get_extra_info("peercert")
        return await super().start(connection)


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
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

    def __init__(self, resolver: AbstractResolver) -> None:
        # Bounds are per endpoint, and ours.
        super().__init__(limit=0, resolver=resolver, socket_factory=_socket)
        self._factory = cast("partial[ResponseHandler]", partial(_Connection, loop=self._loop))


def _socket(address: AddrInfoType) -> socket.socket:
    """One that takes in little more than the line does, and finds out when that is dead."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    for name, value in _OPTIONS.items():
        if (option := getattr(socket, name, _ELSEWHERE.get(name))) is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


class ProxyRefusal(aiohttp.ClientConnectionError):
    """A SOCKS proxy does not let us through; the text goes on after "the proxy"."""

    status: int | None = None  # as an HTTP proxy would have it


class _SocksConnector(_Connector):
    """Reaches everything through one SOCKS5 proxy (RFC 1928), which resolves names."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(_NoResolver())
        self._proxy = proxy

    async def _wrap_create_connection(
        self,
        *args: Any,
        addr_infos: Any,
        req: Any,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own
        **settings: Any,
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        host, port = addr_infos[0][4][:2]
        where = self._proxy
        proxy = SocksProxy(
            ProxyType.SOCKS5, where.host, where.port,
            where.username or None, where.password or None, rdns=True,
        )  # fmt: skip
        try:
            connected = await proxy.connect(host, port, timeout=timeout.connect)
        except ProxyTimeoutError:
            raise
        except ProxyConnectionError as error:
            cause = error.__cause__
            why = cause.strerror if isinstance(cause, OSError) else None
            problem = OSError(error.errno, why or "nobody answers")
            raise aiohttp.ClientProxyConnectionError(req.connection_key, problem) from error
        except ProxyError as error:
            refusal = ProxyRefusal(f"says: {error}")
            refusal.status = 407 if "uthentication" in str(error) else 502
            raise refusal from error
        return await self._wrap_existing_connection(
            *args, req=req, timeout=timeout, sock=connected, **settings
        )


class _NoResolver(AbstractResolver):
    """Leaves names to the proxy."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """As aiohttp's."""
        return [ResolveResult(hostname=host, host=host, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """As aiohttp's."""


class _Connection(ResponseHandler):
    """aiohttp's, with each response's head made regular before it is parsed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._head: ResponseHead | None = None

    def is_connected(self) -> bool:
        """Whether it is good for a request: not if something came that nobody had asked for.

        Proxies that have waited for the next one say so (HAProxy: 408) before they close.
        """
        return super().is_connected() and not self.should_close

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
        if (senseless := self.exception()) is not None:
            self._break_off(senseless)

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's
        """Not while a `Receiver` has the line, which it may hold back.

        Whoever reads the rest of an earlier body would resume it, late: a connection serves again
        once a body has come, read or not.
        """
        if self.transport is None or self.transport.get_protocol() is self:
            super().resume_reading(resume_parser)

    def _break_off(self, error: BaseException) -> None:
        """Who reads a body is not told by aiohttp, and would wait for ever."""
        body = self._payload
        if body is not None and not body.is_eof():
            set_exception(body, aiohttp.ClientPayloadError("its coding makes no sense"), error)

    def _refuse(self, error: ValueError) -> None:
        if self.transport is not None:
            self.transport.abort()
        self.set_exception(HttpProcessingError(message=str(error)), error)

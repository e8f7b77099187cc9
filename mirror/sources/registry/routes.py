"""Which way a request goes: over which session, through which proxy, and where it may not go.

A proxy resolves names itself, and its address is nobody's but its own: what lies behind it is
judged by what is written in a URL, and who is connected to says nothing of where a registry is.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
from yarl import URL

from mirror.config import Endpoint as EndpointConfig
from mirror.config.proxies import Proxy
from mirror.oci.errors import Unavailable
from mirror.sources.registry.credentials import (
    Credential,
    FileCredentials,
    Unusable,
    log_unusable,
)
from mirror.sources.registry.headers import field_value
from mirror.sources.registry.reach import is_literal
from mirror.sources.registry.sessions import ProxyRefusal, Response, Sessions

INSIDE = (
    "no public address, and the registry has one;"
    " private_redirects = true lets it lead to private ones"
)

_REFUSED = HTTPStatus.PROXY_AUTHENTICATION_REQUIRED


@dataclass(frozen=True, slots=True)
class Route:
    """The way to one URL."""

    session: aiohttp.ClientSession
    proxy: Proxy | None
    is_own: bool  # it leads to the endpoint itself

    @property
    def http_proxy(self) -> URL | None:
        """What the request must name: where HTTP itself knows of the proxy."""
        is_http = self.proxy is not None and self.proxy.scheme != "socks5"
        return URL(str(self.proxy)) if is_http else None

    @property
    def http_proxy_headers(self) -> dict[str, str]:
        """Who the mirror is there: with CONNECT for https, with the request itself for http."""
        if self.proxy is None or not self.proxy.username or self.http_proxy is None:
            return {}
        who = Credential(self.proxy.username, self.proxy.password)
        return {"Proxy-Authorization": who.basic}

    @contextmanager
    def explained(self, url: URL) -> Iterator[None]:
        """Turn what is wrong with the proxy into what is to be told. Raises Unavailable."""
        if self.proxy is None:
            yield
            return
        try:
            yield
        except aiohttp.ClientHttpProxyError as error:
            # To CONNECT nobody else answers: 401 is tinyproxy's word for a wrong password.
            is_refused = error.status in {HTTPStatus.UNAUTHORIZED, _REFUSED}
            status = _REFUSED if is_refused else error.status
            raise self._unavailable(url, status, f"answered {error.status}") from error
        except ProxyRefusal as error:
            raise self._unavailable(url, error.status, str(error)) from error
        except (aiohttp.ClientProxyConnectionError, aiohttp.ClientConnectorDNSError) as error:
            raise self._unavailable(url, None, f"cannot be reached: {reason_of(error)}") from error

    def check(self, response: aiohttp.ClientResponse) -> None:
        """See that it is not the proxy that has answered. Raises Unavailable."""
        if self.proxy is not None and response.status == _REFUSED:
            response.close()
            raise self._unavailable(response.url, _REFUSED, "")

    def _unavailable(self, url: URL, status: int | None, problem: str) -> Unavailable:
        if status == _REFUSED:
            problem = (
                "refuses the mirror's credentials;"
                " see proxy_username and proxy_password_file, or the environment"
            )
        elif not self.is_own and status is not None:
            problem = "does not let us through"  # what is open behind it is nobody's business
        return Unavailable(f"{host_of(url)} cannot be reached: the proxy {problem}")


class Routes:
    """The ways of one endpoint's requests, its token server's and its storage's."""

    def __init__(self, config: EndpointConfig, sessions: Sessions) -> None:
        self._config = config
        self._sessions = sessions
        self._origin = URL(config.url).origin()
        # Who was outside once has no way inside.
        self._has_answered = self._is_literally_inside(self._origin)
        self._is_outer = False
        self._credentials: FileCredentials | None = None
        if config.proxy_username is not None and config.proxy_password_file is not None:
            self._credentials = FileCredentials(config.proxy_username, config.proxy_password_file)

    async def find(self, url: URL) -> Route:
        """How to get there. Raises Unavailable for an address that it may not lead to."""
        is_own = url.origin() == self._origin
        may_be_inside = (
            is_own or self._config.private_redirects or (self._has_answered and not self._is_outer)
        )
        if not may_be_inside and self._is_literally_inside(url):
            raise Unavailable(f"{host_of(url)} cannot be reached: {INSIDE}")
        proxy = self._sessions.proxies.find_for(str(url), own=self._config.proxy)
        if proxy is not None:
            proxy = await self._with_credentials(proxy)
            return Route(self._sessions.through(proxy), proxy, is_own)
        session = self._sessions.any if may_be_inside else self._sessions.outer
        return Route(session, None, is_own)

    def note(self, route: Route, response: aiohttp.ClientResponse) -> None:
        """Take note of where the endpoint itself is; behind a proxy, it might be anywhere."""
        peer = response.peer if isinstance(response, Response) else None
        if route.is_own and route.proxy is None and peer is not None:
            self._has_answered = True
            self._is_outer = self._is_outer or not self._sessions.inside(peer)

    def _is_literally_inside(self, url: URL) -> bool:
        host = url.host or ""
        return is_literal(host) and self._sessions.inside(host)

    async def _with_credentials(self, proxy: Proxy) -> Proxy:
        if self._credentials is None:
            return proxy
        try:
            who = await self._credentials.get()
        except Unusable as error:
            log_unusable(self._config.url, error)
            raise Unavailable(
                "the mirror's credentials for its proxy cannot be had; see its log"
            ) from error
        return Proxy(proxy.scheme, proxy.host, proxy.port, who.username, who.secret)


def reason_of(error: aiohttp.ClientConnectorError) -> str:
    """Why there is no connection: asyncio says at which address it failed, and not how."""
    why = error.strerror or type(error).__name__
    how = os.strerror(error.errno) if error.errno else ""
    return why.replace("Connect call failed", how) if how else why


def host_of(url: URL) -> str:
    """As it may stand in a message; what upstream redirects to need not be a name at all."""
    try:
        return field_value(url.host) or "a host without a name"
    except ValueError:
        return "a host without a name"

"""Proxies on the way to upstream: how they are written, and what the environment says. Pure.

The variables mean what they mean to Go's HTTP client, and so to dockerd and containerd: HTTPS_PROXY
and HTTP_PROXY by the scheme of what is asked, in capitals first; this host is never reached by way
of one; NO_PROXY lists what else is not (golang.org/x/net/http/httpproxy).
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, urlsplit

_PORTS = {"http": 80, "https": 443, "socks5": 1080}
_LIKE = 'write it like "http://proxy.example:3128" or "socks5://proxy.example:1080"'

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy; as text it is without user and password."""

    scheme: str  # of _PORTS
    host: str
    port: int
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_proxy(text: str) -> Proxy:
    """A proxy's URL; without a scheme it is http. Raises ValueError, whose text quotes nothing."""
    text = text.strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        # socks5h is socks5 with names resolved by the proxy, as all are here.
        scheme = "socks5" if parts.scheme == "socks5h" else parts.scheme
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"not a proxy's URL; {_LIKE}") from None
    if scheme not in _PORTS or not host or port == 0 or not text.isascii() or " " in text:
        raise ValueError(f"not a proxy's URL; {_LIKE}")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("a proxy's URL ends with its port")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return Proxy(scheme, host, port or _PORTS[scheme], user, password)


def parse_proxy_setting(value: object) -> Proxy | Literal["direct"]:
    """`proxy` of an endpoint. Raises ValueError."""
    if isinstance(value, Proxy) or value == "direct":
        return value
    if not isinstance(value, str):
        raise ValueError(f"not a proxy's URL; {_LIKE}")  # noqa: TRY004 - as pydantic wants it
    proxy = parse_proxy(value)
    if proxy.username or proxy.password:
        raise ValueError("holds credentials; they go into proxy_username and proxy_password_file")
    return proxy


@dataclass(frozen=True, slots=True)
class _Exemption:
    """What an entry of NO_PROXY exempts."""

    name: str  # in lower case; ".example" for what is below it; "" for addresses
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None
    port: int | None

    def covers(self, host: str, address: Address | None, port: int) -> bool:
        if self.port not in {None, port}:
            return False
        if self.network is not None:
            return address is not None and address in self.network
        below = self.name if self.name.startswith(".") else f".{self.name}"
        return self.name in {"*", host} or host.endswith(below)


@dataclass(frozen=True, slots=True)
class EnvironmentProxies:
    """What the environment says of proxies; without arguments, nothing."""

    http: Proxy | None = None
    https: Proxy | None = None
    exemptions: tuple[_Exemption, ...] = ()

    def find_for(self, url: str, *, own: Proxy | Literal["direct"] | None) -> Proxy | None:
        """Which proxy leads to a URL of an endpoint, its token server or its storage.

        `own` is the endpoint's `proxy`: if set, it is for all of them, without exemptions.
        """
        if own is not None:
            return own if isinstance(own, Proxy) else None
        parts = urlsplit(url)
        return self.find(parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme])

    def find(self, scheme: str, host: str, port: int) -> Proxy | None:
        """Which proxy leads there; None: there is no need of one."""
        proxy = self.https if scheme == "https" else self.http
        host = host.lower().rstrip(".")
        address = _address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return None
        is_exempt = any(each.covers(host, address, port) for each in self.exemptions)
        return None if is_exempt else proxy


def parse_environment(environ: Mapping[str, str]) -> tuple[EnvironmentProxies, list[str]]:
    """What it says, and a line for everything that is wrong with it."""
    proxies = dict[str, Proxy]()
    problems = list[str]()
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        text = environ.get(name) or environ.get(name.lower())
        if text:
            try:
                proxies[name] = parse_proxy(text)
            except ValueError as error:
                problems.append(f"{name}: {error}")
    listed = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    exemptions = tuple(_exemption(each.strip()) for each in listed.split(",") if each.strip())
    found = EnvironmentProxies(proxies.get("HTTP_PROXY"), proxies.get("HTTPS_PROXY"), exemptions)
    return found, problems


def _exemption(text: str) -> _Exemption:
    name, colon, port = text.lower().rpartition(":")
    if not (colon and port.isdecimal() and (":" not in name or name.endswith("]"))):
        name, port = text.lower(), ""
    name = name.strip("[]")
    try:
        network = ipaddress.ip_network(name, strict=False)
    except ValueError:
        network = None
    # "*.example" is ".example": what is below it, and not itself.
    name = name[1:] if name.startswith("*.") else name
    return _Exemption("" if network else name, network, int(port) if port else None)


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None

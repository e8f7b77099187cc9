"""The address that clients use. The mirror does not know it: it is said, or guessed. Pure."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from mirror.config import Server
from mirror.config.units import format_listen

_PORTS = {"http": 80, "https": 443}
_EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - names for all of a host's addresses
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?")  # nothing that a shell or TOML would read


@dataclass(frozen=True, slots=True)
class Address:
    """Where a mirror is reached."""

    scheme: str  # "http" or "https"
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host and port as in image names; the scheme's own port is left out."""
        if self.port != _PORTS[self.scheme]:
            return format_listen((self.host, self.port))
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def url(self) -> str:
        """With its scheme."""
        return f"{self.scheme}://{self.authority}"

    @property
    def is_loopback(self) -> bool:
        """Whether only the mirror's own machine is meant."""
        return is_loopback(self.host)

    def at(self, name: str) -> "Address":
        """The same mirror under another name, which may bring its own port."""
        parts = urlsplit(f"//{name}")
        return Address(self.scheme, parts.hostname or name, parts.port or self.port)


def parse_address(text: str, *, scheme: str, port: int) -> Address:
    """A name with or without a port, or a URL where a proxy in front of the mirror ends TLS.

    `scheme` and `port` are the mirror's own, for what is not said. Raises ValueError.
    """
    not_an_address = ValueError(
        f'{text!r} is not an address; write it like "mirror.example", "mirror.example:5000"'
        ' or "https://mirror.example"'
    )
    is_url = "://" in text
    try:
        parts = urlsplit(text if is_url else f"//{text}")
        host, said = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise not_an_address from None
    if is_url:
        scheme = parts.scheme
        port = _PORTS.get(scheme, 0)
    is_more = parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None
    if scheme not in _PORTS or is_more or said == 0 or not (_NAME.fullmatch(host) or _is_ip(host)):
        raise not_an_address
    if host in _EVERYWHERE:
        raise ValueError(f"{host} is where a mirror listens; say the name at which it is reached")
    return Address(scheme, host, said or port)


def guess_address(
    server: Server, *, certified: Iterable[str], hosts: Iterable[str], hostname: str
) -> tuple[Address, str]:
    """The likeliest address, and what it is taken from.

    `certified` are the names in its certificate, `hosts` those that stand for one registry alone.
    """
    scheme = "http" if server.tls_certificate_file is None else "https"
    listens, port = server.listen[0]
    own = {name.partition(":")[0] for name in hosts}
    for name in certified:
        if name not in own and "*" not in name and not is_loopback(name):
            return Address(scheme, name, port), "the name in server.tls_certificate_file"
    if listens not in _EVERYWHERE:
        return Address(scheme, listens, port), "server.listen"
    return Address(scheme, hostname, port), "this machine's own name"


def is_loopback(host: str) -> bool:
    """Whether this is a machine's name for itself."""
    return host == "localhost" or (_is_ip(host) and ipaddress.ip_address(host).is_loopback)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

"""Which client an address stands for.

A client is an address; of IPv6 a /64, since whoever has one address there has all of them. Behind a
proxy, or NAT, all are one: what a client says of others' addresses is not believed.
"""

import ipaddress
from functools import lru_cache

_SITE = 64  # bits of an IPv6 address that tell networks apart (RFC 4291, 2.5.4)
_REMEMBERED = 4096


@lru_cache(maxsize=_REMEMBERED)
def client_of(host: str) -> str:
    """Whose share a connection from this address counts for."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _SITE), strict=False))

"""Which addresses lie inside: this host, its networks, and what only looks like an outer one. Pure.

What a registry redirects to, or names as its token server, is an address of its choice. Unless it
is inside itself, it must not be able to choose one that the mirror reaches and it does not.
"""

import ipaddress
from collections.abc import Callable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
IsInside = Callable[[str], bool]

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052, 2.1
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215
_COMPATIBLE = ipaddress.IPv6Network("::/96")  # RFC 4291, 2.5.5.1


def is_inside(text: str) -> bool:
    """Whether an address is not one of the public internet's; what is no address counts so too."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return True
    return any(not form.is_global or form.is_multicast for form in _forms(address))


def is_literal(host: str) -> bool:
    """Whether a host is an address already, which nobody resolves, or is taken for one by some.

    "127.1" and "0x7f000001" are 127.0.0.1 to many a resolver: no name ends in a number. (WHATWG
    URL, 3.5.) Nor is "localhost" one that anybody looks up (RFC 6761, 6.3).
    """
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        last = host.lower().rstrip(".").rpartition(".")[2]
        return last == "localhost" or last.isdecimal() or last.startswith("0x")
    return True


def _forms(address: Address) -> list[Address]:
    """The address, or where it really leads: what IPv6 carries of IPv4."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    last = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _NAT64:
        return [last]
    if address in _COMPATIBLE or address in _NAT64_LOCAL:
        return [address, ipaddress.IPv4Address("127.0.0.1")]  # nobody has a public one of these
    if address.sixtofour is not None:
        return [address, address.sixtofour]
    return [address, *(address.teredo or ())]

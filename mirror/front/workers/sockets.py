"""The sockets on which clients connect: our own, or those that a service manager holds for us.

What a service manager holds (systemd's socket activation, sd_listen_fds(3)) is open before we
start, while we drain, and after we were killed: who connects meanwhile waits, and is not refused.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from mirror.config.units import format_listen

_BACKLOG = 1024  # connections that wait to be accepted, when a cluster starts all at once

Address = tuple[str, int]


@asynccontextmanager
async def listening(
    addresses: Iterable[Address], inherited: Sequence[int] = (), *, setting: str = "listen"
) -> AsyncIterator[list[socket.socket]]:
    """Sockets on which clients may connect, in the order of `addresses`; closed afterwards.

    `setting` is where these are configured. Who connects before anybody accepts, waits.

    Where descriptors are `inherited`, these are the sockets, wherever they are bound to.

    Raises:
        OSError: An address cannot be listened on, or a descriptor is no listening TCP socket.
    """
    with ExitStack() as stack:
        if inherited:
            yield [stack.enter_context(_inherit(descriptor)) for descriptor in inherited]
            return
        found = [one for address in addresses for one in await _resolve(address, setting)]
        yield [stack.enter_context(_listen(setting, *one)) for one in dict.fromkeys(found)]


def _cannot_listen(setting: str, address: Address, error: OSError) -> OSError:
    """What to tell: which setting, and why, in the system's words and not the event loop's."""
    if isinstance(error, socket.gaierror) or error.errno is None:
        why = error.strerror or str(error)
    else:
        why = os.strerror(error.errno)
    return OSError(f"server.{setting}: cannot listen on {format_listen(address)}: {why}")


async def _resolve(address: Address, setting: str) -> list[tuple[int, tuple[Any, ...], Address]]:
    """Each address that a name has, with its family."""
    host, port = address
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise _cannot_listen(setting, address, error) from error
    return [(info[0], info[4], address) for info in found]


def _listen(setting: str, family: int, where: tuple[Any, ...], named: Address) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # IPv4 has a socket of its own, if it is meant at all
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(setting, named, error) from error
    return listener


def _inherit(descriptor: int) -> socket.socket:
    refused = OSError(
        f"descriptor {descriptor} of the service manager is no listening TCP socket:"
        " the socket unit needs ListenStream= with an address and a port"
    )
    try:
        listener = socket.socket(fileno=descriptor)
    except OSError:
        raise refused from None
    is_tcp = listener.family in {socket.AF_INET, socket.AF_INET6}
    if not is_tcp or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.close()
        raise refused
    listener.set_inheritable(False)  # no worker's business
    listener.setblocking(False)
    return listener

"""Who may pull from this mirror at all: networks and passwords (client certificates are TLS's)."""

import ipaddress
from pathlib import Path

from aiohttp import web

from mirror.front.api.passwords import Passwords, read_htpasswd
from mirror.front.settings import Settings


class Access:
    """The rules of `[server]`: `allowed_networks` and `htpasswd_file`."""

    def __init__(self, settings: Settings) -> None:
        self.renew(settings)

    def renew(self, settings: Settings) -> None:
        """Go by these from now on: who was let in before is asked anew. Raises UnusableFile."""
        file = settings.files.htpasswd_file
        passwords = None if file is None else Passwords(read_htpasswd(Path(file)))
        self._networks = tuple(map(ipaddress.ip_network, settings.allowed_networks))
        self._passwords = passwords

    @property
    def is_open(self) -> bool:
        """Whether everyone who can reach the mirror may pull."""
        return not self._networks and self._passwords is None

    def admits_address(self, request: web.BaseRequest) -> bool:
        """Whether the client's network may pull."""
        if not self._networks:
            return True
        try:
            address = ipaddress.ip_address((request.remote or "").partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)

    async def admits_password(self, request: web.BaseRequest) -> bool:
        """Whether the client has shown a name and password of `htpasswd_file`, if there is one.

        Raises:
            Unavailable: Too many from there have been wrong for the same name.
        """
        if self._passwords is None:
            return True
        header = request.headers.get("Authorization", "")
        return await self._passwords.admits(request.remote or "", header)

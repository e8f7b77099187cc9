"""Who may pull from this mirror at all: networks and passwords (client certificates are TLS's)."""

import asyncio
import base64
import hashlib
import ipaddress
import re
from pathlib import Path

import bcrypt
from aiohttp import web
from cachetools import TTLCache

from mirror.config import ConfigError, Server

_BCRYPT = re.compile(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
_CHECKS = 1  # at once, in each worker: guessing passwords takes no more of the machine
_REMEMBERED = 4096
_REMEMBERED_FOR = 300.0  # seconds; a bcrypt check costs tens of milliseconds, by design


class Access:
    """The rules of `[server]`: `allowed_networks` and `htpasswd_file`."""

    def __init__(self, server: Server) -> None:
        self._networks = server.allowed_networks
        self._hashes = _read_htpasswd(server.htpasswd_file) if server.htpasswd_file else None
        self._known: TTLCache[bytes, bool] = TTLCache(_REMEMBERED, ttl=_REMEMBERED_FOR)
        self._checks = asyncio.Semaphore(_CHECKS)

    @property
    def is_open(self) -> bool:
        """Whether everyone who can reach the mirror may pull."""
        return not self._networks and self._hashes is None

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
        """Whether the client has shown a name and password of `htpasswd_file`, if there is one."""
        if self._hashes is None:
            return True
        header = request.headers.get("Authorization", "")
        key = hashlib.sha256(header.encode(errors="surrogateescape")).digest()
        if key in self._known:
            return True
        name, password = _parse_basic(header)
        known = self._hashes.get(name)
        if known is None:
            return False
        async with self._checks:
            if not await asyncio.to_thread(bcrypt.checkpw, password, known):
                return False
        self._known[key] = True
        return True


def _parse_basic(header: str) -> tuple[str, bytes]:
    """Name and password (RFC 7617); empty where there are none."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return "", b""
    try:
        name, _, password = base64.b64decode(encoded, validate=True).partition(b":")
        return name.decode(), password[:72]  # as much as bcrypt looks at
    except ValueError:  # not base64, or not UTF-8
        return "", b""


def _read_htpasswd(path: Path) -> dict[str, bytes]:
    """Apache's format, as `htpasswd -B` writes it.

    Raises:
        ConfigError: A line is not a name and a bcrypt hash.
    """
    hashes = {}
    problems = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        name, _, secret = line.strip().partition(":")
        if _BCRYPT.fullmatch(secret):
            hashes[name] = secret.encode()
        elif line.strip() and not line.startswith("#"):
            problems.append(f"line {number}: not name:bcrypt-hash; write it with `htpasswd -B`")
    if problems:
        raise ConfigError(str(path), problems)
    return hashes

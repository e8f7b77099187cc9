"""Who may use the operators' port, and from where.

Three kinds of strangers could: who can reach it over the network (`admin.token_file` and
`admin.htpasswd_file` keep them out; one of them is needed wherever it listens beyond loopback; what
is wrong is counted by address); a web
page that an operator's browser shows, by a name that it has point here (DNS rebinding: only known
names are answered); and the same page by the right name (it may look at nothing, and what it sends
is not done).

Where there is neither, every user of this host is an operator. Content is another matter: who has
it told, or says what an image is, has to show what only those can read who may read the store.
Commands show that, too, where there are only passwords.
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import math
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

from aiohttp import web
from cachetools import TTLCache

from mirror.aio.addresses import client_of
from mirror.aio.guessing import Guesses
from mirror.control.problems import Refusal
from mirror.oci.errors import Unavailable

KEY_FILE = "operator-key"
KEY_FIELD = "Mirror-Key"

Admits = Callable[[str, str], Awaitable[bool]]
"""Whether what comes from an address as `Authorization` is an operator's name and password.

Raises Unavailable: too many from there were wrong.
"""

_SAFE = frozenset({"GET", "HEAD"})
_OWN = frozenset({"same-origin", "none"})  # Sec-Fetch-Site of what a person or our page asks for

_REMEMBERED = 4096  # tokens that were shown
_REMEMBERED_FOR = 300.0  # seconds


class Guard:
    """Judges requests. `names` are those by which operators ask, beside addresses."""

    def __init__(
        self,
        *,
        names: Collection[str],
        token_file: Path | None,
        admits: Admits | None = None,
        is_reachable: bool,
        key: str,
        has_private: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names = names
        self._token_file = token_file
        self._admits = admits
        self._is_reachable = is_reachable  # from beyond this host
        self._guesses = Guesses(clock)
        self._seen: TTLCache[bytes, None] = TTLCache(_REMEMBERED, _REMEMBERED_FOR, timer=clock)
        self._key = key
        self._has_private = has_private

    def require_known_host(self, request: web.Request) -> None:
        """Raise Refusal where a request names somebody else."""
        if not is_known(request.headers.get("Host", ""), self._names):
            raise Refusal(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this is told only under a known name: add this Host to server.admin_hosts,"
                " or ask by address",
            )

    async def require_operator(self, request: web.Request) -> None:
        """Raise Refusal where a request is none of an operator's."""
        self.require_known_host(request)
        if not self._wants_proof:
            if self._is_reachable:
                raise Refusal(
                    HTTPStatus.FORBIDDEN,
                    "server.admin_listen can be reached from other hosts: set admin.token_file or"
                    " admin.htpasswd_file, or have it listen on 127.0.0.1",
                )
        elif not (self._shows_key(request) or await self._has_shown_it(request)):
            raise Refusal(
                HTTPStatus.UNAUTHORIZED,
                "send the token of admin.token_file: Authorization: Bearer <token>; a browser,"
                " as the password of any name; or a name and password of admin.htpasswd_file",
                {"WWW-Authenticate": 'Basic realm="mirror", charset="UTF-8"'},
            )
        if not (_is_looked_at(request) if request.method in _SAFE else _is_own(request)):
            raise Refusal(HTTPStatus.FORBIDDEN, "this was sent by a page of another site")

    def require_keeper(self, request: web.Request) -> None:
        """Raise Refusal where an operator, by the above, may not have what is in the store."""
        if not self._wants_proof and not self._shows_key(request):
            raise Refusal(
                HTTPStatus.FORBIDDEN,
                "not every user of this host may have what is in the store: send what is in"
                f" {KEY_FILE} of store.root, as {KEY_FIELD}; or set admin.token_file or"
                " admin.htpasswd_file",
            )

    def require_reader(self, request: web.Request) -> None:
        """Raise Refusal where an operator may not be told what is in the cache.

        Content that is not everybody's (`access = "client"`) is not every user's of this host, and
        shares digests, and names of what has them, with the rest.
        """
        if self._has_private():
            self.require_keeper(request)

    def may_read(self, request: web.Request) -> bool:
        """Whether an operator may be told what is private, too."""
        try:
            self.require_reader(request)
        except Refusal:
            return False
        return True

    @property
    def _wants_proof(self) -> bool:
        """Whether an operator has to show anything."""
        return self._token_file is not None or self._admits is not None

    def _shows_key(self, request: web.Request) -> bool:
        shown = request.headers.get(KEY_FIELD, "").encode(errors="replace")
        return bool(self._key) and hmac.compare_digest(shown, self._key.encode())

    async def _has_shown_it(self, request: web.Request) -> bool:
        """Whether a request shows the token, or a password.

        What came from there before is no further guess.

        Raises:
            Refusal: Too many that were none have come from there; then the right one waits, too.
        """
        header = request.headers.get("Authorization", "")
        shown = _shown(header)
        if not shown:
            return False
        who = client_of(request.remote or "")
        key = hashlib.sha256(f"{who} {header}".encode(errors="replace")).digest()
        is_new = key not in self._seen
        try:
            if is_new:
                self._guesses.begin(who)
            is_it = await self._is_right(request.remote or "", header, shown)
        except Unavailable as error:
            raise Refusal(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many wrong tokens or passwords have come from your address",
                {"Retry-After": str(math.ceil(error.retry_after or 0))},
            ) from error
        self._seen[key] = None
        if is_new and is_it:
            self._guesses.take_back(who)
        return is_it

    async def _is_right(self, address: str, header: str, shown: bytes) -> bool:
        file = self._token_file
        if file is not None and await asyncio.to_thread(_is_token, shown, file):
            return True
        return self._admits is not None and await self._admits(address, header)


def make_key(root: Path) -> str:
    """A new key, in a file of the store that nobody but its owner can read. Raises OSError."""
    key, file, new = secrets.token_urlsafe(), root / KEY_FILE, root / f"{KEY_FILE}.new"
    new.unlink(missing_ok=True)
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as writing:
        writing.write(key)
    new.replace(file)
    return key


def _is_token(shown: bytes, token_file: Path) -> bool:
    try:
        token = token_file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return False
    return bool(token) and hmac.compare_digest(shown, token.encode())


def _shown(header: str) -> bytes:
    """A bearer's token; or the password of RFC 7617, which is all that a browser can ask for."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode(errors="replace")
    if scheme.lower() == "basic":
        with suppress(ValueError):
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
    return b""


def _is_looked_at(request: web.Request) -> bool:
    """Whether no page of another site loads it into itself, or a frame; a link may lead here."""
    site = request.headers.get("Sec-Fetch-Site", "none")
    is_navigated_to = request.headers.get("Sec-Fetch-Mode") == "navigate"
    is_whole = request.headers.get("Sec-Fetch-Dest", "document") == "document"
    return site in _OWN or (is_navigated_to and is_whole)


def _is_own(request: web.Request) -> bool:
    """Whether no page of another site has sent it (Fetch Metadata; else `Origin`)."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in _OWN
    origin = request.headers.get("Origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("Host")


def is_known(host: str, names: Collection[str]) -> bool:
    """Whether a `Host` field names this mirror as an operator would.

    A web page can have a browser ask by any public name that it has point here (DNS rebinding),
    but not by an address, and not by a name without a dot, which only a network's own resolver
    knows.
    """
    name = host.lower()
    if name.rpartition(":")[2].isdecimal():
        name = name.rpartition(":")[0]
    name = name.rstrip(".")
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return "." not in name or name in names or name == socket.gethostname().lower()
    return True


def is_loopback(address: str) -> bool:
    """Whether nobody but this host can reach a listener there."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"

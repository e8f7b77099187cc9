"""Where the database is, and as whom: what `database_file` holds. Pure, but for TLS's files.

    postgresql://user:password@host:5432/name?sslrootcert=/etc/mirror/database-ca.crt

TLS is spoken, and verified, wherever `sslmode` does not say otherwise; over a Unix socket and on
loopback there is none. Several hosts (`a:5432,b:5432`) are tried in order, for the one that may be
written to. Secrets are in no `repr` and no message.
"""

import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from mirror.aio.trust import trust

_PORT = 5432
_LAST_PORT = 65535
_MODES = ("verify-full", "verify-ca", "disable")
_PARAMETERS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "host")

Mode = Literal["verify-full", "verify-ca", "disable"]


@dataclass(frozen=True, slots=True)
class Address:
    """A database, and who asks for it."""

    hosts: tuple[tuple[str, int], ...]
    name: str
    user: str
    password: str | None = field(repr=False)
    mode: Mode
    root_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    def __str__(self) -> str:
        """Without secrets, for people."""
        where = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                         for host, port in self.hosts)  # fmt: skip
        return f"{where}/{self.name}"

    @property
    def is_in_clear(self) -> bool:
        """Whether passwords and records cross a network without TLS."""
        return self.mode == "disable" and any(not _is_here(host) for host, _ in self.hosts)

    def make_context(self) -> ssl.SSLContext | Literal[False]:
        """What TLS is verified with; False: there is none. Reads files: not for the event loop.

        Raises:
            ValueError: A file cannot be used.
        """
        if self.mode == "disable":
            return False
        try:
            context = trust(self.root_file)
            context.check_hostname = self.mode == "verify-full"
            if self.certificate_file is not None:
                context.load_cert_chain(self.certificate_file, self.key_file, _no_passphrase)
        except OSError as error:  # ssl.SSLError is one
            why = error.strerror or type(error).__name__
            raise ValueError(f"sslrootcert, sslcert or sslkey cannot be used: {why}") from None
        return context


def read_address(file: Path) -> Address:
    """What the file holds, now. Raises ValueError, in words for an operator."""
    try:
        text = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read: {getattr(error, 'strerror', 'no text')}") from None
    return parse_address(text)


def parse_address(text: str) -> Address:
    """Read a URL. Raises ValueError; nothing of the text is quoted, for it holds a password."""
    not_one = ValueError(
        "holds no database's URL; write it like postgresql://user:password@host:5432/name"
        " (what is special in a password as %XX)"
    )
    try:
        parts = urlsplit(text)
        query = dict(
            parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        )
    except ValueError:
        raise not_one from None
    if parts.scheme not in {"postgresql", "postgres"} or len(text.split()) != 1 or parts.fragment:
        raise not_one
    unknown = query.keys() - set(_PARAMETERS)
    if unknown:
        raise ValueError(f"its URL has parameters beside {', '.join(_PARAMETERS)}")
    login, _, where = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    name = unquote(parts.path.removeprefix("/"))
    if not user or not name or "/" in name:
        raise not_one
    hosts = _parse_hosts(query.get("host") or where, not_one)
    root, certificate, key = (
        Path(query[it]) if query.get(it) else None for it in ("sslrootcert", "sslcert", "sslkey")
    )
    return Address(
        hosts, name, unquote(user), unquote(password) or None, _parse_mode(query, hosts), root,
        certificate, key,
    )  # fmt: skip


def _parse_hosts(text: str, not_one: ValueError) -> tuple[tuple[str, int], ...]:
    hosts: list[tuple[str, int]] = []
    for part in text.split(","):
        try:
            one = urlsplit(f"//{part}") if not part.startswith("/") else None
            host = part if one is None else unquote(one.hostname or "")
            port = _PORT if one is None or one.port is None else one.port
        except ValueError:
            raise not_one from None
        if not host or not 0 < port <= _LAST_PORT:
            raise not_one
        hosts.append((host, port))
    return tuple(hosts)


def _parse_mode(query: dict[str, str], hosts: tuple[tuple[str, int], ...]) -> Mode:
    told = query.get("sslmode")
    if told is None:
        is_here = all(_is_here(host) for host, _ in hosts) and "sslrootcert" not in query
        return "disable" if is_here else "verify-full"
    for mode in ("verify-full", "verify-ca", "disable"):
        if told == mode:
            return mode
    raise ValueError(
        f"sslmode is one of {', '.join(_MODES)}: others would have the password sent to whoever"
        " answers"
    )


def _is_here(host: str) -> bool:
    """Whether nobody is on the way there."""
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _no_passphrase() -> str:
    raise ValueError("sslkey is encrypted, and nobody is there to be asked")

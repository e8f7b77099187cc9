"""Which upstream a request means. Lookup only: nothing that a client writes is ever dialled.

`?ns=` first (spec, "Registry Proxying"), else a first path component that is a configured
namespace, else the `Host` header, else the default. A first component that `ns` names too is taken
off: clients whose configuration has a path prefix send both (containerd's `override_path`).

What looks like a registry (as in image names: a dot, a colon, or "localhost") and is not configured
is never looked for under the default: a private name would be shown to a stranger.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from msgspec import Struct

from mirror.oci.errors import ErrorCode, RegistryError
from mirror.oci.image import DOCKER_HUB
from mirror.oci.reference import Repository, parse_repository
from mirror.oci.repositories import Selection

_REMEMBERED = 4096  # routes
_LONGEST_HOST = 255 + len(":65535")


class Named(Struct, frozen=True):
    """How an upstream is meant, and which of its repositories are served: as configured."""

    aliases: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    is_default: bool = False
    access: str = "mirror"
    push: str = "off"
    relay: str | None = None  # by which scheme its token server is asked by way of us, if it is
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    is_sealed: bool = False  # for what this means to what a worker has cached: with it, it all goes


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request leads: a repository of a configured upstream."""

    repository: Repository
    access: str  # "mirror" or "client", as configured
    push: str = "off"  # as configured: "client", "mirror"
    relay: str | None = None  # by which scheme its token server is asked by way of us, if it is

    @property
    def is_personal(self) -> bool:
        """Whether each client's own authorization decides."""
        return self.access == "client"

    @property
    def upstream(self) -> str:
        """The upstream's configured name: its namespace."""
        return self.repository.namespace


class Router:
    """The configured names of upstreams, looked up."""

    def __init__(self, upstreams: Mapping[str, Named]) -> None:
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._route)
        self._names: dict[str, str] = {}
        self._hosts: dict[str, str] = {}
        self._access: dict[str, str] = {}
        self._push: dict[str, str] = {}
        self._logins: set[str] = set()
        self._relay: dict[str, str | None] = {}
        self._served: dict[str, Selection] = {}
        self._default: str | None = None
        for name, upstream in upstreams.items():
            self._access[name] = upstream.access
            self._push[name] = upstream.push
            if "client" in {upstream.access, upstream.push}:
                self._logins.add(name)
            self._relay[name] = upstream.relay
            self._served[name] = Selection(upstream.allow, upstream.deny)
            self._names.update(dict.fromkeys((name, *upstream.aliases), name))
            self._hosts.update(dict.fromkeys(upstream.hosts, name))
            if upstream.is_default:
                self._default = name

    def route(self, name: str, *, ns: str | None, host: str) -> Route:
        """Where `name` leads, as it stands in the path, given `ns` and the `Host` header.

        Raises:
            RegistryError: `NAME_UNKNOWN`: it names no configured registry. `NAME_INVALID`: no
                repository there can have this name.
            Denied: Nobody is served this repository (`allow`, `deny`).
        """
        # Clients ask for the same things again and again. A longer host is none: RFC 1123, 2.1.
        return self._remembered(name, ns, host if len(host) <= _LONGEST_HOST else "")

    def find_personal(self, *, ns: str | None, host: str) -> str | None:
        """The upstream that `ns`, or else the `Host` header, means, if clients log in there.

        The name of none is in the path of `/v2/`, and what is there for all wants no login.
        """
        named = self._find_host(host) if ns is None else self._names.get(ns)
        return named if named in self._logins else None

    @property
    def takes_pushes(self) -> bool:
        """Whether anything may be pushed at all."""
        return any(push != "off" for push in self._push.values())

    def relay_scheme(self, upstream: str) -> str | None:
        """By which scheme its token server is asked by way of us; None where it is not."""
        return self._relay.get(upstream)

    def _route(self, name: str, ns: str | None, host: str) -> Route:
        namespace, name = self._find(name, ns, host)
        if namespace is None or ":" in name:  # a registry's port; no repository has one
            raise RegistryError(
                ErrorCode.NAME_UNKNOWN, "this mirror is not configured for that registry"
            )
        if namespace == DOCKER_HUB and "/" not in name:
            name = parse_repository(f"library/{name}")  # it may have become too long
        self._served[namespace].require(name)
        return Route(
            Repository(namespace, name), self._access[namespace], self._push[namespace],
            self._relay[namespace],
        )  # fmt: skip

    def _find(self, name: str, ns: str | None, host: str) -> tuple[str | None, str]:
        first, _, rest = name.partition("/")
        named = self._names.get(first) if rest else None
        if ns is not None:
            meant = self._names.get(ns)
            return (meant, rest) if named is not None and named == meant else (meant, name)
        if named is not None:
            return named, rest
        meant = self._find_host(host)
        if meant is None and not (rest and _is_registry(first)):
            meant = self._default
        return meant, name

    def _find_host(self, host: str) -> str | None:
        host = host.lower()
        bare = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        return self._hosts.get(host) or self._hosts.get(bare)


def _is_registry(component: str) -> bool:
    """Whether the first component of an image's name is a registry (distribution's reference)."""
    return "." in component or ":" in component or component == "localhost"

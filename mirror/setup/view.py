"""A mirror as its clients have to know it: addresses, TLS, passwords, registries. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from mirror.config import DOCKER_HUB, Config, Upstream
from mirror.setup.address import Address, guess_address, is_loopback, parse_address

_HUBS_OWN = {"index.docker.io", "registry-1.docker.io"}  # clients themselves call them docker.io


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server's certificate.

    `authority` is what clients have to trust, in PEM form; None: not to be had here.
    """

    names: tuple[str, ...]
    issuer: str
    authority: str | None

    def is_for(self, host: str) -> bool:
        """Whether clients take it for this host's (RFC 9525, 6.3)."""
        _, _, domain = host.partition(".")
        return host in self.names or (bool(domain) and f"*.{domain}" in self.names)


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry that is mirrored.

    `names`: of it in image names, its own first. `is_plain`: it speaks no TLS. `is_default`: a
    request that names no registry means it. `is_personal`: each client's own credentials decide.
    `own` is an address of the mirror's that means this registry alone. `push`: with whose
    credentials what is pushed goes there by way of the mirror ("off": it does not).
    """

    names: tuple[str, ...]
    is_plain: bool
    is_default: bool
    is_personal: bool
    own: Address | None
    push: str = "off"

    @property
    def name(self) -> str:
        """In image names."""
        return self.names[0]

    def origin_of(self, name: str) -> str:
        """The URL that a client turns to without the mirror, for an image of that name."""
        if name == DOCKER_HUB:
            return "https://registry-1.docker.io"
        return f"{'http' if self.is_plain else 'https'}://{name}"

    @property
    def has_port(self) -> bool:
        """Whether its name cannot be a part of another image's name."""
        return ":" in self.name


@dataclass(frozen=True, slots=True)
class View:
    """What there is to know.

    `authority`: what hosts have to trust, in PEM form; None: nothing, or what they trust already.
    `wants_certificate`, `wants_password`: of every client. `remarks` are about all of it.
    """

    address: Address
    registries: tuple[Registry, ...]
    authority: str | None = None
    wants_certificate: bool = False
    wants_password: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether there is no TLS."""
        return self.address.scheme == "http"

    def find(self, name: str) -> Registry | None:
        """The registry of this name."""
        return next((it for it in self.registries if it.name == name), None)

    @property
    def logins(self) -> tuple[str, ...]:
        """Addresses of the mirror's at which users log in."""
        if self.wants_password:
            return (self.address.authority,)
        owned = [
            it.own for it in self.registries
            if (it.is_personal or it.push == "client") and it.own is not None
        ]  # fmt: skip
        return tuple(it.authority for it in owned)

    def pushed_at(self, registry: Registry) -> str | None:
        """What names of images begin with that are pushed there; None: that cannot be.

        Clients that push with credentials of their own log in where `/v2/` asks them to.
        """
        if registry.push == "client":
            return None if registry.own is None else registry.own.authority
        return self.place_of(registry) if registry.push == "mirror" else None

    def list_pushes(self, program: str) -> Iterator[str]:
        """How to push with that program, in a sentence for each registry that takes it."""
        for registry in self.registries:
            if registry.push == "off":
                continue
            place = self.pushed_at(registry)
            if place is None:
                yield (
                    f"Nothing is pushed to {registry.name}: it has no address at which to log in."
                    f' Give it a name of the mirror\'s own (hosts in [upstream."{registry.name}"]).'
                )
            else:
                image = f"{place}/ORG/APP:TAG"
                yield (
                    f"Pushes to {registry.name} go by way of the mirror:"
                    f" {program} tag IMAGE {image} && {program} push {image}"
                )

    def place_of(self, registry: Registry) -> str | None:
        """Where a client finds it that says by address and path alone what it means.

        None: nowhere; `why_nowhere` says why.
        """
        if registry.own is not None and (registry.is_personal or registry.has_port):
            return registry.own.authority
        if registry.is_personal:
            return None
        if registry.has_port:
            return self.address.authority if registry.is_default else None
        return f"{self.address.authority}/{registry.name}"


def why_nowhere(registry: Registry) -> str:
    """Why `View.place_of` is None, and what to do."""
    because = (
        'has access = "client", and no address at which to log in'
        if registry.is_personal
        else "has a port in its name, which cannot stand in the path of another address"
    )
    return (
        f"{registry.name} {because}: left out here. Give it a name of the mirror's own"
        f' (hosts in [upstream."{registry.name}"]).'
    )


def view_of(
    config: Config,
    *,
    address: str | None,
    hostname: str,
    certificate: Certificate | None,
    authority: str | None,
) -> View:
    """What clients have to know of a mirror with this configuration.

    `address` is what somebody has said; else it is guessed. `authority`: the same, of its
    certificate's. Raises ValueError where that is no address.
    """
    server = config.server
    scheme = "http" if server.tls_certificate_file is None else "https"
    hosts = [host for upstream in config.upstream.values() for host in upstream.hosts]
    if address is None:
        names = () if certificate is None else certificate.names
        reached, source = guess_address(server, certified=names, hosts=hosts, hostname=hostname)
        guess = [f"The address {reached.authority} is a guess ({source}): --address says another."]
    else:
        reached = parse_address(address, scheme=scheme, port=server.listen[0][1])
        guess = []
    if authority is None and certificate is not None:
        authority = certificate.authority
    registries = tuple(_registries(config, reached))
    remarks = _remarks(config, reached, registries, certificate)
    if reached.scheme == "https" and authority is None:
        remarks = [*remarks, _trusted(certificate)]
    return View(
        address=reached,
        registries=registries,
        authority=authority if reached.scheme == "https" else None,
        wants_certificate=server.client_ca_file is not None,
        wants_password=server.htpasswd_file is not None,
        remarks=(*guess, *remarks),
    )


def _registries(config: Config, address: Address) -> Iterator[Registry]:
    for name, upstream in config.upstream.items():
        aliases = [it for it in upstream.aliases if it not in _HUBS_OWN]
        yield Registry(
            names=(name, *aliases),
            is_plain=_is_plain(name, upstream),
            is_default=upstream.default,
            is_personal=upstream.access == "client",
            own=address.at(upstream.hosts[0]) if upstream.hosts else None,
            push=upstream.push,
        )


def _is_plain(name: str, upstream: Upstream) -> bool:
    return {urlsplit(it.url).scheme for it in upstream.endpoints if it.host == name} == {"http"}


def _remarks(
    config: Config,
    address: Address,
    registries: tuple[Registry, ...],
    certificate: Certificate | None,
) -> list[str]:
    server = config.server
    found = []
    if all(is_loopback(host) for host, _ in server.listen) and not address.is_loopback:
        found.append("server.listen is loopback: only the mirror's own machine reaches it.")
    if server.allowed_networks:
        networks = ", ".join(map(str, server.allowed_networks))
        found.append(f"Only hosts in {networks} may pull (server.allowed_networks).")
    if server.htpasswd_file is not None and address.scheme == "http":
        found.append("Without TLS, passwords cross the network in the clear.")
    used = {address.host, *(it.own.host for it in registries if it.own is not None)}
    unknown = [] if certificate is None else [it for it in used if not certificate.is_for(it)]
    if unknown:
        hosts = ", ".join(sorted(unknown))
        found.append(f"Clients will refuse the mirror: its certificate is not for {hosts}.")
    return found


def _trusted(certificate: Certificate | None) -> str:
    by = "" if certificate is None else f" (it is issued by {certificate.issuer})"
    return (
        f"This takes it that hosts trust the certificate there already{by}; else name the"
        " authority's: --ca FILE."
    )

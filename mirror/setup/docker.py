"""The Docker Engine, with its graph drivers and with containerd's image store. Pure.

`registry-mirrors` are asked for Docker Hub's images alone, without a registry's name, and are shown
no password but Docker Hub's (moby: daemon/internal/distribution). containerd's image store, the
default of new installations since 29, reads `certs.d/<registry>/hosts.toml` as well, and a mirror's
certificates from `certs.d/docker.io/` (daemon/hosts.go).
"""

import json
from collections.abc import Iterator, Sequence

from mirror.config import DOCKER_HUB
from mirror.setup.address import Address
from mirror.setup.guide import File, Guide, asks, client_certificate, example
from mirror.setup.hosts_toml import IN_BASE64, hosts_toml
from mirror.setup.view import Registry, View, why_nowhere

_CERTIFICATES = "/etc/docker/certs.d"
_STORE = "containerd's image store (new installations since Docker 29; `docker info`)"


def docker(view: View) -> Guide:
    """`daemon.json`; and for containerd's image store, a `hosts.toml` for each other registry."""
    hub = view.find(DOCKER_HUB)
    mirror = None if hub is None else _mirror_of(view, hub)
    others = [it for it in view.registries if it is not hub or mirror is None]
    places = [place for it in others if (place := view.place_of(it)) is not None]
    by_hosts = others if view.wants_password else [it for it in others if it is not hub]
    directories = _directories(view, mirror, places, has_hosts=bool(by_hosts))
    return Guide(
        client="docker",
        title="Docker Engine",
        address=(mirror or view.address).url,
        notes=tuple(_notes(view, hub, mirror, others)),
        files=(
            *_daemon_json(view, mirror, places),
            *_hosts_files(view, by_hosts),
            *_authority_files(view, directories),
        ),
        provide=tuple(
            pair
            for directory in (directories if view.wants_certificate else ())
            for pair in client_certificate(f"{_CERTIFICATES}/{directory}")
        ),
        then=tuple(_then(view)),
        check=tuple(_check(view, mirror, places)),
    )


def _mirror_of(view: View, hub: Registry) -> Address | None:
    """The address that means Docker Hub although nobody says so."""
    if view.wants_password:
        return None
    if hub.is_default and not hub.is_personal:
        return view.address
    return hub.own


def _notes(
    view: View, hub: Registry | None, mirror: Address | None, others: Sequence[Registry]
) -> Iterator[str]:
    yield from view.remarks
    if mirror is None:
        yield _why_no_mirror(view, hub)
    else:
        yield "registry-mirrors are asked for Docker Hub's images, and those of no other registry."
    places = {it.name: view.place_of(it) for it in others}
    yield from (why_nowhere(it) for it in others if places[it.name] is None)
    known = [place for place in places.values() if place is not None]
    if view.wants_certificate and view.address.is_loopback:
        yield "The Engine shows no certificate to a mirror on its own machine (127.0.0.0/8)."
    yield from view.list_pushes("docker")
    if known:
        yield f"Other images are pulled by the mirror's name: docker pull {known[0]}/..."


def _why_no_mirror(view: View, hub: Registry | None) -> str:
    if hub is None:
        return "No registry-mirrors: they are for Docker Hub, which this mirror does not have."
    if view.wants_password:
        return (
            "No registry-mirrors: they are shown no password but Docker Hub's, and this mirror"
            " wants one of its own (server.htpasswd_file). For graph drivers, use client"
            " certificates or server.allowed_networks instead."
        )
    because = (
        'docker.io has access = "client", and no address at which to log in'
        if hub.is_personal
        else "docker.io is not the default, so what names no registry means another one"
    )
    return (
        f"No registry-mirrors: {because}. Give it a name of the mirror's own"
        ' (hosts in [upstream."docker.io"]).'
    )


def _daemon_json(view: View, mirror: Address | None, places: Sequence[str]) -> Iterator[File]:
    settings: dict[str, list[str]] = {}
    if mirror is not None:
        settings["registry-mirrors"] = [mirror.url]
    plain = {_address(place) for place in places} if view.is_plain else set()
    if plain and not view.address.is_loopback:  # the Engine takes 127.0.0.0/8 so by itself
        settings["insecure-registries"] = sorted(plain)
    if settings:
        content = json.dumps(settings, indent=2) + "\n"
        yield File("/etc/docker/daemon.json", content, "Merge it with what is there.")


def _hosts_files(view: View, registries: Sequence[Registry]) -> Iterator[File]:
    certificates = f"{_CERTIFICATES}/{view.address.authority}"
    for registry in registries:
        for name in registry.names:
            yield File(
                f"{_CERTIFICATES}/{name}/hosts.toml",
                hosts_toml(view, registry, name, certificates),
                f"For {_STORE}; images of {name} keep their names.",
            )


def _authority_files(view: View, directories: Sequence[str]) -> Iterator[File]:
    if view.authority is not None:
        for directory in directories:
            about = f"The same again, for {_STORE}." if directory == DOCKER_HUB else ""
            yield File(f"{_CERTIFICATES}/{directory}/ca.crt", view.authority, about)


def _directories(
    view: View, mirror: Address | None, places: Sequence[str], *, has_hosts: bool
) -> list[str]:
    """Under which names certificates of the mirror's are looked for."""
    found = [] if mirror is None else [mirror.authority, DOCKER_HUB]
    found += [_address(place) for place in places]
    if has_hosts:
        found.append(view.address.authority)
    return list(dict.fromkeys(found))


def _then(view: View) -> Iterator[str]:
    """A mirror that has Docker Hub's challenge is shown Docker Hub's login: there is no other."""
    if view.wants_password:
        yield IN_BASE64
    yield "systemctl reload docker   # the other files are read at each pull"
    hub = view.find(DOCKER_HUB)
    is_pushed_to = hub is not None and hub.push == "client"
    hubs = None if hub is None or hub.own is None or is_pushed_to else hub.own.authority
    for login in view.logins:
        if view.wants_password or login != hubs:
            yield f"docker login {login}"


def _check(view: View, mirror: Address | None, places: Sequence[str]) -> Iterator[str]:
    yield asks(view, f"{_CERTIFICATES}/{view.address.authority}")
    if mirror is not None:
        yield "docker info --format '{{.RegistryConfig.Mirrors}}'"
        yield "docker pull alpine"
    elif places:
        of_hub = example(view).name == DOCKER_HUB
        yield f"docker pull {places[0]}/{'library/alpine' if of_hub else 'ORG/APP'}"


def _address(place: str) -> str:
    return place.partition("/")[0]

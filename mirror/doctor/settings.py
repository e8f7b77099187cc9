"""Settings that are valid each, and together probably not what was meant."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from mirror.config import Config, Upstream
from mirror.config.units import rounded_size
from mirror.doctor.finding import Finding
from mirror.sqlite import aside

_LEAST_SIZE = 64 * 2**20  # bytes; less is hardly meant


def look_at_settings(config: Config) -> Iterator[Finding]:
    """What will not do what somebody expects of it."""
    if not any(upstream.default for upstream in config.upstream.values()):
        yield Finding(
            "warning",
            "upstream",
            "none is the default: docker's registry-mirrors name no registry, and get nothing;"
            " set default = true for the one that they mean",
        )
    for name, upstream in config.upstream.items():
        yield from _upstream(name, upstream)
        if upstream.access == "client":
            yield from _logins(
                name, upstream, has_tls=config.server.tls_certificate_file is not None
            )
    if config.server.htpasswd_file is not None and config.server.tls_certificate_file is None:
        yield Finding(
            "warning",
            "server.htpasswd_file",
            "without tls_certificate_file, clients' passwords cross the network in the clear",
        )
    yield from _store(config)


def _upstream(name: str, upstream: Upstream) -> Iterator[Finding]:
    if upstream.sealed:
        text = "is never asked: what is here is what there is (mirror import brings more)"
        yield Finding("ok", f'upstream."{name}".sealed', text)
    for number, endpoint in enumerate(upstream.endpoints):
        where = f'upstream."{name}".endpoints[{number}]'
        if endpoint.credential_helper is not None:
            yield from _helper(endpoint.credential_helper, f"{where}.credential_helper")
        has_secrets = endpoint.username is not None or endpoint.credential_helper is not None
        if has_secrets and urlsplit(endpoint.url).scheme == "http":
            yield Finding(
                "warning",
                f"{where}.url",
                "is http: the password crosses the network in the clear; use https",
            )


def _helper(name: str, where: str) -> Iterator[Finding]:
    program = f"docker-credential-{name}"
    if shutil.which(program) is None:
        yield Finding(
            "warning",
            where,
            f"{program} is not in the PATH of whoever asks; where the mirror does not find it"
            " either, it has no credentials there",
        )


def _logins(name: str, upstream: Upstream, *, has_tls: bool) -> Iterator[Finding]:
    if not upstream.hosts:
        yield Finding(
            "warning",
            f'upstream."{name}".hosts',
            'is empty: with access = "client", docker, podman and skopeo log in at a name of the'
            " mirror's own for this registry, and there is none; containerd needs none",
        )
    elif not has_tls and upstream.relay_tokens != "https":
        yield Finding(
            "warning",
            f'upstream."{name}".access',
            'is "client", without server.tls_certificate_file: clients\' passwords and tokens cross'
            " the network in the clear",
        )


def _store(config: Config) -> Iterator[Finding]:
    root, least = config.store.root, config.store.min_free
    place = _existing(root)
    if not place.is_dir():
        text = f"{place} is not a directory; name one, or a place for one"
        yield Finding("error", "store.root", text)
        return
    if not os.access(place, os.W_OK | os.X_OK):
        text = f"whoever asks may not write to {place}; whoever runs the mirror has to"
        yield Finding("warning", "store.root", text)
    disk = shutil.disk_usage(place)
    if least >= disk.total:
        yield Finding(
            "error",
            "store.min_free",
            f"is more than the whole file system has ({rounded_size(disk.total)}): nothing would"
            " ever be kept",
        )
    elif config.store.max_size > disk.total - least:
        yield Finding(
            "warning",
            "store.max_size",
            f"is more than the file system ({rounded_size(disk.total)}) has beside min_free:"
            " that bounds the store before this does",
        )
    if config.store.max_size < _LEAST_SIZE:
        yield Finding(
            "warning",
            "store.max_size",
            f"is less than {rounded_size(_LEAST_SIZE)}: the databases and directories of an empty"
            " store take some 10 MiB of it",
        )
    yield from _set_aside(root)


def _set_aside(root: Path) -> Iterator[Finding]:
    with suppress(OSError):  # whoever asks may not look, or it has gone just now
        found = aside.find(root)
        taken = rounded_size(sum(path.stat().st_size for path in found))
        if found:
            names = ", ".join(path.name for path in found)
            text = (
                f"{names} ({taken}) was set aside, and counts in max_size; it goes"
                f" {aside.KEPT / 86400:.0f} days after: remove it where nobody wants to look at it"
            )
            yield Finding("warning", "store.root", text)


def _existing(path: Path) -> Path:
    """The path, or the nearest of its parents that is there."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path

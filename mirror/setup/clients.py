"""The clients that are known."""

import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from mirror.config import Config
from mirror.setup.address import is_loopback
from mirror.setup.buildkit import buildkit
from mirror.setup.containerd import containerd
from mirror.setup.containers import crio, podman
from mirror.setup.docker import docker
from mirror.setup.guide import Guide
from mirror.setup.k3s import k3s, rke2
from mirror.setup.view import View, view_of

CLIENTS: Mapping[str, tuple[str, Callable[[View], Guide]]] = {
    "docker": ("Docker Engine", docker),
    "containerd": ("containerd: ctr, nerdctl, Kubernetes", containerd),
    "podman": ("Podman, Buildah, Skopeo", podman),
    "buildkit": ("BuildKit, as a builder of its own (docker buildx create)", buildkit),
    "k3s": ("k3s", k3s),
    "rke2": ("RKE2", rke2),
    "cri-o": ("CRI-O", crio),
}

_ALSO = {
    "dockerd": "docker",
    "buildah": "podman",
    "skopeo": "podman",
    "buildx": "buildkit",
    "crio": "cri-o",
}


def make_guide(
    client: str, config: Config, *, address: str | None = None, ca_file: Path | None = None
) -> Guide:
    """How that client is pointed at such a mirror. Raises ValueError, OSError."""
    # `serve` makes guides too, and starts without the library that reads certificates.
    from mirror.setup.certificate import read_authority, read_certificate  # noqa: PLC0415

    name = client.lower()
    known = CLIENTS.get(_ALSO.get(name, name))
    if known is None:
        raise ValueError(f"{client!r} is not known; these are: {', '.join(CLIENTS)}")
    server = config.server
    certificate = None
    if server.tls_certificate_file is not None:
        certificate = read_certificate(server.tls_certificate_file, server.client_ca_file)
    view = view_of(
        config,
        address=address,
        hostname=_hostname(),
        certificate=certificate,
        authority=None if ca_file is None else read_authority(ca_file),
    )
    return known[1](view)


def make_guides(config: Config, address: str | None) -> list[tuple[str, str]]:
    """Titles and texts, for each kind. Raises ValueError, OSError."""
    return [
        (title, str(make_guide(name, config, address=address)))
        for name, (title, _) in CLIENTS.items()
    ]


def _hostname() -> str:
    """This machine's name, with its domain where it knows that."""
    full = socket.getfqdn()
    return socket.gethostname() if is_loopback(full) else full

"""BuildKit as a builder of its own. Pure.

https://github.com/moby/buildkit/blob/master/docs/buildkitd.toml.md
"""

from mirror.setup.guide import File, Guide, asks, client_certificate, quoted
from mirror.setup.view import Registry, View

_CONFIGURATION = "/etc/buildkit/buildkitd.toml"
_CERTIFICATES = "/etc/buildkit/mirror"


def buildkit(view: View) -> Guide:
    """`buildkitd.toml`: a table for each registry, and one for each address of the mirror's."""
    notes = [
        *view.remarks,
        "Without a builder of its own, `docker build` uses the Engine's: `mirror setup docker`.",
    ]
    if view.address.is_loopback:
        notes.append(
            f"In its container, {view.address.host} is the builder itself: add --driver-opt"
            " network=host."
        )
    if view.logins:
        notes.append("Builders show the mirror what `docker login` has remembered for it.")
        if view.is_plain:
            notes.append("Without TLS, `docker login` wants it among the insecure-registries.")
    places = {it.name: _place(view, it) for it in view.registries}
    tables = [
        f"[registry.{quoted(name)}]\nmirrors = [{quoted(places[it.name])}]\n"
        for it in view.registries
        for name in it.names
    ]
    tables += [_table(view, place) for place in dict.fromkeys(places.values())]
    files = [File(_CONFIGURATION, "\n".join(it for it in tables if it))]
    if view.authority is not None:
        files.append(File(f"{_CERTIFICATES}/ca.crt", view.authority))
    return Guide(
        client="buildkit",
        title="BuildKit",
        address=view.address.url,
        notes=tuple(notes),
        files=tuple(files),
        provide=(client_certificate(_CERTIFICATES) if view.wants_certificate else ()),
        then=(
            *(f"docker login {it}" for it in view.logins),
            f"docker buildx create --use --buildkitd-config {_CONFIGURATION}   # older: --config",
        ),
        check=(
            asks(view, _CERTIFICATES),
            "printf 'FROM alpine\\nRUN true\\n' | docker buildx build --no-cache --pull -",
        ),
    )


def _place(view: View, registry: Registry) -> str:
    """One builder shows one login to an address: where each client has its own, by its own name."""
    own = registry.own if registry.is_personal else None
    return (own or view.address).authority


def _table(view: View, place: str) -> str:
    table = f"registry.{quoted(place)}"
    lines = []
    if view.is_plain:
        lines.append("http = true")
    if view.authority is not None:
        lines.append(f"ca = [{quoted(f'{_CERTIFICATES}/ca.crt')}]")
    if view.wants_certificate:
        lines += [
            f"[[{table}.keypair]]",
            f"key = {quoted(f'{_CERTIFICATES}/client.key')}",
            f"cert = {quoted(f'{_CERTIFICATES}/client.cert')}",
        ]
    return "\n".join([f"[{table}]", *lines]) + "\n" if lines else ""

"""Podman, Buildah and Skopeo, and CRI-O: all of them read containers-registries.conf(5). Pure."""

from mirror.setup.guide import File, Guide, asks, client_certificate, example, image_of, quoted
from mirror.setup.view import View, why_nowhere

_CONFIGURATION = "/etc/containers/registries.conf.d/50-mirror.conf"
_CERTIFICATES = "/etc/containers/certs.d"
_AUTH = "/etc/crio/mirror-auth.json"
_SHORT_NAMES = (
    "`podman pull alpine` names no registry: it works where unqualified-search-registries ="
    ' ["docker.io"] is set, or as docker.io/library/alpine.'
)


def podman(view: View) -> Guide:
    """A pair of tables for each registry."""
    notes = [
        *_notes(view),
        *view.list_pushes("podman"),
        _SHORT_NAMES,
        "`skopeo list-tags` asks the registry itself, unless it is given the mirror's name.",
    ]
    return Guide(
        client="podman",
        title="Podman, Buildah, Skopeo",
        address=view.address.url,
        notes=tuple(notes),
        files=_files(view),
        provide=_provide(view),
        then=("# It is read at each pull.", *_logins(view, "")),
        check=(
            asks(view, _certificates(view)),
            f"podman --log-level=debug pull {image_of(example(view))} 2>&1 | grep 'to access'",
        ),
    )


def crio(view: View) -> Guide:
    """The same tables, and the node's own credentials where some are needed."""
    files, then = _files(view), "systemctl reload crio"
    notes = _notes(view)
    if view.logins:
        content = f"[crio.image]\nglobal_auth_file = {quoted(_AUTH)}\n"
        files = (*files, File("/etc/crio/crio.conf.d/50-mirror.conf", content))
        then = "systemctl restart crio"
        notes.append(
            "CRI-O shows a mirror what the node has in global_auth_file, and no pull secret: every"
            " pod of the node pulls with it."
        )
    return Guide(
        client="cri-o",
        title="CRI-O",
        address=view.address.url,
        notes=tuple(notes),
        files=files,
        provide=_provide(view),
        then=(*_logins(view, f"--authfile {_AUTH} "), then),
        check=(asks(view, _certificates(view)), f"crictl pull {image_of(example(view))}:latest"),
    )


def _notes(view: View) -> list[str]:
    left_out = [why_nowhere(it) for it in view.registries if view.place_of(it) is None]
    return [*view.remarks, *left_out]


def _files(view: View) -> tuple[File, ...]:
    tables = [
        _table(name, place, is_plain=view.is_plain)
        for registry in view.registries
        for name in registry.names
        if (place := view.place_of(registry)) is not None
    ]
    files = [File(_CONFIGURATION, "\n".join(tables) or "# None of the mirror's registries.\n")]
    if view.authority is not None:
        files += [File(f"{_CERTIFICATES}/{it}/ca.crt", view.authority) for it in _addresses(view)]
    return tuple(files)


def _table(name: str, place: str, *, is_plain: bool) -> str:
    lines = [
        "[[registry]]",
        f"location = {quoted(name)}",
        "[[registry.mirror]]",
        f"location = {quoted(place)}",
    ]
    if is_plain:
        lines.append("insecure = true")
    return "\n".join(lines) + "\n"


def _provide(view: View) -> tuple[tuple[str, str], ...]:
    return tuple(
        pair
        for address in (_addresses(view) if view.wants_certificate else ())
        for pair in client_certificate(f"{_CERTIFICATES}/{address}")
    )


def _addresses(view: View) -> list[str]:
    """Under which names certificates of the mirror's are looked for."""
    places = [view.place_of(it) for it in view.registries]
    return list(dict.fromkeys(it.partition("/")[0] for it in places if it is not None))


def _logins(view: View, options: str) -> tuple[str, ...]:
    plain = "--tls-verify=false " if view.is_plain else ""
    return tuple(f"podman login {plain}{options}{it}" for it in view.logins)


def _certificates(view: View) -> str:
    return f"{_CERTIFICATES}/{view.address.authority}"

"""containerd: `ctr`, `nerdctl`, and Kubernetes by way of CRI. Pure."""

from mirror.setup.guide import File, Guide, asks, client_certificate, example, image_of
from mirror.setup.hosts_toml import IN_BASE64, hosts_toml
from mirror.setup.view import View

_CONFIGURATION = "/etc/containerd/config.toml"
_DIRECTORY = "/etc/containerd/certs.d"
_CERTIFICATES = "/etc/containerd/mirror"
_PLUGINS = (
    ("containerd 1.x", 2, "io.containerd.grpc.v1.cri"),
    ("containerd 2.x", 3, "io.containerd.cri.v1.images"),
)


def containerd(view: View) -> Guide:
    """One `hosts.toml` for each registry."""
    notes = list(view.remarks)
    if any(it.is_personal for it in view.registries):
        notes.append(
            'Registries with access = "client" need nothing more: containerd shows the mirror what'
            " it would show the registry (imagePullSecrets, `ctr images pull --user`)."
        )
    files = [
        File(
            _CONFIGURATION,
            f'version = {version}\n[plugins."{plugin}".registry]\nconfig_path = "{_DIRECTORY}"\n',
            f"For {which}, where Kubernetes (CRI) pulls; merge it with what is there.",
        )
        for which, version, plugin in _PLUGINS
    ]
    files += [
        File(f"{_DIRECTORY}/{name}/hosts.toml", hosts_toml(view, registry, name, _CERTIFICATES))
        for registry in view.registries
        for name in registry.names
    ]
    provide: tuple[tuple[str, str], ...] = ()
    if view.authority is not None:
        files.append(File(f"{_CERTIFICATES}/ca.crt", view.authority))
    if view.wants_certificate:
        provide = client_certificate(_CERTIFICATES)
    image = f"{image_of(example(view))}:latest"
    return Guide(
        client="containerd",
        title="containerd",
        address=view.address.url,
        notes=tuple(notes),
        files=tuple(files),
        provide=provide,
        then=(
            *((IN_BASE64,) if view.wants_password else ()),
            "systemctl restart containerd   # for config.toml; hosts.toml is read at each pull",
        ),
        check=(
            asks(view, _CERTIFICATES),
            f"crictl pull {image}",
            f"ctr images pull --hosts-dir {_DIRECTORY} {image}   # ctr needs the option",
        ),
    )

"""k3s and RKE2, which write containerd's configuration themselves. Pure.

https://docs.k3s.io/installation/private-registry
"""

from mirror.setup.guide import (
    File,
    Guide,
    asks,
    client_certificate,
    example,
    image_of,
    quoted,
)
from mirror.setup.view import View


def k3s(view: View) -> Guide:
    """`registries.yaml` on every node."""
    return _guide(view, "k3s", "systemctl restart k3s         # k3s-agent on agents", "k3s crictl")


def rke2(view: View) -> Guide:
    """The same file, elsewhere."""
    home = "/var/lib/rancher/rke2"
    crictl = f"CRI_CONFIG_FILE={home}/agent/etc/crictl.yaml {home}/bin/crictl"
    return _guide(view, "rke2", "systemctl restart rke2-server # rke2-agent on agents", crictl)


def _guide(view: View, name: str, restart: str, crictl: str) -> Guide:
    directory = f"/etc/rancher/{name}"
    certificates = f"{directory}/mirror"
    notes = [*view.remarks, "Every node that pulls needs these files."]
    if view.wants_password:
        notes.append("NAME and PASSWORD are those of a user in server.htpasswd_file.")
    files = [File(f"{directory}/registries.yaml", _registries_yaml(view, certificates))]
    provide: tuple[tuple[str, str], ...] = ()
    if view.authority is not None:
        files.append(File(f"{certificates}/ca.crt", view.authority))
    if view.wants_certificate:
        provide = client_certificate(certificates)
    return Guide(
        client=name,
        title=name if name == "k3s" else name.upper(),
        address=view.address.url,
        notes=tuple(notes),
        files=tuple(files),
        provide=provide,
        then=(restart,),
        check=(asks(view, certificates), f"{crictl} pull {image_of(example(view))}:latest"),
    )


def _registries_yaml(view: View, certificates: str) -> str:
    lines = ["mirrors:"]
    for name in (name for registry in view.registries for name in registry.names):
        lines += [f"  {quoted(name)}:", "    endpoint:", f"      - {quoted(view.address.url)}"]
    tls = []
    if view.authority is not None:
        tls.append(("ca_file", f"{certificates}/ca.crt"))
    if view.wants_certificate:
        tls += [
            ("cert_file", f"{certificates}/client.cert"),
            ("key_file", f"{certificates}/client.key"),
        ]
    auth = [("username", "NAME"), ("password", "PASSWORD")] if view.wants_password else []
    if tls or auth:
        lines += ["configs:", f"  {quoted(view.address.authority)}:"]
    for title, pairs in (("tls", tls), ("auth", auth)):
        if pairs:
            lines += [f"    {title}:", *(f"      {key}: {quoted(value)}" for key, value in pairs)]
    return "\n".join(lines) + "\n"

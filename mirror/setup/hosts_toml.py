"""containerd's `hosts.toml`; the Docker Engine with containerd's image store reads it, too. Pure.

https://github.com/containerd/containerd/blob/main/docs/hosts.md
"""

from mirror.setup.guide import quoted
from mirror.setup.view import Registry, View

IN_BASE64 = "printf %s 'NAME:PASSWORD' | base64 --wrap=0   # write that for IN_BASE64"
"""A command of use where the mirror wants a password."""


def hosts_toml(view: View, registry: Registry, name: str, certificates: str) -> str:
    """Ask the mirror for what is in this registry, and the registry itself after it.

    `name` is one of its names. `certificates` is the directory that has `ca.crt`, `client.cert`
    and `client.key`.
    """
    table = f"host.{quoted(view.address.url)}"
    lines = [
        f"server = {quoted(registry.origin_of(name))}",
        "",
        f"[{table}]",
        'capabilities = ["pull", "resolve"]',
    ]
    if view.authority is not None:
        lines.append(f"ca = {quoted(f'{certificates}/ca.crt')}")
    if view.wants_certificate:
        pair = quoted(f"{certificates}/client.cert"), quoted(f"{certificates}/client.key")
        lines.append(f"client = [[{pair[0]}, {pair[1]}]]")
    if view.wants_password:
        lines += ["", f"[{table}.header]", 'Authorization = ["Basic IN_BASE64"]']
    return "\n".join(lines) + "\n"

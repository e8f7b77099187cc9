"""What a browser is shown at the address that clients use: how to pull through this mirror.

It tells what `mirror setup` would, and nothing of what is cached. The address is the one at which
the browser asks: `ADDRESS` stands for it.
"""

from html import escape

from mirror.config import Config
from mirror.setup.clients import CLIENTS
from mirror.setup.view import view_of

ADDRESS = "address-of-the-mirror.invalid:1"
"""Stands for host and port; whoever shows the page puts in what the browser calls us."""

_SHOWN = ("docker", "containerd", "podman", "k3s")

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mirror {address}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ max-width: 60rem; margin: 0 auto; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif }}
pre {{ overflow-x: auto; padding: .8rem; border: 1px solid; border-radius: .4rem }}
summary {{ font-size: 1.1rem; font-weight: 600; cursor: pointer }}
</style>
</head>
<body>
<main>
<h1>A mirror of container registries</h1>
<p>Hosts that are set up as follows pull through <code>{address}</code>. It mirrors {registries};
for everything else, and where it cannot help, they turn to the registry itself.</p>
{guides}
</main>
</body>
</html>
"""

_GUIDE = """\
<details{state}><summary>{title}</summary>
<pre tabindex="0"><code>{text}</code></pre>
</details>
"""


def make_welcome(config: Config) -> str:
    """The page, in HTML."""
    scheme = "http" if config.server.tls_certificate_file is None else "https"
    view = view_of(
        config, address=f"{scheme}://{ADDRESS}", hostname="", certificate=None, authority=None
    )
    guides = (
        _GUIDE.format(
            state=" open" if name == _SHOWN[0] else "",
            title=escape(CLIENTS[name][0]),
            text=escape(str(CLIENTS[name][1](view))),
        )
        for name in _SHOWN
    )
    return _PAGE.format(
        address=ADDRESS, registries=escape(", ".join(config.upstream)), guides="".join(guides)
    )

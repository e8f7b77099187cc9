"""A host of a client's: this machine, with files of the test's own below /etc.

host = Host(tmp_path / "host")
await host.set_up("podman", tmp_path / "mirror/mirror.toml", address="127.0.0.1")
await host.run("podman", "pull", "docker.io/library/alpine")
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.process import CHILD_ENVIRONMENT, run

# In a namespace of its own, whose mounts end with it. What is written below /etc goes nowhere.
_OVER_ETC = """
mount -t tmpfs none "$0/over" && mkdir "$0/over/upper" "$0/over/work" &&
layers="lowerdir=$0/etc:/etc,upperdir=$0/over/upper,workdir=$0/over/work" &&
mount -t overlay none -o "$layers" /etc && exec "$@"
"""
_SECTION = re.compile(r"^# ---- (.+)\n((?:# .*\n)*)", re.MULTILINE)


class Host:
    """`root` has its files; `environment` is what programs there are started with."""

    def __init__(self, root: Path, environment: Mapping[str, str] = CHILD_ENVIRONMENT) -> None:
        self._root = root
        self.environment = dict(environment)
        for name in ("etc", "over"):
            (root / name).mkdir(parents=True)

    def write(self, path: str, content: str) -> None:
        """Write a file below /etc, such as `/etc/hosts`."""
        file = self._root / path.removeprefix("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")

    def command(self, *command: str | Path) -> tuple[str | Path, ...]:
        """What to start for `command` to run there."""
        alone = ("unshare", "--mount", "--propagation", "private")
        return (*alone, "sh", "-c", _OVER_ETC, self._root, *command)

    async def set_up(
        self, client: str, configuration: Path, *options: str, instead: Mapping[str, str] = {}
    ) -> Mapping[str, str]:
        """Do as `mirror setup` prints; gives the files by path.

        `instead`: what its user writes for what it leaves to him.
        """
        command = (sys.executable, "-m", "mirror", "setup", client, "--config", configuration)
        printed = (await run(*command, *options)).stdout
        for mark, value in instead.items():
            printed = printed.replace(mark, value)
        files = parse_guide(printed)
        for path, content in files.items():
            if content:
                self.write(path, content)
        return files


def parse_guide(text: str) -> dict[str, str]:
    """The files in what `mirror setup` prints, by path, as a person would copy them."""
    parts = _SECTION.split(text)[1:]
    sections = zip(parts[::3], parts[2::3], strict=True)
    return {title: content.strip("\n") for title, content in sections if title.startswith("/")}

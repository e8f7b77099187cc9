"""The container image that `deploy/Dockerfile` makes, on a stand-in for its base image.

The stand-in has this machine's Python and a shell. Its `pip` takes what the lock file names from
the environment that the tests run in: in these versions, or it fails.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from tests.support.daemons import Containers
from tests.support.require import require

CHECKOUT = Path(__file__).parents[2]
_BASE = "localhost/python"
_PROGRAMS = ("sh", "id", "install", "touch", "useradd")
_AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"
_NOT_NEEDED = shutil.ignore_patterns(
    "__pycache__",
    "site-packages",
    "dist-packages",
    "test",
    "idlelib",
    "tkinter",
    "config-*",
    "ensurepip",
    "lib2to3",
)

_PIP = r"""
import argparse, pathlib, re, shutil, sys
from importlib.metadata import Distribution

parser = argparse.ArgumentParser()
for flag in ("--no-cache-dir", "--no-compile", "--require-hashes"):
    parser.add_argument(flag, action="store_true", required=flag == "--require-hashes")
for option in ("--only-binary", "--requirement", "--target"):
    parser.add_argument(option, required=True)
parser.add_argument("verb", choices=["install"])
asked = parser.parse_args()
here, target = pathlib.Path("/wheels"), pathlib.Path(asked.target)
known = {}
for info in here.glob("*.dist-info"):
    found = Distribution.at(info)
    known[re.sub("[-_.]+", "-", found.name).lower(), found.version] = found
wanted = re.findall(
    r"^([\w.-]+)==([\w.+-]+)( *;.*?)? \\$", pathlib.Path(asked.requirement).read_text(), re.M
)
assert wanted
for name, version, marker in wanted:
    found = known.get((re.sub("[-_.]+", "-", name).lower(), version))
    if found is None and marker:
        continue  # for other machines
    for file in found.files:
        if (here / file).is_file():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(here / file, target / file)
"""


async def build(tools: Containers, tag: str) -> None:
    """Build it as it is in the checkout."""
    require("buildah", *_PROGRAMS)
    root = tools.directory / "python"
    _lay(root)
    begun = (await tools.buildah("from", "scratch")).stdout.strip()
    await tools.buildah("copy", begun, root, "/")
    await tools.buildah("config", "--env", "PATH=/usr/sbin:/usr/bin:/bin", begun)
    await tools.buildah("commit", "--rm", begun, _BASE)
    shutil.rmtree(root)
    await tools.buildah(
        "bud", "--isolation", "chroot", "--network", "host", "--pull-never", "--layers=false",
        "--format", "docker",  # the other one has no health check
        "--build-arg", f"BASE={_BASE}", "--file", CHECKOUT / "deploy" / "Dockerfile",
        "--tag", tag, CHECKOUT, within=120,
    )  # fmt: skip


def _lay(root: Path) -> None:
    """Make the stand-in's file system."""
    python = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    shutil.copytree(library, _below(root, library), ignore=_NOT_NEEDED, symlinks=True)
    _lay_wheels(root / "wheels")
    pip = _below(root, library) / "pip"
    pip.mkdir()
    (pip / "__main__.py").write_text(_PIP)
    programs = [Path(found) for found in map(shutil.which, _PROGRAMS) if found]
    modules = [*library.rglob("*.so"), *(root / "wheels").rglob("*.so")]
    for file in {python, *programs, *_libraries([python, *programs, *modules])}:
        place = _below(root, file)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    link = root / "usr/bin/python3"
    link.unlink(missing_ok=True)
    link.symlink_to(python)
    for name, content in (("passwd", "root:x:0:0::/:/bin/sh\n"), ("group", "root:x:0:\n")):
        (root / "etc").mkdir(exist_ok=True)
        (root / "etc" / name).write_text(content)
    (root / _AUTHORITIES).parent.mkdir(parents=True)
    shutil.copy(Path("/", _AUTHORITIES), root / _AUTHORITIES)  # obstore goes nowhere without any
    for name in ("tmp", "var/lib", "run"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)


def _lay_wheels(directory: Path) -> None:
    """Have there what the lock file names, so far as it is installed here."""
    lock = (CHECKOUT / "deploy" / "requirements.txt").read_text()
    for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE):
        with suppress(PackageNotFoundError):
            for file in distribution(name).files or ():
                if ".." not in file.parts and file.suffix != ".pyc":
                    (directory / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file.locate(), directory / file)


def _below(root: Path, path: Path) -> Path:
    return root.joinpath(*path.relative_to("/").parts)


def _libraries(files: Iterable[Path]) -> set[Path]:
    """The shared libraries that these need, with the loader."""
    listed = subprocess.run(("ldd", *files), check=False, capture_output=True, text=True).stdout
    words = (word for line in listed.splitlines() for word in line.split() if line[0] == "\t")
    return {Path(word) for word in words if word.startswith("/") and Path(word).is_file()}

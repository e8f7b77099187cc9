"""What tests of operators' acts share: their questions by the API, and by the command line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.client import Client, client
from tests.support.images import Image
from tests.support.mirror import InnerMirror, MirrorProcess
from tests.support.process import run

_JSON = {"Content-Type": "application/json"}


def names_of(*images: Image) -> set[str]:
    """The files of all that images consist of, by which they are on disk."""
    found = set[str]()
    for one in images:
        found |= {it.removeprefix("sha256:") for it in [one.digest, *one.blobs]}
        found |= names_of(*one.members)
    return found


async def pull(mirror: Client, name: str, app: Image, reference: str = "1") -> None:
    """As a client does: the manifest, and each of its blobs."""
    assert (await mirror.manifest(name, reference)).status == 200
    for digest in app.blobs:
        assert (await mirror.blob(name, digest)).digest == digest


async def ask(
    mirror: InnerMirror | MirrorProcess, path: str, sent: Any = None, status: int = 200
) -> Any:
    """What the API answers; with something `sent`, to POST."""
    method = "GET" if sent is None else "POST"
    data = None if sent is None else json.dumps(sent).encode()
    async with client(mirror.admin_url) as admin, admin.open(
        f"/api/v1{path}", method=method, data=data, headers=_JSON
    ) as answer:  # fmt: skip
        content = await answer.text()
        assert answer.status == status, content
        return json.loads(content)


async def command(mirror: MirrorProcess, *arguments: str | Path) -> tuple[int, str, str]:
    """`mirror ...` with this mirror's configuration: status, standard output and error."""
    config = mirror.store_root.parent / "mirror.toml"
    ended: subprocess.CompletedProcess[str] = await run(
        sys.executable, "-m", "mirror", *arguments, "--config", config, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr

"""A token that has ended by the end of a blob: real clients bring it once more, and get it through.

Docker Hub's are good for five minutes, and a slow line takes longer for a large layer.
"""

from functools import partial
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from tests.daemons.test_pushing_clients import as_directory
from tests.support.auth import BearerAuth
from tests.support.daemons import containers, running_containerd
from tests.support.faults import Asked
from tests.support.images import files, image, random_bytes
from tests.support.mirror import running_mirror, upstream_at
from tests.support.uploads import Pushes
from tests.support.upstream import ScriptedRegistry

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(300)]

NAME, PASSWORD, SERVICE = "anna", "secret", "registry.example"


async def test_containerd_brings_a_blob_once_more_and_the_registry_is_sent_it_once(
    tmp_path: Path,
) -> None:
    app = image(files({"data": random_bytes(5 << 20, seed=7)}))
    archive = tmp_path / "app.tar"
    async with ScriptedRegistry() as registry, containers() as tools:
        registry.push = Pushes(style="3")
        realm = f"{registry.url}/token"
        registry.auth = BearerAuth(users={NAME: PASSWORD}, service=SERVICE, realm=realm)
        scope = 'scope="repository:team/app:pull,push",error="invalid_token"'
        challenge = f'Bearer realm="{realm}",service="{SERVICE}",{scope}'
        over = [
            registry.fault(
                kind="upload", method="PUT", status=401, times=1,
                headers={"WWW-Authenticate": challenge}, where=partial(ends_with, digest),
            )
            for digest in app.blobs
        ]  # fmt: skip
        settings = upstream_at(registry.url) | {"push": "client", "access": "client"}
        async with (
            running_mirror(tmp_path, {"docker.io": settings}) as mirror,
            running_containerd() as containerd,
        ):
            name = f"127.0.0.1:{mirror.host.rpartition(':')[2]}/team/app:1"
            source = as_directory(app, tmp_path / "app")
            await tools.skopeo("copy", f"dir:{source}", f"oci-archive:{archive}:{name}")
            await containerd.ctr("images", "import", "--base-name", name, archive)
            await containerd.ctr(
                "images", "push", "--plain-http", "--user", f"{NAME}:{PASSWORD}", name
            )
        assert all(fault.struck for fault in over)
        pushed = registry.repositories["team/app"]
        assert {digest: pushed.blobs.get(digest) for digest in app.blobs} == app.blobs
        taken = sum(asked.received for asked in registry.asked("upload"))
        assert taken == sum(map(len, app.blobs.values()))


def ends_with(digest: str, asked: Asked) -> bool:
    """Whether a request is to end the upload of this blob."""
    return parse_qs(asked.query).get("digest") == [digest]

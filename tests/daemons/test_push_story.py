"""The story of a tutorial, told to a mirror: an image is changed, and goes to two registries.

`hub` asks who pushes in Docker Hub's way, `acr` in Alibaba's. The mirror has them under names of
its own: 127.0.0.1 and localhost. Both are switched off before anybody else pulls.
"""

import hashlib
import tarfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemons import Docker, running_docker
from tests.support.images import Image, busybox, files, image, random_bytes
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.registry import Registry, running_registry
from tests.support.require import require
from tests.support.token_server import ACR, HUB, TokenServer, running_token_server

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(300)]

ACR_NAME = "registry.cn-hangzhou.aliyuncs.com"
HUB_USER, ACR_USER = "someone", "namespace"
PASSWORDS = {HUB_USER: "hub secret", ACR_USER: "acr secret"}


@dataclass(frozen=True, slots=True)
class Scene:
    """What there is, and what it is called there."""

    hub: Registry
    acr: Registry
    tokens: Sequence[TokenServer]
    mirror: MirrorProcess

    def at(self, name: str) -> str:
        """The mirror, under a name."""
        return f"{name}:{self.mirror.host.rpartition(':')[2]}"


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        registries, tokens = list[Registry](), list[TokenServer]()
        for ways, user in ((HUB, HUB_USER), (ACR, ACR_USER)):
            directory = tmp_path / user
            users = {user: PASSWORDS[user]}
            server = await stack.enter_async_context(running_token_server(directory, ways, users))
            tokens.append(server)
            registries.append(
                await stack.enter_async_context(
                    running_registry(directory / "registry", auth=server.settings)
                )
            )
        upstreams = {
            name: upstream_at(there.url, token_hosts=[server.host])
            | {"push": "client", "hosts": [host]}
            for name, there, server, host in zip(
                ("docker.io", ACR_NAME), registries, tokens, ("127.0.0.1", "localhost"), strict=True
            )
        }
        upstreams["docker.io"]["default"] = True
        mirror = await stack.enter_async_context(
            running_mirror(tmp_path / "mirror", upstreams, tags={"fresh_for": "1d"})
        )
        hub, acr = registries
        yield Scene(hub, acr, tokens, mirror)


def tomcat() -> Image:
    """As Docker Hub's since 2019: what it has to show lies in webapps.dist, webapps is empty."""
    require("busybox")
    root = "usr/local/tomcat"
    content = {f"{root}/webapps.dist/ROOT/index.jsp": b"It works!", f"{root}/webapps/.keep": b""}
    library = files({f"{root}/lib/catalina.jar": random_bytes(2 << 20, seed=12)})
    serve = "cat /usr/local/tomcat/webapps/ROOT/index.jsp"
    return image(busybox(), library, files(content), command=("/bin/sh", "-c", serve), docker=True)


async def test_a_changed_image_is_pushed_to_two_registries_and_pulled_without_either(
    scene: Scene, tmp_path: Path
) -> None:
    hub, acr = scene.at("127.0.0.1"), scene.at("localhost")
    base = tomcat()
    await scene.hub.push(base, f"{HUB_USER}/tomcat", "9", token=_pushing(scene.tokens[0]))
    async with running_docker() as docker:
        await docker("pull", f"{hub}/{HUB_USER}/tomcat:9")
        changing = ("sh", "-c", "/bin/busybox cp -r $T/webapps.dist/ROOT $T/webapps/")
        await docker(
            "run", "--name", "study", "--network=none", "-e", "T=/usr/local/tomcat",
            f"{hub}/{HUB_USER}/tomcat:9", *changing,
        )  # fmt: skip
        serve = 'CMD ["/bin/cat", "/usr/local/tomcat/webapps/ROOT/index.jsp"]'
        await docker("commit", "--change", serve, "study", "study")
        names = [f"{hub}/{HUB_USER}/study:1.0", f"{acr}/{ACR_USER}/study:1.0"]
        for name, user in zip(names, (HUB_USER, ACR_USER), strict=True):
            address = name.partition("/")[0]
            await docker("login", "-u", user, "-p", PASSWORDS[user], address)
            await docker("tag", "study", name)
            pushed = await docker("push", name)
            assert "1.0: digest: sha256:" in pushed.stdout
        made = await _files_of(docker, "study", tmp_path / "made.tar")
        identity = await _identity(docker, "study")
    for there in (scene.hub, scene.acr):
        await there.process.stop()
    async with running_docker() as other:
        for name in names:
            await other("pull", name)
            assert await _identity(other, name) == identity
            assert await _files_of(other, name, tmp_path / "pulled.tar") == made
            told = await other("run", "--rm", "--network=none", name)
            assert told.stdout == "It works!"


def _pushing(tokens: TokenServer) -> str:
    """What lets the test itself push."""
    return tokens.token_for(HUB_USER, [f"repository:{HUB_USER}/tomcat:pull,push"])


async def _identity(docker: Docker, name: str) -> str:
    """An image's own digest: that of its configuration, which names all of its layers."""
    return (await docker("image", "inspect", "--format={{.Id}}", name)).stdout.strip()


async def _files_of(docker: Docker, name: str, archive: Path) -> dict[str, str]:
    """The layers of an image as a daemon has them, by the hash of their bytes."""
    await docker("save", "--output", archive, name)
    with tarfile.open(archive) as tar:
        layers = [it for it in tar.getmembers() if it.isfile() and _is_layer(it.name)]
        assert len(layers) > 3
        return {it.name: hashlib.sha256(_read(tar, it)).hexdigest() for it in layers}


def _is_layer(name: str) -> bool:
    """As old daemons call it, or new ones."""
    return name.endswith("layer.tar") or name.startswith("blobs/")


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()

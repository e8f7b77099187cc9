"""Real clients push by way of the mirror, to real registries that ask who they are in three ways.

`htpasswd` has plain passwords; `hub` and `acr` have token servers, with Docker Hub's and Alibaba
ACR's ways. Each client logs in at the mirror, pushes, and what it has pushed is at the registry
byte for byte; then the registry is switched off, and it is pulled.
"""

import asyncio
import base64
import io
import tarfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import aiohttp
import dxf
import oras.client
import pytest

from mirror.oci.digest import digest_of
from tests.support.daemons import (
    Containers,
    Docker,
    containers,
    running_containerd,
    running_docker,
)
from tests.support.images import (
    DOCKER_MANIFEST,
    OCI_MANIFEST,
    Image,
    busybox,
    files,
    image,
    random_bytes,
)
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.registry import Registry, running_registry
from tests.support.require import require
from tests.support.tls import Authority, Identity
from tests.support.token_server import ACR, HUB, TokenServer, running_token_server

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(300)]

NAME, PASSWORD = "anna", "secret"
HOST = "127.0.0.1"
_ANY = f"{OCI_MANIFEST}, {DOCKER_MANIFEST}"
WAYS = {"hub": HUB, "acr": ACR}


@dataclass(frozen=True, slots=True)
class Place:
    """A registry, and the mirror that stands before it."""

    registry: Registry
    mirror: MirrorProcess
    tokens: TokenServer | None

    @property
    def address(self) -> str:
        """As clients call it."""
        return f"{HOST}:{self.mirror.host.rpartition(':')[2]}"

    async def manifest(self, repository: str, tag: str) -> bytes:
        """What the registry itself has."""
        secret = base64.b64encode(f"{NAME}:{PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {secret}", "Accept": _ANY}
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            if self.tokens is not None:
                scope = f"repository:{repository}:pull"
                query = {"service": self.tokens.ways.service, "scope": scope}
                url = self.tokens.settings["token"]["realm"]
                async with session.get(url, params=query) as answer:
                    headers["Authorization"] = f"Bearer {(await answer.json())['token']}"
            url = f"{self.registry.url}/v2/{repository}/manifests/{tag}"
            async with session.get(url, headers=headers) as answer:
                return await answer.read()


@pytest.fixture(params=["htpasswd", "hub", "acr"])
async def place(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield await open_place(stack, tmp_path, request.param)


async def open_place(
    stack: AsyncExitStack, directory: Path, kind: str, identity: Identity | None = None
) -> Place:
    """A registry of that kind, and a mirror of it through which its users push.

    With an `identity`, the mirror has TLS.
    """
    tokens, user, settings = None, None, dict[str, Any]()
    if kind == "htpasswd":
        user = (NAME, PASSWORD)
        (directory / "password").write_text(PASSWORD)
        settings = {"username": NAME, "password_file": str(directory / "password")}
    else:
        tokens = await stack.enter_async_context(
            running_token_server(directory / kind, WAYS[kind], {NAME: PASSWORD})
        )
        settings = {"token_hosts": [tokens.host]}
    auth = None if tokens is None else tokens.settings
    registry = await stack.enter_async_context(
        running_registry(directory / f"registry-{kind}", user=user, auth=auth)
    )
    upstream = upstream_at(registry.url, **settings) | {"push": "client", "hosts": [HOST]}
    if identity is not None and tokens is not None:
        upstream["relay_tokens"] = True  # who has TLS here asks no token server without it
    server = (
        {}
        if identity is None
        else {
            "tls_certificate_file": str(identity.certificate_file),
            "tls_private_key_file": str(identity.private_key_file),
        }
    )
    mirror = await stack.enter_async_context(
        running_mirror(
            directory / f"mirror-{kind}",
            {"docker.io": upstream},
            tags={"fresh_for": "1d"},
            server=server,
        )
    )
    return Place(registry, mirror, tokens)


@pytest.fixture
def app() -> Image:
    require("busybox")
    layers = (
        busybox(),
        files({"data": random_bytes(1 << 20, seed=7)}),
        files({"hello": b"Hello!\n"}),
    )
    return image(*layers, command=("/bin/cat", "/hello"), docker=True)


def as_directory(content: Image, directory: Path) -> Path:
    """An image as skopeo's `dir:` has it."""
    directory.mkdir()
    (directory / "version").write_text("Directory Transport Version: 1.1\n")
    (directory / "manifest.json").write_bytes(content.manifest)
    for digest, blob in content.blobs.items():
        (directory / digest.partition(":")[2]).write_bytes(blob)
    return directory


@pytest.fixture
async def docker() -> AsyncIterator[Docker]:
    async with running_docker() as running:
        yield running


@pytest.fixture
async def tools() -> AsyncIterator[Containers]:
    async with containers() as running:
        yield running


async def test_docker_logs_in_tags_and_pushes_and_pulls_without_the_registry(
    place: Place, docker: Docker, tmp_path: Path
) -> None:
    root = tmp_path / "root.tar"
    with tarfile.open(root, "w") as tar:
        tar.add("/bin/busybox", "bin/cat")
        _add(tar, "hello", b"Hello!\n")
        _add(tar, "data", random_bytes(3 << 20, seed=8))
    name = f"{place.address}/{NAME}/hello:1.0"
    await docker("import", "--change", 'CMD ["/bin/cat", "/hello"]', root, "hello")
    await docker("tag", "hello", name)
    assert (await docker("push", name, check=False)).returncode != 0
    wrong = await docker("login", "-u", NAME, "-p", "guessed", place.address, check=False)
    assert wrong.returncode != 0
    assert "Succeeded" in (await docker("login", "-u", NAME, "-p", PASSWORD, place.address)).stdout
    pushed = await docker("push", name)
    assert pushed.stdout.splitlines()[-1].startswith("1.0: digest: ")
    manifest = await place.manifest(f"{NAME}/hello", "1.0")
    assert str(digest_of(manifest)) in pushed.stdout
    again = await docker("push", name)
    assert "Layer already exists" in again.stdout
    await place.registry.process.stop()
    await docker("rmi", name, "hello")
    await docker("pull", name)
    assert (await docker("run", "--rm", "--network=none", name)).stdout == "Hello!\n"
    assert await _from_the_mirror(place, f"{NAME}/hello", "1.0") == manifest


@pytest.mark.parametrize("place", ["hub", "acr"], indirect=True)
async def test_who_may_not_push_there_is_told_so_by_the_registry(
    place: Place, docker: Docker, tmp_path: Path
) -> None:
    root = tmp_path / "root.tar"
    with tarfile.open(root, "w") as tar:
        _add(tar, "hello", b"Hello!\n")
    name = f"{place.address}/another/hello:1.0"
    await docker("import", root, name)
    await docker("login", "-u", NAME, "-p", PASSWORD, place.address)
    refused = await docker("push", name, check=False)
    assert refused.returncode != 0
    assert "denied" in refused.stderr or "unauthorized" in refused.stderr, refused.stderr


async def test_podman_buildah_and_skopeo_push_and_pull_without_the_registry(
    place: Place, tools: Containers, app: Image, tmp_path: Path
) -> None:
    insecure, source = "--tls-verify=false", as_directory(app, tmp_path / "app")
    await tools.podman("pull", f"dir:{source}")
    refused = await tools.podman(
        "push", insecure, app.config, f"docker://{place.address}/{NAME}/podman:1", check=False
    )
    assert refused.returncode != 0
    await tools.podman("login", insecure, "-u", NAME, "-p", PASSWORD, place.address)
    await tools.podman("push", insecure, app.config, f"docker://{place.address}/{NAME}/podman:1")
    destination = f"docker://{place.address}/{NAME}/skopeo:1"
    as_it_is = ("--preserve-digests", "--dest-tls-verify=false")
    await tools.skopeo("copy", *as_it_is, f"dir:{source}", destination)
    assert await place.manifest(f"{NAME}/skopeo", "1") == app.manifest
    container = (await tools.buildah("from", "scratch")).stdout.strip()
    (tmp_path / "file").write_bytes(b"built")
    await tools.buildah("add", container, tmp_path / "file", "/file")
    built = f"{place.address}/{NAME}/buildah:1"
    await tools.buildah("commit", container, built)
    await tools.buildah("push", insecure, built)
    for made in ("podman", "skopeo", "buildah"):
        manifest = await place.manifest(f"{NAME}/{made}", "1")
        assert await _from_the_mirror(place, f"{NAME}/{made}", "1") == manifest
    await place.registry.process.stop()
    await tools.podman("rmi", "--all", "--force")
    await tools.podman("logout", place.address)
    for made in ("podman", "skopeo", "buildah"):
        await tools.podman("pull", insecure, f"{place.address}/{NAME}/{made}:1")


async def test_containerd_pushes_and_pulls_without_the_registry(
    place: Place, app: Image, tools: Containers, tmp_path: Path
) -> None:
    """As BuildKit and nerdctl do: all of a blob with its digest, mounted where that can be."""
    archive, base = tmp_path / "app.tar", f"{place.address}/{NAME}/base:1"
    source = as_directory(app, tmp_path / "app")
    await tools.skopeo("copy", f"dir:{source}", f"oci-archive:{archive}:{base}")
    login = ("--plain-http", "--user", f"{NAME}:{PASSWORD}")
    async with running_containerd() as containerd:
        await containerd.ctr("images", "import", "--base-name", base, archive)
        refused = await containerd.ctr("images", "push", "--plain-http", base, check=False)
        assert refused.returncode != 0
        await containerd.ctr("images", "push", *login, base)
    manifest, other = await place.manifest(f"{NAME}/base", "1"), f"{place.address}/{NAME}/other:1"
    async with running_containerd() as containerd:
        await containerd.ctr("images", "pull", *login, base)
        await containerd.ctr("images", "tag", base, other)
        await containerd.ctr("images", "push", *login, other)
    assert await place.manifest(f"{NAME}/other", "1") == manifest
    assert any("mount=sha256" in asked for asked in place.registry.asked())
    await place.registry.process.stop()
    async with running_containerd() as containerd:
        await containerd.ctr("images", "pull", "--plain-http", other)
        assert str(digest_of(manifest)) in (await containerd.ctr("images", "ls")).stdout


async def test_oras_pushes_and_pulls_without_the_registry(place: Place, tmp_path: Path) -> None:
    content = random_bytes(2 << 20, seed=9)
    file = tmp_path / "artifact.bin"
    file.write_bytes(content)
    backend = "basic" if place.tokens is None else "token"
    target = f"{place.address}/{NAME}/oras:1"

    def push() -> None:
        client = oras.client.OrasClient(hostname=place.address, insecure=True, auth_backend=backend)
        client.auth.set_basic_auth(NAME, PASSWORD)
        client.push(target=target, files=[str(file)], disable_path_validation=True)

    def pull() -> list[bytes]:
        client = oras.client.OrasClient(hostname=place.address, insecure=True)
        pulled = client.pull(target=target, outdir=str(tmp_path / "pulled"))
        return [Path(it).read_bytes() for it in pulled]

    await asyncio.to_thread(push)
    manifest = await place.manifest(f"{NAME}/oras", "1")
    assert str(digest_of(content)) in manifest.decode()
    await place.registry.process.stop()
    assert await _from_the_mirror(place, f"{NAME}/oras", "1") == manifest
    assert await asyncio.to_thread(pull) == [content]


@pytest.mark.parametrize("kind", ["htpasswd", "hub", "acr"])
async def test_python_dxf_pushes_and_pulls_without_the_registry(tmp_path: Path, kind: str) -> None:
    content = random_bytes(2 << 20, seed=10)
    file = tmp_path / "blob.bin"
    file.write_bytes(content)
    authority = Authority(tmp_path / "tls")  # it shows passwords over TLS only

    def authenticate(client: dxf.DXF, response: Any) -> None:
        client.authenticate(NAME, PASSWORD, response=response)

    async with AsyncExitStack() as stack:
        place = await open_place(stack, tmp_path, kind, authority.issue("mirror"))

        def client(auth: Any = None) -> dxf.DXF:
            trusted = str(authority.ca_file)
            return dxf.DXF(place.address, f"{NAME}/dxf", auth, tlsverify=trusted)

        def push() -> str:
            with client(authenticate) as pusher:
                digest = pusher.push_blob(str(file))
                pusher.set_alias("1", digest)
                return digest

        def pull() -> bytes:
            with client() as puller:
                return b"".join(cast("Any", puller.pull_blob(str(digest_of(content)))))

        assert await asyncio.to_thread(push) == str(digest_of(content))
        assert str(digest_of(content)) in (await place.manifest(f"{NAME}/dxf", "1")).decode()
        await place.registry.process.stop()
        assert await asyncio.to_thread(pull) == content


async def _from_the_mirror(place: Place, repository: str, tag: str) -> bytes:
    """What the mirror has for a client that asks for anything."""
    url = f"http://{place.address}/v2/{repository}/manifests/{tag}"
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.get(url, headers={"Accept": _ANY}) as answer,
    ):
        return await answer.read()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))

"""What `mirror setup` prints, done by real clients: written where it says, and pulled with.

k3s, CRI-O and BuildKit are in no package here: their files are compared with what their
documentation says (tests/unit/setup).
"""

import base64
import json
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from tests.support.daemons import Containerd, Result, containers, running_docker
from tests.support.host import Host
from tests.support.images import Image
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.process import run
from tests.support.proxy import ForwardProxy
from tests.support.registry import Registry
from tests.support.require import require, require_root
from tests.support.tls import Authority

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(120)]

NAME, PASSWORD = "anna", "secret"
AT = "mirror.example"
HERE = ("--address", "127.0.0.1")
both = pytest.mark.parametrize("mirror", ["plain", "tls"], indirect=True)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    require_root()
    return Host(tmp_path / "host")


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    return tmp_path / "mirror" / "mirror.toml"


@pytest.fixture
async def mirror(
    tmp_path: Path, hub: Registry, ghcr: Registry, hello: Image, request: pytest.FixtureRequest
) -> AsyncIterator[MirrorProcess]:
    """`plain`; `tls`: with certificates of clients; `passwords`: with these, over TLS."""
    await hub.push(hello, "library/hello", "1")
    await ghcr.push(hello, "team/hello", "1")
    kind = getattr(request, "param", "plain")
    upstreams = {"docker.io": upstream_at(hub.url), "ghcr.io": upstream_at(ghcr.url)}
    server: dict[str, Any] = {}
    authority = Authority(tmp_path / "tls")
    if kind != "plain":
        identity = authority.issue("server", AT)
        server["tls_certificate_file"] = str(identity.certificate_file)
        server["tls_private_key_file"] = str(identity.private_key_file)
    if kind == "tls":
        server["client_ca_file"] = str(authority.ca_file)
        authority.issue("client")
    if kind == "passwords":
        secret = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        server["htpasswd_file"] = str(tmp_path / "htpasswd")
        (tmp_path / "htpasswd").write_text(f"{NAME}:{secret}\n", encoding="utf-8")
    async with running_mirror(tmp_path / "mirror", upstreams, server=server) as running:
        yield running


def provided(tmp_path: Path, host: Host, files: Mapping[str, str]) -> None:
    """Provide the certificate and the key that a guide leaves to the host's owner."""
    for path, content in files.items():
        if not content:
            name = {".cert": "client.pem", ".key": "client.key"}[Path(path).suffix]
            host.write(path, (tmp_path / "tls" / name).read_text(encoding="utf-8"))


async def served(mirror: MirrorProcess, upstream: str, image: Image) -> bool:
    """Whether the mirror has sent all of that image."""
    labels = {"upstream": upstream, "kind": "blob", "status": "200"}
    return await mirror.metric("mirror_requests_total", **labels) >= len(image.blobs)


async def test_docker_pulls_from_docker_hub_by_the_mirror_and_others_by_its_name(
    mirror: MirrorProcess, host: Host, configuration: Path, hello: Image
) -> None:
    await host.set_up("docker", configuration, *HERE)
    await _pull_with_docker(mirror, host, hello, at=mirror.host)


@pytest.mark.parametrize("mirror", ["tls"], indirect=True)
async def test_docker_shows_the_mirror_its_certificate_and_asks_for_the_mirrors(
    tmp_path: Path, mirror: MirrorProcess, host: Host, configuration: Path, hello: Image
) -> None:
    # It does neither for what is at 127.0.0.0/8, so the mirror has to seem to be elsewhere.
    host.write("/etc/hosts", f"192.0.2.1 {AT}\n127.0.0.1 localhost\n")
    async with ForwardProxy() as proxy:
        proxy.leads[AT, 5000] = int(mirror.host.rpartition(":")[2])
        host.environment["HTTPS_PROXY"] = f"http://{proxy.host}"
        files = await host.set_up("docker", configuration, "--address", f"{AT}:5000")
        refused = await _pulled(host)
        assert refused.returncode != 0
        provided(tmp_path, host, files)
        await _pull_with_docker(mirror, host, hello, at=f"{AT}:5000")


@both
async def test_containerd_pulls_from_every_registry_by_the_mirror(
    tmp_path: Path,
    *,
    mirror: MirrorProcess,
    host: Host,
    configuration: Path,
    containerd: Containerd,
    hello: Image,
) -> None:
    provided(tmp_path, host, await host.set_up("containerd", configuration, *HERE))
    await _pull_with_ctr(containerd, host)
    assert await served(mirror, "docker.io", hello)
    assert await served(mirror, "ghcr.io", hello)


@pytest.mark.parametrize("mirror", ["passwords"], indirect=True)
async def test_containerd_shows_the_mirror_the_password_that_stands_in_hosts_toml(
    tmp_path: Path,
    *,
    mirror: MirrorProcess,
    host: Host,
    configuration: Path,
    containerd: Containerd,
    hello: Image,
) -> None:
    secret = base64.b64encode(f"{NAME}:{PASSWORD}".encode()).decode()
    options = (*HERE, "--ca", str(tmp_path / "tls/ca.pem"))
    await host.set_up("containerd", configuration, *options, instead={"IN_BASE64": secret})
    await _pull_with_ctr(containerd, host)
    assert await served(mirror, "ghcr.io", hello)


async def test_containerd_takes_the_lines_for_its_own_configuration(
    tmp_path: Path, mirror: MirrorProcess, host: Host, configuration: Path
) -> None:
    require("containerd")
    printed = await run(*_setup("containerd", configuration, "--json"))
    guide = json.loads(printed.stdout)
    [old] = [it["content"] for it in guide["files"] if "1.x" in it["about"]]
    file = tmp_path / "config.toml"
    file.write_text(old, encoding="utf-8")
    effective = await run("containerd", "--config", file, "config", "dump")
    assert 'config_path = "/etc/containerd/certs.d"' in effective.stdout
    assert mirror.host in guide["address"]


@both
async def test_podman_buildah_and_skopeo_pull_from_every_registry_by_the_mirror(
    tmp_path: Path, mirror: MirrorProcess, host: Host, configuration: Path, hello: Image
) -> None:
    require("buildah")
    provided(tmp_path, host, await host.set_up("podman", configuration, *HERE))
    async with containers(host=host) as tools:
        await tools.podman("pull", "docker.io/library/hello:1")
        assert await served(mirror, "docker.io", hello)
        await tools.podman("rmi", "--all", "--force")
        await tools.buildah("pull", "ghcr.io/team/hello:1")
        assert await served(mirror, "ghcr.io", hello)
        before = await mirror.metric("mirror_requests_total", upstream="docker.io", kind="blob")
        await tools.skopeo("copy", "docker://docker.io/library/hello:1", f"dir:{tmp_path}/copy")
        after = await mirror.metric("mirror_requests_total", upstream="docker.io", kind="blob")
        assert after - before == len(hello.blobs)


@pytest.mark.parametrize("mirror", ["passwords"], indirect=True)
async def test_podman_shows_the_mirror_the_password_of_its_login_there(
    tmp_path: Path, mirror: MirrorProcess, host: Host, configuration: Path, hello: Image
) -> None:
    await host.set_up("podman", configuration, *HERE, "--ca", str(tmp_path / "tls/ca.pem"))
    who = (f"--username={NAME}", f"--password={PASSWORD}")
    async with containers(host=host) as tools:
        refused = await tools.podman("pull", "docker.io/library/hello:1", check=False)
        assert refused.returncode != 0
        await tools.podman("login", *who, mirror.host)
        await tools.podman("pull", "docker.io/library/hello:1")
    assert await served(mirror, "docker.io", hello)


@pytest.mark.parametrize("mirror", ["passwords"], indirect=True)
async def test_docker_with_a_password_of_the_mirrors_pulls_by_its_name(
    tmp_path: Path, mirror: MirrorProcess, host: Host, configuration: Path, hello: Image
) -> None:
    await host.set_up("docker", configuration, *HERE, "--ca", str(tmp_path / "tls/ca.pem"))
    async with running_docker(host=host) as docker:
        image = f"{mirror.host}/docker.io/library/hello:1"
        assert (await docker("pull", image, check=False)).returncode != 0
        await docker("login", "-u", NAME, "-p", PASSWORD, mirror.host)
        await docker("pull", image)
    assert await served(mirror, "docker.io", hello)


async def test_what_is_printed_to_look_at_the_mirror_shows_what_it_says(
    mirror: MirrorProcess, configuration: Path, hub: Registry, hello: Image
) -> None:
    await hub.push(hello, "library/alpine", "latest")
    printed = await run(*_setup("podman", configuration, "--json"))
    [command] = [line for line in json.loads(printed.stdout)["check"] if line.startswith("curl")]
    shown = await run("sh", "-c", command)
    assert "200 OK" in shown.stdout
    assert "Cache-Status: mirror;" in shown.stdout


async def test_without_a_client_all_of_them_are_listed(tmp_path: Path) -> None:
    listed = await run(*_setup()[:4])
    assert [line.split()[0] for line in listed.stdout.splitlines()][:3] == [
        "docker", "containerd", "podman",
    ]  # fmt: skip
    unknown = await run(*_setup()[:4], "nerdctl", check=False)
    assert unknown.returncode == 1
    assert "'nerdctl' is not known; these are: docker," in unknown.stderr


async def _pull_with_docker(mirror: MirrorProcess, host: Host, hello: Image, *, at: str) -> None:
    async with running_docker(host=host) as docker:
        await docker("pull", "hello:1")
        told = await docker("image", "inspect", "--format={{.Id}}", "hello:1")
        assert told.stdout.strip() == hello.config
        assert await served(mirror, "docker.io", hello)
        await docker("rmi", "hello:1")
        await docker("pull", f"{at}/ghcr.io/team/hello:1")
        assert await served(mirror, "ghcr.io", hello)


async def _pulled(host: Host) -> Result:
    async with running_docker(host=host) as docker:
        return await docker("pull", "hello:1", check=False)


async def _pull_with_ctr(containerd: Containerd, host: Host) -> None:
    for image in ("docker.io/library/hello:1", "ghcr.io/team/hello:1"):
        pull = ("images", "pull", "--hosts-dir", "/etc/containerd/certs.d", image)
        await containerd.ctr(*pull, host=host)
        await containerd.ctr("images", "rm", "--sync", image)


def _setup(
    client: str = "", configuration: Path | None = None, *options: str
) -> tuple[str | Path, ...]:
    command = (sys.executable, "-m", "mirror", "setup")
    return (
        command
        if configuration is None
        else (*command, client, "--config", configuration, *options)
    )

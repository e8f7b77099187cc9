"""Real clients log in at names of the mirror's own, for registries with passwords of their own.

`htpasswd` is a real registry behind plain passwords, which the mirror has under the name 127.0.0.1;
`tokens` is one with a token server, as Docker Hub's and GHCR's, under the name localhost.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import tomli_w

from tests.support.auth import BearerAuth
from tests.support.daemons import Containerd, Containers, Docker, Result, running_docker
from tests.support.images import Image
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.process import until
from tests.support.registry import Registry, running_registry
from tests.support.upstream import ScriptedRegistry

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(120)]

NAME, PASSWORD = "anna", "secret"
HTPASSWD, TOKENS = "127.0.0.1", "localhost"
registries = pytest.mark.parametrize(
    ("name", "relay"), [(HTPASSWD, False), (TOKENS, False), (TOKENS, "http")]
)


@pytest.fixture
async def htpasswd(tmp_path: Path, hello: Image) -> AsyncIterator[Registry]:
    async with running_registry(tmp_path / "htpasswd", user=(NAME, PASSWORD)) as registry:
        await registry.push(hello, "team/hello", "1")
        yield registry


@pytest.fixture
async def tokens(hello: Image) -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as registry:
        registry.auth = BearerAuth(
            users={NAME: PASSWORD},
            private={"team/hello": {NAME}},
            realm=f"{registry.url}/token",
        )
        registry.add(hello, "team/hello", "1")
        yield registry


@pytest.fixture
async def mirror(
    tmp_path: Path, htpasswd: Registry, tokens: ScriptedRegistry, relay: object
) -> AsyncIterator[MirrorProcess]:
    """`relay`: how clients ask for tokens by way of the mirror, if they do."""
    own = {"access": "client"}
    upstreams = {
        "docker.io": upstream_at(htpasswd.url),
        "one.example": upstream_at(htpasswd.url) | own | {"hosts": [HTPASSWD]},
        "other.example": upstream_at(tokens.url) | own | {"hosts": [TOKENS], "relay_tokens": relay},
    }
    async with running_mirror(tmp_path / "mirror", upstreams) as running:
        yield running


def at(name: str, mirror: MirrorProcess) -> str:
    """The mirror's address under that name."""
    return f"{name}:{mirror.host.rpartition(':')[2]}"


@registries
async def test_docker_login_tells_right_from_wrong_and_docker_pulls_what_is_private(
    mirror: MirrorProcess,
    docker: Docker,
    tokens: ScriptedRegistry,
    hello: Image,
    *,
    name: str,
    relay: object,
) -> None:
    address = at(name, mirror)
    image = f"{address}/team/hello:1"
    refused = await docker("pull", image, check=False)
    assert refused.returncode != 0
    wrong = await docker("login", "-u", NAME, "-p", "guessed", address, check=False)
    assert wrong.returncode != 0
    assert "Succeeded" not in wrong.stdout
    assert "401" in wrong.stderr or "unauthorized" in wrong.stderr.lower()
    assert (await docker("pull", image, check=False)).returncode != 0
    right = await docker("login", "-u", NAME, "-p", PASSWORD, address)
    assert "Login Succeeded" in right.stdout
    await docker("pull", image)
    told = await docker("image", "inspect", "--format={{.Id}}", image)
    assert told.stdout.strip() == hello.config
    await _is_a_hit_now(mirror, hello)
    await docker("rmi", image)
    await docker("pull", image)
    await docker("rmi", image)
    await docker("logout", address)
    assert (await docker("pull", image, check=False)).returncode != 0
    if relay:
        _asked_by_the_mirror_alone(tokens)


@registries
async def test_podman_login_tells_right_from_wrong_and_podman_pulls_what_is_private(
    mirror: MirrorProcess,
    tools: Containers,
    tokens: ScriptedRegistry,
    hello: Image,
    *,
    name: str,
    relay: object,
) -> None:
    address = at(name, mirror)

    async def log_in(password: str) -> Result:
        who = (f"--username={NAME}", f"--password={password}")
        return await tools.podman("login", "--tls-verify=false", *who, address, check=False)

    async def pull() -> Result:
        return await tools.podman(
            "pull", "--tls-verify=false", f"{address}/team/hello:1", check=False
        )

    assert (await pull()).returncode != 0
    wrong = await log_in("guessed")
    assert wrong.returncode != 0
    assert "invalid username/password" in wrong.stderr
    assert (await pull()).returncode != 0
    right = await log_in(PASSWORD)
    assert "Login Succeeded" in right.stdout
    pulled = await pull()
    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout.strip() == hello.config.removeprefix("sha256:")
    if relay:
        _asked_by_the_mirror_alone(tokens)


@registries
async def test_podman_keeps_the_images_name_where_the_mirrors_own_is_in_registries_conf(
    mirror: MirrorProcess, tools: Containers, hello: Image, name: str
) -> None:
    address = at(name, mirror)
    mirrored = {"location": "origin.example", "mirror": [{"location": address, "insecure": True}]}
    configuration = tomli_w.dumps({"registry": [mirrored]})
    (tools.directory / "registries.conf").write_text(configuration, encoding="utf-8")
    who = (f"--username={NAME}", f"--password={PASSWORD}")
    await tools.podman("login", "--tls-verify=false", *who, address)
    pulled = await tools.podman("pull", "origin.example/team/hello:1")
    assert pulled.stdout.strip() == hello.config.removeprefix("sha256:")


@registries
async def test_skopeo_copies_what_is_private_with_the_right_password_only(
    mirror: MirrorProcess, tools: Containers, tmp_path: Path, name: str
) -> None:
    source = f"docker://{at(name, mirror)}/team/hello:1"
    for number, (password, outcome) in enumerate((("guessed", 1), (PASSWORD, 0))):
        copied = await tools.skopeo(
            "copy", "--src-tls-verify=false", f"--src-creds={NAME}:{password}",
            source, f"dir:{tmp_path}/copy-{number}", check=False,
        )  # fmt: skip
        assert copied.returncode == outcome, copied.stderr


async def test_dockerd_shows_its_docker_hub_login_to_a_registry_mirror_that_has_hubs_challenge(
    tmp_path: Path, tokens: ScriptedRegistry, hello: Image
) -> None:
    hub = upstream_at(tokens.url) | {"access": "client", "hosts": [HTPASSWD]}
    async with (
        running_mirror(tmp_path / "mirror", {"docker.io": hub}) as mirror,
        running_docker(mirror.url) as docker,
    ):
        assert (await docker("pull", "team/hello:1", check=False)).returncode != 0
        docker.remember_login("https://index.docker.io/v1/", NAME, PASSWORD)
        await docker("pull", "team/hello:1")
        told = await docker("image", "inspect", "--format={{.Id}}", "team/hello:1")
        assert told.stdout.strip() == hello.config


@pytest.mark.parametrize("relay", [False, "http"])
async def test_containerd_which_logs_in_nowhere_is_led_to_its_token_by_each_answer(
    mirror: MirrorProcess, containerd: Containerd, tokens: ScriptedRegistry, relay: object
) -> None:
    hosts = containerd.hosts_dir({"other.example": mirror.url})
    pull = ("images", "pull", "--hosts-dir", hosts)
    image = "other.example/team/hello:1"
    wrong = await containerd.ctr(*pull, "--user", f"{NAME}:guessed", image, check=False)
    assert wrong.returncode != 0
    await containerd.ctr(*pull, "--user", f"{NAME}:{PASSWORD}", image)
    if relay:
        _asked_by_the_mirror_alone(tokens)


def _asked_by_the_mirror_alone(tokens: ScriptedRegistry) -> None:
    agents = {asked.headers["User-Agent"].partition("/")[0] for asked in tokens.asked("token")}
    assert agents == {"mirror"}


async def _is_a_hit_now(mirror: MirrorProcess, image: Image) -> None:
    """All of an image is in the store."""

    async def is_there() -> bool:
        return await mirror.metric("mirror_fills_active") == 0

    await until(is_there, within=30)
    assert await mirror.metric("mirror_store_blobs") >= len(image.blobs)

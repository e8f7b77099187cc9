"""The image that `deploy/Dockerfile` makes, as `deploy/`'s files for Compose and Kubernetes run it.

Podman runs both: of Compose's file the mirror with all that is said of it there, of Kubernetes'
the Pod that its StatefulSet would make. Files are taken as they are; what differs stands here.
"""

import copy
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import tomli_w
import yaml

from mirror.config.units import parse_duration
from tests.support.bucket import BUCKET, RunBucket, begin_obstore
from tests.support.client import get
from tests.support.daemons import Containers, lasting_containers
from tests.support.fleet import Fleet
from tests.support.images import Image
from tests.support.mirror import sample, upstream_at
from tests.support.postgres import Postgres
from tests.support.process import answers, free_port, until
from tests.support.registry import Registry
from tests.support.require import require
from tests.support.shipped import CHECKOUT, build

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(300)]

IMAGE = "localhost/mirror"
DEPLOY = CHECKOUT / "deploy"
TOKEN = "0" * 64
USER = "10001"  # the image's


@pytest.fixture(scope="session", autouse=True)
def obstore_has_begun() -> None:
    begin_obstore()


@pytest.fixture(scope="module")
def podman() -> Iterator[Containers]:
    with lasting_containers() as podman:
        yield podman


@pytest.fixture
async def tools(podman: Containers) -> Containers:
    """A Podman that has the image."""
    if (await podman.podman("image", "exists", IMAGE, check=False)).returncode:
        await build(podman, IMAGE)
    return podman


async def test_the_image_serves_as_compose_runs_it_and_again_from_its_volume(
    tools: Containers,
) -> None:
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["mirror"]
    assert service["read_only"]
    await tools.podman_apart(
        "run", "--detach", "--name=alone", "--network=none", "--read-only",
        "--read-only-tmpfs=false",
        *(f"--tmpfs={path}" for path in service["tmpfs"]),
        *(f"--cap-drop={name}" for name in service["cap_drop"]),
        *(f"--security-opt={it.partition(':')[0]}" for it in service["security_opt"]),
        *(f"--volume={it.replace('./', f'{DEPLOY}/')}" for it in service["volumes"]),
        IMAGE,
    )  # fmt: skip
    await _until_healthy(tools, "alone")
    await _is_confined(tools, "alone")
    checked = await tools.podman(
        "exec", "alone", "python3", "-m", "mirror", "check", "--config", "/etc/mirror/mirror.toml"
    )
    assert "/var/lib/mirror" in checked.stdout
    for _ in range(2):
        grace = int(parse_duration(service["stop_grace_period"]))
        await tools.podman("stop", f"--time={grace}", "alone", within=grace + 10)
        assert await _status(tools, "alone") == "0"
        await tools.podman_apart("start", "alone")
        await _until_healthy(tools, "alone")
    await tools.podman("rm", "--force", "--time=0", "alone")


class Pods:
    """Those that the StatefulSet of `deploy/kubernetes` would make, one at a time."""

    def __init__(self, tools: Containers, directory: Path) -> None:
        self._tools = tools
        self._directory = directory
        text = (DEPLOY / "kubernetes" / "mirrors.yaml").read_text()
        documents = list(yaml.safe_load_all(text))
        [self._settings] = [it for it in documents if it["kind"] == "ConfigMap"]
        [self._set] = [it for it in documents if it["kind"] == "StatefulSet"]
        self.spec: dict[str, Any] = self._set["spec"]["template"]["spec"]
        [self.container] = self.spec["containers"]
        names = [it["name"] for it in self.container["ports"]]
        self.ports = {name: free_port() for name in names}

    def settle(self, **sections: dict[str, Any]) -> None:
        """Change what is another at each site, and the addresses: there is one host for all."""
        settings = tomllib.loads(self._settings["data"]["mirror.toml"])
        addresses = {"listen": "pulls", "admin_listen": "admin"}
        server = {key: f"127.0.0.1:{self.ports[port]}" for key, port in addresses.items()}
        for name, section in {**sections, "server": server}.items():
            settings[name] = settings.get(name, {}) | section
        self._settings["data"]["mirror.toml"] = tomli_w.dumps(settings)

    def keep_secret(self, secret: str, **files: str) -> None:
        """Lay it out as a kubelet does: Podman 4.3 neither decodes it nor heeds its mode."""
        [volume] = [
            it for it in self.spec["volumes"] if it.get("secret", {}).get("secretName") == secret
        ]
        mode, group = volume.pop("secret")["defaultMode"], self.spec["securityContext"]["fsGroup"]
        directory = self._directory / secret
        directory.mkdir()
        directory.chmod(0o755)
        for name, content in files.items():
            file = directory / name
            file.write_text(content)
            file.chmod(mode)
            os.chown(file, 0, group)
        volume["hostPath"] = {"path": str(directory), "type": "Directory"}

    async def play(self, number: int) -> str:
        """Start one, with a disk of its own; the name of its container."""
        name = f"{self._set['metadata']['name']}-{number}"
        spec = copy.deepcopy(self.spec) | {"hostNetwork": True}
        [container] = spec["containers"]
        del container["ports"]  # the host's
        for probe in self.probes():
            del container[probe]  # Podman would have `curl` do it, in the container
        claims = [
            {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": claim["spec"],
                "metadata": {"name": f"{claim['metadata']['name']}-{name}"},
            }
            for claim in self._set["spec"]["volumeClaimTemplates"]
        ]  # fmt: skip
        for template, claim in zip(self._set["spec"]["volumeClaimTemplates"], claims, strict=True):
            source = {"claimName": claim["metadata"]["name"]}
            spec["volumes"].append(
                {"name": template["metadata"]["name"], "persistentVolumeClaim": source}
            )
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        file = self._directory / f"{name}.yaml"
        file.write_text(yaml.safe_dump_all([*claims, self._settings, pod]))
        await self._tools.podman("tag", IMAGE, container["image"])
        await self._tools.podman_apart("kube", "play", file)
        running = f"{name}-{container['name']}"
        try:
            await until(self.is_answered)
        except TimeoutError:
            said = await self._tools.podman("logs", running, check=False)
            raise AssertionError(f"not ready: {said.stdout}{said.stderr}") from None
        return running

    async def stop(self, container: str) -> None:
        """Take its Pod down as a kubelet does, with the time that it has."""
        grace = self.spec["terminationGracePeriodSeconds"]
        pod = container.removesuffix(f"-{self.container['name']}")
        await self._tools.podman("pod", "stop", f"--time={grace}", pod, within=grace + 10)

    def probes(self) -> dict[str, str]:
        """What a kubelet asks, by name: URLs."""
        found = {
            name: it["httpGet"] for name, it in self.container.items() if name.endswith("Probe")
        }
        return {
            name: f"http://127.0.0.1:{self.ports[it['port']]}{it['path']}"
            for name, it in found.items()
        }

    async def has_all(self) -> bool:
        """Whether the one that runs has found its database and its bucket."""
        answer = await get(f"http://127.0.0.1:{self.ports['admin']}/metrics")
        parts = ("database", "bucket")
        return all(sample(answer.body.decode(), f"mirror_shared_{it}_up") == 1 for it in parts)

    async def is_answered(self) -> bool:
        return all([await answers(url) for url in self.probes().values()])


async def test_pods_of_the_stateful_set_are_one_cache_and_each_runs_as_the_set_says(
    tools: Containers,
    tmp_path: Path,
    hub: Registry,
    hello: Image,
    run_bucket: RunBucket,
) -> None:
    require("catatonit")
    await hub.push(hello, "library/hello", "1")
    with Postgres.running() as postgres:
        async with run_bucket(tmp_path / "bucket") as server:
            fleet = Fleet(await postgres.create_database(), "pods", server)
            pods = Pods(tools, tmp_path)
            pods.settle(
                shared={"bucket": f"s3://{BUCKET}/{fleet.prefix}", "endpoint": server.url},
                upstream={"docker.io": upstream_at(hub.url) | {"default": True}},
                tags={"fresh_for": "1d"},
            )
            secrets = {"database": fleet.url, "bucket": server.credentials_file.read_text()}
            pods.keep_secret("mirror-shared", **secrets)
            pods.keep_secret("mirror-admin", token=TOKEN)

            assert len(pods.probes()) == 3
            first = await pods.play(0)
            await _is_confined(tools, first)
            await _admits_who_shows_the_token(pods)
            await _pulls(tools, pods, hello, tmp_path / "pulled")
            for digest in hello.blobs:
                await until(lambda digest=digest: fleet.is_proved(digest))  # type: ignore[misc]
            await pods.stop(first)
            assert await _status(tools, first) == "0"

            await hub.process.stop()
            second = await pods.play(1)
            await until(pods.has_all)
            await _pulls(tools, pods, hello, tmp_path / "pulled again")
            await pods.stop(second)
            assert await _status(tools, second) == "0"


async def _pulls(tools: Containers, pods: Pods, made: Image, directory: Path) -> None:
    source = f"docker://127.0.0.1:{pods.ports['pulls']}/library/hello:1"
    await tools.skopeo("copy", "--src-tls-verify=false", source, f"dir:{directory}")
    for digest, blob in made.blobs.items():
        assert (directory / digest.removeprefix("sha256:")).read_bytes() == blob


async def _admits_who_shows_the_token(pods: Pods) -> None:
    url = f"http://127.0.0.1:{pods.ports['admin']}/api/v1/status"
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as refused:
            assert refused.status == 401
        async with session.get(url, headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
            assert answer.status == 200


async def _is_confined(tools: Containers, container: str) -> None:
    """Its own user, who has no rights, and writes to its disk and to /tmp alone."""
    assert (await tools.podman("exec", container, "id", "-u")).stdout.strip() == USER
    shown = (
        await tools.podman(
            "exec", container, "sh", "-c", "while read -r it; do echo $it; done < /proc/1/status"
        )
    ).stdout
    fields = dict(line.split(": ", 1) for line in shown.splitlines() if ": " in line)
    assert (fields["CapEff"], fields["CapBnd"], fields["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")
    for path, is_writable in {
        "/opt/x": False,
        "/x": False,
        "/tmp/x": True,  # noqa: S108 - the container's
        "/var/lib/mirror/x": True,
    }.items():
        touched = await tools.podman("exec", container, "touch", path, check=False)
        assert (touched.returncode == 0) == is_writable, path
        assert is_writable or "Read-only file system" in touched.stderr


async def _until_healthy(tools: Containers, container: str) -> None:
    async def is_healthy() -> bool:
        return not (await tools.podman("healthcheck", "run", container, check=False)).returncode

    await until(is_healthy)


async def _status(tools: Containers, container: str) -> str:
    """What its program has ended with."""
    shown = await tools.podman("inspect", "--format", "{{.State.ExitCode}}", container)
    return shown.stdout.strip()

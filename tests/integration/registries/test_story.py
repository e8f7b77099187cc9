"""One story, told with each registry by its name: what its users do in a week, and what it does."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mirror.config import parse
from mirror.doctor.examine import examine
from mirror.oci.image import parse_image
from tests.conftest import StartMirror
from tests.support.auth import BearerAuth
from tests.support.client import MANIFEST_TYPES, Answer
from tests.support.clock import FakeClock
from tests.support.images import OCI_INDEX, artifact, digest_of, image, index, random_layer
from tests.support.mirror import InnerMirror, document
from tests.support.named import PRIVATE, NamedRegistry
from tests.support.process import until
from tests.support.tls import Authority
from tests.support.ways import ACR_PERSONAL, ALL, ECR, ECR_PUBLIC, Ways

NAME = "library/app"
SHARED = random_layer(200_000, seed=1)
ONE = image(SHARED, random_layer(300, seed=2), docker=True)
TWO = image(SHARED, random_layer(300, seed=3), docker=True, architecture="s390x")
WHOLE = index(ONE, TWO, docker=True)
SECRET = image(random_layer(500, seed=4))
SIGNATURE = artifact(b"signed", subject=WHOLE)
LISTED = index(SIGNATURE)
TAGS = sorted(["1", "1.0", "1.0.1", "2", "latest"])
CONTAINERD = {
    "User-Agent": "containerd/v2.1.0",
    "Accept": ", ".join([*MANIFEST_TYPES, "*/*"]),
}
DOCKER = {"User-Agent": "docker/27.0.3 go/go1.21 UpstreamClient(Docker-Client)"}
CURL = {"User-Agent": "curl/8.5.0"}

every_registry = pytest.mark.parametrize("ways", ALL, ids=str)
every_closed_registry = pytest.mark.parametrize(
    "ways", [ways for ways in ALL if ways.auth != "open"], ids=str
)


@dataclass
class Scene:
    """A registry, and what a mirror of it is told."""

    ways: Ways
    registry: NamedRegistry
    password: Path
    ca_file: str | None

    def upstream(self) -> dict[str, Any]:
        """As an operator writes it."""
        ways = self.ways
        endpoint: dict[str, Any] = {"url": self.registry.url, **ways.settings}
        if ways.prefix:
            endpoint["prefix"] = ways.prefix
        if self.ca_file is not None:
            endpoint["ca_file"] = self.ca_file
        if self.password.exists():
            endpoint |= {"username": ways.user, "password_file": str(self.password)}
            if ways.token_server_elsewhere:  # 127.0.0.1 and localhost have no domain in common
                endpoint["token_hosts"] = ["localhost"]
        return {ways.namespace: {"endpoints": [endpoint]}}

    def give_password(self, secret: str) -> None:
        self.password.write_text(f"{secret}\n", encoding="utf-8")


@pytest.fixture
async def scene(ways: Ways, clock: FakeClock, tmp_path: Path) -> AsyncIterator[Scene]:
    authority = Authority(tmp_path / "tls") if ways.tls else None
    context = authority.server_context() if authority else None
    async with NamedRegistry(ways, clock=clock, server_context=context) as registry:
        for tag in TAGS:
            registry.add(WHOLE, registry.there(NAME), tag)
        registry.add(SIGNATURE, registry.there(NAME))
        if ways.referrers != 200:
            registry.add(LISTED, registry.there(NAME), WHOLE.digest.replace(":", "-"))
        registry.add(SECRET, registry.there(PRIVATE), "1")
        registry.add(SECRET, registry.there("team/others"), "1")
        ca_file = str(authority.ca_file) if authority else None
        yield Scene(ways, registry, tmp_path / "password", ca_file)


@dataclass
class Client:
    """A client, and the form in which it names the registry."""

    mirror: InnerMirror
    ways: Ways
    headers: Mapping[str, str]

    async def ask(self, method: str, what: str, name: str = NAME) -> Answer:
        if "containerd" in self.headers["User-Agent"]:
            mark = "&" if "?" in what else "?"
            target = f"/v2/{name}/{what}{mark}ns={self.ways.namespace}"
        else:
            target = f"/v2/{self.ways.namespace}/{name}/{what}"
        send = self.mirror.client.head if method == "HEAD" else self.mirror.client.get
        return await send(target, headers=self.headers)


def _is(answer: Answer, content: bytes, media_type: str | None = None) -> None:
    assert answer.status == 200, answer.body
    assert answer.body == content
    if media_type is not None:
        assert answer.headers["Content-Type"] == media_type


async def _pull(client: Client, *, by: str = "latest") -> None:
    """Resolve, then fetch an image for one platform and another."""
    resolved = await client.ask("HEAD", f"manifests/{by}")
    assert resolved.status == 200
    assert resolved.headers["Docker-Content-Digest"] == WHOLE.digest
    assert int(resolved.headers["Content-Length"]) == len(WHOLE.manifest)
    _is(await client.ask("GET", f"manifests/{WHOLE.digest}"), WHOLE.manifest, WHOLE.media_type)
    for child in (ONE, TWO):
        _is(await client.ask("GET", f"manifests/{child.digest}"), child.manifest, child.media_type)
        for digest, content in child.blobs.items():
            _is(await client.ask("GET", f"blobs/{digest}"), content)


async def _list_tags(client: Client) -> list[str]:
    found: list[str] = []
    what = "tags/list?n=2"
    for _ in range(len(TAGS)):
        answer = await client.ask("GET", what)
        assert answer.status == 200, answer.body
        found += json.loads(answer.body)["tags"]
        link = answer.headers.get("Link")
        if link is None:
            break
        target, _, _ = link.removeprefix("<").partition(">")
        assert target.startswith("/v2/")  # here, and not at the registry
        what = "tags/list?" + target.partition("?")[2].replace(f"&ns={client.ways.namespace}", "")
    return found


async def _find_signature(client: Client) -> None:
    answer = await client.ask("GET", f"referrers/{WHOLE.digest}")
    if client.ways.referrers != 200:
        assert answer.status in {404, client.ways.referrers}
        by_tag = await client.ask("GET", f"manifests/{WHOLE.digest.replace(':', '-')}")
        _is(by_tag, LISTED.manifest, OCI_INDEX)
    else:
        assert answer.headers["Content-Type"] == OCI_INDEX
        assert [it["digest"] for it in json.loads(answer.body)["manifests"]] == [SIGNATURE.digest]
    _is(await client.ask("GET", f"manifests/{SIGNATURE.digest}"), SIGNATURE.manifest)


async def _look_for_what_is_not_there(client: Client) -> None:
    nowhere = digest_of(b"nowhere")
    for what, code in (
        ("manifests/missing", "MANIFEST_UNKNOWN"),
        (f"manifests/{nowhere}", "MANIFEST_UNKNOWN"),
        (f"blobs/{nowhere}", "BLOB_UNKNOWN"),
    ):
        answer = await client.ask("GET", what)
        assert (answer.status, json.loads(answer.body)["errors"][0]["code"]) == (404, code), what
        assert (await client.ask("HEAD", what)).status == 404
    missing = await client.ask("GET", "manifests/1", "team/nowhere")
    assert missing.status in {404, 403 if client.ways.missing_as_denied else 404}
    assert "WWW-Authenticate" not in missing.headers


@every_registry
async def test_an_image_is_pulled_by_everyone_costs_once_and_is_there_in_an_outage(
    scene: Scene, start_mirror: StartMirror, clock: FakeClock
) -> None:
    registry, ways = scene.registry, scene.ways
    if ways.needs_password:
        scene.give_password(ways.proof)
    mirror = await start_mirror(scene.upstream())
    containerd, docker = (Client(mirror, ways, agent) for agent in (CONTAINERD, DOCKER))
    head = await containerd.ask("HEAD", f"blobs/{ONE.layers[1]}")
    assert (head.status, int(head.headers["Content-Length"])) == (200, 300)

    await _pull(containerd)
    sent = registry.bytes_sent(ONE.layers[0])
    assert sent <= len(SHARED.blob) + 1
    registry.forget()
    await _pull(containerd)
    await _pull(docker)
    assert registry.questions() == []

    await _look_for_what_is_not_there(containerd)
    await _find_signature(docker)
    assert await _list_tags(docker) == await _list_tags(containerd) == _visible(ways)

    await registry.stop()
    clock.advance(3600)
    await _pull(docker)
    await _pull(containerd, by=WHOLE.digest)
    await _find_signature(containerd)
    assert "latest" in json.loads((await docker.ask("GET", "tags/list")).body)["tags"]


def _visible(ways: Ways) -> list[str]:
    return sorted([*TAGS, *([WHOLE.digest.replace(":", "-")] if ways.referrers != 200 else [])])


@every_registry
async def test_the_doctor_is_content(scene: Scene, tmp_path: Path) -> None:
    if scene.ways.needs_password:
        scene.give_password(scene.ways.proof)
    settings = document(scene.upstream(), store_root=tmp_path / "store")
    settings["store"]["max_size"] = "1 MiB"
    config = await asyncio.to_thread(parse, settings)
    images = [parse_image(f"{scene.ways.namespace}/{NAME}:latest")]
    findings = [it async for it in examine(config, images)]
    assert [it for it in findings if it.level == "error"] == []
    told = " ".join(it.text for it in findings)
    assert "speaks the registry API" in told
    assert f"tells what {scene.ways.namespace}/{NAME}:latest is" in told
    assert "MB/s" in told


@every_registry
async def test_a_token_that_ends_in_the_middle_of_a_pull_ends_nothing(
    scene: Scene, start_mirror: StartMirror
) -> None:
    registry, ways = scene.registry, scene.ways
    if ways.needs_password:
        scene.give_password(ways.proof)
    mirror = await start_mirror(scene.upstream(), fill={"segment_size": "64 KiB", "connections": 1})
    client = Client(mirror, ways, CONTAINERD)
    resolved = await client.ask("HEAD", "manifests/latest")
    assert resolved.headers["Docker-Content-Digest"] == WHOLE.digest
    registry.expire()
    _is(await client.ask("GET", f"manifests/{ONE.digest}"), ONE.manifest)
    registry.expire()
    _is(await client.ask("GET", f"blobs/{ONE.config}"), ONE.blobs[ONE.config])
    gate = registry.hold(ONE.layers[0], after=10_000)
    pull = asyncio.get_running_loop().create_task(client.ask("GET", f"blobs/{ONE.layers[0]}"))
    await gate.reached()
    registry.expire()
    gate.cut()
    _is(await pull, ONE.blobs[ONE.layers[0]])
    registry.expire()
    assert "latest" in await _list_tags(client)


@every_registry
async def test_a_rate_limit_is_told_as_one_and_what_is_cached_comes(
    scene: Scene, start_mirror: StartMirror, clock: FakeClock
) -> None:
    registry, ways = scene.registry, scene.ways
    if ways.needs_password:
        scene.give_password(ways.proof)
    mirror = await start_mirror(scene.upstream())
    await _pull(Client(mirror, ways, CONTAINERD))
    registry.limit()
    clock.advance(3600)
    await _pull(Client(mirror, ways, CONTAINERD))
    curl = Client(mirror, ways, CURL)
    limited = await curl.ask("GET", "manifests/2")
    assert limited.status == 429
    assert json.loads(limited.body)["errors"][0]["code"] == "TOOMANYREQUESTS"
    if wanted := ways.limited_fields.get("Retry-After"):
        assert limited.headers["Retry-After"] == wanted
    for agent in (DOCKER, CONTAINERD):  # which turn to the registry itself
        assert (await Client(mirror, ways, agent).ask("GET", "manifests/2")).status == 404


@every_closed_registry
async def test_a_wrong_password_is_an_error_of_its_own_and_the_right_one_helps_at_once(
    scene: Scene,
    start_mirror: StartMirror,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ways = scene.ways
    caplog.set_level(logging.INFO)
    scene.give_password("an old one")
    mirror = await start_mirror(scene.upstream())
    client = Client(mirror, ways, CONTAINERD)
    metric = "mirror_upstream_credential_failures_total"
    denied = await client.ask("GET", "manifests/1", PRIVATE)
    assert denied.status == 403
    assert "WWW-Authenticate" not in denied.headers  # no password of the client's would help
    assert await mirror.metric(metric, upstream=ways.namespace) >= 1
    assert "upstream refuses the mirror's credentials" in caplog.text
    assert "an old one" not in caplog.text

    scene.give_password(ways.proof)
    await until(lambda: _is_there(client, "manifests/1", PRIVATE), within=30)
    failures = await mirror.metric(metric, upstream=ways.namespace)
    for digest, content in SECRET.blobs.items():
        _is(await client.ask("GET", f"blobs/{digest}", PRIVATE), content)
    clock.advance(60)
    assert await mirror.metric(metric, upstream=ways.namespace) == failures


@every_closed_registry
async def test_what_the_mirror_may_not_have_is_denied_and_that_is_no_wrong_password(
    scene: Scene, start_mirror: StartMirror
) -> None:
    ways = scene.ways
    name = PRIVATE
    if ways.needs_password:
        scene.give_password(ways.proof)
        name = "team/others"
        if ways.auth == "bearer":
            auth = scene.registry.auth
            assert isinstance(auth, BearerAuth)
            auth.private = {**auth.private, scene.registry.there(name): {"others"}}
    mirror = await start_mirror(scene.upstream())
    client = Client(mirror, ways, CONTAINERD)
    denied = await client.ask("GET", "manifests/1", name)
    assert (denied.status, json.loads(denied.body)["errors"][0]["code"]) == (403, "DENIED")
    assert (await client.ask("GET", f"blobs/{SECRET.config}", name)).status in {403, 404}
    assert await mirror.metric("mirror_upstream_credential_failures_total") == 0
    await _pull(client)


async def _is_there(client: Client, what: str, name: str) -> bool:
    return (await client.ask("GET", what, name)).status == 200


@pytest.mark.parametrize("ways", [ECR_PUBLIC, ECR, ACR_PERSONAL], ids=str)
async def test_where_head_of_a_blob_is_of_no_use_it_is_tried_once_and_then_not(
    scene: Scene, start_mirror: StartMirror
) -> None:
    if scene.ways.needs_password:
        scene.give_password(scene.ways.proof)
    mirror = await start_mirror(scene.upstream())
    client = Client(mirror, scene.ways, CONTAINERD)
    digests = [*ONE.blobs, TWO.config, TWO.layers[1]]
    for digest in digests:
        head = await client.ask("HEAD", f"blobs/{digest}")
        assert int(head.headers["Content-Length"]) == len({**ONE.blobs, **TWO.blobs}[digest])
    refused = [it for it in scene.registry.requests if it.method == "HEAD" and it.status >= 400]
    assert {it.reference for it in refused} == {digests[0]}

"""Whose content a bundle makes whose: a name in it is no permission, and what it holds is proof.

`private` lets in each client by its own password; whoever makes the bundles may mean harm.
"""

import base64
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from mirror.control.bundles import ArrivedList, Depot, Wanted
from mirror.operate.bundles.archive import Archive
from mirror.operate.bundles.importing import import_bundle
from mirror.operate.bundles.remote import RemoteDepot
from mirror.operate.bundles.steps import Imported, Meter
from tests.conformance.depot import DepotConformance
from tests.conftest import StartMirror
from tests.support.auth import BasicAuth
from tests.support.bundles import files_of, path_of, write
from tests.support.client import client
from tests.support.clock import FakeClock
from tests.support.images import OCI_INDEX, Image, digest_of, image, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

SIZE = 600_000
ANNA = {"Authorization": "Basic " + base64.b64encode(b"anna:secret").decode()}
HERS = "private.example/org/secret"
YEARS = 3 * 365 * 86400.0
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def private() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as registry:
        registry.auth = BasicAuth(users={"anna": "secret"})
        yield registry


@pytest.fixture
def secret(private: ScriptedRegistry) -> Image:
    return private.add(image(random_layer(SIZE, seed=1)), "org/secret", "1")


@pytest.fixture
async def mirror(
    start_mirror: StartMirror, upstream: ScriptedRegistry, private: ScriptedRegistry
) -> InnerMirror:
    return await start_mirror(
        {
            "docker.io": {**upstream_at(upstream.url), "default": True},
            "private.example": {**upstream_at(private.url), "access": "client"},
            "open.example": upstream_at(upstream.url),
        },
        fill={"prefetch": "off"},
    )


def key_of(mirror: InnerMirror) -> dict[str, str]:
    return {"Mirror-Key": (mirror.store_root / "operator-key").read_text()}


async def take(mirror: InnerMirror, bundle: Path) -> list[Imported]:
    async with aiohttp.ClientSession(headers=key_of(mirror)) as session:
        with Archive.open(bundle) as archive:
            depot = RemoteDepot(session, mirror.admin_host)
            steps = [step async for step in import_bundle(depot, archive, Meter())]
    return [step for step in steps if isinstance(step, Imported)]


@pytest.fixture
async def depot(mirror: InnerMirror) -> AsyncIterator[Depot]:
    async with aiohttp.ClientSession(headers=key_of(mirror)) as session:
        yield RemoteDepot(session, mirror.admin_host)


class TestRemoteDepot(DepotConformance):
    """A store that is asked over the admin port."""


async def lacking(mirror: InnerMirror, name: str) -> Sequence[str]:
    async with aiohttp.ClientSession(headers=key_of(mirror)) as session:
        return (await RemoteDepot(session, mirror.admin_host).plan(Wanted(name))).missing


async def pull(mirror: InnerMirror, name: str, wanted: Image, **settings: object) -> set[int]:
    paths = ["manifests/1", *(f"blobs/{digest}" for digest in wanted.blobs)]
    return {(await mirror.client.get(f"/v2/{name}/{path}", **settings)).status for path in paths}


async def test_what_was_imported_of_an_upstream_with_logins_is_asked_for_by_login(
    mirror: InnerMirror, private: ScriptedRegistry, secret: Image, tmp_path: Path
) -> None:
    bundle = write(tmp_path / "bundle.tar", files_of({f"{HERS}:1": secret}))
    [step] = await take(mirror, bundle)
    assert step.outcome == "imported"
    assert await pull(mirror, HERS, secret) == {401}
    private.forget()
    assert await pull(mirror, HERS, secret, headers=ANNA) == {200}
    assert private.asked("blob", method="GET") == []
    for digest in secret.blobs:  # nor may any other repository have it for that
        answer = await mirror.client.get(f"/v2/library/app/blobs/{digest}")
        assert answer.status == 404


async def test_a_name_in_a_bundle_gives_nobody_what_is_here_for_others(
    mirror: InnerMirror, secret: Image, tmp_path: Path
) -> None:
    assert await pull(mirror, HERS, secret, headers=ANNA) == {200}
    await mirror.until_metric("mirror_store_blobs", 3)
    [layer] = secret.layers
    name = "docker.io/library/evil:1"
    for files in (
        files_of({name: secret}, without=[layer]),
        files_of({name: secret}, wrong={layer: b"x" * SIZE}),
    ):
        [step] = await take(mirror, write(tmp_path / "bundle.tar", files))
        assert (step.outcome, step.missing) == ("incomplete", [layer])
        assert await pull(mirror, "library/evil", secret) == {404}
    [step] = await take(mirror, write(tmp_path / "bundle.tar", files_of({name: secret})))
    assert step.outcome == "imported"  # who has the bytes knows what is in them
    assert await pull(mirror, "library/evil", secret) == {200}


async def test_a_list_of_referrers_in_a_bundle_gives_nobody_what_is_here_for_others(
    mirror: InnerMirror, secret: Image, tmp_path: Path
) -> None:
    assert await pull(mirror, HERS, secret, headers=ANNA) == {200}
    await mirror.until_metric("mirror_store_blobs", 3)
    evil = image(random_layer(1000, seed=9))
    content = json.dumps({"schemaVersion": 2, "manifests": [secret.descriptor]}).encode()
    entry = {
        "mediaType": OCI_INDEX, "digest": digest_of(content), "size": len(content),
        "annotations": {
            "org.opencontainers.image.ref.name": f"docker.io/library/evil@{evil.digest}"
        },
    }  # fmt: skip
    files = [
        *files_of({"docker.io/library/evil:1": evil}),
        ("referrers.json", json.dumps({"manifests": [entry]}).encode()),
        (path_of(digest_of(content)), content),
    ]
    [step] = await take(mirror, write(tmp_path / "bundle.tar", files))
    assert step.outcome == "imported"
    paths = [f"manifests/{secret.digest}", *(f"blobs/{digest}" for digest in secret.blobs)]
    for path in paths:
        assert (await mirror.client.get(f"/v2/library/evil/{path}")).status == 404
    async with aiohttp.ClientSession(headers=key_of(mirror)) as session:
        depot = RemoteDepot(session, mirror.admin_host)
        subject = f"docker.io/library/evil@{evil.digest}"
        told = await depot.record_referrers(ArrivedList(subject, digest_of(content), 1.0))
        assert told.outcome == "incomplete"
        plan = await depot.plan(Wanted("docker.io/library/evil:1"))
        assert [json.loads(it.content)["manifests"] for it in plan.companions] == [[]]


async def test_what_a_repository_may_not_have_is_not_exported_in_its_name(
    mirror: InnerMirror, upstream: ScriptedRegistry, secret: Image
) -> None:
    assert await pull(mirror, HERS, secret, headers=ANNA) == {200}
    await mirror.until_metric("mirror_store_blobs", 3)
    upstream.add(secret, "library/evil", "1")
    assert (await mirror.client.manifest("library/evil", "1")).status == 200
    assert await lacking(mirror, f"{HERS}:1") == []
    assert set(await lacking(mirror, "docker.io/library/evil:1")) == {*secret.blobs}
    other = upstream.add(image(random_layer(SIZE, seed=8)), "org/open", "1")
    assert await pull(mirror, "open.example/org/open", other) == {200}
    upstream.add(other, "library/evil", "2")
    assert (await mirror.client.manifest("library/evil", "2")).status == 200
    await mirror.until_metric("mirror_store_blobs", 6)
    assert await lacking(mirror, "open.example/org/open:1") == []
    assert set(await lacking(mirror, "docker.io/library/evil:2")) == {*other.blobs}


async def test_an_imported_tag_is_fallen_back_on_for_ever_and_upstreams_word_takes_its_place(
    mirror: InnerMirror, upstream: ScriptedRegistry, clock: FakeClock, tmp_path: Path
) -> None:
    old, new = image(random_layer(SIZE, seed=3)), image(random_layer(SIZE, seed=4))
    made = datetime.fromtimestamp(clock(), UTC).isoformat()
    files = files_of({"docker.io/library/app:1": old}, created=made)
    bundle = write(tmp_path / "bundle.tar", files)
    [step] = await take(mirror, bundle)
    assert step.outcome == "imported"
    assert await pull(mirror, "library/app", old) == {200}
    assert upstream.asked() == []
    clock.advance(YEARS)
    await upstream.stop()
    answer = await mirror.client.manifest("app", "1")
    assert (answer.status, answer.digest) == (200, old.digest)
    assert "imported" in answer.headers["Warning"]
    assert await pull(mirror, "library/app", old) == {200}
    await upstream.start()
    upstream.add(new, "library/app", "1")
    clock.advance(3600.0)

    async def is_asked_again() -> bool:
        return (await mirror.client.manifest("app", "1")).digest == new.digest

    await until(is_asked_again)
    [step] = await take(mirror, bundle)
    assert step.outcome == "newer"
    assert (await mirror.client.manifest("app", "1")).digest == new.digest
    by_digest = await mirror.client.manifest("app", old.digest)
    assert (by_digest.status, by_digest.digest) == (200, old.digest)


async def test_what_a_bundle_says_of_a_tag_counts_at_once_for_every_worker(
    mirror: InnerMirror, upstream: ScriptedRegistry, clock: FakeClock, tmp_path: Path
) -> None:
    old, new = image(random_layer(SIZE, seed=3)), image(random_layer(SIZE, seed=4))
    upstream.add(old, "library/app", "1")
    assert await pull(mirror, "library/app", old) == {200}
    clock.advance(5.0)  # it is fresh
    made = datetime.fromtimestamp(clock(), UTC).isoformat()
    files = files_of({"docker.io/library/app:1": new}, created=made)
    [step] = await take(mirror, write(tmp_path / "bundle.tar", files))
    assert step.outcome == "imported"
    assert (await mirror.client.manifest("app", "1")).digest == new.digest


async def test_what_was_missing_a_moment_ago_is_there_once_it_is_imported(
    mirror: InnerMirror, upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    app = image(random_layer(SIZE, seed=3))
    assert await pull(mirror, "library/app", app) == {404}
    files = files_of({"docker.io/library/app:1": app})
    [step] = await take(mirror, write(tmp_path / "bundle.tar", files))
    assert step.outcome == "imported"
    await upstream.stop()
    assert await pull(mirror, "library/app", app) == {200}


@pytest.mark.parametrize(
    ("method", "path", "headers", "data", "status"),
    [
        ("PUT", "blob?digest=DIGEST", {"Content-Type": "text/plain"}, b"x", 415),
        ("PUT", "blob?digest=DIGEST", {"Sec-Fetch-Site": "cross-site"}, b"x", 403),
        ("PUT", "blob?digest=DIGEST", {"Host": "evil.example"}, b"x", 421),
        ("PUT", "blob?digest=x", {}, b"x", 400),
        ("PUT", "blob?digest=DIGEST&upstream=quay.io", {}, b"x", 400),
        ("PUT", "blob?digest=DIGEST&upstream=docker.io", {}, b"x", 422),
        ("GET", "blob?digest=DIGEST", {}, None, 405),
        ("POST", "blob", JSON | {"Mirror-Key": "x"}, b'{"digest": "DIGEST"}', 403),
        ("POST", "plan", JSON | {"Mirror-Key": ""}, b'{"image": "app"}', 403),
        ("POST", "images", JSON | {"Mirror-Key": "x"}, b"{}", 403),
        ("PUT", "blob?digest=DIGEST", {"Mirror-Key": "x"}, b"x", 403),
        ("POST", "blob", JSON, b'{"digest": "DIGEST"}', 404),
        ("POST", "blob", JSON, b'{"digest": "x"}', 400),
        ("POST", "blob", JSON | {"Sec-Fetch-Site": "cross-site"}, b'{"digest": "x"}', 403),
        ("POST", "plan", JSON, b'{"image": "app", "platforms": ["x"]}', 400),
        ("POST", "plan", JSON, b'{"image": "quay.io/org/app"}', 400),
        ("POST", "missing", JSON, b'{"digests": ["x"]}', 400),
        ("POST", "sent", JSON, b'{"digests": [], "upstreams": ["x"]}', 400),
        ("POST", "images", JSON, b"{}", 400),
        ("POST", "images", {"Content-Type": "text/plain"}, b"{}", 415),
    ],
)
async def test_nothing_is_done_for_web_pages_and_for_what_makes_no_sense(
    mirror: InnerMirror,
    *,
    method: str,
    path: str,
    headers: dict[str, str],
    data: bytes | None,
    status: int,
) -> None:
    digest = "sha256:" + "a" * 64
    sent = {"Content-Type": "application/octet-stream"} | key_of(mirror) | headers
    body = None if data is None else data.replace(b"DIGEST", digest.encode())
    async with client(mirror.admin_url) as admin, admin.open(
        f"/api/v1/bundles/{path.replace('DIGEST', digest)}", method=method, data=body, headers=sent
    ) as answer:  # fmt: skip
        assert answer.status == status, await answer.text()
        assert answer.content_type == "application/problem+json"
        assert json.loads(await answer.text())["detail"]


async def test_only_who_may_read_the_store_may_have_what_is_in_it_or_say_what_images_are(
    start_mirror: StartMirror, upstream: ScriptedRegistry, mirror: InnerMirror, tmp_path: Path
) -> None:
    file = mirror.store_root / "operator-key"
    first, mode = file.read_text(), file.stat().st_mode
    assert (mode & 0o777, len(first) > 40) == (0o600, True)
    await mirror.stop()
    secret = tmp_path / "token"
    secret.write_text("a token\n")
    mirror = await start_mirror(admin={"token_file": str(secret)})
    assert file.read_text() != first  # it is good for one life
    async with client(mirror.admin_url) as admin:
        for headers, status in (
            ({}, 401),
            ({"Mirror-Key": first}, 401),
            (key_of(mirror), 200),  # who may read the store may have what is in it
            ({"Authorization": "Bearer a token"}, 200),
        ):
            async with admin.open(
                "/api/v1/bundles/plan", method="POST", data=b'{"image": "app"}',
                headers=JSON | headers,
            ) as answer:  # fmt: skip
                assert answer.status == status

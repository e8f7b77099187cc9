"""Which upstream a request means; only configured ones are ever asked."""

import json
from collections.abc import AsyncIterator

import pytest

from tests.conftest import StartMirror
from tests.support.client import raw_request
from tests.support.images import image, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.upstream import ScriptedRegistry


@pytest.fixture
async def quay() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as registry:
        yield registry


@pytest.fixture
async def mirror(
    upstream: ScriptedRegistry, quay: ScriptedRegistry, start_mirror: StartMirror
) -> InnerMirror:
    for registry in (upstream, quay):
        for repository in ("library/app", "app", "org/app"):
            registry.add(image(random_layer(10, seed=1)), repository, "1")
    return await start_mirror(
        {
            "docker.io": {
                **upstream_at(upstream.url),
                "aliases": ["index.docker.io", "registry-1.docker.io"],
            },
            "quay.io": {
                **upstream_at(quay.url),
                "aliases": ["quay.example:8443"],
                "hosts": ["quay.mirror.example"],
            },
        }
    )


@pytest.mark.parametrize(
    ("target", "host", "repository"),
    [
        ("/v2/app/manifests/1", None, "library/app"),  # the default, and Docker Hub's own names
        ("/v2/org/app/manifests/1", None, "org/app"),
        ("/v2/app/manifests/1?ns=docker.io", None, "library/app"),
        ("/v2/app/manifests/1?ns=index.docker.io", None, "library/app"),
        ("/v2/app/manifests/1?ns=Registry-1.Docker.IO", None, "library/app"),
        ("/v2/docker.io/app/manifests/1", None, "library/app"),
        ("/v2/registry-1.docker.io/org/app/manifests/1", None, "org/app"),
        ("/v2/org/app/manifests/1", "unknown.example", "org/app"),
        ("/v2/docker.io/org/app/manifests/1", "quay.mirror.example", "org/app"),
    ],
)
async def test_this_means_docker_hub(
    upstream: ScriptedRegistry,
    quay: ScriptedRegistry,
    mirror: InnerMirror,
    *,
    target: str,
    host: str | None,
    repository: str,
) -> None:
    answer = await mirror.client.get(target, headers={"Host": host} if host else None)
    assert [asked.repository for asked in upstream.requests] == [repository]
    assert quay.requests == []
    assert answer.status == 200


@pytest.mark.parametrize(
    ("target", "host", "repository"),
    [
        ("/v2/org/app/manifests/1?ns=quay.io", None, "org/app"),
        ("/v2/org/app/manifests/1?ns=QUAY.io", None, "org/app"),
        ("/v2/org/app/manifests/1?ns=quay.example:8443", None, "org/app"),
        ("/v2/quay.io/org/app/manifests/1", None, "org/app"),
        ("/v2/quay.io/app/manifests/1", None, "app"),  # "library/" is Docker Hub's alone
        ("/v2/org/app/manifests/1", "quay.mirror.example", "org/app"),
        ("/v2/org/app/manifests/1", "QUAY.mirror.example:5000", "org/app"),
        ("/v2/org/app/manifests/1?ns=quay.io", "docker.io", "org/app"),
    ],
)
async def test_this_means_quay(
    upstream: ScriptedRegistry,
    quay: ScriptedRegistry,
    mirror: InnerMirror,
    *,
    target: str,
    host: str | None,
    repository: str,
) -> None:
    answer = await mirror.client.get(target, headers={"Host": host} if host else None)
    assert [asked.repository for asked in quay.requests] == [repository]
    assert upstream.requests == []
    assert answer.status == 200


@pytest.mark.parametrize(
    ("target", "ns"),
    [
        # containerd: [host."http://M/v2/docker.io"] with override_path; regctl's pathPrefix
        ("/v2/docker.io/library/app/manifests/1?ns=docker.io", "docker.io"),
        ("/v2/docker.io/app/manifests/1?ns=registry-1.docker.io", "registry-1.docker.io"),
        ("/v2/index.docker.io/app/manifests/1?ns=docker.io", "docker.io"),
    ],
)
async def test_containerds_ns_and_a_path_prefix_may_name_the_same_registry(
    upstream: ScriptedRegistry, mirror: InnerMirror, target: str, ns: str
) -> None:
    answer = await mirror.client.get(target)
    assert [asked.repository for asked in upstream.requests] == ["library/app"]
    assert (answer.status, answer.headers["OCI-Namespace"]) == (200, ns)


@pytest.mark.parametrize(
    "target",
    [
        "/v2/ghcr.io/org/app/manifests/1",  # docker pull mirror:5000/ghcr.io/org/app
        "/v2/localhost/app/manifests/1",
        "/v2/registry.local:5000/org/app/manifests/1",
        "/v2/registry.local%3A5000/org/app/tags/list",
        "/v2/host:5000/app/manifests/1",
        "/v2/host:5000/app/manifests/1?ns=docker.io",
        "/v2/app/manifests/1?ns=evil.example",
        "/v2/app/manifests/1?ns=127.0.0.1:9",
        "/v2/docker.io/app/manifests/1?ns=evil.example",
        "/v2/app/tags/list?ns=evil.example",
    ],
)
async def test_an_unknown_registry_is_404_and_nobody_is_asked(
    upstream: ScriptedRegistry, quay: ScriptedRegistry, mirror: InnerMirror, target: str
) -> None:
    answer = await mirror.client.get(target)
    assert answer.status == 404
    assert json.loads(answer.body)["errors"][0]["code"] == "NAME_UNKNOWN"
    assert "OCI-Namespace" not in answer.headers
    assert upstream.requests == quay.requests == []


async def test_without_a_default_a_name_alone_means_nothing(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    upstream.add(image(random_layer(10, seed=1)), "org/app", "1")
    mirror = await start_mirror({"quay.io": {**upstream_at(upstream.url), "default": False}})
    answer = await mirror.client.manifest("org/app", "1")
    assert json.loads(answer.body)["errors"][0]["code"] == "NAME_UNKNOWN"
    assert upstream.requests == []
    assert (await mirror.client.manifest("quay.io/org/app", "1")).status == 200


async def test_the_namespace_that_was_used_is_told(mirror: InnerMirror) -> None:
    manifest = await mirror.client.get("/v2/org/app/manifests/1?ns=quay.io")
    digest = json.loads(manifest.body)["config"]["digest"]
    for target in (
        "/v2/org/app/manifests/1?ns=quay.io",
        f"/v2/org/app/blobs/{digest}?ns=quay.io",
        "/v2/org/app/tags/list?ns=quay.io",
    ):
        for method in (mirror.client.get, mirror.client.head):
            assert (await method(target)).headers["OCI-Namespace"] == "quay.io"
    assert "OCI-Namespace" not in (await mirror.client.get("/v2/org/app/manifests/1")).headers


@pytest.mark.parametrize("target", ["/v2/", "/v2/_catalog", "/v2/app/manifests/1"])
async def test_a_namespace_cannot_write_headers(mirror: InnerMirror, target: str) -> None:
    answer = await mirror.client.get(f"{target}?ns=docker.io%0d%0aSet-Cookie:%20a=b")
    assert answer.status in {200, 404}
    assert "Set-Cookie" not in answer.headers
    assert "OCI-Namespace" not in answer.headers


async def test_the_same_name_at_two_registries_is_two_repositories(
    upstream: ScriptedRegistry, quay: ScriptedRegistry, mirror: InnerMirror
) -> None:
    other = quay.add(image(random_layer(10, seed=2)), "org/app", "1")
    at_hub = await mirror.client.manifest("docker.io/org/app", "1")
    at_quay = await mirror.client.manifest("quay.io/org/app", "1")
    assert at_quay.body == other.manifest
    assert at_hub.body != at_quay.body
    assert len(upstream.requests) == len(quay.requests) == 1


async def test_aliases_share_what_is_cached(
    upstream: ScriptedRegistry, mirror: InnerMirror
) -> None:
    await mirror.client.manifest("docker.io/app", "1")
    answer = await mirror.client.get("/v2/library/app/manifests/1?ns=index.docker.io")
    assert answer.headers["Cache-Status"] == "mirror; hit"
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "target",
    [
        "manifests/1",
        f"manifests/sha256:{'a' * 64}",
        f"blobs/sha256:{'a' * 64}",
        "tags/list",
        f"referrers/sha256:{'a' * 64}",
    ],
)
async def test_a_repository_that_is_not_to_be_served_is_asked_of_nobody(
    upstream: ScriptedRegistry, start_mirror: StartMirror, target: str
) -> None:
    hub = upstream_at(upstream.url) | {"allow": ["library/*"], "deny": ["library/secret"]}
    mirror = await start_mirror({"docker.io": hub})
    for repository in ("org/app", "library/secret", "secret"):
        answer = await mirror.client.get(f"/v2/{repository}/{target}")
        assert (answer.status, json.loads(answer.body)["errors"][0]["code"]) == (403, "DENIED")
    assert not upstream.requests
    assert (await mirror.client.get(f"/v2/alpine/{target}")).status == 404
    assert upstream.requests


@pytest.mark.parametrize("host", ["mirror.example:5000", "elsewhere.example", "a", ""])
async def test_a_target_in_absolute_form_says_itself_what_host_is_meant(
    upstream: ScriptedRegistry, start_mirror: StartMirror, quay: ScriptedRegistry, host: str
) -> None:
    """As a proxy in between writes it, whatever that makes of `Host` (RFC 9112, 3.2.2)."""
    meant = {"hosts": ["quay.mirror.example"], "default": False}
    mirror = await start_mirror(
        {
            "docker.io": upstream_at(upstream.url) | {"default": True},
            "quay.io": upstream_at(quay.url) | meant,
        }
    )
    app = quay.add(image(random_layer(10, seed=5)), "org/app", "absolute")
    address, _, port = mirror.host.partition(":")
    for authority in ("quay.mirror.example", "QUAY.mirror.example:5000"):
        line = f"GET http://{authority}/v2/org/app/manifests/absolute HTTP/1.1\r\n"
        request = f"{line}Host: {host}\r\nConnection: close\r\n\r\n".encode()
        answer = await raw_request(address, int(port), request)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert answer.endswith(app.manifest)
    assert not upstream.requests

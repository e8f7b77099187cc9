"""Registries that have others' repositories below a name of their own.

`hub-proxy/library/app`: Harbor's proxy projects. `group/dependency_proxy/containers/…`: GitLab's
dependency proxy. `docker-hub/…`: ECR's pull-through cache rules. `docker-remote/…`: Artifactory.
`project/hub/…`: Artifact Registry's remote repositories.
"""

import json
from urllib.parse import parse_qs

import pytest

from mirror.config import ConfigError, parse
from tests.conftest import StartMirror
from tests.support.auth import BearerAuth
from tests.support.images import Image, artifact, image, random_layer
from tests.support.mirror import upstream_at
from tests.support.upstream import ScriptedRegistry

APP = image(random_layer(5000, seed=1))
[LAYER] = APP.layers
PREFIXES = ["hub-proxy", "group/dependency_proxy/containers", "docker-hub", "project-1/hub"]


def _hold(upstream: ScriptedRegistry, prefix: str) -> Image:
    for tag in ("1", "2", "3"):
        upstream.add(APP, f"{prefix}/library/app", tag)
    return APP


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_an_image_is_pulled_from_below_the_prefix_with_a_token_for_it(
    upstream: ScriptedRegistry, start_mirror: StartMirror, prefix: str
) -> None:
    _hold(upstream, prefix)
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token")
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url, prefix=prefix)})
    assert (await mirror.client.get("/v2/library/app/manifests/1")).body == APP.manifest
    blob = f"/v2/library/app/blobs/{LAYER}"
    assert (await mirror.client.get(blob)).body == APP.blobs[LAYER]
    assert int((await mirror.client.head(blob)).headers["Content-Length"]) == 5000
    scopes = {
        scope for asked in upstream.asked("token") for scope in parse_qs(asked.query)["scope"]
    }
    assert scopes == {f"repository:{prefix}/library/app:pull"}
    assert {asked.repository for asked in upstream.asked("blob")} == {f"{prefix}/library/app"}


async def test_links_name_what_the_client_asked_for(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    _hold(upstream, "hub-proxy")
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url, prefix="hub-proxy")})
    target, seen = "/v2/library/app/tags/list?n=2", list[str]()
    for _ in range(2):
        answer = await mirror.client.get(target)
        page = json.loads(answer.body)
        assert page["name"] == "library/app"
        seen += page["tags"]
        target = answer.headers.get("Link", "<>").removeprefix("<").partition(">")[0]
        assert not target or target.startswith("/v2/library/app/tags/list?")
    assert seen == ["1", "2", "3"]


async def test_referrers_are_found_below_the_prefix(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    _hold(upstream, "hub-proxy")
    signature = upstream.add(artifact(b"signed", subject=APP), "hub-proxy/library/app")
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url, prefix="hub-proxy")})
    answer = await mirror.client.get(f"/v2/library/app/referrers/{APP.digest}")
    assert [it["digest"] for it in json.loads(answer.body)["manifests"]] == [signature.digest]


async def test_a_refusal_names_what_the_client_asked_for(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """Harbor names the repository in its errors, as it knows it."""
    errors = [
        {"code": "UNSUPPORTED", "message": "hub-proxy/library/app: no", "detail": "hub-proxy/x"}
    ]
    upstream.fault(kind="tags", status=405, body=json.dumps({"errors": errors}).encode())
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url, prefix="hub-proxy")})
    answer = await mirror.client.get("/v2/library/app/tags/list")
    assert b"hub-proxy" not in answer.body
    assert b"library/app: no" in answer.body


async def test_two_projects_of_one_registry_are_two_endpoints(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    _hold(upstream, "second")
    endpoints = [{"url": upstream.url, "prefix": prefix} for prefix in ("first", "second")]
    mirror = await start_mirror({"docker.io": {"endpoints": endpoints}})
    assert (await mirror.client.get(f"/v2/library/app/blobs/{LAYER}")).body == APP.blobs[LAYER]
    label = f"{upstream.host}/second"
    assert await mirror.metric("mirror_upstream_bytes_total", endpoint=label) == 5000


@pytest.mark.parametrize("written", ["/hub-proxy/", "hub-proxy"])
def test_slashes_around_a_prefix_do_not_matter(written: str) -> None:
    endpoints = [{"url": "https://harbor.test", "prefix": written}]
    config = parse({"upstream": {"docker.io": {"endpoints": endpoints}}})
    [endpoint] = config.upstream["docker.io"].endpoints
    assert endpoint.name_there("library/app") == "hub-proxy/library/app"


@pytest.mark.parametrize("written", ["", "Hub", "a//b", "../x", "a b", "v2/hub-proxy", "a?b"])
def test_what_no_repository_can_begin_with_is_no_prefix(written: str) -> None:
    endpoints = [{"url": "https://harbor.test", "prefix": written}]
    with pytest.raises(ConfigError, match="prefix"):
        parse({"upstream": {"docker.io": {"endpoints": endpoints}}})

"""Digests of algorithms that are not known here: named by others, and nobody's reason to refuse."""

import json

import pytest

from tests.conftest import StartMirror
from tests.support.auth import BearerAuth
from tests.support.images import OCI_INDEX, OCI_MANIFEST, Image, image, random_layer
from tests.support.mirror import upstream_at
from tests.support.upstream import ScriptedRegistry

APP = image(random_layer(1_000, seed=81))
ODD = ["blake3:" + "a" * 64, "sha384:" + "0" * 96, "sha256+b64:" + "A" * 43 + "="]


def _index(digest: str) -> Image:
    child = {"mediaType": OCI_MANIFEST, "digest": digest, "size": 500}
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [child, APP.descriptor],
        "subject": child,
    }
    return Image(json.dumps(document).encode(), OCI_INDEX, members=(APP,))


@pytest.mark.parametrize("digest", ODD)
async def test_an_index_with_a_child_under_another_algorithm_is_passed_on_and_kept(
    upstream: ScriptedRegistry, start_mirror: StartMirror, digest: str
) -> None:
    whole = upstream.add(_index(digest), "library/app", "1")
    mirror = await start_mirror()
    by_tag = await mirror.client.manifest("app", "1")
    answer = await mirror.client.manifest("app", whole.digest)
    assert by_tag.body == answer.body == whole.manifest
    assert answer.headers["Content-Type"] == OCI_INDEX
    assert answer.headers["Cache-Status"] == "mirror; hit"
    assert (await mirror.client.manifest("app", APP.digest)).status == 200
    assert (await mirror.client.blob("app", APP.layers[0])).status == 200


@pytest.mark.parametrize("digest", ODD)
@pytest.mark.parametrize("kind", ["manifests", "blobs"])
async def test_what_would_have_to_be_proved_by_another_algorithm_is_refused_and_says_why(
    upstream: ScriptedRegistry, start_mirror: StartMirror, digest: str, kind: str
) -> None:
    mirror = await start_mirror()
    answer = await mirror.client.get(f"/v2/app/{kind}/{digest}")
    assert answer.status == 400
    assert b"neither sha256 nor sha512" in answer.body
    assert upstream.requests == []


def _listed(digest: str) -> bytes:
    found = [{**APP.descriptor, "annotations": {"subject": digest}}]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}
    return json.dumps(document).encode()


@pytest.mark.parametrize("digest", ODD)
@pytest.mark.parametrize("query", ["", "?artifactType=none", "?n=5"])
async def test_what_refers_to_something_under_another_algorithm_is_what_upstream_says(
    upstream: ScriptedRegistry, start_mirror: StartMirror, digest: str, query: str
) -> None:
    upstream.add(APP, "library/app", "1")
    upstream.fault(kind="referrers", body=_listed(digest))
    mirror = await start_mirror()
    answer = await mirror.client.get(f"/v2/app/referrers/{digest.replace(':', '%3A')}{query}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, OCI_INDEX)
    assert upstream.requests[0].path == f"/v2/library/app/referrers/{digest}"
    assert (APP.digest.encode() in answer.body) == ("artifactType" not in query)


@pytest.mark.parametrize(("status", "told"), [(404, 404), (400, 400), (503, 502)])
async def test_a_registry_that_does_not_know_the_algorithm_is_asked_and_says_so(
    upstream: ScriptedRegistry, start_mirror: StartMirror, status: int, told: int
) -> None:
    upstream.fault(kind="referrers", status=status)
    mirror = await start_mirror()
    assert (await mirror.client.get(f"/v2/app/referrers/{ODD[0]}")).status == told


@pytest.mark.parametrize("name", ["blake3:", "blake3", ":a", "b:" + "a" * 513, "b" * 513 + ":a"])
async def test_what_is_no_digest_by_the_grammar_or_has_no_end_is_asked_of_nobody(
    upstream: ScriptedRegistry, start_mirror: StartMirror, name: str
) -> None:
    mirror = await start_mirror()
    assert (await mirror.client.get(f"/v2/app/referrers/{name}")).status == 400
    assert upstream.requests == []


@pytest.mark.parametrize("is_let_in", [True, False])
async def test_a_client_is_told_of_it_only_where_upstream_lets_it_in(
    upstream: ScriptedRegistry, start_mirror: StartMirror, *, is_let_in: bool
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token", users={"me": "secret"})
    upstream.fault(where=lambda it: it.kind == "manifest" and is_let_in, body=b"{}", status=200)
    listed = upstream.fault(
        where=lambda it: it.kind == "referrers" and "Authorization" in it.headers,
        status=200,
        body=_listed(ODD[0]),
    )
    settings = {**upstream_at(upstream.url), "access": "client"}
    mirror = await start_mirror({"docker.io": settings})
    token = {"Authorization": "Bearer mine"}
    answer = await mirror.client.get(f"/v2/app/referrers/{ODD[0]}", headers=token)
    assert answer.status == (200 if is_let_in else 401)
    assert bool(listed.struck) is is_let_in

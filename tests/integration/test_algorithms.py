"""Digests of algorithms that are not known here: named by others, and nobody's reason to refuse."""

import json

import pytest

from tests.conftest import StartMirror
from tests.support.images import OCI_INDEX, OCI_MANIFEST, Image, image, random_layer
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

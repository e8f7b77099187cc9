"""OCI distribution-spec 1.1, what it says of pulling and of content discovery, section by section.

Each test's name begins with the section's. The mirror is asked with a path alone (Docker Hub) here;
what names another registry is in `test_routing`.
"""

import json
import re

import pytest

from tests.conftest import StartMirror
from tests.support.client import Answer
from tests.support.clock import FakeClock
from tests.support.images import OCI_INDEX, Image, artifact, digest_of, image, index, random_layer
from tests.support.mirror import InnerMirror
from tests.support.upstream import ScriptedRegistry

SIZE = 5_000
NAME = "library/app"
APP = image(random_layer(SIZE, seed=91))
OTHER = image(random_layer(70, seed=92), docker=True)
STRONG = image(random_layer(80, seed=93), algorithm="sha512")
SIGNATURE = artifact(b"signed", subject=APP)
SBOM = artifact(b"listed", subject=APP, artifact_type="application/vnd.example.sbom")
[LAYER] = APP.layers
HELD = {
    "OCI": APP, "Docker": OTHER, "sha512": STRONG, "index": index(APP, OTHER), "artifact": SIGNATURE
}  # fmt: skip
NOWHERE = digest_of(b"nowhere")
TAGS = ["1", "1.10", "1.9", "UPPER", "_x", "latest"]
CODES = {
    "BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN",
    "SIZE_INVALID", "UNAUTHORIZED", "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS",
}  # fmt: skip


@pytest.fixture
async def mirror(upstream: ScriptedRegistry, start_mirror: StartMirror) -> InnerMirror:
    for tag in TAGS:
        upstream.add(APP, NAME, tag)
    for held in (index(APP, OTHER), STRONG, SIGNATURE, SBOM):
        upstream.add(held, NAME)
    return await start_mirror()


def _errors(answer: Answer) -> list[dict[str, object]]:
    assert answer.headers["Content-Type"].startswith("application/json")
    errors: list[dict[str, object]] = json.loads(answer.body)["errors"]
    return errors


async def test_determining_support_the_base_is_200(mirror: InnerMirror) -> None:
    assert (await mirror.client.get("/v2/")).status == 200


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
async def test_pulling_manifests_by_digest_gives_the_manifest_its_type_and_its_digest(
    mirror: InnerMirror, held: Image
) -> None:
    for _ in range(2):  # from upstream, and from here
        answer = await mirror.client.manifest(NAME, held.digest)
        assert (answer.status, answer.body) == (200, held.manifest)
        assert answer.headers["Content-Type"] == held.media_type
        assert answer.headers["Docker-Content-Digest"] == held.digest


@pytest.mark.parametrize("tag", TAGS)
async def test_pulling_manifests_by_tag_gives_the_digest_of_the_body(
    mirror: InnerMirror, tag: str
) -> None:
    answer = await mirror.client.manifest(NAME, tag)
    assert answer.status == 200
    assert answer.headers["Docker-Content-Digest"] == answer.digest == APP.digest


@pytest.mark.parametrize("reference", ["missing", NOWHERE])
async def test_pulling_manifests_that_there_are_not_is_404(
    mirror: InnerMirror, reference: str
) -> None:
    answer = await mirror.client.manifest(NAME, reference)
    assert answer.status == 404
    assert _errors(answer)[0]["code"] == "MANIFEST_UNKNOWN"


async def test_pulling_manifests_of_a_repository_that_there_is_not_is_404(
    mirror: InnerMirror,
) -> None:
    assert (await mirror.client.manifest("library/nowhere", "1")).status == 404


@pytest.mark.parametrize("name", ["Upper", "a//b", "a_-b", "-a", "a/", "a...b"])
async def test_pulling_manifests_by_a_name_outside_the_grammar_is_400_or_404(
    mirror: InnerMirror, upstream: ScriptedRegistry, name: str
) -> None:
    assert (await mirror.client.manifest(name, "1")).status in {400, 404}
    assert not upstream.requests


@pytest.mark.parametrize("tag", ["x" * 129, ".x", "-x", "a+b"])
async def test_pulling_manifests_by_a_tag_outside_the_grammar_is_404(
    mirror: InnerMirror, upstream: ScriptedRegistry, tag: str
) -> None:
    assert (await mirror.client.manifest(NAME, tag)).status == 404
    assert not upstream.requests


@pytest.mark.parametrize("digest", [LAYER, APP.config, STRONG.layers[0]])
async def test_pulling_blobs_gives_the_bytes_that_the_digest_names(
    mirror: InnerMirror, digest: str
) -> None:
    for _ in range(2):
        answer = await mirror.client.blob(NAME, digest)
        assert answer.status == 200
        assert digest_of(answer.body, digest.partition(":")[0]) == digest
        assert answer.headers["Docker-Content-Digest"] == digest
        assert int(answer.headers["Content-Length"]) == len(answer.body)


async def test_pulling_blobs_that_there_are_not_is_404(mirror: InnerMirror) -> None:
    answer = await mirror.client.blob(NAME, NOWHERE)
    assert answer.status == 404
    assert _errors(answer)[0]["code"] == "BLOB_UNKNOWN"


@pytest.mark.parametrize(
    ("span", "start", "stop"),
    [
        ("0-0", 0, 1),
        ("10-19", 10, 20),
        ("4990-", 4990, SIZE),
        ("-10", 4990, SIZE),
        ("1-9999", 1, SIZE),
    ],
)
async def test_pulling_blobs_by_range_is_206_as_rfc_9110_has_it(
    mirror: InnerMirror, span: str, start: int, stop: int
) -> None:
    for _ in range(2):
        answer = await mirror.client.blob(NAME, LAYER, headers={"Range": f"bytes={span}"})
        assert answer.status == 206
        assert answer.body == APP.blobs[LAYER][start:stop]
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"


async def test_pulling_blobs_by_a_range_outside_is_416(mirror: InnerMirror) -> None:
    answer = await mirror.client.blob(NAME, LAYER, headers={"Range": f"bytes={SIZE}-"})
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{SIZE}")


@pytest.mark.parametrize("cache", ["cold", "warm"])
async def test_checking_if_content_exists_head_tells_the_size_and_digest_without_a_body(
    mirror: InnerMirror, cache: str
) -> None:
    for what, digest, size in (
        ("manifests/1", APP.digest, len(APP.manifest)),
        (f"manifests/{APP.digest}", APP.digest, len(APP.manifest)),
        (f"blobs/{LAYER}", LAYER, SIZE),
    ):
        if cache == "warm":
            await mirror.client.get(f"/v2/{NAME}/{what}")
        answer = await mirror.client.head(f"/v2/{NAME}/{what}")
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.headers["Content-Length"]) == size
        assert answer.headers["Docker-Content-Digest"] == digest


@pytest.mark.parametrize("what", ["manifests/missing", f"manifests/{NOWHERE}", f"blobs/{NOWHERE}"])
async def test_checking_if_content_exists_that_does_not_is_404(
    mirror: InnerMirror, what: str
) -> None:
    assert (await mirror.client.head(f"/v2/{NAME}/{what}")).status == 404


async def _tags(mirror: InnerMirror, query: str) -> tuple[list[str], str | None]:
    answer = await mirror.client.get(f"/v2/{NAME}/tags/list{query}")
    assert answer.status == 200
    document = json.loads(answer.body)
    assert document["name"] == NAME
    link = answer.headers.get("Link")
    if link is not None:  # RFC 5988
        match = re.fullmatch(r'<([^>]+)>; rel="next"', link)
        assert match
        link = match[1]
    return document["tags"], link


async def test_listing_tags_gives_them_all_in_lexical_order(mirror: InnerMirror) -> None:
    assert await _tags(mirror, "") == (sorted(TAGS), None)


@pytest.mark.parametrize("upstreams_way", ["pages", "ignores n"])
async def test_listing_tags_by_n_gives_no_more_and_links_to_the_rest(
    mirror: InnerMirror, upstream: ScriptedRegistry, upstreams_way: str
) -> None:
    upstream.ignores_pagination = upstreams_way != "pages"
    found, query = list[str](), "?n=4"
    names, link = await _tags(mirror, query)
    found += names
    assert len(names) == 4
    assert link is not None
    names, link = await _tags(mirror, "?" + link.partition("?")[2])
    assert (found + names, link) == (sorted(TAGS), None)


async def test_listing_tags_with_n_of_0_gives_an_empty_list_and_no_link(
    mirror: InnerMirror,
) -> None:
    assert await _tags(mirror, "?n=0") == ([], None)


@pytest.mark.parametrize("upstreams_way", ["pages", "ignores last"])
async def test_listing_tags_with_last_begins_behind_it(
    mirror: InnerMirror, upstream: ScriptedRegistry, upstreams_way: str
) -> None:
    upstream.ignores_pagination = upstreams_way != "pages"
    assert await _tags(mirror, "?last=1.10") == (sorted(TAGS)[2:], None)


async def test_listing_tags_of_a_repository_that_there_is_not_is_404(mirror: InnerMirror) -> None:
    answer = await mirror.client.get("/v2/library/nowhere/tags/list")
    assert answer.status == 404
    assert _errors(answer)[0]["code"] == "NAME_UNKNOWN"


async def _referrers(mirror: InnerMirror, digest: str, query: str = "") -> Answer:
    answer = await mirror.client.get(f"/v2/{NAME}/referrers/{digest}{query}")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == OCI_INDEX
    document = json.loads(answer.body)
    assert (document["schemaVersion"], document["mediaType"]) == (2, OCI_INDEX)
    return answer


async def test_listing_referrers_gives_an_index_of_what_has_the_digest_as_its_subject(
    mirror: InnerMirror,
) -> None:
    answer = await _referrers(mirror, APP.digest)
    found = json.loads(answer.body)["manifests"]
    assert [it["digest"] for it in found] == [SIGNATURE.digest, SBOM.digest]
    assert [it["artifactType"] for it in found] == [SIGNATURE.artifact_type, SBOM.artifact_type]
    assert "OCI-Filters-Applied" not in answer.headers


@pytest.mark.parametrize("digest", [OTHER.digest, NOWHERE])
async def test_listing_referrers_where_there_are_none_gives_an_empty_index(
    mirror: InnerMirror, digest: str
) -> None:
    assert json.loads((await _referrers(mirror, digest)).body)["manifests"] == []


async def test_listing_referrers_with_a_filter_says_that_it_was_applied(
    mirror: InnerMirror,
) -> None:
    query = "?artifactType=application%2Fvnd.example.sbom"
    answer = await _referrers(mirror, APP.digest, query)
    assert [it["digest"] for it in json.loads(answer.body)["manifests"]] == [SBOM.digest]
    assert answer.headers["OCI-Filters-Applied"] == "artifactType"


async def test_listing_referrers_by_what_is_no_digest_is_400(mirror: InnerMirror) -> None:
    assert (await mirror.client.get(f"/v2/{NAME}/referrers/latest")).status == 400


async def test_listing_referrers_what_is_found_can_be_pulled(mirror: InnerMirror) -> None:
    for found in json.loads((await _referrers(mirror, APP.digest)).body)["manifests"]:
        answer = await mirror.client.manifest(NAME, found["digest"])
        assert (answer.status, len(answer.body)) == (200, found["size"])


async def test_unavailable_referrers_api_is_404_and_the_tag_schema_is_a_tag_like_any_other(
    mirror: InnerMirror, upstream: ScriptedRegistry
) -> None:
    upstream.has_referrers = False
    listed = index(SIGNATURE)
    tag = APP.digest.replace(":", "-")
    upstream.add(listed, NAME, tag)
    assert (await mirror.client.get(f"/v2/{NAME}/referrers/{APP.digest}")).status == 404
    assert (await mirror.client.manifest(NAME, tag)).body == listed.manifest


@pytest.mark.parametrize(
    "target",
    [
        f"/v2/{NAME}/manifests/missing",
        f"/v2/{NAME}/blobs/{NOWHERE}",
        f"/v2/{NAME}/blobs/sha256:short",
        "/v2/library/nowhere/tags/list",
        f"/v2/{NAME}/tags/list?n=x",
        "/v2/Upper/manifests/1",
        f"/v2/{NAME}/nothing/of/the/api",
    ],
)
async def test_error_codes_4xx_bodies_hold_errors_in_the_specs_form(
    mirror: InnerMirror, target: str
) -> None:
    answer = await mirror.client.get(target)
    assert 400 <= answer.status < 500
    for error in _errors(answer):
        assert error.keys() >= {"code", "message"}
        assert re.fullmatch(r"[A-Z_]+", str(error["code"]))
        assert error["code"] in CODES | {"PAGINATION_NUMBER_INVALID"}  # distribution's own
        assert "\n" not in str(error["message"])


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize("what", ["manifests/1", f"blobs/{LAYER}", "blobs/uploads/"])
async def test_workflow_categories_push_and_management_are_refused_as_unsupported(
    mirror: InnerMirror, upstream: ScriptedRegistry, method: str, what: str
) -> None:
    async with mirror.client.open(f"/v2/{NAME}/{what}", method=method) as response:
        assert response.status == 405
    assert not upstream.requests


async def test_determining_support_head_and_a_base_without_its_slash_do_as_well(
    mirror: InnerMirror,
) -> None:
    assert (await mirror.client.head("/v2/")).status == 200
    assert (await mirror.client.get("/v2")).status == 200


@pytest.mark.parametrize(
    "name", ["a/manifests/blobs/tags/list", "0/1/2", "a__b/c--d/e.f", "a/" + "b" * 253, "a" * 247]
)
async def test_pulling_manifests_by_every_name_of_the_grammar(
    mirror: InnerMirror, upstream: ScriptedRegistry, name: str
) -> None:
    upstream.add(APP, name if "/" in name else f"library/{name}", "1")
    answer = await mirror.client.manifest(name, "1")
    assert (answer.status, answer.body) == (200, APP.manifest)
    assert (await mirror.client.blob(name, LAYER)).body == APP.blobs[LAYER]


@pytest.mark.parametrize("name", ["a" * 248, "a" * 255, "a" * 256, "a/" + "b" * 254])
async def test_pulling_manifests_by_a_name_that_is_too_long_is_400_and_harms_nobody(
    mirror: InnerMirror, upstream: ScriptedRegistry, name: str
) -> None:
    async with mirror.client.open("/v2/") as held:  # a connection of somebody else's
        for what in ("manifests/1", f"blobs/{LAYER}", "tags/list", f"referrers/{APP.digest}"):
            answer = await mirror.client.get(f"/v2/{name}/{what}")
            assert (answer.status, _errors(answer)[0]["code"]) == (400, "NAME_INVALID")
        assert await held.read() == b"{}"
    assert not upstream.requests
    assert (await mirror.client.manifest(NAME, "1")).status == 200


@pytest.mark.parametrize("tag", ["x" * 128, "_" + "." * 127, "A-b_c.D"])
async def test_pulling_manifests_by_every_tag_of_the_grammar(
    mirror: InnerMirror, upstream: ScriptedRegistry, tag: str
) -> None:
    upstream.add(APP, NAME, tag)
    assert (await mirror.client.manifest(NAME, tag)).body == APP.manifest


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
@pytest.mark.parametrize("cache", ["cold", "warm"])
async def test_checking_if_content_exists_head_of_any_manifest_tells_its_type_size_and_digest(
    mirror: InnerMirror, held: Image, cache: str
) -> None:
    target = f"/v2/{NAME}/manifests/{held.digest}"
    if cache == "warm":
        await mirror.client.get(target)
    answer = await mirror.client.head(target)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Type"] == held.media_type
    assert int(answer.headers["Content-Length"]) == len(held.manifest)
    assert answer.headers["Docker-Content-Digest"] == held.digest


@pytest.mark.parametrize("digest", [STRONG.config, STRONG.layers[0]])
async def test_checking_if_content_exists_head_of_a_blob_under_sha512(
    mirror: InnerMirror, digest: str
) -> None:
    answer = await mirror.client.head(f"/v2/{NAME}/blobs/{digest}")
    assert (answer.status, answer.headers["Docker-Content-Digest"]) == (200, digest)
    assert int(answer.headers["Content-Length"]) == len(STRONG.blobs[digest])


@pytest.mark.parametrize("what", ["manifests/1", f"manifests/{NOWHERE}", f"blobs/{NOWHERE}"])
async def test_checking_if_content_exists_in_a_repository_that_does_not_is_404(
    mirror: InnerMirror, what: str
) -> None:
    assert (await mirror.client.head(f"/v2/library/nowhere/{what}")).status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=x"},  # RFC 9110, 14.2: what is no range, or of another unit, is ignored
        {"Range": "lines=0-5"},
        {"Range": "bytes=9-1"},
        {"Range": "bytes=0-9", "If-Range": '"sha256:other"'},
        {"Range": "bytes=0-9", "If-Range": "Wed, 21 Oct 2015 07:28:00 GMT"},
    ],
)
async def test_pulling_blobs_a_range_that_is_none_or_of_another_version_is_ignored(
    mirror: InnerMirror, headers: dict[str, str]
) -> None:
    for _ in range(2):
        answer = await mirror.client.blob(NAME, LAYER, headers=headers)
        assert (answer.status, answer.body) == (200, APP.blobs[LAYER])
        assert answer.headers["Accept-Ranges"] == "bytes"


async def test_pulling_blobs_if_range_of_this_version_is_206(mirror: InnerMirror) -> None:
    tag = (await mirror.client.head(f"/v2/{NAME}/blobs/{LAYER}")).headers["ETag"]
    headers = {"Range": "bytes=5-9", "If-Range": tag}
    answer = await mirror.client.blob(NAME, LAYER, headers=headers)
    assert (answer.status, answer.body) == (206, APP.blobs[LAYER][5:10])


async def test_listing_tags_of_a_repository_without_tags_gives_an_empty_list(
    mirror: InnerMirror, upstream: ScriptedRegistry
) -> None:
    upstream.add(OTHER, "library/untagged")
    answer = await mirror.client.get("/v2/library/untagged/tags/list")
    assert (answer.status, json.loads(answer.body)["tags"]) == (200, [])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?n=100", sorted(TAGS)),
        ("?n=2&last=1.10", sorted(TAGS)[2:4]),
        ("?n=100&last=1.10", sorted(TAGS)[2:]),
        ("?last=latest", []),
        ("?n=5&last=zzz", []),
        ("?last=1.5", sorted(TAGS)[2:]),  # a proper tag, if not one of these
    ],
)
@pytest.mark.parametrize("upstreams_state", ["up", "away"])
async def test_listing_tags_by_n_and_last(
    mirror: InnerMirror,
    upstream: ScriptedRegistry,
    *,
    query: str,
    expected: list[str],
    upstreams_state: str,
) -> None:
    if upstreams_state == "away":  # then those that were pulled here are told
        for tag in TAGS:
            await mirror.client.manifest(NAME, tag)
        await upstream.stop()
    found, link = await _tags(mirror, query)
    assert found == expected
    assert (link is None) == (found[-1:] in ([], ["latest"]))


async def test_listing_tags_with_n_of_0_while_upstream_is_away_gives_an_empty_list(
    mirror: InnerMirror, upstream: ScriptedRegistry
) -> None:
    await mirror.client.manifest(NAME, "1")
    await upstream.stop()
    assert await _tags(mirror, "?n=0") == ([], None)


@pytest.mark.parametrize("n", ["x", "-1", "1.5", "1e3"])
async def test_listing_tags_by_what_is_no_number_is_400(mirror: InnerMirror, n: str) -> None:
    assert (await mirror.client.get(f"/v2/{NAME}/tags/list?n={n}")).status == 400


async def test_listing_referrers_of_a_subject_under_sha512(
    mirror: InnerMirror, upstream: ScriptedRegistry
) -> None:
    signature = upstream.add(artifact(b"strong", subject=STRONG), NAME)
    found = json.loads((await _referrers(mirror, STRONG.digest)).body)["manifests"]
    assert [it["digest"] for it in found] == [signature.digest]


async def test_listing_referrers_keeps_every_field_of_a_descriptor(
    mirror: InnerMirror, upstream: ScriptedRegistry
) -> None:
    described = {**SBOM.descriptor, "annotations": {"a": "b"}, "data": "e30=", "x": [1]}
    listed = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [described]}
    upstream.fault(kind="referrers", body=json.dumps(listed).encode())
    for query in ("", "?artifactType=application%2Fvnd.example.sbom"):
        found = json.loads((await _referrers(mirror, APP.digest, query)).body)["manifests"]
        assert found == [described]


@pytest.mark.parametrize("digest", ["sha256:short", "sha256:" + "G" * 64, "sha256", "x:"])
async def test_listing_referrers_by_a_digest_of_invalid_syntax_is_400(
    mirror: InnerMirror, upstream: ScriptedRegistry, digest: str
) -> None:
    answer = await mirror.client.get(f"/v2/{NAME}/referrers/{digest}")
    assert (answer.status, _errors(answer)[0]["code"]) == (400, "DIGEST_INVALID")
    assert not upstream.requests


async def test_listing_referrers_by_a_type_that_none_has_gives_an_empty_index_and_says_so(
    mirror: InnerMirror,
) -> None:
    answer = await _referrers(mirror, APP.digest, "?artifactType=application%2Fnone")
    assert json.loads(answer.body)["manifests"] == []
    assert answer.headers["OCI-Filters-Applied"] == "artifactType"


async def test_unavailable_referrers_api_is_404_also_while_upstream_is_away(
    mirror: InnerMirror, upstream: ScriptedRegistry
) -> None:
    upstream.has_referrers = False
    target = f"/v2/{NAME}/referrers/{APP.digest}"
    assert (await mirror.client.get(target)).status == 404
    await upstream.stop()
    assert (await mirror.client.get(target)).status == 404


@pytest.mark.parametrize(
    "what",
    [
        "manifests/1",
        f"manifests/{APP.digest}",
        f"blobs/{LAYER}",
        "tags/list",
        f"referrers/{APP.digest}",
        "manifests/missing",
        f"blobs/{NOWHERE}",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_registry_proxying_the_namespace_is_told_back(
    mirror: InnerMirror, what: str, method: str
) -> None:
    for _ in range(2):
        target = f"/v2/{NAME}/{what}?ns=docker.io"
        async with mirror.client.open(target, method=method) as response:
            assert response.headers["OCI-Namespace"] == "docker.io"
    answer = await mirror.client.get(f"/v2/{NAME}/{what}")
    assert "OCI-Namespace" not in answer.headers


@pytest.mark.parametrize("told", [None, "7"])
async def test_error_codes_429_says_when_to_come_again(
    mirror: InnerMirror, upstream: ScriptedRegistry, told: str | None
) -> None:
    for kind in ("tag", "blob", "tags"):
        upstream.fault(kind=kind, status=429, headers={"Retry-After": told} if told else {})
    for what in ("manifests/1", f"blobs/{LAYER}", "tags/list"):
        for _ in range(2):  # by upstream's word, and by the mirror's own
            answer = await mirror.client.get(f"/v2/{NAME}/{what}")
            assert (answer.status, _errors(answer)[0]["code"]) == (429, "TOOMANYREQUESTS")
            assert 0 < int(answer.headers["Retry-After"]) <= int(told or 60)


async def test_warnings_have_the_code_and_agent_that_they_must_and_no_date(
    mirror: InnerMirror, upstream: ScriptedRegistry, clock: FakeClock
) -> None:
    await mirror.client.manifest(NAME, "1")
    await upstream.stop()
    clock.advance(3600)
    answer = await mirror.client.manifest(NAME, "1")
    told = answer.headers.getall("Warning")
    assert answer.status == 200
    assert all(re.fullmatch(r'299 - "[ -~]+"', warning) for warning in told)
    assert 0 < sum(map(len, told)) <= 4096

import pytest

from mirror.oci.digest import parse_digest
from mirror.oci.errors import ErrorCode, RegistryError
from mirror.oci.reference import Tag
from mirror.oci.request import (
    BlobRequest,
    CatalogRequest,
    ManifestRequest,
    Page,
    Ping,
    ReferrersRequest,
    Request,
    TagsRequest,
    parse_target,
)

DIGEST = "sha256:" + "a" * 64
PARSED_DIGEST = parse_digest(DIGEST)


@pytest.mark.parametrize(
    ("target", "request_"),
    [
        ("/v2/", Ping()),
        ("/v2", Ping()),
        ("/v2/_catalog", CatalogRequest(Page())),
        ("/v2/_catalog?n=10&last=a/b", CatalogRequest(Page(10, "a/b"))),
        ("/v2/alpine/manifests/3.20", ManifestRequest("alpine", Tag("3.20"))),
        (f"/v2/a/b/manifests/{DIGEST}", ManifestRequest("a/b", PARSED_DIGEST)),
        (f"/v2/alpine/blobs/{DIGEST}", BlobRequest("alpine", PARSED_DIGEST)),
        ("/v2/alpine/tags/list", TagsRequest("alpine", Page())),
        ("/v2/alpine/tags/list?n=0&last=3.19", TagsRequest("alpine", Page(0, "3.19"))),
        (f"/v2/alpine/referrers/{DIGEST}", ReferrersRequest("alpine", PARSED_DIGEST, None)),
        (
            f"/v2/alpine/referrers/{DIGEST}?artifactType=application%2Fspdx%2Bjson",
            ReferrersRequest("alpine", PARSED_DIGEST, "application/spdx+json"),
        ),
        (
            f"/v2/alpine/referrers/{DIGEST}?artifactType=&ns=a.io&last=x&token=y",
            ReferrersRequest("alpine", PARSED_DIGEST, None, Page(None, "x", (("token", "y"),))),
        ),
    ],
)
def test_each_path_of_the_spec_is_recognised(target: str, request_: Request) -> None:
    assert parse_target(target).request == request_


@pytest.mark.parametrize(
    ("target", "request_"),
    [
        ("/v2/blobs/manifests/latest", ManifestRequest("blobs", Tag("latest"))),
        ("/v2/a/blobs/b/manifests/tags", ManifestRequest("a/blobs/b", Tag("tags"))),
        ("/v2/manifests/manifests/manifests", ManifestRequest("manifests", Tag("manifests"))),
        ("/v2/tags/list/tags/list", TagsRequest("tags/list", Page())),
        (f"/v2/manifests/latest/blobs/{DIGEST}", BlobRequest("manifests/latest", PARSED_DIGEST)),
        ("/v2/v2/manifests/v2", ManifestRequest("v2", Tag("v2"))),
        ("/v2/ghcr.io/org/app/manifests/1", ManifestRequest("ghcr.io/org/app", Tag("1"))),
    ],
)
def test_a_repository_may_be_called_like_a_part_of_the_api(target: str, request_: Request) -> None:
    assert parse_target(target).request == request_


@pytest.mark.parametrize(
    "target",
    [
        "/v2/library%2Falpine/manifests/latest",
        "/v2/library%2falpine/manifests/latest",
        "/v2/%61lpine/manifests/latest",
        "/v2/library//alpine/manifests/latest",
        "/v2//alpine/manifests/latest",
        "/v2//manifests/latest",
        "/v2/../v2/alpine/manifests/latest",
        "/v2/a/../b/manifests/latest",
        "/v2/a/./b/manifests/latest",
        "/v2/a/%2e%2e/b/manifests/latest",
        "/v2/alpine//manifests/latest",
        "/v2/Alpine/manifests/latest",
        "/v2/" + "a" * 256 + "/manifests/latest",
        "/v2/älpine/manifests/latest",
        "/v2/alpine/manifests/latest?ns=dö",
        "/v2/alpine/manifests/latest?ns=\udcff",
    ],
)
def test_a_name_is_taken_by_the_letter_and_never_decoded_or_cleaned(target: str) -> None:
    with pytest.raises(RegistryError) as caught:
        parse_target(target)
    assert caught.value.code is ErrorCode.NAME_INVALID


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/v2/alpine/manifests/", ErrorCode.MANIFEST_UNKNOWN),
        ("/v2/alpine/manifests/a%2Fb", ErrorCode.MANIFEST_UNKNOWN),
        ("/v2/alpine/manifests/..", ErrorCode.MANIFEST_UNKNOWN),
        ("/v2/alpine/manifests/sha256:abc", ErrorCode.DIGEST_INVALID),
        ("/v2/alpine/blobs/", ErrorCode.DIGEST_INVALID),
        ("/v2/alpine/blobs/latest", ErrorCode.DIGEST_INVALID),
        (f"/v2/alpine/blobs/{DIGEST.replace(':', '%2F')}", ErrorCode.DIGEST_INVALID),
        ("/v2/alpine/referrers/latest", ErrorCode.DIGEST_INVALID),
    ],
)
def test_a_bad_reference_is_told_in_the_words_of_its_kind(target: str, code: ErrorCode) -> None:
    with pytest.raises(RegistryError) as caught:
        parse_target(target)
    assert caught.value.code is code


@pytest.mark.parametrize(
    "target",
    [
        "",
        "/",
        "*",
        "/v1/",
        "/v2x/",
        "//v2/",
        "/v2/_catalog/",
        "/v2/alpine",
        "/v2/alpine/",
        "/v2/alpine/manifests",
        "/v2/alpine/manifests/latest/",
        f"/v2/alpine/blobs/{DIGEST}/",
        "/v2/alpine/tags/",
        "/v2/alpine/tags/lists",
        "/v2/alpine/tags/list/",
        "/v2/alpine/blobs/uploads/",
        "/v1/alpine/manifests/latest",
        "v2/alpine/manifests/latest",
        "/V2/alpine/manifests/latest",
        "/v2/alpine/Manifests/latest",
        "http://localhost/v2/alpine/manifests/latest",
    ],
)
def test_a_path_that_is_not_in_the_spec_is_unknown(target: str) -> None:
    with pytest.raises(RegistryError) as caught:
        parse_target(target)
    assert caught.value.code is ErrorCode.NAME_UNKNOWN


@pytest.mark.parametrize(
    ("query", "namespace"),
    [
        ("", None),
        ("?", None),
        ("?ns=", None),
        ("?n=3", None),
        ("?ns=docker.io", "docker.io"),
        ("?ns=Docker.IO", "docker.io"),
        ("?a=b&ns=registry.local%3A5000", "registry.local:5000"),
        ("?ns=http://169.254.169.254/", "http://169.254.169.254/"),
    ],
)
def test_the_registry_a_client_means_is_read_from_ns(query: str, namespace: str | None) -> None:
    assert parse_target(f"/v2/alpine/manifests/latest{query}").ns == namespace
    assert parse_target(f"/v2/{query}").ns == namespace


@pytest.mark.parametrize("n", ["-1", "+1", "1.5", "ten", "0x10", "1e3", "%D9%A3", "1" * 10])
@pytest.mark.parametrize("path", ["/v2/_catalog", "/v2/alpine/tags/list"])
def test_a_page_length_that_is_no_number_is_refused(path: str, n: str) -> None:
    with pytest.raises(RegistryError) as caught:
        parse_target(f"{path}?n={n}")
    assert caught.value.code is ErrorCode.PAGINATION_NUMBER_INVALID

import pytest

from mirror.oci.digest import parse_digest
from mirror.oci.errors import ErrorCode, RegistryError
from mirror.oci.reference import Repository, Tag, parse_reference, parse_repository

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    "name",
    [
        "alpine",
        "library/alpine",
        "a/b/c/d/e/f",
        "0",
        "a.b",
        "a_b",
        "a__b",
        "a-b",
        "a---b",
        "ghcr.io/org/app",
        "blobs",
        "manifests/tags/blobs",
        "tags/list",
        "a" * 255,
    ],
)
def test_a_repository_name_of_the_spec_is_accepted_as_it_is(name: str) -> None:
    assert parse_repository(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/alpine",
        "alpine/",
        "library//alpine",
        "Alpine",
        "alpine:3.20",
        ".",
        "..",
        "a/../b",
        "a/./b",
        "a..b",
        "a___b",
        "a_-b",
        "-a",
        "a-",
        "a.",
        "_a",
        "a b",
        "a%2Fb",
        "a\n",
        "ä",
        "a" * 256,
    ],
)
def test_any_other_name_is_invalid(name: str) -> None:
    with pytest.raises(RegistryError) as caught:
        parse_repository(name)
    assert caught.value.code is ErrorCode.NAME_INVALID


@pytest.mark.parametrize(
    "text", ["latest", "3.20", "_", "V1.0-rc.1", "a..b", "A" * 128, "sha256-" + "a" * 64]
)
def test_a_reference_without_a_colon_is_a_tag(text: str) -> None:
    assert parse_reference(text) == Tag(text)
    assert str(parse_reference(text)) == text


def test_a_reference_with_a_colon_is_a_digest() -> None:
    assert parse_reference(DIGEST) == parse_digest(DIGEST)


@pytest.mark.parametrize("text", ["latest:", "sha256:abc", ":"])
def test_a_reference_with_a_colon_that_is_no_digest_is_called_a_bad_digest(text: str) -> None:
    with pytest.raises(RegistryError) as caught:
        parse_reference(text)
    assert caught.value.code is ErrorCode.DIGEST_INVALID


@pytest.mark.parametrize(
    "text", ["", ".INVALID_MANIFEST_NAME", "-a", "a b", "a/b", "a%2E", "é", "a\n", "A" * 129]
)
def test_what_cannot_be_a_tag_is_not_found_rather_than_malformed(text: str) -> None:
    with pytest.raises(RegistryError) as caught:
        parse_reference(text)
    assert caught.value.code is ErrorCode.MANIFEST_UNKNOWN
    assert caught.value.status == 404


def test_a_repository_is_shown_with_the_registry_it_belongs_to() -> None:
    assert str(Repository("docker.io", "library/alpine")) == "docker.io/library/alpine"

import json
from typing import Any

import pytest

from mirror.oci.descriptor import Descriptor, Platform
from mirror.oci.digest import digest_of
from mirror.oci.errors import ErrorCode, RegistryError
from mirror.oci.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_REFERENCES,
    OCI_INDEX,
    OCI_MANIFEST,
    Manifest,
    References,
    is_media_type,
    parse_references,
)

CONFIG = digest_of(b"configuration")
LAYER_1 = digest_of(b"layer 1")
LAYER_2 = digest_of(b"layer 2")
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


def entry(digest: object, size: object = 7, **more: object) -> dict[str, object]:
    return {"mediaType": LAYER_TYPE, "digest": str(digest), "size": size, **more}


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_an_image_refers_to_its_configuration_and_then_its_layers(media_type: str) -> None:
    references = parse_references(
        encoded(
            {
                "schemaVersion": 2,
                "mediaType": media_type,
                "config": entry(CONFIG, 13),
                "layers": [entry(LAYER_1), entry(LAYER_2, 0)],
            }
        )
    )
    assert references == References(
        blobs=(
            Descriptor(LAYER_TYPE, CONFIG, 13),
            Descriptor(LAYER_TYPE, LAYER_1, 7),
            Descriptor(LAYER_TYPE, LAYER_2, 0),
        ),
        media_type=media_type,
        is_declared=True,
        is_manifest=True,
        config=Descriptor(LAYER_TYPE, CONFIG, 13),
    )
    assert list(references) == list(references.blobs)


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_an_index_refers_to_one_manifest_for_each_platform(media_type: str) -> None:
    arm = {"os": "linux", "architecture": "arm", "variant": "v7", "os.version": "ignored"}
    references = parse_references(
        encoded(
            {
                "schemaVersion": 2,
                "mediaType": media_type,
                "manifests": [
                    entry(LAYER_1, platform={"os": "linux", "architecture": "amd64"}),
                    entry(LAYER_2, platform=arm),
                    entry(CONFIG),
                ],
            }
        )
    )
    assert [found.platform for found in references.manifests] == [
        Platform("linux", "amd64"),
        Platform("linux", "arm", "v7"),
        None,
    ]
    assert list(references) == list(references.manifests)
    assert references.blobs == ()


def test_a_platform_is_written_as_docker_does() -> None:
    assert str(Platform("linux", "amd64")) == "linux/amd64"
    assert str(Platform("linux", "arm", "v7")) == "linux/arm/v7"


def test_an_artifact_does_not_depend_on_its_subject() -> None:
    references = parse_references(encoded({"config": entry(CONFIG), "subject": entry(LAYER_1)}))
    assert [found.digest for found in references] == [CONFIG]


@pytest.mark.parametrize("digest", ["blake3:" + "a" * 64, "sha384:" + "0" * 96, "x+y.z:A_b-c="])
@pytest.mark.parametrize("place", ["manifests", "layers"])
def test_what_is_named_by_another_algorithm_is_left_out_and_the_rest_is_read(
    place: str, digest: str
) -> None:
    document = {
        "schemaVersion": 2,
        "subject": entry(digest),
        place: [entry(digest), entry(LAYER_1)],
    }
    references = parse_references(encoded(document))
    assert [found.digest for found in references] == [LAYER_1]
    assert references.is_manifest
    assert list(parse_references(encoded({"config": entry(digest), "layers": []}))) == []


def test_what_is_named_without_a_size_is_read_as_of_a_size_that_nobody_tells() -> None:
    """Clients written in Go take it for 0 and pull it: upstream is asked when they do."""
    layers = [{"digest": str(LAYER_1), "mediaType": LAYER_TYPE}, entry(LAYER_2)]
    references = parse_references(encoded({"config": entry(CONFIG), "layers": layers}))
    assert [found.digest for found in references] == [CONFIG, LAYER_1, LAYER_2]
    assert references.blobs[1].size == 0


@pytest.mark.parametrize(
    "layer",
    [
        {"urls": ["https://example.com/layer"]},
        {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"},
        {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"},
    ],
)
def test_a_layer_that_is_had_from_elsewhere_is_foreign(layer: dict[str, Any]) -> None:
    references = parse_references(encoded({"layers": [entry(LAYER_1), entry(LAYER_2) | layer]}))
    assert [found.is_foreign for found in references] == [False, True]


def test_of_a_manifest_that_refers_to_too_much_nothing_is_read() -> None:
    most = [entry(LAYER_1)] * MAX_REFERENCES
    assert len(list(parse_references(encoded({"layers": most})))) == MAX_REFERENCES
    beyond = parse_references(encoded({"layers": most, "config": entry(CONFIG)}))
    assert list(beyond) == []
    assert beyond.is_manifest


@pytest.mark.parametrize(
    "document",
    [{}, {"layers": None, "manifests": None, "config": None, "subject": None}, {"unknown": [1]}],
)
def test_a_manifest_may_refer_to_nothing(document: dict[str, Any]) -> None:
    assert list(parse_references(encoded(document))) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"<html>rate limited</html>",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b'"text"',
        b"[" * 100_000,
        b'{"layers": 3}',
        b'{"layers": "abc"}',
        b'{"layers": {"a": 1}}',
        b'{"layers": [3]}',
        b'{"layers": [null]}',
        b'{"config": "abc"}',
        b'{"manifests": [{"size": 1}]}',
        b'{"layers": [{"digest": null, "size": 1}]}',
        encoded({"layers": [entry("sha256:abc")]}),
        encoded({"layers": [entry("md5:")]}),
        encoded({"layers": [entry(LAYER_1, -1)]}),
        encoded({"layers": [entry(LAYER_1, "7")]}),
        encoded({"layers": [entry(LAYER_1, 7.0)]}),
        encoded({"layers": [entry(LAYER_1, size=True)]}),
        encoded({"layers": [entry(LAYER_1, 2**63)]}),
        b'{"layers": [{"digest": "' + str(LAYER_1).encode() + b'", "size": ' + b"9" * 5000 + b"}]}",
    ],
)
def test_what_is_not_a_manifest_is_refused_as_one(content: bytes) -> None:
    with pytest.raises(RegistryError) as caught:
        parse_references(content)
    assert caught.value.code is ErrorCode.MANIFEST_INVALID


@pytest.mark.parametrize("media_type", MANIFEST_TYPES)
def test_a_manifest_that_upstream_does_not_label_is_asked_itself(media_type: str) -> None:
    assert parse_references(encoded({"mediaType": media_type})).media_type == media_type


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        ({"schemaVersion": 2, "config": entry(CONFIG), "layers": []}, OCI_MANIFEST),
        ({"schemaVersion": 2, "manifests": []}, OCI_INDEX),
        ({"schemaVersion": 1, "manifests": []}, None),
        ({"schemaVersion": 2}, None),
        ({"manifests": []}, None),
    ],
)
def test_a_manifest_that_does_not_label_itself_is_known_by_its_shape(
    document: dict[str, Any], media_type: str | None
) -> None:
    assert parse_references(encoded(document)).media_type == media_type


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b'{"mediaType": 3}',
        b'{"mediaType": "text"}',
        b'{"mediaType": "a/b\\r\\nSet-Cookie: c"}',
        b'{"mediaType": "a/\\ud800"}',
        b'{"mediaType": "+a/b"}',
    ],
)
def test_a_label_that_could_not_stand_in_a_header_is_none(content: bytes) -> None:
    assert parse_references(content).media_type is None


@pytest.mark.parametrize("text", [*MANIFEST_TYPES, "text/html", "a/" + "b" * 127])
def test_a_media_type_is_what_the_rfc_says(text: str) -> None:
    assert is_media_type(text)


@pytest.mark.parametrize(
    "text", ["", "a", "a/", "/b", "a/b/c", "a/b;c", "a /b", "a/" + "b" * 128, "a/\x01", "a/b\n"]
)
def test_what_is_no_media_type_is_refused(text: str) -> None:
    assert not is_media_type(text)


def test_only_the_two_indexes_are_indexes() -> None:
    assert set(MANIFEST_TYPES) - INDEX_TYPES == {OCI_MANIFEST, DOCKER_MANIFEST}


def test_a_manifest_is_as_large_as_its_bytes() -> None:
    assert Manifest(digest_of(b"{} "), OCI_MANIFEST, b"{} ").size == 3


@pytest.mark.parametrize("without", [{}, {"size": None}, {"size": 0}])
def test_a_size_that_nobody_tells_is_none(without: dict[str, object]) -> None:
    """Clients that go direct pull such an image."""
    [layer] = parse_references(encoded({"layers": [{"digest": str(LAYER_1)} | without]}))
    assert (layer.digest, layer.size) == (LAYER_1, 0)


def test_what_an_artifact_of_2022_names_is_read() -> None:
    described = {"mediaType": "a/b", "digest": f"sha256:{'a' * 64}", "size": 7}
    document = {"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": [described]}
    found = parse_references(json.dumps(document).encode())
    assert [str(it.digest) for it in found.blobs] == [described["digest"]]
    assert found.is_manifest


@pytest.mark.parametrize("blobs", [None, 7, {}, [7], [{}], [{"digest": 7}]])
def test_blobs_of_a_document_of_another_kind_are_nobodys_business(blobs: object) -> None:
    found = parse_references(json.dumps({"schemaVersion": 2, "blobs": blobs}).encode())
    assert (found.blobs, found.is_manifest) == ((), True)

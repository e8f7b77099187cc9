import json

import pytest

from mirror.oci.errors import RegistryError
from mirror.oci.manifest import OCI_INDEX, OCI_MANIFEST, parse_references

SMALL = 1_000  # bytes that say nothing
LARGE = 300_000
ENTRY = {"mediaType": "a/b", "digest": "sha256:" + "ab" * 32, "size": 7, "urls": ["http://x/"]}
PLATFORM = {"os": "linux", "architecture": "arm64", "variant": "v8", "os.features": ["x"]}


@pytest.mark.parametrize(
    "document",
    [
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": ENTRY, "layers": [ENTRY] * 3},
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [ENTRY | {"platform": PLATFORM}]},
        {"schemaVersion": 2, "manifests": [], "config": None},
        {"schemaVersion": 2, "layers": [ENTRY | {"annotations": {"a": "b"}, "platform": None}]},
        {"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": [ENTRY] * 3},
        {"schemaVersion": 1, "mediaType": "no type", "blobs": [{"any": "thing"}]},
        {"schemaVersion": 2, "mediaType": None, "config": ENTRY | {"size": 2**62}},
        {"errors": []},
    ],
)
def test_a_large_manifest_says_what_a_small_one_says(document: dict[str, object]) -> None:
    small, large = (
        parse_references(json.dumps(document | {"annotations": {"x": "x" * size}}).encode())
        for size in (SMALL, LARGE)
    )
    assert small == large


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": [[]]},
        {"layers": [{"digest": "sha256:no", "size": 1}]},
        {"layers": [ENTRY | {"size": -1}]},
        {"layers": [ENTRY | {"size": 2**63}]},
        {"layers": [ENTRY | {"size": True}]},
        {"manifests": [{"size": 1}]},
        {"config": 7},
    ],
)
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_no_large_manifest_is_what_no_small_one_is(wrong: dict[str, object], size: int) -> None:
    document = json.dumps(wrong | {"annotations": {"x": "x" * size}}).encode()
    with pytest.raises(RegistryError):
        parse_references(document)


def test_what_a_manifest_beyond_bounds_refers_to_is_not_read() -> None:
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [ENTRY] * 5_000}
    found = parse_references(json.dumps(document).encode())
    assert (found.blobs, found.media_type, found.is_manifest) == ((), OCI_MANIFEST, True)

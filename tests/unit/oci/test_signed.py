import base64
import json

import pytest

from mirror.oci.signed import payload_of
from tests.support.images import digest_of, image, random_layer
from tests.support.signed import signed


@pytest.mark.parametrize("signatures", [1, 3])
def test_the_payload_is_the_document_without_its_signatures_byte_for_byte(signatures: int) -> None:
    made = signed(digest_of(b"1"), digest_of(b"2"), signatures=signatures, name="ä")
    assert payload_of(made.content) == made.payload
    assert json.loads(made.content)["signatures"]


def test_a_manifest_of_today_is_not_signed() -> None:
    assert payload_of(image(random_layer(10, seed=1)).manifest) is None


def test_what_is_shown_beside_the_payload_is_not_proved_by_it() -> None:
    """JSON with the same name twice: readers take the last."""
    made = signed(digest_of(b"1"))
    other = b', "fsLayers": [{"blobSum": "sha256:bad"}], "signatures"'
    assert payload_of(made.content.replace(b',\n   "signatures"', other)) is None


@pytest.mark.parametrize(
    "content",
    [
        b'"signatures"', b'{"signatures": 5}', b'{"signatures": []}', b'{"signatures": [5]}',
        b'{"signatures": [{"protected": "!"}]}', b'{"signatures": [{"protected": "e30"}]}',
        b'{"signatures": [{"protected": 5}]}', b'\xff"signatures"', b'"signatures"[]',
        b"[" * 100_000 + b'"signatures"', b'["signatures"]', b'{"signatures": {"a": 1}}',
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_not_signed(content: bytes) -> None:
    assert payload_of(content) is None


@pytest.mark.parametrize("length", [-1, 0, 10**9, 10**400, True, "7", 1.5])
def test_a_length_that_nothing_can_have_is_not_signed(length: object) -> None:
    made = signed(digest_of(b"1"))
    document = json.loads(made.content)
    protected = json.dumps({"formatLength": length, "formatTail": "Cn0"}).encode()
    document["signatures"][0]["protected"] = base64.urlsafe_b64encode(protected).decode()
    assert payload_of(json.dumps(document).encode()) is None

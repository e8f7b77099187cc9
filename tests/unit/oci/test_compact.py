"""Digests as databases keep them."""

import pytest

from mirror.oci.compact import pack, unpack
from mirror.oci.digest import Digest, digest_of
from mirror.oci.errors import RegistryError


@pytest.mark.parametrize(
    ("digest", "size"), [(digest_of(b"x"), 33), (Digest("sha512", "0f" * 64), 65)]
)
def test_a_digest_is_its_hash_and_one_byte(digest: Digest, size: int) -> None:
    packed = pack(digest)
    assert len(packed) == size
    assert unpack(packed) == digest


def test_digests_sort_as_their_texts_do() -> None:
    digests = [digest_of(b"%d" % number) for number in range(50)] + [Digest("sha512", "00" * 64)]
    assert sorted(digests, key=pack) == sorted(digests, key=str)


@pytest.mark.parametrize("packed", [b"", b"\x01", b"\x07" * 33, b"\x01" + b"x" * 31, b"\x02" * 33])
def test_what_is_no_digest_is_refused(packed: bytes) -> None:
    with pytest.raises(RegistryError):
        unpack(packed)

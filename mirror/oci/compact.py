"""Digests in as few bytes as they have: how databases keep them, by the million.

One byte says the algorithm, the hash follows as it is: 33 bytes where the text takes 71. In this
form they sort as their texts do.
"""

from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import ErrorCode, RegistryError

_CODES = {"sha256": b"\x01", "sha512": b"\x02"}
_ALGORITHMS = {code[0]: algorithm for algorithm, code in _CODES.items()}


def pack(digest: Digest) -> bytes:
    """The compact form."""
    return _CODES[digest.algorithm] + bytes.fromhex(digest.encoded)


def try_to_pack(text: str) -> bytes | None:
    """The compact form of a digest as text; None for what is none."""
    try:
        return pack(parse_digest(text))
    except RegistryError:
        return None


def unpack(packed: bytes) -> Digest:
    """What `pack` has made.

    Raises:
        RegistryError: `DIGEST_INVALID`: it has not.
    """
    algorithm = _ALGORITHMS.get(packed[0]) if packed else None
    if algorithm is None:
        raise RegistryError(ErrorCode.DIGEST_INVALID, "not a compact digest")
    try:
        return Digest(algorithm, packed[1:].hex())
    except ValueError as error:
        raise RegistryError(ErrorCode.DIGEST_INVALID, "not a compact digest") from error

"""Digests: what content is called, and how it is proved."""

import hashlib
import re
from typing import Annotated, Protocol

from msgspec import Meta, Struct

from mirror.oci.errors import ErrorCode, RegistryError

_ALGORITHM = r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*"
_ENCODED_PART = r"[A-Za-z0-9=_-]+"
_GRAMMAR = re.compile(rf"(?P<algorithm>{_ALGORITHM}):(?P<encoded>{_ENCODED_PART})")
_LONGEST_NAME = 512  # characters of either part; sha512 has 128
_ENCODED = {
    # image-spec, descriptor.md, "Registered algorithms"
    "sha256": re.compile(r"[a-f0-9]{64}"),
    "sha512": re.compile(r"[a-f0-9]{128}"),
}

_LENGTHS = {"sha256": 64, "sha512": 128}


Chunk = bytes | memoryview
"""A piece of content on its way: whoever has brought it may use the memory again."""


class UnknownAlgorithm(RegistryError):
    """A digest by the grammar, of an algorithm that nothing can be proved by here (blake3 ...)."""

    def __init__(self) -> None:
        super().__init__(
            ErrorCode.DIGEST_INVALID, "the digest's algorithm is neither sha256 nor sha512"
        )


class Hasher(Protocol):
    """The part of `hashlib`'s objects that is used here."""

    def update(self, data: Chunk, /) -> None:
        """Take in more content."""

    def hexdigest(self) -> str:
        """The hash of all that was taken in."""

    def copy(self) -> "Hasher":
        """One more, that has taken in the same."""


class Digest(Struct, frozen=True, tag="digest", array_like=True):
    """A content address such as `sha256:9f86d0…`; always of a registered algorithm.

    What another process sends is held to the grammar when it is decoded, by the annotations here.
    """

    algorithm: str
    encoded: Annotated[str, Meta(pattern=r"\A(?:[a-f0-9]{64}|[a-f0-9]{128})\Z")]

    def __post_init__(self) -> None:
        if len(self.encoded) != _LENGTHS.get(self.algorithm):
            raise ValueError("not a digest")

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"

    def hasher(self) -> Hasher:
        """A fresh hash of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, hasher: Hasher) -> bool:
        """Whether what was fed to `hasher` is the content this digest names."""
        return hasher.hexdigest() == self.encoded

    def names(self, content: bytes) -> bool:
        """Whether this is the digest of `content`."""
        return hashlib.new(self.algorithm, content).hexdigest() == self.encoded


class UnprovableDigest(Struct, frozen=True, tag="unprovable", array_like=True):
    """A digest by the grammar, of an algorithm that is not known here: a name for others to read.

    Others may be asked what they have to say of it; content cannot be had by it.
    """

    algorithm: Annotated[str, Meta(pattern=rf"\A{_ALGORITHM}\Z", max_length=_LONGEST_NAME)]
    encoded: Annotated[str, Meta(pattern=rf"\A{_ENCODED_PART}\Z", max_length=_LONGEST_NAME)]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"


Subject = Digest | UnprovableDigest
"""What others may refer to."""


def parse_digest(text: str) -> Digest:
    """Read a digest by the spec's grammar.

    Raises:
        RegistryError: `DIGEST_INVALID`, for a malformed digest.
        UnknownAlgorithm: The same, for one of an algorithm that is not known here.
    """
    match = _GRAMMAR.fullmatch(text)
    if match is None:
        raise RegistryError(ErrorCode.DIGEST_INVALID, "not a digest: algorithm:hex is expected")
    algorithm, encoded = match["algorithm"], match["encoded"]
    pattern = _ENCODED.get(algorithm)
    if pattern is None:
        raise UnknownAlgorithm
    if pattern.fullmatch(encoded) is None:
        raise RegistryError(ErrorCode.DIGEST_INVALID, f"not the hex form of a {algorithm} digest")
    return Digest(algorithm, encoded)


def parse_subject(text: str) -> Subject:
    """Read the digest of what others refer to, by whatever algorithm.

    Raises:
        RegistryError: `DIGEST_INVALID`, for a malformed digest.
    """
    try:
        return parse_digest(text)
    except UnknownAlgorithm:
        algorithm, _, encoded = text.partition(":")
        if max(len(algorithm), len(encoded)) > _LONGEST_NAME:
            raise
        return UnprovableDigest(algorithm, encoded)


def digest_of(content: bytes) -> Digest:
    """The canonical (sha256) digest of `content`."""
    return Digest("sha256", hashlib.sha256(content).hexdigest())

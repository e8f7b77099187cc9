"""Repository names, tags and references, by the distribution spec's grammar."""

import re
from dataclasses import dataclass

from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import ErrorCode, RegistryError

# distribution-spec v1.1.1, "Pulling manifests"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_REPOSITORY_LENGTH = 255  # spec: "many clients impose a limit of 255 characters"


@dataclass(frozen=True, slots=True)
class Tag:
    """A name that upstream may move from one manifest to another."""

    name: str

    def __str__(self) -> str:
        return self.name


Reference = Tag | Digest
"""What follows `manifests/`: a tag, or the digest of one manifest for ever."""


def parse_repository(text: str) -> str:
    """Check a repository name.

    Raises:
        RegistryError: `NAME_INVALID`.
    """
    if len(text) > _REPOSITORY_LENGTH or _REPOSITORY.fullmatch(text) is None:
        raise RegistryError(ErrorCode.NAME_INVALID, "not a repository name")
    return text


def parse_reference(text: str) -> Reference:
    """Tell a digest from a tag: only a digest holds a colon.

    Raises:
        RegistryError: `DIGEST_INVALID`, or `MANIFEST_UNKNOWN` for what cannot be a tag: the
            conformance suite asks for `.INVALID_MANIFEST_NAME` and wants a 404.
    """
    if ":" in text:
        return parse_digest(text)
    if _TAG.fullmatch(text) is None:
        raise RegistryError(ErrorCode.MANIFEST_UNKNOWN, "no manifest can have this tag")
    return Tag(text)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of one registry: the namespace is that registry's name, not an address."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

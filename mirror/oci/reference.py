"""Repository names, tags and references, by the distribution spec's grammar."""

import re
from typing import Annotated

from msgspec import Meta, Struct

from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import ErrorCode, RegistryError

# distribution-spec v1.1.1, "Pulling manifests"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY_GRAMMAR = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG_GRAMMAR = r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"
_REPOSITORY = re.compile(_REPOSITORY_GRAMMAR)
_TAG = re.compile(_TAG_GRAMMAR)
_REPOSITORY_LENGTH = 255  # spec: "many clients impose a limit of 255 characters"
_NAMESPACE_LENGTH = 261  # a host's name (RFC 1123, 2.1) and its port


class Tag(Struct, frozen=True, tag="tag", array_like=True):
    """A name that upstream may move from one manifest to another."""

    name: Annotated[str, Meta(pattern=rf"\A{_TAG_GRAMMAR}\Z")]

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


Namespace = Annotated[str, Meta(max_length=_NAMESPACE_LENGTH)]
"""A registry's name, as in image names; not an address."""


class Repository(Struct, frozen=True, tag="repository", array_like=True):
    """A repository of one registry."""

    namespace: Namespace
    name: Annotated[str, Meta(pattern=rf"\A{_REPOSITORY_GRAMMAR}\Z", max_length=_REPOSITORY_LENGTH)]

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

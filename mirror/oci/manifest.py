"""Manifests: the exact bytes upstream has, and what they refer to.

Nothing here is ever re-encoded: a manifest's bytes are its identity.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mirror.oci.descriptor import Descriptor, Platform
from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import ErrorCode, RegistryError

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

MANIFEST_TYPES = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST)
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+")  # RFC 6838, 4.2

_MARKS = frozenset({"schemaVersion", "mediaType", "manifests", "layers", "config", "blobs"})

MAX_SIZE = 4 * 1024 * 1024
"""Bytes; the spec lets a registry refuse larger manifests, and registries do."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as it travels: bytes, their digest, and the `Content-Type` upstream gave."""

    digest: Digest
    media_type: str
    content: bytes

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.content)


@dataclass(frozen=True, slots=True)
class References:
    """What a manifest refers to."""

    manifests: tuple[Descriptor, ...] = ()  # an index's entries
    blobs: tuple[Descriptor, ...] = ()  # an image's configuration and layers
    subject: Descriptor | None = None

    def __iter__(self) -> Iterator[Descriptor]:
        yield from self.manifests
        yield from self.blobs


def parse_references(content: bytes) -> References:
    """Read the descriptors out of any manifest or index; unknown fields are nobody's business.

    Raises:
        RegistryError: `MANIFEST_INVALID`.
    """
    try:
        document = _object(json.loads(content))
        subject = document.get("subject")
        config = document.get("config")
        return References(
            manifests=tuple(_descriptor(entry) for entry in document.get("manifests") or ()),
            blobs=tuple(
                _descriptor(entry)
                for entry in (*([config] if config else ()), *(document.get("layers") or ()))
            ),
            subject=_descriptor(subject) if subject else None,
        )
    except (ValueError, TypeError, KeyError, RecursionError, RegistryError) as error:
        raise RegistryError(ErrorCode.MANIFEST_INVALID, "not a manifest") from error


def looks_like_manifest(content: bytes) -> bool:
    """Whether this can be a manifest at all, and not a login page or an error document."""
    try:
        parse_references(content)
        document = json.loads(content)
    except (RegistryError, ValueError):
        return False
    return bool(_MARKS & document.keys())


def media_type_of(content: bytes) -> str | None:
    """The media type a manifest declares itself, for upstreams that send none."""
    try:
        declared = _object(json.loads(content)).get("mediaType")
    except (ValueError, TypeError, RecursionError):
        return None
    usable = isinstance(declared, str) and _MEDIA_TYPE.fullmatch(declared)
    return declared if usable else None


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("not a JSON object")
    return value


def _descriptor(value: object) -> Descriptor:
    entry = _object(value)
    size = entry["size"]
    if type(size) is not int or not 0 <= size < 2**63:  # JSON's true is an int to Python
        raise ValueError("a descriptor's size is a number of bytes")
    platform = entry.get("platform")
    return Descriptor(
        media_type=str(entry.get("mediaType", "")),
        digest=parse_digest(str(entry["digest"])),
        size=size,
        platform=_platform(platform) if isinstance(platform, dict) else None,
    )


def _platform(entry: dict[str, Any]) -> Platform:
    return Platform(
        os=str(entry.get("os", "")),
        architecture=str(entry.get("architecture", "")),
        variant=str(entry.get("variant", "")),
    )

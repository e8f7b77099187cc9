"""Manifests: the exact bytes upstream has, and what they refer to.

Nothing here is ever re-encoded: a manifest's bytes are its identity.
"""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mirror.oci.descriptor import Descriptor, Platform
from mirror.oci.digest import Digest, UnknownAlgorithm, parse_digest
from mirror.oci.errors import ErrorCode, RegistryError
from mirror.oci.large_manifest import read_large_manifest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

MANIFEST_TYPES = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST)
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})

_SCHEMA_VERSION = 2  # of all four
_RESTRICTED_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"  # RFC 6838, 4.2
_MEDIA_TYPE = re.compile(f"{_RESTRICTED_NAME}/{_RESTRICTED_NAME}")

_FOREIGN_LAYER = re.compile(
    r"application/vnd\.docker\.image\.rootfs\.foreign\.diff\.tar.*"
    r"|application/vnd\.oci\.image\.layer\.nondistributable\.v1\.tar.*"
)

_MARKS = frozenset({"schemaVersion", "mediaType", "manifests", "layers", "config", "blobs"})

MAX_SIZE = 4 * 1024 * 1024
"""Bytes; the spec lets a registry refuse larger manifests, and registries do."""

MAX_REFERENCES = 4096
"""Of a manifest that refers to more, nothing that it refers to is read: it would hold up others."""


_LARGE = 256 * 1024  # bytes; a few in a thousand manifests are


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as it travels: bytes, their digest, and the `Content-Type` upstream gave.

    `is_signed`: the digest is of its payload alone (`oci.signed`). So it is proved, and still can
    be kept nowhere where bytes are called by their digest.
    """

    digest: Digest
    media_type: str
    content: bytes
    is_signed: bool = False

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.content)


@dataclass(frozen=True, slots=True)
class References:
    """What a manifest refers to, and what it says of itself.

    `media_type` is the one that it declares (`is_declared`), or else the one that only its shape
    can have;
    what it names by an algorithm that is not known here, or without a size, is left out: nothing
    is known of it, and that is no reason to keep a client from the manifest;
    `config` is the one of `blobs` that is the configuration;
    `is_manifest`: it can be one at all, and is not a login page or an error document.
    """

    manifests: tuple[Descriptor, ...] = ()  # an index's entries
    blobs: tuple[Descriptor, ...] = ()  # an image's configuration and layers
    media_type: str | None = None
    is_declared: bool = False
    is_manifest: bool = False
    config: Descriptor | None = None

    def __iter__(self) -> Iterator[Descriptor]:
        yield from self.manifests
        yield from self.blobs


def parse_references(content: bytes) -> References:
    """Read any manifest or index; unknown fields are nobody's business.

    Raises:
        RegistryError: `MANIFEST_INVALID`.
    """
    try:
        document = _read(content)
        config = document.get("config")
        manifests = list(document.get("manifests") or ())
        blobs = [
            *([config] if config else ()),
            *(document.get("layers") or ()),
            *_blobs_of_artifact(document),
        ]
        if len(manifests) + len(blobs) > MAX_REFERENCES:
            manifests, blobs, config = [], [], None
        return References(
            manifests=tuple(_descriptors(manifests)),
            blobs=tuple(_descriptors(blobs)),
            media_type=_media_type(document),
            is_declared=isinstance(document.get("mediaType"), str),
            is_manifest=bool(_MARKS & document.keys()),
            config=next(_descriptors([config]), None) if config else None,
        )
    except (ValueError, TypeError, KeyError, RecursionError, RegistryError) as error:
        raise RegistryError(ErrorCode.MANIFEST_INVALID, "not a manifest") from error


def find_subject(content: bytes) -> Digest | None:
    """What a manifest refers to as its subject (spec, "Pushing Manifests with Subject").

    None: nothing, or nothing that is known here, or in what is larger than artifacts are.
    """
    if len(content) > _LARGE:
        return None
    try:
        subject = _object(_object(json.loads(content)).get("subject"))
        return parse_digest(str(subject.get("digest")))
    except (ValueError, TypeError, RecursionError, RegistryError):
        return None


def _blobs_of_artifact(document: dict[str, Any]) -> list[dict[str, Any]]:
    """What an artifact's manifest of 2022 names (image-spec 1.1.0-rc2); nothing, if it is none."""
    blobs = document.get("blobs")
    if not isinstance(blobs, list):
        return []
    return [it for it in blobs if isinstance(it, dict) and isinstance(it.get("digest"), str)]


def _read(content: bytes) -> dict[str, Any]:
    if len(content) > _LARGE:
        return read_large_manifest(content, most=MAX_REFERENCES)
    # In a text, a byte that is no UTF-8 is one character that nobody can read, as it is to Go.
    return _object(json.loads(content.decode("utf-8-sig", errors="replace")))


def media_type_of(references: References, said: str | None) -> str | None:
    """What a manifest is called that upstream has `said` to be something; None: nobody knows.

    Where the document itself names its type, that is a part of what the digest proves. A header is
    upstream's word alone, and accelerators say `application/octet-stream`.
    """
    if references.is_declared and references.media_type is not None:
        return references.media_type
    return said if said is not None and is_media_type(said) else references.media_type


def is_media_type(text: str) -> bool:
    """Whether this can stand where a media type must (RFC 6838)."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def _media_type(document: dict[str, Any]) -> str | None:
    declared = document.get("mediaType")
    if isinstance(declared, str):
        return declared if is_media_type(declared) else None
    if declared is not None or document.get("schemaVersion") != _SCHEMA_VERSION:
        return None
    # Docker's manifests must declare theirs; OCI's need not (image-spec, manifest.md).
    if "manifests" in document:
        return OCI_INDEX
    return OCI_MANIFEST if "config" in document or "layers" in document else None


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("not a JSON object")
    return value


def _descriptors(entries: Iterable[object]) -> Iterator[Descriptor]:
    for entry in map(_object, entries):
        with suppress(UnknownAlgorithm):
            yield _descriptor(entry, parse_digest(str(entry["digest"])))


def _descriptor(entry: dict[str, Any], digest: Digest) -> Descriptor:
    size = entry.get("size") or 0  # Go's clients take an absent one for 0, and pull
    if type(size) is not int or not 0 <= size < 2**63:  # JSON's true is an int to Python
        raise ValueError("a descriptor's size is a number of bytes")
    platform = entry.get("platform")
    media_type = str(entry.get("mediaType") or "")
    return Descriptor(
        media_type=media_type,
        digest=digest,
        size=size,
        platform=_platform(platform) if isinstance(platform, dict) else None,
        is_foreign=bool(entry.get("urls")) or _FOREIGN_LAYER.fullmatch(media_type) is not None,
    )


def _platform(entry: dict[str, Any]) -> Platform:
    return Platform(
        os=str(entry.get("os") or ""),
        architecture=str(entry.get("architecture") or ""),
        variant=str(entry.get("variant") or ""),
    )

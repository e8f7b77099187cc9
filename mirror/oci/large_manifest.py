"""Manifests that are large: only what matters of them becomes objects, and only if it is right.

A JSON document of 4 MiB may hold a million lists, and the interpreter stands still while they are
made. Where the types are known beforehand, what is of another ends the reading, and what nobody
asks for is skipped.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from mirror.oci.errors import ErrorCode, RegistryError


class _Platform(Struct, gc=False, omit_defaults=True):
    os: str | None = ""
    architecture: str | None = ""
    variant: str | None = ""


class _Entry(Struct, gc=False, omit_defaults=True):
    digest: str
    size: int | None = None
    mediaType: str | None = ""  # noqa: N815 - as it is written
    urls: list[str] | None = None
    platform: _Platform | None = None


class _Document(Struct, omit_defaults=True):
    schemaVersion: int | UnsetType = UNSET  # noqa: N815
    mediaType: str | UnsetType | None = UNSET  # noqa: N815
    config: _Entry | UnsetType | None = UNSET
    manifests: list[_Entry] | UnsetType | None = UNSET
    layers: list[_Entry] | UnsetType | None = UNSET
    blobs: Raw | UnsetType = UNSET


def read_large_manifest(content: bytes, *, most: int) -> dict[str, Any]:
    """What a manifest is known by, as `json` would give it; it refers to nothing beyond `most`.

    Raises:
        RegistryError: `MANIFEST_INVALID`.
    """
    try:
        found = msgspec.json.decode(content, type=_Document)
    except (ValueError, RecursionError) as error:
        raise RegistryError(ErrorCode.MANIFEST_INVALID, "not a manifest") from error
    blobs = _blobs_of_artifact(found.blobs)
    if len(found.manifests or ()) + len(found.layers or ()) + len(blobs) > most:
        found.manifests, found.layers = found.manifests and [], found.layers and []
        blobs = []
    marks: dict[str, Any] = {}
    if found.blobs is not UNSET:
        marks["blobs"] = msgspec.to_builtins(blobs)
    found.blobs = UNSET
    marks.update(msgspec.to_builtins(found))
    return marks


def _blobs_of_artifact(raw: Raw | UnsetType) -> list[_Entry]:
    """What stands under that name in documents of other kinds may be anything."""
    if raw is UNSET:
        return []
    try:
        return msgspec.json.decode(raw, type=list[_Entry] | None) or []
    except (ValueError, RecursionError):
        return []

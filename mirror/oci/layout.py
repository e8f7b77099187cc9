"""The OCI image layout: images as files (image-spec v1.1.1, image-layout.md). No I/O.

    oci-layout                the version
    index.json                the images' descriptors, with their names as annotations
    blobs/<algorithm>/<hex>   manifests, configurations and layers, each once
    manifest.json             what `docker save` has beside these, since 25: names, configurations
                              and layers of what is for one platform
    referrers.json            our own: what refers to the images, in the form of index.json. What is
                              named by a digest is the list of what refers to that, as a registry
                              tells it; what is named by a tag, such a list or an artifact that a
                              registry has by that tag. In index.json, readers would take them for
                              images to choose among

An image's whole name, with its registry, is in two annotations: skopeo, podman and Buildah choose
by the one, containerd, docker and podman (which calls the image so) by the other. By name, the
former find images of OCI's media types alone, so that those of Docker's types need the
`manifest.json`; every `docker load` reads that.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import RegistryError
from mirror.oci.manifest import OCI_INDEX, is_media_type

VERSION_FILE = "oci-layout"
INDEX_FILE = "index.json"
DOCKER_FILE = "manifest.json"
REFERRERS_FILE = "referrers.json"

MOST_IMAGES = 10_000
"""Of one layout; whoever writes an index of more wants something else than to have them read."""

_VERSION = "1.0.0"
_REF_NAME = "org.opencontainers.image.ref.name"
_WHOLE_NAME = "io.containerd.image.name"
_CREATED = "org.opencontainers.image.created"


class BadLayout(Exception):
    """It is no image layout that can be read here; in words for whoever has been given it."""


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image of a layout: its name as it is written there, and its descriptor."""

    name: str
    digest: Digest
    size: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Layout:
    """What an index says; `made_at` in seconds since the epoch (0.0: it does not say)."""

    images: tuple[NamedImage, ...]
    made_at: float


def version() -> bytes:
    """The content of `oci-layout`."""
    return msgspec.json.encode({"imageLayoutVersion": _VERSION})


def require_version(content: bytes) -> None:
    """See that it is a layout that can be read here. Raises BadLayout."""
    document = _object(content, VERSION_FILE)
    if not str(document.get("imageLayoutVersion")).startswith("1."):
        raise BadLayout("its oci-layout is of a version that is not known here")


def blob_path(digest: Digest) -> str:
    """Where a blob stands."""
    return f"blobs/{digest.algorithm}/{digest.encoded}"


def parse_blob_path(path: str) -> Digest | None:
    """What stands at a path; None where that is no blob's. Raises BadLayout for what cannot be."""
    parts = path.split("/")
    if parts[0] != "blobs":
        return None
    try:
        _, algorithm, encoded = parts
        return parse_digest(f"{algorithm}:{encoded}")
    except (ValueError, RegistryError):
        raise BadLayout(f"{path[:200]!r} is called by no digest") from None


@dataclass(frozen=True, slots=True)
class Runnable:
    """What a daemon runs as an image: a configuration, and layers from the lowest up."""

    name: str
    config: Digest
    layers: tuple[Digest, ...]


def make_docker_manifest(images: Iterable[Runnable]) -> bytes:
    """The content of `manifest.json`."""
    return msgspec.json.encode(
        [
            {
                "Config": blob_path(it.config),
                "RepoTags": None if "@" in it.name else [it.name],
                "Layers": list(map(blob_path, it.layers)),
            }
            for it in images
        ]
    )


def make_index(images: Iterable[NamedImage], *, made_at: float) -> bytes:
    """The content of `index.json`."""
    created = dt.datetime.fromtimestamp(int(made_at), dt.UTC).isoformat().replace("+00:00", "Z")
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [
                {
                    "mediaType": it.media_type,
                    "digest": str(it.digest),
                    "size": it.size,
                    "annotations": {_REF_NAME: it.name, _WHOLE_NAME: it.name},
                }
                for it in images
            ],
            "annotations": {_CREATED: created},
        }
    )


def parse_index(content: bytes, file: str = INDEX_FILE) -> Layout:
    """Read an `index.json`, or another `file` of that form. Raises BadLayout."""
    document = _object(content, file)
    entries = document.get("manifests")
    if not isinstance(entries, list):
        raise BadLayout(f"its {file} names no images")
    if len(entries) > MOST_IMAGES:
        raise BadLayout(f"its {file} names more than {MOST_IMAGES} images")
    images = dict.fromkeys(_image(entry, file) for entry in entries)
    return Layout(tuple(images), _time(_annotations(document).get(_CREATED)))


def _image(entry: object, file: str) -> NamedImage:
    if not isinstance(entry, dict):
        raise BadLayout(f"its {file} has an entry that is no descriptor")
    annotations = _annotations(entry)
    name = annotations.get(_WHOLE_NAME) or annotations.get(_REF_NAME) or ""
    media_type, size = entry.get("mediaType"), entry.get("size")
    try:
        digest = parse_digest(str(entry.get("digest")))
    except RegistryError as error:
        raise BadLayout(f"its {file} has an entry without a digest: {error.message}") from None
    return NamedImage(
        name if isinstance(name, str) else "",
        digest,
        size if isinstance(size, int) and size >= 0 else 0,
        media_type if isinstance(media_type, str) and is_media_type(media_type) else "",
    )


def _annotations(table: Mapping[str, Any]) -> Mapping[str, Any]:
    annotations = table.get("annotations")
    return annotations if isinstance(annotations, dict) else {}


def _time(created: object) -> float:
    try:
        return max(0.0, dt.datetime.fromisoformat(str(created)).timestamp())
    except (ValueError, OverflowError, OSError):
        return 0.0


def _object(content: bytes, name: str) -> Mapping[str, Any]:
    try:
        document = msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadLayout(f"its {name} is not JSON that can be read here: {error}") from None
    if not isinstance(document, dict):
        raise BadLayout(f"its {name} is no object")
    return document

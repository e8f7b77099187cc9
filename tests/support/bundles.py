"""Bundles as others make them, and such as nobody should."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.images import OCI_INDEX, Image

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


def blobs_of(*images: Image) -> dict[str, bytes]:
    """All that images consist of, by digest."""
    found: dict[str, bytes] = {}
    for one in images:
        found |= {one.digest: one.manifest, **one.blobs, **blobs_of(*one.members)}
    return found


def path_of(digest: str) -> str:
    """Where a blob stands in a layout."""
    return "blobs/" + digest.replace(":", "/")


def index_json(images: Mapping[str, Image], *, created: str | None = None) -> bytes:
    """An `index.json` of images by name."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            {
                "mediaType": it.media_type, "digest": it.digest, "size": len(it.manifest),
                "annotations": {"org.opencontainers.image.ref.name": name},
            }
            for name, it in images.items()
        ],
    }  # fmt: skip
    if created is not None:
        document["annotations"] = {"org.opencontainers.image.created": created}
    return json.dumps(document).encode()


def files_of(
    images: Mapping[str, Image],
    *,
    without: Iterable[str] = (),
    wrong: Mapping[str, bytes] | None = None,
    created: str | None = None,
) -> list[tuple[str, bytes]]:
    """The files of a layout; some blobs left out, and others with something else in them."""
    blobs = {**blobs_of(*images.values()), **(wrong or {})}
    left = set(without)
    return [
        ("oci-layout", LAYOUT),
        ("index.json", index_json(images, created=created)),
        *((path_of(digest), it) for digest, it in blobs.items() if digest not in left),
    ]


def write(bundle: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """Make a tar of files."""
    return write_members(bundle, [(_member(name, content), content) for name, content in files])


def write_members(bundle: Path, members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> Path:
    """Make a tar of members that may say of themselves what is not so."""
    with bundle.open("wb") as file:
        for member, content in members:
            file.write(member.tobuf(tarfile.GNU_FORMAT))
            file.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
        file.write(bytes(2 * tarfile.BLOCKSIZE))
    return bundle


def member(
    name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = ""
) -> tarfile.TarInfo:
    """A member's header."""
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, size, link
    return made


def _member(name: str, content: bytes) -> tarfile.TarInfo:
    return member(name, size=len(content))


def read(bundle: Path) -> dict[str, bytes]:
    """What is in a tar, by name."""
    with tarfile.open(bundle, "r:") as tar:
        found = {it.name: tar.extractfile(it) or io.BytesIO() for it in tar}
        return {name: file.read() for name, file in found.items()}

"""Images made in memory, always of the same bytes for the same arguments.

image(random_layer(1 << 20, seed=1))       cheap; for everyone who does not unpack it
image(busybox(), files({"hello": b"x"}))   a daemon can run it
index(image(...), image(..., architecture="arm64"))
artifact(b"signature", subject=some_image)
"""

import functools
import gzip
import hashlib
import io
import json
import platform
import random
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

_OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_OCI_EMPTY = "application/vnd.oci.empty.v1+json"

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
"""This machine's, in an image's words."""

_LONG_AGO = "2020-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as it travels, and the digest of its uncompressed form."""

    blob: bytes
    diff_id: str


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest as it travels, and the blobs it refers to by digest, configuration first.

    An index has no blobs but `members`, an artifact has a `subject`.
    """

    manifest: bytes
    media_type: str
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    members: tuple["Image", ...] = ()
    platform: Mapping[str, str] = field(default_factory=dict)
    subject: str | None = None
    artifact_type: str | None = None
    algorithm: str = "sha256"

    @property
    def digest(self) -> str:
        return digest_of(self.manifest, self.algorithm)

    @property
    def config(self) -> str:
        """The configuration's digest."""
        return next(iter(self.blobs))

    @property
    def layers(self) -> Sequence[str]:
        """The layers' digests, lowest first."""
        return list(self.blobs)[1:]

    @property
    def descriptor(self) -> dict[str, Any]:
        """How an index, a referrers list or a subject field refers to it."""
        described = _descriptor(self.media_type, self.manifest, self.algorithm)
        if self.platform:
            described["platform"] = dict(self.platform)
        if self.artifact_type:
            described["artifactType"] = self.artifact_type
        return described


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    """What `content` is called."""
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def image(
    *layers: Layer,
    docker: bool = False,
    architecture: str = ARCHITECTURE,
    variant: str = "",
    command: Sequence[str] = ("/bin/sh",),
    algorithm: str = "sha256",
) -> Image:
    """An image of these layers, lowest first; in Docker's media types or in OCI's."""
    config = _json(
        {
            "architecture": architecture,
            "config": {"Cmd": list(command), "Env": ["PATH=/bin"]},
            "created": _LONG_AGO,
            "history": [{"created": _LONG_AGO, "created_by": "test"} for _ in layers],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        }
    )
    media_type, config_type, layer_type = (
        (DOCKER_MANIFEST, _DOCKER_CONFIG, _DOCKER_LAYER)
        if docker
        else (OCI_MANIFEST, _OCI_CONFIG, _OCI_LAYER)
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": _descriptor(config_type, config, algorithm),
        "layers": [_descriptor(layer_type, layer.blob, algorithm) for layer in layers],
    }
    return Image(
        manifest=_json(manifest),
        media_type=media_type,
        blobs={
            digest_of(content, algorithm): content
            for content in (config, *(layer.blob for layer in layers))
        },
        platform={"architecture": architecture, "os": "linux"}
        | ({"variant": variant} if variant else {}),
        algorithm=algorithm,
    )


def index(*members: Image, docker: bool = False) -> Image:
    """An index of images for several platforms."""
    media_type = DOCKER_LIST if docker else OCI_INDEX
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [member.descriptor for member in members],
    }
    return Image(manifest=_json(manifest), media_type=media_type, members=members)


def artifact(
    content: bytes, *, subject: Image, artifact_type: str = "application/vnd.example.signature"
) -> Image:
    """Something that refers to an image: a signature, an SBOM."""
    empty = b"{}"
    described = _descriptor(subject.media_type, subject.manifest, subject.algorithm)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": _descriptor(_OCI_EMPTY, empty),
        "layers": [_descriptor(artifact_type, content)],
        "subject": described,
    }
    return Image(
        manifest=_json(manifest),
        media_type=OCI_MANIFEST,
        blobs={digest_of(empty): empty, digest_of(content): content},
        subject=subject.digest,
        artifact_type=artifact_type,
    )


def random_layer(size: int, *, seed: int) -> Layer:
    """`size` bytes that do not compress; not a tar, so no daemon can unpack it."""
    content = random_bytes(size, seed=seed)
    return Layer(content, digest_of(content))


def random_bytes(size: int, *, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311 - repeatable on purpose


def files(content: Mapping[str, bytes], *, mode: int = 0o644) -> Layer:
    """A real layer (tar and gzip) of these files."""
    return _layer([(_entry(name, len(data), mode), data) for name, data in content.items()])


@functools.cache
def busybox() -> Layer:
    """A real layer with `/bin/busybox` of this machine (statically linked) and `sh` and friends."""
    program = Path("/bin/busybox").read_bytes()
    entries = [(_entry("bin/busybox", len(program), 0o755), program)]
    for name in ("sh", "cat", "echo", "ls", "sha256sum", "sleep", "true"):
        link = _entry(f"bin/{name}", 0, 0o777)
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        entries.append((link, b""))
    return _layer(entries)


async def push(
    image: Image,
    registry_url: str,
    repository: str,
    tag: str,
    *,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Push into a real registry."""
    async with aiohttp.ClientSession(raise_for_status=True, headers=headers) as session:
        await _push(session, image, f"{registry_url}/v2/{repository}", tag)


async def _push(session: aiohttp.ClientSession, image: Image, base: str, reference: str) -> None:
    for member in image.members:
        await _push(session, member, base, member.digest)
    for digest, content in image.blobs.items():
        async with session.post(f"{base}/blobs/uploads/") as begun:
            upload = begun.url.join(URL(begun.headers["Location"], encoded=True))
        async with session.put(upload.update_query(digest=digest), data=io.BytesIO(content)):
            pass
    async with session.put(
        f"{base}/manifests/{reference}",
        data=image.manifest,
        headers={"Content-Type": image.media_type},
    ):
        pass


def _descriptor(media_type: str, content: bytes, algorithm: str = "sha256") -> dict[str, Any]:
    return {
        "mediaType": media_type,
        "digest": digest_of(content, algorithm),
        "size": len(content),
    }


def _json(document: Mapping[str, Any]) -> bytes:
    # Indented like Docker's own manifests: whoever parses and prints one again changes its digest.
    return json.dumps(document, indent=3).encode()


def _entry(name: str, size: int, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, mode
    return entry


def _layer(entries: Sequence[tuple[tarfile.TarInfo, bytes]]) -> Layer:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for entry, content in entries:
            tar.addfile(entry, io.BytesIO(content))
    content = archive.getvalue()
    return Layer(gzip.compress(content, compresslevel=1, mtime=0), digest_of(content))

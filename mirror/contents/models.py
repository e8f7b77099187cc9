"""What is answered. Sizes are in bytes, times in seconds since the epoch; None is not known.

Names that end in `here` are of what is on this mirror's disk. `is_personal`: it came through an
upstream with `access = "client"`, and is not everybody's.
"""

from typing import Literal

from msgspec import Struct


class Sizes(Struct, frozen=True, kw_only=True):
    """What takes room here: all of it, and what would be free without this."""

    blobs: int
    bytes: int
    only_here: int

    @property
    def shared(self) -> int:
        """What others need, too."""
        return self.bytes - self.only_here


class RepositorySummary(Struct, frozen=True, kw_only=True):
    """A repository; `only_here`: no other repository has these blobs."""

    name: str
    upstream: str
    is_personal: bool
    tags: int
    sizes: Sizes
    last_pull: float | None
    pulls: int | None = None  # these three of the last 30 days, as far as that is known
    served: int | None = None
    fetched: int | None = None


class Repositories(Struct, frozen=True, kw_only=True):
    """A page of them; `after` leads to the next one."""

    repositories: list[RepositorySummary]
    after: str | None


class ImageSummary(Struct, frozen=True, kw_only=True):
    """An image of a repository; `only_here`: no other image that is here has these blobs.

    Of its `tags`, the first few. `named` blobs belong to it, whether they are here or not.
    """

    digest: str
    tags: list[str]
    tag_count: int
    named: int
    sizes: Sizes
    last_pull: float | None
    checked_at: float | None
    pulls: int | None = None  # these three of the last 30 days, as far as that is known
    served: int | None = None
    fetched: int | None = None


class Images(Struct, frozen=True, kw_only=True):
    """A page of a repository's images; `after` leads to the next one."""

    repository: str
    is_personal: bool
    images: list[ImageSummary]
    after: str | None


class Meaning(Struct, frozen=True, kw_only=True):
    """What a tag means, `since` when, and who has said so, when."""

    tag: str
    digest: str
    since: float | None
    checked_at: float
    told_by: str | None  # an endpoint's name
    is_fallback: bool  # it may say so only while the others cannot be asked
    is_imported: bool  # a bundle says so, made at `checked_at`: upstream has not confirmed it


class ManifestNode(Struct, frozen=True, kw_only=True):
    """A manifest in the tree of an image; `depth` 0 is the image itself."""

    depth: int
    digest: str
    media_type: str
    size: int
    platform: str
    kind: Literal["index", "image", "attestation", "artifact", "unknown"]
    is_here: bool


class Layer(Struct, frozen=True, kw_only=True):
    """A layer, the lowest first; what made it stands in the image's history."""

    number: int
    digest: str
    media_type: str
    size: int
    is_here: bool
    is_needed: bool  # a host that has the other image (`having`) does not have this
    created: str | None
    created_by: str
    shared_with: list[str]  # the first few other images that have it
    shared_count: int  # how many there are, as far as they were counted


class Step(Struct, frozen=True, kw_only=True):
    """A step of the image's history; `layer` is the number of the one that it made, if any."""

    created: str | None
    created_by: str
    comment: str
    layer: int | None


class Referrer(Struct, frozen=True, kw_only=True):
    """What refers to the image: a signature, an SBOM, an attestation."""

    digest: str
    kind: str  # its artifact type, as it says, or what a tag's name tells
    size: int | None
    source: Literal["referrers", "index", "tag"]
    is_here: bool


class Image(Struct, frozen=True, kw_only=True):
    """One image. `platform` is the one whose layers are told of; `download` what a host transfers.

    `trouble` says why there are no layers.
    """

    name: str
    repository: str
    upstream: str
    is_personal: bool
    digest: str
    meaning: Meaning | None
    tags: list[str]
    sizes: Sizes
    manifests: list[ManifestNode]
    platform: str
    config: str | None
    download: int
    having: str | None
    missing: int
    layers: list[Layer]
    history: list[Step]
    referrers: list[Referrer]
    trouble: str | None


class Blob(Struct, frozen=True, kw_only=True):
    """A blob on disk, and how many repositories have it."""

    digest: str
    size: int
    is_manifest: bool
    last_used: float
    repositories: int


class Blobs(Struct, frozen=True, kw_only=True):
    """A page of them; `after` leads to the next one."""

    blobs: list[Blob]
    after: str | None


class FileVersion(Struct, frozen=True, kw_only=True):
    """What a layer has put at a path: `type` as `ls` says it (`-dlcbph`), "x": removed."""

    layer: int
    type: str
    mode: int
    size: int
    modified: float
    link: str
    checksum: str


class File(Struct, frozen=True, kw_only=True):
    """What is at a path, by which layer; of a directory, with all below it.

    `type` "x": it was there, and `layer` has removed it.
    """

    path: str
    layer: int
    type: str
    mode: int
    owner: int
    group: int
    size: int
    modified: float
    link: str
    files: int  # of a directory, or of what was removed
    earlier: list[FileVersion]  # what was there before, the latest first


class Files(Struct, frozen=True, kw_only=True):
    """A page of what is in an image; `after` leads to the next one.

    `unread` says which layers could not be read, and why; what they hold is missing.
    """

    name: str
    path: str
    layers: list[str]
    files: list[File]
    unread: list[str]
    after: str | None


class Change(Struct, frozen=True, kw_only=True):
    """A path that is another way in the other image; `what` of it is."""

    path: str
    kind: Literal["added", "removed", "changed"]
    what: list[str]
    size: int  # before; 0 where it is added
    other_size: int


class Diff(Struct, frozen=True, kw_only=True):
    """A page of what is another way; `after` leads to the next one."""

    name: str
    other: str
    shared_layers: int
    changes: list[Change]
    unread: list[str]
    after: str | None


Reason = Literal["partial", "superseded", "broken", "little-used"]
"""Why something goes before others: nobody has continued the download; tags that meant it mean
something else; no image that it is of is here in whole; or only that others are asked for more."""


class LeavingBlob(Struct, frozen=True, kw_only=True):
    """Something that is here, as far as it may go.

    `uses` is what all times that it was asked for count now: each one at first, half of that a week
    later. `slowness` is that of where it came from, 1 or more: what comes slowly is worth more.
    """

    digest: str
    kind: Literal["partial", "blob", "manifest"]
    size: int  # on disk
    names: list[str]  # the first few images, or repositories, that have it
    last_used: float | None
    uses: float
    slowness: float
    reasons: list[Reason]
    goes_at: float | None  # where as much comes in as in the last week


class Leaving(Struct, frozen=True, kw_only=True):
    """What would go next, the first first; `room` bytes can come before anything has to.

    `rate`: bytes per second that came in the last week. Neither is known of a mirror at rest.
    """

    leaving: list[LeavingBlob]
    room: int | None
    rate: float | None


class Compared(Struct, frozen=True, kw_only=True):
    """What an endpoint says of an image.

    `verdict` of its tag against what is here; "unknown" with the reason in `trouble`. Of the layers
    that the image here has, it has so many.
    """

    endpoint: str
    url: str
    tags: str  # whether it may say what a tag means: "true", "false", "fallback"
    verdict: Literal["same", "older", "newer", "differs", "absent", "unknown"]
    digest: str | None
    created: str | None
    has_manifest: bool | None
    layers: int
    of_layers: int
    trouble: str | None
    pulls: int  # manifests sent, which registries count
    pulls_left: int | None


class Comparison(Struct, frozen=True, kw_only=True):
    """An image here and at each endpoint of its upstream, in the order of the configuration."""

    name: str
    digest: str | None
    created: str | None
    checked_at: float | None
    endpoints: list[Compared]

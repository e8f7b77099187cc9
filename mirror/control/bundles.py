"""Bundles: images carried from one mirror to another in a tar, which is an OCI image layout.

A **depot** is a store as bundles are made of it and taken into it: here (`StoreDepot`), or that of
a mirror that runs, asked over its admin port (`/api/v1/bundles`). The tar is written and read by
the command line alone: what a bundle brings that is not as it should be costs no running mirror
more than a question.
"""

from collections.abc import AsyncGenerator, AsyncIterable, Collection, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from mirror.oci.digest import Digest

CHUNK = 2**20
"""Bytes of a blob at a time."""

MOST_ASKED = 500
"""Digests in one question."""


class Wanted(Struct, frozen=True, forbid_unknown_fields=True):
    """An image that is to be exported, for these platforms (none: for all that are here)."""

    image: str
    platforms: list[str] = []


class Blob(Struct, frozen=True):
    """A blob of an image; `size` in bytes, `stored_at` in seconds since the epoch."""

    digest: str
    size: int
    is_manifest: bool
    stored_at: float


class Companion(Struct, frozen=True):
    """What refers to an image: by a tag, or a list of such, named after what they refer to.

    `digest` is of a list's `content`, or of what the tag means, and `size` in bytes; a list names
    so many `referrers`.
    """

    image: str
    digest: str
    media_type: str
    size: int
    referrers: int = 0
    content: str = ""


class Plan(Struct, frozen=True):
    """What an image's bundle would hold: all that is here of it, for these platforms.

    `missing` is what keeps it from being exported: a digest each, or words. Where there is any, the
    rest means nothing. `platforms` are those of an index that are here in whole. `config` and
    `layers` are what daemons run, where that is one image. Of `companions`, what they consist of
    is among the `blobs`, but for lists themselves; others that are known of are `absent`.
    """

    image: str
    digest: str = ""
    media_type: str = ""
    size: int = 0
    platforms: list[str] = []
    blobs: list[Blob] = []
    config: str = ""
    layers: list[str] = []
    missing: list[str] = []
    companions: list[Companion] = []
    absent: list[str] = []


class Digests(Struct, frozen=True, forbid_unknown_fields=True):
    """Some digests."""

    digests: list[str]


class Sent(Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes that were proved in a bundle, in images of these upstreams."""

    digests: list[str]
    upstreams: list[str]


class Arrived(Struct, frozen=True, forbid_unknown_fields=True):
    """An image of a bundle, of which everything has been written that the bundle holds.

    `made_at`: when the bundle was, in seconds since the epoch.
    """

    image: str
    digest: str
    media_type: str
    made_at: float


class ArrivedList(Struct, frozen=True, forbid_unknown_fields=True):
    """A list of what refers to something, of which everything has been written, itself too.

    `image` is named by what they refer to, `digest` is the list's; `made_at` as above.
    """

    image: str
    digest: str
    made_at: float


class Recorded(Struct, frozen=True):
    """What has become of an image.

    imported    it can be pulled; `missing` is what other platforms lack whose manifests are here
    newer       the same, by digest; its tag was learnt here later, and means what it did. Or a
                list that upstream has told later
    incomplete  nothing is on record: `missing` are the digests that are neither here nor in the
                bundle, or may not be this repository's. Of a list, what it names beside that is
    """

    image: str
    outcome: Literal["imported", "newer", "incomplete"]
    missing: list[str] = []


class Depot(Protocol):
    """A store, as bundles are made of it and taken into it.

    All methods raise RegistryError (StoreError where the disk refuses), and ValueError for what
    makes no sense here.
    """

    async def plan(self, wanted: Wanted) -> Plan:
        """What is here of an image."""

    def read(self, digest: Digest) -> AsyncGenerator[bytes, None]:
        """A blob, in pieces of at most CHUNK bytes."""

    async def find_missing(self, digests: Sequence[Digest]) -> set[Digest]:
        """Which of these (MOST_ASKED at most) are not here."""

    async def write(
        self,
        digest: Digest,
        size: int,
        chunks: AsyncIterable[bytes],
        *,
        upstreams: Collection[str],
        is_manifest: bool,
    ) -> None:
        """Keep a blob that a bundle holds, in images of these upstreams.

        Raises:
            DigestMismatch: It is something else; nothing of it is kept.
        """

    async def note_sent(self, sent: Sent) -> None:
        """A bundle holds these too, which are here already."""

    async def record(self, image: Arrived) -> Recorded:
        """Put an image on record: so it can be pulled."""

    async def record_referrers(self, arrived: ArrivedList) -> Recorded:
        """Put on record what refers to something, as far as it is here."""

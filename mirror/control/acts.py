"""What operators have a mirror do with images: the contract of those operations of `/api/v1`.

Units as in `models.py`. Images are named as people name them; told they are whole, with registry.
"""

from typing import Literal

from msgspec import Struct


class Pin(Struct, frozen=True, kw_only=True):
    """A pinned image, and how it stands."""

    image: str
    platforms: list[str]  # none: all of them
    refresh: float  # seconds between two questions what the tag means
    source: Literal["configuration", "operator"]
    state: Literal["complete", "incomplete", "refused"]
    trouble: str | None
    blobs: int  # that are pinned for it
    bytes: int  # of those, that are here


class Pins(Struct, frozen=True, kw_only=True):
    """All pinned images, by name."""

    pins: list[Pin]


class ToPin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image that shall be here, and stay."""

    image: str
    platforms: list[str] = []
    refresh: float | None = None


class ImageName(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One image, such as `ghcr.io/org/app:1`."""

    image: str


class Removed(Struct, frozen=True, kw_only=True):
    """What of an image has gone."""

    image: str
    tags: list[str]  # that are forgotten
    blobs: int
    bytes: int
    kept: int  # blobs of it that something else needs


class ToCollect(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether it is only to be told what would go."""

    dry_run: bool = False


class Collected(Struct, frozen=True, kw_only=True):
    """What has gone, or would: nothing on record named it any more."""

    dry_run: bool
    blobs: int
    bytes: int
    records: int  # digests of which all that was known is forgotten
    partials: int
    partial_bytes: int
    quarantine_bytes: int
    database_bytes: int

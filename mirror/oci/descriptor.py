"""Descriptors: how a manifest refers to other content."""

from dataclasses import dataclass

from mirror.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Platform:
    """What an index entry runs on (image-spec, image-index.md)."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to content by digest; `size` is in bytes, by the manifest's word (0: or none).

    `is_foreign`: it is had from elsewhere (image-spec, layer.md, "Non-Distributable Layers"), so
    that the repository need not have it.
    """

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    is_foreign: bool = False

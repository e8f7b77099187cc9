"""Descriptors: how a manifest refers to other content."""

import re
from collections.abc import Collection
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


def parse_platform(text: str) -> Platform:
    """A platform as people write it: `linux/arm64`, `linux/arm/v7`. Raises ValueError."""
    if not re.fullmatch(r"[a-z0-9]+/[a-z0-9_]+(/[a-z0-9_.]+)?", text):
        raise ValueError(f'"{text}" is no platform; write it like "linux/arm64"')
    return Platform(*text.split("/"))


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

    @property
    def is_image(self) -> bool:
        """Whether an index's entry is an image, and no attestation beside one, such as BuildKit's.

        Those have a platform that nothing runs on.
        """
        return self.platform is None or self.platform.os != "unknown"

    def is_for(self, platforms: Collection[Platform]) -> bool:
        """Whether an index's entry is for one of the platforms; none are named: it is."""
        if not platforms:
            return True
        its = self.platform
        return its is not None and any(
            (one.os, one.architecture) == (its.os, its.architecture)
            and one.variant in {"", its.variant}
            for one in platforms
        )

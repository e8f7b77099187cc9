"""`Range` and `Content-Range` (RFC 9110, section 14): ranges of bytes, or everything."""

import re
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from mirror.oci.errors import RangeNotSatisfiable

_RANGE = re.compile(r"bytes=\s*(?:(\d{1,19})-(\d{1,19})?|-(\d{1,19}))\s*", re.ASCII | re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII | re.IGNORECASE)
_UNSATISFIED = re.compile(r"bytes \*/(\d{1,18})", re.ASCII | re.IGNORECASE)


MOST_RANGES = 1024
"""In one request; podman asks for up to 256 of a zstd:chunked layer, and RFC 9110 (14.2) warns."""


_Position = Annotated[int, Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class ByteRange:
    """What a client asked for: `first` to `last` inclusive, or the final `suffix` bytes."""

    first: _Position | None = None
    last: _Position | None = None
    suffix: _Position | None = None

    def resolve(self, size: int) -> tuple[int, int]:
        """The half-open span [start, stop) of content of `size` bytes.

        Raises:
            RangeNotSatisfiable: No byte of the content is in the range.
        """
        if self.suffix is not None:
            start, stop = max(0, size - self.suffix), size
        else:
            start = self.first or 0
            stop = size if self.last is None else min(size, self.last + 1)
        if start >= stop:
            raise RangeNotSatisfiable(size)
        return start, stop


def parse_range(header: str | None) -> ByteRange | None:
    """One byte range; None where the header is absent, malformed or names several.

    An unusable `Range` is ignored and the whole content sent, as RFC 9110 14.2 allows.
    """
    match = _RANGE.fullmatch(header) if header else None
    if match is None:
        return None
    first, last, suffix = (int(part) if part else None for part in match.groups())
    if first is not None and last is not None and last < first:
        return None
    return ByteRange(first, last, suffix)


def parse_ranges(header: str | None) -> tuple[ByteRange, ...]:
    """The byte ranges that a request names, in its order; empty where `parse_range` gives None.

    More than `MOST_RANGES` are nobody's honest wish, and are ignored like what is malformed.
    """
    unit, _, wanted = (header or "").partition("=")
    parts = wanted.split(",", MOST_RANGES)
    if len(parts) > MOST_RANGES:
        return ()
    found = [parse_range(f"{unit}={part.strip()}") for part in parts if part.strip()]
    return tuple(one for one in found if one) if all(found) else ()


@dataclass(frozen=True, slots=True)
class ContentRange:
    """What a 206 says it carries: [start, stop) of `size` bytes, where the size is known."""

    start: int
    stop: int
    size: int | None


def parse_content_range(header: str | None) -> ContentRange | None:
    """Read a response's `Content-Range`; None where it is absent or senseless."""
    match = _CONTENT_RANGE.fullmatch(header.strip()) if header else None
    if match is None:
        return None
    start, stop = int(match[1]), int(match[2]) + 1
    size = None if match[3] == "*" else int(match[3])
    if start >= stop or (size is not None and stop > size):
        return None
    return ContentRange(start, stop, size)


def parse_unsatisfied_range(header: str | None) -> int | None:
    """The size of the whole by a 416's `Content-Range: bytes */<size>`; None where it is unsaid."""
    match = _UNSATISFIED.fullmatch(header.strip()) if header else None
    return None if match is None else int(match[1])

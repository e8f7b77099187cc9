"""Header fields of registries, read so that nothing in them can do harm. Pure.

Each is read in time linear in its length, and what makes no sense is no more than that.
"""

import email.utils
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

LARGEST_SIZE = 2**63 - 1
"""Bytes; no blob is larger, and no database or file system could say so."""

_LONGEST_WAIT = 7 * 86400.0  # seconds; who names more means "never"
_NUMBER = re.compile(r"[0-9]{1,15}")
_PARAMETER = re.compile(r';\s*([^=;"\s]+)\s*=\s*(?:"([^"]*)"|([^;]*))')
_REST_OF_LINK = re.compile(r'(?:[^,"]|"[^"]*"?)*')


def field_value(text: str | None) -> str | None:
    """What may be handed on in a header of our own: printable ASCII (RFC 9110, 5.5), or None."""
    return text if text and text.isascii() and text.isprintable() else None


def parse_retry_after(header: str | None, *, date: str | None) -> float | None:
    """Seconds to wait (RFC 9110, 10.2.3), given the response's `Date`; None where it is unclear."""
    if not header:
        return None
    try:
        if header.strip().isdecimal():
            return min(float(header), _LONGEST_WAIT)
        until, now = (email.utils.parsedate_to_datetime(text or "") for text in (header, date))
        return max(0.0, min((until - now).total_seconds(), _LONGEST_WAIT))
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None  # no date; one with a time zone and one without; one that no calendar has


def parse_quota(header: str | None) -> int | None:
    """The number in Docker Hub's `ratelimit-remaining: 76;w=21600`."""
    match = _NUMBER.fullmatch((header or "").partition(";")[0].strip())
    return int(match[0]) if match else None


def parse_window(header: str | None) -> float | None:
    """The seconds that Docker Hub's `ratelimit-remaining: 76;w=21600` counts pulls in."""
    for part in (header or "").split(";")[1:]:
        name, _, value = part.strip().partition("=")
        if name.lower() == "w" and _NUMBER.fullmatch(value):
            return min(float(value), _LONGEST_WAIT)
    return None


def parse_next_query(header: str | None) -> dict[str, str] | None:
    """The query of the page that a `Link` header (RFC 8288) calls the next one, if it calls any.

    Raises:
        ValueError: What it names is no address.
    """
    for target, parameters in _links(header or ""):
        if _is_next(parameters):
            if not target.isascii():
                raise ValueError("an address is ASCII (RFC 3986, 2)")
            return dict(parse_qsl(urlsplit(target).query))
    return None


def _links(header: str) -> Iterator[tuple[str, str]]:
    """Each link's target and parameters."""
    position = 0
    while (start := header.find("<", position)) >= 0 and (end := header.find(">", start)) >= 0:
        rest = _REST_OF_LINK.match(header, end + 1)
        position = rest.end() if rest else end + 1
        yield header[start + 1 : end], header[end + 1 : position]


def _is_next(parameters: str) -> bool:
    for name, quoted, bare in _PARAMETER.findall(parameters):
        if name.lower() == "rel":
            return "next" in (quoted or bare).lower().split()
    return False

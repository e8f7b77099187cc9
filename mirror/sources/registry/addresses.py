"""Addresses that registries name: where a redirect leads, and who hands out tokens. Pure."""

import re

from yarl import URL

_LONGEST_HOST = 512  # characters; a name has 253 (RFC 1035), and may come with a user and a port
_AUTHORITY = re.compile(r"\s*(?:[^:/?#]*:)?//([^/?#]*)")
_REMOVED = re.compile(r"[\t\r\n]")  # by readers of URLs, in the midst of whatever it is


def parse_address(text: str) -> URL:
    """Read an absolute address. Raises ValueError: it is none."""
    _require_host(text)
    url = URL(text)
    _require_origin(url)
    return url


def parse_location(text: str, *, asked: URL) -> URL:
    """Read where an answer to `asked` leads, as it is written. Raises ValueError: nowhere."""
    _require_host(text)
    url = asked.join(URL(text, encoded=True))
    _require_origin(url)
    return url


def _require_origin(url: URL) -> None:
    """Yarl finds out what a port or a host is worth when it is asked."""
    url.origin()
    if url.port is None:
        raise ValueError("an address on the web has a port, if only its scheme's own")


def _require_host(text: str) -> None:
    """Refuse a host that is too long for one before anything is made of it.

    To turn one of 64 KiB into what resolvers know (RFC 3490) takes a tenth of a second of
    everybody's, and nobody wants it in a log.
    """
    if _REMOVED.search(text):
        raise ValueError("an address has no control characters")
    match = _AUTHORITY.match(text)
    if match is not None and len(match[1]) > _LONGEST_HOST:
        raise ValueError("a host's name is not that long")

"""Where an upload stands, by what a registry's answers say of it. Pure.

    Range in an answer       after a PATCH of which all was taken     to a GET of the upload
    none, or no range        what was sent                            nothing is kept
    0-<last>, less           so much is kept                          so much is kept
    0-0                      what was sent                            nothing is kept
    0-<last>, more           what was sent                            so much is kept

"0-0" is what distribution says of nothing as of one byte, and some say it always. Where more is
said than was sent, the last byte was counted as the first beyond it. A size that is wrong comes out
when the upload is ended, by the digest.
"""

import re
from collections.abc import Mapping

from yarl import URL

from mirror.oci.errors import Unavailable
from mirror.sources.registry.addresses import parse_location
from mirror.sources.registry.headers import LARGEST_SIZE
from mirror.sources.registry.reading import Senseless
from mirror.sources.targets import Standing

_RANGE = re.compile(r"(?:bytes[= ])?0-(\d{1,19})(?:/[\d*]+)?")
_NUMBER = re.compile(r"\d{1,19}")
_LONGEST_LOCATION = 2**14  # characters; it is written down


def begun(headers: Mapping[str, str], *, asked: URL) -> Standing:
    """An upload that has begun (202 to POST). Raises Unavailable: it is nowhere."""
    location = _location(headers, asked)
    if location is None:
        raise Senseless("upstream does not say where to send an upload")
    return Standing(location, 0, _number(headers, "OCI-Chunk-Min-Length"))


def sent(headers: Mapping[str, str], at: Standing, length: int, *, asked: URL) -> Standing:
    """One that has taken `length` bytes more, `at` where it stood. Raises Unavailable."""
    offset, told = at.offset + length, _kept(headers)
    if told is not None and 1 < told < offset:
        offset = told
    return Standing(_location(headers, asked) or str(asked), offset, at.least)


def told(headers: Mapping[str, str], at: Standing, *, asked: URL) -> Standing:
    """One that was asked after. Raises Unavailable."""
    kept = _kept(headers) or 0
    return Standing(_location(headers, asked) or str(asked), 0 if kept == 1 else kept, at.least)


def ending(location: URL, digest: object) -> URL:
    """Where to end an upload: the registry's own query stays as it came (spec end-6)."""
    separator = "&" if location.raw_query_string else "?"
    name = str(digest).replace(":", "%3A")
    bare = str(location).partition("#")[0].rstrip("?")
    return URL(f"{bare}{separator}digest={name}", encoded=True)


def _location(headers: Mapping[str, str], asked: URL) -> str | None:
    """As it came, made whole; the connection's scheme where it is the same host's.

    A registry behind a proxy that ends TLS often takes itself for one without it.
    """
    text = headers.get("Location")
    if not text:
        return None
    if len(text) > _LONGEST_LOCATION:
        raise Senseless("upstream names a place for an upload that is too long for one")
    try:
        url = parse_location(text, asked=asked)
    except ValueError as error:
        raise Senseless("upstream names no address for an upload") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise Senseless("upstream names no web address for an upload")
    if (asked.scheme, url.scheme) == ("https", "http"):
        if url.host != asked.host or url.explicit_port not in {None, 80, asked.port}:
            raise Unavailable("upstream wants an upload without TLS, on another host")
        return str(asked.origin()) + str(url.relative())
    return str(url)


def _kept(headers: Mapping[str, str]) -> int | None:
    """How many bytes it says it keeps; None where it does not say."""
    match = _RANGE.fullmatch(headers.get("Range", "").strip())
    return min(int(match[1]) + 1, LARGEST_SIZE) if match else None


def _number(headers: Mapping[str, str], name: str) -> int:
    match = _NUMBER.fullmatch(headers.get(name, "").strip())
    return min(int(match[0]), LARGEST_SIZE) if match else 0
